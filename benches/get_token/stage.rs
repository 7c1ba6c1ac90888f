//! A session with the floors, a daemon that is logged in, and whatever peers there are.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bearerd::bus::proxy::{BrokerProxy, LoginProxy};
use bearerd::sandbox::consent;
use bearerd::sandbox::provider::{Fault, Provider, Settings};
use rustix::process::{Pid, Signal, kill_process};
use zbus::Connection;
use zbus::zvariant::Value;

use crate::peers::Peers;
use crate::support::{Bus, Error, Service, await_name};
use crate::{TOKEN_LENGTH, floor};

pub(crate) const BEARERD: &str = env!("CARGO_BIN_EXE_bearerd");
pub(crate) const BEARERCTL: &str = env!("CARGO_BIN_EXE_bearerctl");

/// The account that is asked for.
pub(crate) const ACCOUNT: &str = "bench";

/// How many accounts a daemon has.
pub(crate) const SIZES: [usize; 3] = [1, 100, 1000];

pub(crate) struct Stage {
    pub(crate) bus: Bus,
    _floor: Service,
    _daemon: Service,
    pub(crate) peers: Peers,
    pub(crate) folder: tempfile::TempDir,
    _provider: Provider,
}

impl Stage {
    pub(crate) async fn set(with_peers: bool) -> Result<Self, Error> {
        let folder = tempfile::tempdir()?;
        let bus = Bus::start(folder.path())?;
        let floor = start_floor(&bus, folder.path())?;
        let provider = provider(None).await?;
        configure(folder.path(), &provider, 1, "memory")?;
        let daemon = start_daemon(&bus, folder.path())?;
        let first = bus.connect().await?;
        for name in [floor::NAME, bearerd::bus::NAME] {
            await_name(&first, name).await?;
        }
        log_in(&first, ACCOUNT).await?;
        let peers = if with_peers { Peers::start(&bus, folder.path()).await? } else { Peers::default() };
        Ok(Self { bus, _floor: floor, _daemon: daemon, peers, folder, _provider: provider })
    }
}

/// A session for one daemon.
pub(crate) struct Place {
    pub(crate) bus: Bus,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) accounts: usize,
}

impl Place {
    pub(crate) fn new(provider: &Provider, accounts: usize, store: &str) -> Result<Self, Error> {
        let folder = tempfile::tempdir()?;
        let bus = Bus::start(folder.path())?;
        configure(folder.path(), provider, accounts, store)?;
        Ok(Self { bus, folder, accounts })
    }

    pub(crate) async fn start(&self) -> Result<Service, Error> {
        let daemon = start_daemon(&self.bus, self.folder.path())?;
        await_name(&self.bus.connect().await?, bearerd::bus::NAME).await?;
        Ok(daemon)
    }
}

/// As a stop of the unit does it.
pub(crate) fn stop(mut service: Service) -> Result<(), Error> {
    kill_process(Pid::from_child(&service.0), Signal::TERM)?;
    service.0.wait()?;
    Ok(())
}

/// What it says goes to a file, as it goes to the journal elsewhere.
pub(crate) fn start_daemon(bus: &Bus, folder: &Path) -> Result<Service, Error> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    Ok(bus.start_service(Command::new(BEARERD).stderr(log))?)
}

pub(crate) fn start_floor(bus: &Bus, folder: &Path) -> Result<Service, Error> {
    let mut floor = Command::new(std::env::current_exe()?);
    Ok(bus.start_service(floor.arg("--serve-floor").arg(folder))?)
}

/// With tokens that outlive the run, so that nothing is renewed meanwhile.
pub(crate) async fn provider(client_secret: Option<&str>) -> Result<Provider, Error> {
    let settings = Settings {
        client_secret: client_secret.map(str::to_owned),
        access_lifetime: Duration::from_secs(4 * 3600),
        session_lifetime: Duration::from_secs(24 * 3600),
        // oidc-agent looks for these.
        metadata: serde_json::json!({
            "scopes_supported": ["openid", "profile", "offline_access"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
        }),
        ..Settings::default()
    };
    let provider = Provider::start(settings).await?;
    provider.always(Some(Fault::Patch(serde_json::json!({ "access_token": "x".repeat(TOKEN_LENGTH) }))));
    Ok(provider)
}

/// The account's name, among many.
pub(crate) fn name(account: usize) -> String {
    if account == 0 { ACCOUNT.to_owned() } else { format!("{ACCOUNT}{account}") }
}

pub(crate) fn configure(
    folder: &Path,
    provider: &Provider,
    accounts: usize,
    store: &str,
) -> Result<(), Error> {
    let config = folder.join("bearerd");
    // The direct socket has its place there too.
    std::fs::DirBuilder::new().mode(0o700).create(&config)?;
    let mut text = format!("default_account = \"{ACCOUNT}\"\n");
    for account in 0..accounts {
        write!(
            text,
            "[accounts.{}]\nclient_id = \"sandbox\"\nclient_auth = \"none\"\nstore = \"{store}\"\n\
             authorization_endpoint = \"{}\"\ntoken_endpoint = \"{}\"\n",
            name(account),
            provider.authorization_endpoint(),
            provider.token_endpoint()
        )?;
    }
    Ok(std::fs::write(config.join("config.toml"), text)?)
}

/// Logs in as a browser would.
pub(crate) async fn log_in(caller: &Connection, account: &str) -> Result<(), Error> {
    let broker = BrokerProxy::new(caller).await?;
    let options = HashMap::from([("open_browser", Value::from(false))]);
    let (path, url) = broker.login_with_options(account, options).await?;
    consent::approve(&url).await?;
    let login = LoginProxy::builder(caller).path(path)?.build().await?;
    let state = login.wait(20_000).await?;
    if state == "succeeded" { Ok(()) } else { Err(format!("the login of {account} {state}").into()) }
}
