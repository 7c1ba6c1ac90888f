//! What the record of who asked costs: ten thousand `GetToken` calls of one program over the bus, and the
//! notes that they cause, taken again by themselves in the same run.
//!
//! The daemon can't be told to keep no record, so "without" is the calls' time less that of their notes. The
//! ratio is judged alone: absolute times are the machine's. Exits with 1 when the goal is missed.
//!
//! usage: cargo bench --bench audit

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]

use std::collections::HashMap;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use bearerd::access::Access;
use bearerd::access::caller::{Caller, Kind};
use bearerd::access::log::{Event, GRANTED};
use bearerd::account::AccountName;
use bearerd::bus::proxy::{BrokerProxy, LoginProxy};
use bearerd::clock::Clock;
use bearerd::sandbox::provider::{Provider, Settings};
use zbus::zvariant::Value;

mod support;

use support::{Bus, Error, await_name};

const CALLS: u32 = 10_000;
/// The calls' time may be at most this many times what it would be without their notes.
const MOST: f64 = 1.05;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ratio = runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(measure()));
    match ratio {
        Ok(ratio) if ratio <= MOST => ExitCode::SUCCESS,
        Ok(_) => {
            eprintln!("audit: more than {MOST}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("audit: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<f64, Error> {
    let folder = tempfile::tempdir()?;
    let bus = Bus::start(folder.path())?;
    let provider = Provider::start(Settings { client_secret: None, ..Settings::default() }).await?;
    let config = folder.path().join("bearerd");
    std::fs::create_dir(&config)?;
    std::fs::write(
        config.join("config.toml"),
        format!(
            "[accounts.bench]\nclient_id = \"sandbox\"\nclient_auth = \"none\"\nstore = \"memory\"\n\
             authorization_endpoint = \"{}\"\ntoken_endpoint = \"{}\"\n",
            provider.authorization_endpoint(),
            provider.token_endpoint()
        ),
    )?;
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_bearerd"));
    let _daemon = bus.start_service(&mut daemon)?;
    let connection = bus.connect().await?;
    await_name(&connection, bearerd::bus::NAME).await?;
    let broker = BrokerProxy::new(&connection).await?;
    let options = HashMap::from([("open_browser", Value::from(false))]);
    let (path, url) = broker.login_with_options("bench", options).await?;
    bearerd::sandbox::consent::approve(&url).await?;
    let login = LoginProxy::builder(&connection).path(path)?.build().await?;
    let state = login.wait(20_000).await?;
    if state != "succeeded" {
        return Err(format!("the login {state}").into());
    }
    let clock = Clock::system()?;

    // Who calls is found out once, and that is not what is measured.
    broker.get_token_with_options("bench", HashMap::new()).await?;
    let start = clock.now().boot;
    for _ in 0..CALLS {
        broker.get_token_with_options("bench", HashMap::new()).await?;
    }
    let with = clock.now().boot.since(start);

    let access = Access::new(clock.clone(), &folder.path().join("notes"));
    let account = AccountName::parse("bench")?;
    let exe = std::env::current_exe()?.display().to_string();
    let caller = Arc::new(Caller::new(Kind::Host, 1000, std::process::id(), exe, "", "bench".to_owned()));
    let expires = clock.now().wall.as_secs() + 300;
    let start = clock.now().boot;
    for _ in 0..CALLS {
        access.note(Event::Token, &account, &caller, GRANTED, expires);
    }
    let notes = clock.now().boot.since(start);

    let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(CALLS);
    let ratio = with.as_secs_f64() / with.saturating_sub(notes).as_secs_f64();
    println!(
        "{CALLS} calls, one after another: {:.1} µs each, of them {:.2} µs for the record",
        each(with),
        each(notes)
    );
    println!("with the record to without: {ratio:.4} (at most {MOST})");
    Ok(ratio)
}
