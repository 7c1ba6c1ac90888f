//! `GetToken` over the bus beside an empty zbus service that returns as much, in one run.
//!
//! Caller, bus and both services share one core, rounds alternate between the two, and only ratios are
//! judged: absolute times are the machine's. Exits with 1 when a goal of the design is missed.
//!
//! usage: cargo bench --bench get_token [-- --quick]

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]

use std::collections::HashMap;
use std::process::{Command, ExitCode};
use std::time::Duration;

use bearerd::bus::proxy::{BrokerProxy, LoginProxy};
use bearerd::clock::Clock;
use bearerd::sandbox::provider::{Fault, Provider, Settings};
use zbus::Connection;
use zbus::zvariant::Value;

mod support;

use support::{Bus, Error, Service, await_name};

/// As long as Keycloak's access tokens.
const TOKEN_LENGTH: usize = 1100;
const CALLERS: usize = 64;
/// The design's goals: p50 at most this many times the floor's, throughput at least this part of it.
const MOST_TIME: f64 = 1.15;
const LEAST_THROUGHPUT: f64 = 0.85;

const FLOOR: Target = Target { name: "org.bearerd.Floor", path: "/org/bearerd/Floor" };
const OURS: Target = Target { name: bearerd::bus::NAME, path: bearerd::bus::ROOT_PATH };

#[derive(Clone, Copy)]
struct Target {
    name: &'static str,
    path: &'static str,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let end = match runtime {
        Ok(runtime) if arguments.iter().any(|a| a == "--serve-floor") => {
            runtime.block_on(serve_floor()).map(|()| true)
        }
        Ok(runtime) => {
            let quick = arguments.iter().any(|a| a == "--quick");
            runtime.block_on(judge(if quick { 20 } else { 60 }))
        }
        Err(error) => Err(error.into()),
    };
    match end {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("get_token: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A miss is measured again, twice: what disturbs one run hardly disturbs three.
async fn judge(rounds: usize) -> Result<bool, Error> {
    for _ in 0..3 {
        if measure(rounds).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn measure(rounds: usize) -> Result<bool, Error> {
    pin_to_one_core()?;
    let folder = tempfile::tempdir()?;
    let bus = Bus::start(folder.path())?;
    let _floor = Service::start(Command::new(std::env::current_exe()?).arg("--serve-floor"), &bus)?;
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
    daemon.env("XDG_CONFIG_HOME", folder.path()).env("XDG_STATE_HOME", folder.path());
    daemon.env("XDG_RUNTIME_DIR", folder.path());
    let _daemon = Service::start(&mut daemon, &bus)?;

    let clock = Clock::system()?;
    let first = bus.connect().await?;
    for target in [FLOOR, OURS] {
        await_name(&first, target.name).await?;
    }
    log_in(&first, &provider).await?;
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        callers.push(bus.connect().await?);
    }

    let (mut floor, mut ours) = (Figures::default(), Figures::default());
    for round in 0..=rounds {
        let mut pair = [(FLOOR, &mut floor), (OURS, &mut ours)];
        if round % 2 == 1 {
            pair.reverse();
        }
        for (target, figures) in pair {
            let before = (figures.latencies.len(), figures.busy, figures.calls);
            figures.latencies_of(&clock, &first, target, 200).await?;
            figures.throughput_of(&clock, &callers, target, 20).await?;
            if round == 0 {
                // Warming up.
                figures.latencies.truncate(before.0);
                (figures.busy, figures.calls) = (before.1, before.2);
            }
        }
    }
    let time = ours.p50() / floor.p50();
    let throughput = ours.per_second() / floor.per_second();
    println!("GetToken over the bus, one core, {rounds} alternating rounds, {TOKEN_LENGTH} byte token");
    println!("                         floor      bearerd    ratio   goal");
    println!(
        "1 caller, p50 µs      {:>8.1}     {:>8.1}    {time:.3}   <= {MOST_TIME}",
        floor.p50(),
        ours.p50()
    );
    println!(
        "{CALLERS} callers, tokens/s  {:>8.0}     {:>8.0}    {throughput:.3}   >= {LEAST_THROUGHPUT}",
        floor.per_second(),
        ours.per_second()
    );
    Ok(time <= MOST_TIME && throughput >= LEAST_THROUGHPUT)
}

#[derive(Default)]
struct Figures {
    latencies: Vec<Duration>,
    busy: Duration,
    calls: usize,
}

impl Figures {
    async fn latencies_of(
        &mut self,
        clock: &Clock,
        caller: &Connection,
        target: Target,
        calls: usize,
    ) -> Result<(), Error> {
        for _ in 0..calls {
            let started = clock.now().boot;
            call(caller, target).await?;
            self.latencies.push(clock.now().boot.since(started));
        }
        Ok(())
    }

    async fn throughput_of(
        &mut self,
        clock: &Clock,
        callers: &[Connection],
        target: Target,
        calls: usize,
    ) -> Result<(), Error> {
        let started = clock.now().boot;
        let loops = callers.iter().map(|caller| async move {
            for _ in 0..calls {
                call(caller, target).await?;
            }
            Ok::<_, Error>(())
        });
        for end in futures_util::future::join_all(loops).await {
            end?;
        }
        self.busy += clock.now().boot.since(started);
        self.calls += calls * callers.len();
        Ok(())
    }

    /// In microseconds.
    fn p50(&self) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    }

    fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let calls = self.calls as f64;
        calls / self.busy.as_secs_f64()
    }
}

async fn call(caller: &Connection, target: Target) -> Result<(), Error> {
    let interface = Some(target.name);
    let reply = caller.call_method(Some(target.name), target.path, interface, "GetToken", &("bench")).await?;
    if reply.body().len() < TOKEN_LENGTH {
        return Err(format!("{} answered with less than a token", target.name).into());
    }
    Ok(())
}

/// Everything started from here on inherits it.
fn pin_to_one_core() -> Result<(), Error> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(0);
    Ok(rustix::thread::sched_setaffinity(None, &cores)?)
}

/// Logs in as a browser would, and gets a token of the wanted length.
async fn log_in(caller: &Connection, provider: &Provider) -> Result<(), Error> {
    provider.always(Some(Fault::Patch(serde_json::json!({ "access_token": "x".repeat(TOKEN_LENGTH) }))));
    let broker = BrokerProxy::new(caller).await?;
    let options = HashMap::from([("open_browser", Value::from(false))]);
    let (path, url) = broker.login_with_options("bench", options).await?;
    bearerd::sandbox::consent::approve(&url).await?;
    let login = LoginProxy::builder(caller).path(path)?.build().await?;
    let state = login.wait(20_000).await?;
    if state == "succeeded" { Ok(()) } else { Err(format!("the login {state}").into()) }
}

/// What zbus costs for such an answer, with nothing behind it.
struct Floor;

#[zbus::interface(name = "org.bearerd.Floor")]
impl Floor {
    fn get_token(&self, account: &str) -> (String, u64, HashMap<&'static str, Value<'static>>) {
        let details = HashMap::from([
            ("token_type", Value::from("Bearer")),
            ("expires_in", Value::from(299_u32)),
            ("scope", Value::from("")),
            ("account", Value::from(account.to_owned())),
            ("source", Value::from("oauth")),
            ("subject", Value::from("")),
            ("token_id", Value::from("0123456789012345678901")),
        ]);
        ("x".repeat(TOKEN_LENGTH), 1_800_000_000, details)
    }
}

async fn serve_floor() -> Result<(), Error> {
    let builder = zbus::connection::Builder::session()?.name(FLOOR.name)?.serve_at(FLOOR.path, Floor)?;
    let connection = builder.build().await?;
    connection.closed().await;
    Ok(())
}
