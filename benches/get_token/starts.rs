//! How long a start takes, to the name on the bus and to the first token, and how large the programs are. All on one
//! core.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use bearerd::bus::proxy::BrokerProxy;
use bearerd::clock::Clock;
use bearerd::sandbox::provider::Provider;

use crate::figures::{Findings, Goal, Samples};
use crate::peers::{self, GOA_ACCOUNT, GOA_DAEMON, GOA_NAME, GOA_OAUTH2, OidcAgent, Peers};
use crate::stage::{
    ACCOUNT, BEARERCTL, BEARERD, Place, SIZES, log_in, provider, start_daemon, start_floor, stop,
};
use crate::support::{Error, await_name};
use crate::{TOKEN_LENGTH, floor, pin};

const STARTS: usize = 9;
/// Between two daemons with the same session: sooner, a restart is taken for one after a crash, and refreshes wait.
const REST: Duration = Duration::from_secs(10);

pub(crate) async fn measure() -> Result<Findings, Error> {
    pin(true)?;
    let (clock, provider) = (&Clock::system()?, &provider(None).await?);
    let mut places = Vec::new();
    for accounts in SIZES {
        places.push((Place::new(provider, accounts, "memory")?, Samples::default()));
    }
    let (mut floor, mut tokens) = (Samples::default(), Tokens::prepare(provider).await?);
    for round in 0..=STARTS {
        for (place, taken) in &mut places {
            let caller = place.bus.connect().await?;
            let started = clock.now().boot;
            let daemon = start_daemon(&place.bus, place.folder.path())?;
            await_name(&caller, bearerd::bus::NAME).await?;
            let took = clock.now().boot.since(started);
            stop(daemon)?;
            if round > 0 {
                taken.add(took);
            }
        }
        let folder = tempfile::tempdir()?;
        let place = &tokens.ours;
        let caller = place.bus.connect().await?;
        let started = clock.now().boot;
        let service = start_floor(&place.bus, folder.path())?;
        await_name(&caller, floor::NAME).await?;
        if round > 0 {
            floor.add(clock.now().boot.since(started));
        }
        drop(service);
        tokens.round(clock, round > 0).await?;
        clock.sleep(REST).await;
    }

    let mut findings = Findings::default();
    findings.text.push_str("| start | ms to its name on the bus | ms to the first token |\n|---|--:|--:|\n");
    writeln!(findings.text, "| empty zbus service | {} | |", floor.in_milliseconds())?;
    for (place, taken) in &places {
        let (what, most) = match place.accounts {
            1 => ("start to the name on the bus, 1 account", 15.0),
            1000 => ("start to the name on the bus, 1000 accounts", 100.0),
            _ => ("", f64::NAN),
        };
        if most.is_finite() {
            findings.goals.push(Goal::below(what, taken.median() / 1e3, most, "ms"));
        }
        let accounts =
            if place.accounts == 1 { "1 account" } else { &format!("{} accounts", place.accounts) };
        writeln!(findings.text, "| bearerd, {accounts} | {} | |", taken.in_milliseconds())?;
    }
    for (name, taken) in &tokens.taken {
        if taken.median().is_finite() {
            writeln!(findings.text, "| {name} | | {} |", taken.in_milliseconds())?;
        }
    }
    findings.text.push('\n');
    findings.text.push_str(&binaries()?);
    Ok(findings)
}

/// From a start to a token of a session that was stored before.
struct Tokens {
    ours: Place,
    peers: Peers,
    taken: [(&'static str, Samples); 3],
}

impl Tokens {
    async fn prepare(provider: &Provider) -> Result<Self, Error> {
        let ours = Place::new(provider, 1, "secret-service")?;
        let mut peers = Peers::start(&ours.bus, ours.folder.path()).await?;
        if peers.keyring.is_some() {
            let daemon = ours.start().await?;
            log_in(&ours.bus.connect().await?, ACCOUNT).await?;
            stop(daemon)?;
        }
        // Each round starts its own.
        if let Some(goa) = &mut peers.goa {
            goa.0.kill()?;
            goa.0.wait()?;
        }
        let taken = [
            "bearerd, its session in gnome-keyring",
            "GNOME Online Accounts, its token in gnome-keyring",
            "oidc-agent and `oidc-add`, its file decrypted",
        ];
        Ok(Self { ours, peers, taken: taken.map(|name| (name, Samples::default())) })
    }

    async fn round(&mut self, clock: &Clock, counts: bool) -> Result<(), Error> {
        let caller = self.ours.bus.connect().await?;
        let [(_, ours), (_, goa), (_, agent)] = &mut self.taken;
        let mut ignored = Samples::default();
        let mut taken = |samples: &mut Samples, took| {
            if counts { samples } else { &mut ignored }.add(took);
        };
        if self.peers.keyring.is_some() {
            let started = clock.now().boot;
            let daemon = start_daemon(&self.ours.bus, self.ours.folder.path())?;
            await_name(&caller, bearerd::bus::NAME).await?;
            BrokerProxy::new(&caller).await?.get_token_with_options(ACCOUNT, HashMap::new()).await?;
            taken(ours, clock.now().boot.since(started));
            stop(daemon)?;
        }
        if self.peers.goa.is_some() {
            let started = clock.now().boot;
            let daemon = peers::start_goa(&self.ours.bus).await?;
            let interface = Some(GOA_OAUTH2);
            caller.call_method(Some(GOA_NAME), GOA_ACCOUNT, interface, "GetAccessToken", &()).await?;
            taken(goa, clock.now().boot.since(started));
            stop(daemon)?;
        }
        if self.peers.oidc_agent.is_some() {
            let started = clock.now().boot;
            let daemon = OidcAgent::start(&self.ours.bus).await?;
            daemon.load(&self.ours.bus).await?;
            let token = daemon.command(&self.ours.bus, "oidc-token").arg(ACCOUNT).output()?;
            taken(agent, clock.now().boot.since(started));
            if token.stdout.len() < TOKEN_LENGTH {
                return Err("oidc-token gave no token after a start".into());
            }
        }
        Ok(())
    }
}

fn binaries() -> Result<String, Error> {
    let mut text = String::from("| program | kB, without shared libraries |\n|---|--:|\n");
    for program in [BEARERD, BEARERCTL, GOA_DAEMON, "/usr/bin/oidc-agent", "/usr/bin/gnome-keyring-daemon"] {
        if let (Ok(found), Some((_, name))) = (std::fs::metadata(program), program.rsplit_once('/')) {
            writeln!(text, "| {name} | {} |", found.len() / 1024)?;
        }
    }
    Ok(text + "\n")
}
