//! Kept connections: how long an answer takes when 1, 8, 64 or 1000 ask at once.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use bearerd::clock::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use zbus::Connection;
use zbus::connection::Builder;
use zbus::zvariant::OwnedObjectPath;

use crate::figures::{Findings, Goal, Samples};
use crate::peers::{GOA, GOA_ACCOUNT, GOA_OAUTH2, KEYRING, OIDC_AGENT, get_secret, open_session};
use crate::plot::{self, Line};
use crate::stage::{ACCOUNT, Stage};
use crate::support::Error;
use crate::{TOKEN_LENGTH, floor, pin};

/// The callers share this many connections, as threads of 64 programs would.
const CONNECTIONS: usize = 64;
/// How many ask at once, and how often each of them in a round.
const CROWDS: [(usize, usize); 4] = [(1, 200), (8, 40), (64, 20), (1000, 2)];
const ONE: usize = 0;
const MANY: usize = 2;

/// The design's goals: a median at most this many times the floor's, a throughput at least this part of it.
const MOST_TIME: f64 = 1.15;
const LEAST_THROUGHPUT: f64 = 0.85;

const BARE: &str = "bare Unix socket";
const FLOOR_DIRECT: &str = "empty zbus service, peer to peer";
const DIRECT: &str = "bearerd, direct socket";
const FLOOR_BUS: &str = "empty zbus service, bus";
const BUS: &str = "bearerd, bus";

/// What of the run is wanted.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Extent {
    /// The goals alone.
    Goals,
    /// With all crowds and all peers.
    Everything,
}

pub(crate) async fn measure(extent: Extent, pinned: bool, rounds: usize) -> Result<Findings, Error> {
    pin(pinned)?;
    let stage = Stage::set(extent == Extent::Everything).await?;
    let mut ways = ways(&stage).await?;
    run(&mut ways, extent, rounds).await?;
    let cores = if pinned { "all on one core" } else { "on all cores" };
    let mut findings = Findings { text: table(&ways, cores)?, ..Findings::default() };
    if pinned {
        findings.goals = goals(&ways);
    }
    if extent == Extent::Everything {
        let file = if pinned { "speed-callers-one-core.svg" } else { "speed-callers-all-cores.svg" };
        let lines = ways.iter().map(|way| Line {
            name: way.name,
            ours: way.name.starts_with("bearerd"),
            points: way.taken.iter().map(|taken| taken.latencies.median()).collect(),
        });
        let title = format!("Median time of an answer, µs, by callers at once; {cores}");
        findings.plots.push((
            file,
            plot::lines(&title, &CROWDS.map(|(callers, _)| callers), &lines.collect::<Vec<_>>()),
        ));
        write!(findings.text, "\n![{title}](images/{file})\n\n")?;
    }
    Ok(findings)
}

async fn run(ways: &mut [Way], extent: Extent, rounds: usize) -> Result<(), Error> {
    let clock = Clock::system()?;
    for round in 0..=rounds {
        for turn in 0..ways.len() {
            let at = (turn + round) % ways.len();
            let Some(way) = ways.get_mut(at) else { continue };
            for (place, (callers, each)) in CROWDS.into_iter().enumerate() {
                if extent == Extent::Goals && place != ONE && place != MANY {
                    continue;
                }
                let mut warming_up = Taken::default();
                let taken = way.taken.get_mut(place).filter(|_| round > 0).unwrap_or(&mut warming_up);
                taken.measure(&clock, &way.connections, callers, each).await?;
            }
        }
    }
    Ok(())
}

fn table(ways: &[Way], cores: &str) -> Result<String, Error> {
    let mut text = format!("| {cores} |");
    for (callers, _) in CROWDS {
        write!(text, " {callers} caller{}: µs | answers/s |", if callers == 1 { "" } else { "s" })?;
    }
    write!(text, "\n|---|{}\n", "--:|--:|".repeat(CROWDS.len()))?;
    for way in ways {
        write!(text, "| {} |", way.name)?;
        for taken in &way.taken {
            if taken.calls == 0 {
                text.push_str(" | |");
            } else {
                write!(text, " {} | {:.0} |", taken.latencies.in_microseconds(), taken.per_second())?;
            }
        }
        text.push('\n');
    }
    Ok(text)
}

fn goals(ways: &[Way]) -> Vec<Goal> {
    let ratio = |ours: &str, floor: &str, crowd: usize, figure: fn(&Taken) -> f64| {
        let of = |name: &str| {
            let way = ways.iter().find(|way| way.name == name);
            way.and_then(|way| way.taken.get(crowd)).map_or(f64::NAN, figure)
        };
        of(ours) / of(floor)
    };
    let median = |taken: &Taken| taken.latencies.median();
    vec![
        Goal::at_most(
            "`GetToken` over the bus, 1 caller: median beside an empty zbus service's",
            ratio(BUS, FLOOR_BUS, ONE, median),
            MOST_TIME,
        ),
        Goal::at_least(
            "`GetToken` over the bus, 64 callers: answers beside an empty zbus service's",
            ratio(BUS, FLOOR_BUS, MANY, Taken::per_second),
            LEAST_THROUGHPUT,
        ),
        Goal::at_most(
            "`GetToken` over the direct socket, 1 caller: median beside an empty zbus service's",
            ratio(DIRECT, FLOOR_DIRECT, ONE, median),
            MOST_TIME,
        ),
    ]
}

/// One way to a token, and what it took with each crowd.
struct Way {
    name: &'static str,
    connections: Vec<Caller>,
    taken: [Taken; CROWDS.len()],
}

#[derive(Default)]
struct Taken {
    latencies: Samples,
    busy: f64,
    calls: u32,
}

impl Taken {
    async fn measure(
        &mut self,
        clock: &Clock,
        connections: &[Caller],
        callers: usize,
        each: usize,
    ) -> Result<(), Error> {
        let started = clock.now().boot;
        let loops = connections.iter().cycle().take(callers).map(|connection| async move {
            let mut took = Vec::with_capacity(each);
            for _ in 0..each {
                let started = clock.now().boot;
                connection.call().await?;
                took.push(clock.now().boot.since(started));
            }
            Ok::<_, Error>(took)
        });
        for took in futures_util::future::join_all(loops).await {
            for took in took? {
                self.latencies.add(took);
                self.calls += 1;
            }
        }
        self.busy += clock.now().boot.since(started).as_secs_f64();
        Ok(())
    }

    fn per_second(&self) -> f64 {
        f64::from(self.calls) / self.busy
    }
}

async fn ways(stage: &Stage) -> Result<Vec<Way>, Error> {
    let folder = stage.folder.path();
    let mut kinds = vec![
        (BARE, Kind::Bare(folder.join(floor::BARE))),
        (FLOOR_DIRECT, Kind::Direct(folder.join(floor::PEERS), FLOOR_METHOD)),
        (DIRECT, Kind::Direct(folder.join("bearerd/bus"), GET_TOKEN)),
        (FLOOR_BUS, Kind::Bus(FLOOR_METHOD)),
        (BUS, Kind::Bus(GET_TOKEN)),
    ];
    if let Some(agent) = &stage.peers.oidc_agent {
        kinds.push((OIDC_AGENT, Kind::OidcAgent(agent.socket.clone())));
    }
    if stage.peers.keyring.is_some() {
        kinds.push((KEYRING, Kind::Keyring));
    }
    if stage.peers.goa.is_some() {
        kinds.push((GOA, Kind::Bus(GOA_METHOD)));
    }
    let mut ways = Vec::new();
    for (name, kind) in kinds {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(kind.connect(stage).await?);
        }
        ways.push(Way { name, connections, taken: Default::default() });
    }
    Ok(ways)
}

#[derive(Clone, Copy)]
struct Method {
    service: &'static str,
    path: &'static str,
    interface: &'static str,
    name: &'static str,
    argument: Option<&'static str>,
}

const FLOOR_METHOD: Method = Method {
    service: floor::NAME,
    path: floor::PATH,
    interface: floor::NAME,
    name: "GetToken",
    argument: Some(ACCOUNT),
};
const GET_TOKEN: Method = Method {
    service: bearerd::bus::NAME,
    path: bearerd::bus::ROOT_PATH,
    interface: bearerd::bus::NAME,
    ..FLOOR_METHOD
};
const GOA_METHOD: Method = Method {
    service: "org.gnome.OnlineAccounts",
    path: GOA_ACCOUNT,
    interface: GOA_OAUTH2,
    name: "GetAccessToken",
    argument: None,
};

enum Kind {
    Bare(PathBuf),
    Direct(PathBuf, Method),
    Bus(Method),
    OidcAgent(PathBuf),
    Keyring,
}

impl Kind {
    async fn connect(&self, stage: &Stage) -> Result<Caller, Error> {
        Ok(match self {
            Self::Bare(socket) => Caller::Bare(UnixStream::connect(socket).await?.into()),
            Self::Direct(socket, method) => {
                let stream = UnixStream::connect(socket).await?;
                Caller::Bus(Builder::unix_stream(stream).p2p().build().await?, *method)
            }
            Self::Bus(method) => Caller::Bus(stage.bus.connect().await?, *method),
            Self::OidcAgent(socket) => Caller::OidcAgent(socket.clone(), Clock::system()?),
            Self::Keyring => {
                let connection = stage.bus.connect().await?;
                let session = open_session(&connection).await?;
                Caller::Keyring(connection, session)
            }
        })
    }
}

/// A connection, and what is asked over it.
enum Caller {
    Bare(Mutex<UnixStream>),
    Bus(Connection, Method),
    /// It closes each connection after one answer.
    OidcAgent(PathBuf, Clock),
    Keyring(Connection, OwnedObjectPath),
}

impl Caller {
    async fn call(&self) -> Result<(), Error> {
        let length = match self {
            Self::Bare(stream) => {
                let mut stream = stream.lock().await;
                let mut token = [0; TOKEN_LENGTH];
                stream.write_all(floor::QUESTION).await?;
                stream.read_exact(&mut token).await?
            }
            Self::Bus(connection, Method { service, path, interface, name, argument }) => {
                let (to, interface) = (Some(*service), Some(*interface));
                let reply = match argument {
                    Some(argument) => connection.call_method(to, *path, interface, *name, argument).await?,
                    None => connection.call_method(to, *path, interface, *name, &()).await?,
                };
                reply.body().len()
            }
            Self::OidcAgent(socket, clock) => {
                let mut stream = loop {
                    match UnixStream::connect(socket).await {
                        // Its queue is full; a thread would wait here.
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            clock.sleep(Duration::from_millis(1)).await;
                        }
                        connected => break connected?,
                    }
                };
                let question = r#"{"request":"access_token","account":"bench","min_valid_period":0}"#;
                stream.write_all(question.as_bytes()).await?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await?
            }
            Self::Keyring(connection, session) => get_secret(connection, session).await?,
        };
        if length < TOKEN_LENGTH {
            return Err(format!("an answer of {length} bytes holds no token").into());
        }
        Ok(())
    }
}
