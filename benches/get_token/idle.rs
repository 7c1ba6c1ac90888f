//! One daemon with 1, 100 and 1000 accounts, and what stands beside it: what it costs while nobody asks, and how long
//! an answer takes then. All on one core.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use bearerd::bus::proxy::BrokerProxy;
use bearerd::clock::Clock;
use rustix::process::Pid;

use crate::figures::{Findings, Goal, Samples};
use crate::peers::{Peers, installed, start_keyring};
use crate::pin;
use crate::plot::{self, Bar};
use crate::stage::{Place, SIZES, log_in, name, provider, start_floor, stop};
use crate::support::{Error, Service};

/// Before an idle process is watched, and how long it is.
const SETTLING: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);
/// What is asked of each size: rounds, and calls in a round.
const ASKING: (usize, usize) = (20, 100);
const PLOT: &str = "speed-memory.svg";

/// A process that nobody asks for anything.
struct Watched {
    name: String,
    pids: Vec<i32>,
    latency: Option<Samples>,
    resident: u64,
    shared_out: u64,
    private: u64,
    woken: u64,
    busy: Duration,
}

pub(crate) async fn measure() -> Result<Findings, Error> {
    pin(true)?;
    let (clock, provider) = (&Clock::system()?, &provider(None).await?);
    let mut places = Vec::new();
    let keyring = installed("gnome-keyring-daemon");
    for accounts in SIZES {
        let place = Place::new(provider, accounts, if keyring { "secret-service" } else { "memory" })?;
        let kept = if keyring { Some(start_keyring(&place.bus).await?) } else { None };
        let mut daemon = place.start().await?;
        let caller = place.bus.connect().await?;
        for account in 0..accounts {
            log_in(&caller, &name(account)).await?;
        }
        if keyring {
            // What a thousand logins within a minute leave behind is no daemon's usual weight.
            stop(daemon)?;
            daemon = place.start().await?;
            let broker = BrokerProxy::new(&caller).await?;
            for account in 0..accounts {
                broker.get_token_with_options(&name(account), HashMap::new()).await?;
            }
        }
        places.push((place, daemon, caller, Samples::default(), kept));
    }
    for round in 0..=ASKING.0 {
        for (place, _, caller, taken, _) in &mut places {
            let (broker, account) = (BrokerProxy::new(caller).await?, name(place.accounts / 2));
            for _ in 0..ASKING.1 {
                let started = clock.now().boot;
                broker.get_token_with_options(&account, HashMap::new()).await?;
                if round > 0 {
                    taken.add(clock.now().boot.since(started));
                }
            }
        }
    }
    let beside = Place::new(provider, 1, "memory")?;
    let (bus, folder) = (&beside.bus, beside.folder.path());
    let floor = start_floor(bus, folder)?;
    let peers = Peers::start(bus, folder).await?;

    let id = |service: &Service| Pid::from_child(&service.0).as_raw_nonzero().get();
    let mut all = vec![Watched::new("empty zbus service", vec![id(&floor)])];
    for (place, daemon, _, taken, _) in &places {
        let plural = if place.accounts == 1 { "" } else { "s" };
        let mut watched =
            Watched::new(&format!("bearerd, {} account{plural}", place.accounts), vec![id(daemon)]);
        watched.latency = Some(taken.clone());
        all.push(watched);
    }
    if let Some(agent) = &peers.oidc_agent {
        let pid = agent.pid.as_raw_nonzero().get();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let children = children.split_whitespace().filter_map(|child| child.parse().ok());
        all.push(Watched::new("oidc-agent, 1 account", std::iter::once(pid).chain(children).collect()));
    }
    if let Some(goa) = &peers.goa {
        all.push(Watched::new("goa-daemon, 1 account", vec![id(goa)]));
    }
    if let Some(keyring) = &peers.keyring {
        all.push(Watched::new("gnome-keyring-daemon, 2 secrets", vec![id(keyring)]));
    }
    clock.sleep(SETTLING).await;
    let before: Vec<_> = all.iter().map(Watched::work).collect::<Result<_, _>>()?;
    clock.sleep(IDLE).await;
    for (watched, (woken, busy)) in all.iter_mut().zip(before) {
        let now = watched.work()?;
        // A thread that has ended takes its own along.
        (watched.woken, watched.busy) = (now.0.saturating_sub(woken), now.1.saturating_sub(busy));
        watched.weigh()?;
    }
    idle_findings(&all)
}

fn idle_findings(all: &[Watched]) -> Result<Findings, Error> {
    let mut findings = Findings::default();
    findings.text.push_str(
        "| idle for a minute, all accounts logged in | median µs (quartiles) of an answer, 1 caller | RSS kB | PSS kB | \
         Private_Dirty kB | wake-ups | processor µs |\n|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for watched in all {
        let Watched { name, resident, shared_out, private, woken, busy, .. } = watched;
        let latency = watched.latency.as_ref().map(Samples::in_microseconds).unwrap_or_default();
        let busy = busy.as_micros();
        writeln!(
            findings.text,
            "| {name} | {latency} | {resident} | {shared_out} | {private} | {woken} | {busy} |"
        )?;
    }
    if let [_, one, _, thousand, ..] = all {
        let dirty = |watched: &Watched| kilobytes(watched.private);
        let per_account = (dirty(thousand) - dirty(one)) / 999.0;
        let latency = |watched: &Watched| watched.latency.as_ref().map_or(f64::NAN, Samples::median);
        findings.goals.extend([
            Goal::below("idle, 1 account: wake-ups in a minute", kilobytes(one.woken), 1.0, ""),
            Goal::below("idle, 1 account: Private_Dirty", dirty(one), 2048.0, "kB"),
            Goal::below("idle, 1 account: RSS", kilobytes(one.resident), 8192.0, "kB"),
            // Its tokens are a refresh token and an access token of 1.1 kB, which is kept once more for callers.
            Goal::below("memory for each more account, with its tokens", per_account, 10.0, "kB"),
            Goal::at_most(
                "an answer with 1000 accounts: median beside one with 1",
                latency(thousand) / latency(one),
                1.1,
            ),
        ]);
    }
    let title = "Memory of their own while idle, Private_Dirty in MB";
    let bars = all.iter().map(|watched| Bar {
        name: watched.name.clone(),
        ours: watched.name.starts_with("bearerd"),
        value: kilobytes(watched.private),
        spread: None,
        label: format!("{:.1}", kilobytes(watched.private) / 1024.0),
    });
    findings.plots.push((PLOT, plot::bars(title, &bars.collect::<Vec<_>>())));
    write!(findings.text, "\n![{title}](images/{PLOT})\n\n")?;
    Ok(findings)
}

impl Watched {
    fn new(name: &str, pids: Vec<i32>) -> Self {
        let (latency, busy) = (None, Duration::ZERO);
        Self { name: name.to_owned(), pids, latency, resident: 0, shared_out: 0, private: 0, woken: 0, busy }
    }

    /// How often its threads have waited, and how long they have worked.
    fn work(&self) -> Result<(u64, Duration), Error> {
        let (mut woken, mut busy) = (0, 0);
        for pid in &self.pids {
            for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let task = task?.path();
                let status = std::fs::read_to_string(task.join("status"))?;
                woken += number(&status, "voluntary_ctxt_switches:")?;
                let schedule = std::fs::read_to_string(task.join("schedstat"))?;
                busy += number(&schedule, "")?;
            }
        }
        Ok((woken, Duration::from_nanos(busy)))
    }

    fn weigh(&mut self) -> Result<(), Error> {
        for pid in &self.pids {
            let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            self.resident += number(&memory, "Rss:")?;
            self.shared_out += number(&memory, "Pss:")?;
            self.private += number(&memory, "Private_Dirty:")?;
        }
        Ok(())
    }
}

/// What the kernel says after this name.
fn number(text: &str, name: &str) -> Result<u64, Error> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("the kernel does not tell")?;
    Ok(line.split_whitespace().next().ok_or("the kernel tells nothing")?.parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn kilobytes(number: u64) -> f64 {
    number as f64
}
