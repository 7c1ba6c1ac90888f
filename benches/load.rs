//! One thousand accounts and one thousand callers on one daemon, with the lifetimes of the first provider,
//! against the embedded one: no error, no token about to expire, bounded memory, and as many requests to
//! the provider as the schedule has. Loopback only; ends by itself.
//!
//! usage: cargo bench --bench load [-- --minutes N]

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bearerd::bus::proxy::{BrokerProxy, LoginProxy};
use bearerd::clock::{BootTime, Clock};
use bearerd::sandbox::provider::{Provider, Settings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use zbus::Connection;
use zbus::zvariant::Value;

mod support;

use support::{Bus, Error, await_name};

const ACCOUNTS: usize = 1000;
const CALLERS: usize = 1000;
/// A hot account is renewed this long after its last token, in seconds.
const RENEWED: std::ops::RangeInclusive<u64> = 210..=240;
/// What a token has left at least, in seconds.
const MIN_VALIDITY: u64 = 30;
/// How much more memory there may be at the end than after three fifths, in kB: each session has been renewed
/// by then, and is renewed once more. What the first renewals need at once stays with the allocator.
const GROWTH: u64 = 2 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let minutes = arguments.iter().position(|argument| argument == "--minutes");
    let minutes = minutes.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(10);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(run(minutes))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Tally {
    calls: AtomicU64,
    errors: AtomicU64,
    short: AtomicU64,
    slowest: AtomicU64,
}

async fn run(minutes: u64) -> Result<bool, Error> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let folder = tempfile::tempdir()?;
    let bus = Bus::start(folder.path())?;
    let provider = Provider::start(Settings { client_secret: None, ..Settings::default() }).await?;
    configure(folder.path(), &provider)?;
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_bearerd"));
    let daemon = bus.start_service(daemon.env("BEARERD_LOG", "warn"))?;
    let first = bus.connect().await?;
    await_name(&first, bearerd::bus::NAME).await?;

    let clock = Clock::system()?;
    let mut logged_in = Vec::new();
    for account in 0..ACCOUNTS {
        logged_in.push(clock.now().boot);
        log_in(&first, &name(account)).await?;
    }
    println!("{ACCOUNTS} accounts logged in; {CALLERS} callers for {minutes} min");

    let tally = Arc::new(Tally::default());
    let began = clock.now().boot;
    let end = began.after(Duration::from_secs(minutes * 60));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(bus.connect().await?, caller, clock.clone(), end, Arc::clone(&tally)));
    }
    let mut memory = Vec::new();
    for fifth in 1..=5_u32 {
        clock.sleep_until(began.after(Duration::from_secs(minutes * 12) * fifth)).await;
        memory.push(resident(daemon.0.id())?);
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(report(&provider, &clock, &logged_in, &tally, &memory))
}

fn report(provider: &Provider, clock: &Clock, logged_in: &[BootTime], tally: &Tally, memory: &[u64]) -> bool {
    let now = clock.now().boot;
    let refreshes = provider.token_requests("refresh_token").len() as u64;
    let expected = |period: u64| logged_in.iter().map(|at| now.since(*at).as_secs() / period).sum::<u64>();
    let (least, most) = (expected(*RENEWED.end()), expected(*RENEWED.start()));
    let (calls, errors) = (tally.calls.load(Ordering::Relaxed), tally.errors.load(Ordering::Relaxed));
    let short = tally.short.load(Ordering::Relaxed);
    let growth = memory.last().unwrap_or(&0).saturating_sub(*memory.get(2).unwrap_or(&0));
    println!("calls                        {calls}");
    println!("errors                       {errors}   goal 0");
    println!("tokens with under {MIN_VALIDITY} s left  {short}   goal 0");
    println!("slowest call, ms             {}", tally.slowest.load(Ordering::Relaxed));
    println!("refreshes at the provider    {refreshes}   goal {least} to {most}");
    println!(
        "resident memory, kB          {memory:?}   goal: at most {GROWTH} more at the end than at the third"
    );
    let scheduled = (least..=most).contains(&refreshes);
    calls > 0 && errors == 0 && short == 0 && scheduled && growth <= GROWTH
}

/// A call about each second, for an account that comes round.
async fn call(
    connection: Connection,
    caller: usize,
    clock: Clock,
    end: BootTime,
    tally: Arc<Tally>,
) -> Result<(), zbus::Error> {
    let broker = BrokerProxy::new(&connection).await?;
    let mut account = caller;
    while clock.now().boot < end {
        let began = clock.now();
        match broker.get_token_with_options(&name(account % ACCOUNTS), HashMap::new()).await {
            Ok((token, expires_at, _)) => {
                let left = expires_at.saturating_sub(clock.now().wall.as_secs());
                if token.is_empty() || left < MIN_VALIDITY {
                    tally.short.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) => {
                if tally.errors.fetch_add(1, Ordering::Relaxed) < 5 {
                    eprintln!("load: {error}");
                }
            }
        }
        let took = clock.now().boot.since(began.boot).as_millis();
        tally.slowest.fetch_max(u64::try_from(took).unwrap_or(u64::MAX), Ordering::Relaxed);
        tally.calls.fetch_add(1, Ordering::Relaxed);
        // A step that meets every account, and a pause that keeps the callers apart.
        account += 7;
        clock.sleep(Duration::from_millis(500 + (account as u64 * 37) % 1000)).await;
    }
    Ok(())
}

fn name(account: usize) -> String {
    format!("load{account}")
}

fn configure(folder: &std::path::Path, provider: &Provider) -> Result<(), Error> {
    let mut text = String::new();
    for account in 0..ACCOUNTS {
        write!(
            text,
            "[accounts.{}]\nclient_id = \"sandbox\"\nclient_auth = \"none\"\nstore = \"memory\"\n\
             authorization_endpoint = \"{}\"\ntoken_endpoint = \"{}\"\n",
            name(account),
            provider.authorization_endpoint(),
            provider.token_endpoint()
        )?;
    }
    let config = folder.join("bearerd");
    std::fs::create_dir(&config)?;
    std::fs::write(config.join("config.toml"), text)?;
    Ok(())
}

async fn log_in(caller: &Connection, account: &str) -> Result<(), Error> {
    let broker = BrokerProxy::new(caller).await?;
    let options = HashMap::from([("open_browser", Value::from(false))]);
    let (path, url) = broker.login_with_options(account, options).await?;
    bearerd::sandbox::consent::approve(&url).await?;
    let login = LoginProxy::builder(caller).path(path)?.build().await?;
    let state = login.wait(20_000).await?;
    if state == "succeeded" { Ok(()) } else { Err(format!("the login of {account} {state}").into()) }
}

/// Of a process, in kB.
fn resident(pid: u32) -> Result<u64, Error> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
