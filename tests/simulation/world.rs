//! Time, weather, keyring, processes, callers and users, all drawn from one seed.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bearerd::clock::{BootTime, Clock, Now, VirtualTime};
use bearerd::power::Busy;
use bearerd::recovery::{Note, Unsaved};
use bearerd::session::error::Error;
use bearerd::session::{AccountState, Asked, Budget, Interruption, TokenOptions};
use bearerd::store::SessionRecord;
use bearerd::tokens::{Granted, Narrow};
use tokio::sync::{Notify, watch};

use crate::broker::Broker;
use crate::logout::LoggedOut;
use crate::model::{self, End, Model, Rules};

/// So long after the last fault everything must be as if there had been none.
const RECOVERY: Duration = Duration::from_secs(240);
/// Calls end after 15 s; this much is lost in rounding and in the loop's turns.
const BUDGET: Duration = Duration::from_millis(15_500);
/// Requests of one account within a minute: callers may force one each two seconds while the provider is
/// in trouble, and otherwise one each ten seconds by wanting more validity than there is, and five more.
const STORM_REQUESTS: usize = 36;
const CALM_REQUESTS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Ours,
    Naive,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fine,
    Unreachable,
    /// The connection is reset before the provider has acted.
    Cut,
    /// The provider acts, and nobody hears of it.
    Deaf,
    /// No answer at all.
    Silent,
    Slow,
    /// 429 or 503, with or without `Retry-After`.
    Busy(Option<u64>),
    /// A captive portal's page.
    Portal,
}

impl Weather {
    /// For how long it can be felt afterwards: an answer may be waited for a minute, and `Retry-After` is kept.
    fn echo(self) -> Duration {
        match self {
            Self::Busy(Some(wait)) => Duration::from_secs(wait + wait / 10 + 70),
            _ => Duration::from_secs(70),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreMood {
    Well,
    Locked,
    Absent,
    Blocked,
    /// Acknowledges writes, and forgets them when it restarts.
    Lies,
}

/// What came of one world, or of many.
#[derive(Default)]
pub(crate) struct Report {
    /// All accounts' time together.
    pub(crate) lived: Duration,
    pub(crate) violations: Vec<String>,
    pub(crate) digest: u64,
    pub(crate) expired_needlessly: u64,
    calls: u64,
    tokens: u64,
    requests: u64,
    logins: u64,
    logouts: u64,
    crashes: u64,
    suspends: u64,
    storms: u64,
    /// Lost by an answer that could not be had again, by what kept it from arriving.
    lost: BTreeMap<&'static str, u64>,
    ended_by_provider: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: Self) {
        self.lived += other.lived;
        self.violations.extend(other.violations);
        self.digest ^= other.digest;
        self.expired_needlessly += other.expired_needlessly;
        self.calls += other.calls;
        self.tokens += other.tokens;
        self.requests += other.requests;
        self.logins += other.logins;
        self.logouts += other.logouts;
        self.crashes += other.crashes;
        self.suspends += other.suspends;
        self.storms += other.storms;
        for (cause, count) in other.lost {
            *self.lost.entry(cause).or_default() += count;
        }
        self.ended_by_provider += other.ended_by_provider;
    }

    pub(crate) fn lost_rotations(&self) -> u64 {
        self.lost.values().sum()
    }

    pub(crate) fn summary(&self) -> String {
        let years = self.lived.as_secs_f64() / (365.0 * 86_400.0);
        format!(
            "{years:.1} account-years, {} calls, {} tokens, {} requests; {} crashes, {} suspends, {} outages; \
             {} sessions reached the provider's limit, {} expired needlessly, {} lost with an answer \
             ({:.2} a year: {:?}); {} logins, {} logouts",
            self.calls,
            self.tokens,
            self.requests,
            self.crashes,
            self.suspends,
            self.storms,
            self.ended_by_provider,
            self.expired_needlessly,
            self.lost_rotations(),
            self.lost_rotations() as f64 / years,
            self.lost,
            self.logins,
            self.logouts,
        )
    }
}

/// What the keyring has of an account.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) kept: Option<SessionRecord>,
    disk: Option<SessionRecord>,
}

/// One account's place in the world.
pub(crate) struct Account {
    pub(crate) in_flight: AtomicU32,
    pub(crate) changes: watch::Sender<u64>,
    shelf: Mutex<Shelf>,
    note: Mutex<(u64, u64, Option<Note>)>,
    held: Mutex<Option<Unsaved>>,
    broker: Mutex<Option<Broker>>,
    requests: Mutex<VecDeque<BootTime>>,
    logging_in: AtomicBool,
    /// One login or logout at a time.
    pub(crate) door: tokio::sync::Mutex<()>,
    logged_out: Mutex<LoggedOut>,
    /// `Retry-After`.
    not_before: Mutex<BootTime>,
}

impl Account {
    fn new() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            changes: watch::Sender::new(0),
            shelf: Mutex::default(),
            note: Mutex::default(),
            held: Mutex::default(),
            broker: Mutex::default(),
            requests: Mutex::default(),
            logging_in: AtomicBool::new(false),
            door: tokio::sync::Mutex::default(),
            logged_out: Mutex::default(),
            not_before: Mutex::default(),
        }
    }

    pub(crate) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap()
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Option<Unsaved>> {
        self.held.lock().unwrap()
    }

    pub(crate) fn put(&self, record: Option<SessionRecord>, lie: bool) {
        let mut shelf = self.shelf();
        shelf.kept.clone_from(&record);
        if !lie {
            shelf.disk = record;
        }
    }

    pub(crate) fn leave_note(&self, process: u64, sequence: u64, note: &Note) {
        let mut left = self.note.lock().unwrap();
        if (process, sequence) > (left.0, left.1) {
            *left = (process, sequence, Some(note.clone()));
        }
    }

    pub(crate) fn left_note(&self) -> Option<Note> {
        self.note.lock().unwrap().2.clone()
    }

    pub(crate) fn logged_out(&self) -> MutexGuard<'_, LoggedOut> {
        self.logged_out.lock().unwrap()
    }

    pub(crate) fn broker(&self) -> Option<Broker> {
        self.broker.lock().unwrap().clone()
    }

    /// Whether anything of that session is kept.
    pub(crate) fn has(&self, session: u64) -> bool {
        let is_its = |record: &SessionRecord| {
            model::parse(record.refresh_token.expose()).is_some_and(|(number, _)| number == session)
        };
        let held = self.held();
        let unsaved = held.as_ref().and_then(|held| held.record.as_ref());
        unsaved.is_some_and(is_its) || self.shelf().kept.as_ref().is_some_and(is_its)
    }

    /// Whether the refresh token of that number survives the process.
    fn keeps(&self, session: u64, number: u64) -> bool {
        let is_it =
            |record: &SessionRecord| model::parse(record.refresh_token.expose()) == Some((session, number));
        let held = self.held();
        match held.as_ref().and_then(|held| held.record.as_ref()) {
            Some(record) => is_it(record),
            None => self.shelf().kept.as_ref().is_some_and(is_it),
        }
    }
}

pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) accounts: Vec<Account>,
    pub(crate) has_service_manager: bool,
    which: Which,
    has_logind: bool,
    time: Arc<VirtualTime>,
    random: Mutex<fastrand::Rng>,
    model: Mutex<Model>,
    weather: Mutex<Weather>,
    store: Mutex<StoreMood>,
    well_since: Mutex<BootTime>,
    /// The living process; 0 is none.
    process: AtomicU64,
    processes: AtomicU64,
    boots: AtomicU64,
    busy: Mutex<Busy>,
    /// The process dies after so many steps; below 1 it does not.
    dies_in: AtomicI64,
    died: Notify,
    started: Notify,
    /// One process ends before the next.
    replacing: tokio::sync::Mutex<()>,
    suspends: AtomicU64,
    faults: AtomicU32,
    calm_since: Mutex<BootTime>,
    report: Mutex<Report>,
    hasher: Mutex<DefaultHasher>,
    traced: bool,
}

/// Lives through one world.
pub(crate) fn run(seed: u64, length: Duration, which: Which, traced: bool) -> Report {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(seed, which, traced);
        world.start_process();
        for account in 0..world.accounts.len() {
            world.log_in(account).await;
            tokio::spawn(Arc::clone(&world).callers(account));
            tokio::spawn(Arc::clone(&world).watch_expiry(account));
            tokio::spawn(Arc::clone(&world).log_outs(account));
        }
        let began = world.now().boot;
        let trouble = tokio::spawn(Arc::clone(&world).trouble());
        while world.now().boot.since(began) < length && !trouble.is_finished() {
            tokio::time::sleep(Duration::from_secs(600)).await;
            if !world.report().violations.is_empty() {
                break;
            }
        }
        let lived = world.now().boot.since(began);
        let mut report = std::mem::take(&mut *world.report());
        report.lived = lived * u32::try_from(world.accounts.len()).unwrap();
        report.digest = world.hasher.lock().unwrap().finish();
        if trouble.is_finished() && report.violations.is_empty() {
            report.violations.push("the world's own faults ended early".into());
        }
        report
    })
}

impl World {
    fn new(seed: u64, which: Which, traced: bool) -> Arc<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let (clock, time) = Clock::simulated(Duration::from_secs(1_790_000_000));
        let seconds =
            |list: &[u64], random: &mut fastrand::Rng| Duration::from_secs(list[random.usize(..list.len())]);
        let idle = seconds(&[1800, 7200, 86_400, 14 * 86_400], &mut random);
        let rules = Rules {
            access: seconds(&[60, 300, 300, 900, 3600], &mut random).min(idle / 2),
            idle,
            maximum: (random.u8(..3) == 0).then(|| idle * random.u32(8..60)),
            rotation: random.u8(..5) > 0,
            grace: seconds(&[0, 0, 10, 30, 60], &mut random),
        };
        let world = Self {
            clock,
            accounts: (0..random.usize(1..5)).map(|_| Account::new()).collect(),
            has_service_manager: random.u8(..4) > 0,
            which,
            has_logind: random.u8(..4) > 0,
            time,
            random: Mutex::new(random),
            model: Mutex::new(Model::new(rules)),
            weather: Mutex::new(Weather::Fine),
            store: Mutex::new(StoreMood::Well),
            well_since: Mutex::default(),
            process: AtomicU64::new(0),
            processes: AtomicU64::new(0),
            boots: AtomicU64::new(1),
            busy: Mutex::default(),
            dies_in: AtomicI64::new(0),
            died: Notify::new(),
            started: Notify::new(),
            replacing: tokio::sync::Mutex::default(),
            suspends: AtomicU64::new(0),
            faults: AtomicU32::new(0),
            calm_since: Mutex::default(),
            report: Mutex::default(),
            hasher: Mutex::default(),
            traced,
        };
        world.trace(|| {
            format!(
                "access {:?}, idle {:?}, maximum {:?}, rotation {}, grace {:?}, {} accounts, service manager {}, logind {}",
                rules.access, rules.idle, rules.maximum, rules.rotation, rules.grace,
                world.accounts.len(), world.has_service_manager, world.has_logind
            )
        });
        Arc::new(world)
    }

    // --- what the ports ask

    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    pub(crate) fn chance(&self, share: f64) -> bool {
        self.chance_number() < share
    }

    pub(crate) fn chance_number(&self) -> f64 {
        self.random.lock().unwrap().f64()
    }

    pub(crate) fn pick(&self, range: std::ops::Range<u64>) -> u64 {
        self.random.lock().unwrap().u64(range)
    }

    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.pick(from..to))
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    /// The next process.
    pub(crate) async fn started(&self) {
        self.started.notified().await;
    }

    pub(crate) fn logged_out(&self) {
        self.report().logouts += 1;
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap()
    }

    pub(crate) fn store_mood(&self) -> StoreMood {
        *self.store.lock().unwrap()
    }

    pub(crate) fn suspends(&self) -> u64 {
        self.suspends.load(Ordering::Relaxed)
    }

    pub(crate) fn lives(&self, process: u64) -> bool {
        self.process.load(Ordering::Relaxed) == process
    }

    /// Where a process may die; a dead one goes no further.
    pub(crate) async fn step(&self, process: u64) {
        if self.lives(process) && self.dies_in.load(Ordering::Relaxed) > 0 {
            if self.dies_in.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.process.store(0, Ordering::Relaxed);
                self.died.notify_one();
            } else {
                tokio::task::yield_now().await;
            }
        }
        if !self.lives(process) {
            std::future::pending::<()>().await;
        }
    }

    /// The weather for one request; now and then it is its own.
    pub(crate) fn weather_now(&self) -> Weather {
        let weather = *self.weather.lock().unwrap();
        if weather == Weather::Fine && self.chance(0.003) {
            let weather = self.some_weather();
            self.disturbed(weather.echo());
            return weather;
        }
        weather
    }

    fn some_weather(&self) -> Weather {
        match self.pick(0..9) {
            2 => Weather::Cut,
            3 => Weather::Deaf,
            4 => Weather::Silent,
            5 => Weather::Slow,
            6 => Weather::Busy(self.chance(0.5).then(|| self.pick(1..900))),
            7 => Weather::Portal,
            _ => Weather::Unreachable,
        }
    }

    /// The broker has the answer: what it does with it is its own affair.
    pub(crate) fn arrived(&self, account: usize) {
        if let Some(session) = self.model().sessions.get_mut(&account).filter(|session| session.alive) {
            session.excuse = None;
            session.arrived = self.now().boot;
        }
    }

    /// The broker was told when to come back.
    pub(crate) fn told(&self, account: usize, wait: Option<Duration>) {
        if let Some(wait) = wait {
            *self.accounts[account].not_before.lock().unwrap() = self.now().boot.after(wait);
        }
    }

    /// A request that nobody waits for any more was acted on after all.
    pub(crate) fn arrived_late(&self, account: usize) {
        if let Some(session) = self.model().sessions.get_mut(&account)
            && session.ended == Some(End::Reuse)
        {
            session.excuse = Some("a request that was given up arrived late");
        }
    }

    pub(crate) fn count_request(&self, account: usize) {
        let now = self.now().boot;
        if now < *self.accounts[account].not_before.lock().unwrap() && self.which == Which::Ours {
            self.violation(format!("account {account}: a request before Retry-After"));
        }
        let mut requests = self.accounts[account].requests.lock().unwrap();
        requests.push_back(now);
        while requests.front().is_some_and(|at| now.since(*at) > Duration::from_secs(60)) {
            requests.pop_front();
        }
        let bound = if self.calm_for() > Duration::from_secs(120) { CALM_REQUESTS } else { STORM_REQUESTS };
        if requests.len() > bound && self.which == Which::Ours {
            self.violation(format!("account {account}: {} requests within a minute", requests.len()));
        }
        self.report().requests += 1;
    }

    pub(crate) fn violation(&self, what: String) {
        self.trace(|| format!("VIOLATION: {what}"));
        let at = self.now().boot.since_boot().as_secs();
        self.report().violations.push(format!("at {at}: {what}"));
    }

    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        let line = line();
        line.hash(&mut *self.hasher.lock().unwrap());
        if self.traced {
            println!("{:>12.3} {line}", self.now().boot.since_boot().as_secs_f64());
        }
    }

    // --- calm and trouble

    fn disturbed(&self, lasts: Duration) {
        let mut calm_since = self.calm_since.lock().unwrap();
        *calm_since = (*calm_since).max(self.now().boot.after(lasts));
    }

    fn calm_for(&self) -> Duration {
        if self.faults.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        self.now().boot.since(*self.calm_since.lock().unwrap())
    }

    /// One fault after the other, some of them together, and a look at everybody when they are over.
    async fn trouble(self: Arc<Self>) {
        loop {
            let pause = self.pick(1200..28_000);
            self.clock.sleep(Duration::from_secs(pause)).await;
            let together = [1, 1, 1, 2, 2, 3][usize::try_from(self.pick(0..6)).unwrap()];
            self.faults.fetch_add(1, Ordering::Relaxed);
            let faults = (0..together).map(|_| tokio::spawn(Arc::clone(&self).fault())).collect::<Vec<_>>();
            for fault in faults {
                fault.await.unwrap();
            }
            self.faults.fetch_sub(1, Ordering::Relaxed);
            self.disturbed(Duration::ZERO);
            while self.calm_for() < RECOVERY {
                let left = RECOVERY.saturating_sub(self.calm_for()).max(Duration::from_secs(1));
                let ahead = self.calm_since.lock().unwrap().since(self.now().boot);
                self.clock.sleep(left + ahead).await;
            }
            self.look_at_everybody();
        }
    }

    fn look_at_everybody(&self) {
        let now = self.now().boot;
        for (number, account) in self.accounts.iter().enumerate() {
            self.model().look(number, now);
            let sound = self
                .model()
                .sessions
                .get(&number)
                .is_some_and(|session| session.alive && session.excuse.is_none() && !session.left);
            let broker = account.broker();
            let Some(session) = broker.as_ref().and_then(Broker::session).filter(|_| sound) else { continue };
            let view = session.view();
            if view.state != AccountState::Ready && !account.logging_in.load(Ordering::Relaxed) {
                let (state, reason) = (view.state.as_str(), view.reason);
                self.violation(format!("account {number}: {state} ({reason}) long after the last fault"));
            }
        }
    }

    async fn fault(self: Arc<Self>) {
        match self.pick(0..12) {
            0..=3 => self.storm().await,
            4 | 5 => self.crash().await,
            6 => self.restart_in_order().await,
            7 | 8 => self.suspend().await,
            9 | 10 => self.keyring_trouble().await,
            _ => {
                let days = i64::try_from(self.pick(0..6)).unwrap() - 3;
                self.trace(|| format!("the wall clock steps by {days} days"));
                self.time.step_wall(days * 86_400 + 17);
                if self.chance(0.5) {
                    self.tell(Interruption::OtherNetwork).await;
                }
            }
        }
    }

    async fn storm(&self) {
        let weather = self.some_weather();
        let seconds = match weather {
            // A path that loses answers alone is soon replaced.
            Weather::Deaf => self.pick(1..90),
            _ if self.chance(0.2) => self.pick(600..36_000),
            _ => self.pick(20..720),
        };
        self.trace(|| format!("{weather:?} for {seconds} s"));
        self.report().storms += 1;
        *self.weather.lock().unwrap() = weather;
        self.clock.sleep(Duration::from_secs(seconds)).await;
        *self.weather.lock().unwrap() = Weather::Fine;
        self.disturbed(weather.echo());
        self.trace(|| format!("{weather:?} is over"));
        if self.chance(0.5) {
            self.tell(Interruption::OtherNetwork).await;
        }
    }

    async fn tell(&self, interruption: Interruption) {
        for account in &self.accounts {
            let broker = account.broker();
            if let Some(session) = broker.as_ref().and_then(Broker::session) {
                session.interrupt(interruption).await;
            }
        }
    }

    async fn suspend(&self) {
        let seconds = match self.pick(0..4) {
            0 => self.pick(1..120),
            1 | 2 => self.pick(120..7200),
            _ => self.pick(7200..200_000),
        };
        if self.has_logind {
            self.tell(Interruption::Suspending).await;
            let mut busy = self.busy.lock().unwrap().watch();
            let settled = busy.wait_for(|count| *count == 0);
            let _ = tokio::time::timeout(Duration::from_secs(5), settled).await;
        }
        self.trace(|| format!("asleep for {seconds} s"));
        self.report().suspends += 1;
        self.suspends.fetch_add(1, Ordering::Relaxed);
        self.time.suspend(Duration::from_secs(seconds));
        tokio::time::sleep(Duration::from_millis(200)).await;
        if self.has_logind {
            self.tell(Interruption::Awake).await;
        }
        self.disturbed(Duration::from_secs(70));
    }

    async fn keyring_trouble(&self) {
        let moods = [StoreMood::Locked, StoreMood::Absent, StoreMood::Blocked, StoreMood::Lies];
        let mood = moods[usize::try_from(self.pick(0..4)).unwrap()];
        let minutes = self.pick(1..90);
        self.trace(|| format!("keyring: {mood:?} for {minutes} min"));
        *self.store.lock().unwrap() = mood;
        self.keyring_changed();
        self.clock.sleep(Duration::from_secs(minutes * 60)).await;
        if mood == StoreMood::Lies {
            let alive = self.process.load(Ordering::Relaxed) != 0;
            for (number, account) in self.accounts.iter().enumerate() {
                let mut shelf = account.shelf();
                let disk = shelf.disk.clone();
                shelf.kept = disk;
                drop(shelf);
                if !alive {
                    self.excuse_what_is_lost(number, "the keyring forgot it", false);
                }
            }
        }
        *self.store.lock().unwrap() = StoreMood::Well;
        *self.well_since.lock().unwrap() = self.now().boot;
        self.keyring_changed();
        self.trace(|| "keyring: well".to_owned());
    }

    fn keyring_changed(&self) {
        for account in &self.accounts {
            account.changes.send_modify(|count| *count += 1);
        }
    }

    // --- processes

    fn start_process(self: &Arc<Self>) {
        let process = self.processes.fetch_add(1, Ordering::Relaxed) + 1;
        self.process.store(process, Ordering::Relaxed);
        self.trace(|| format!("process {process} starts"));
        let boot = format!("boot-{}", self.boots.load(Ordering::Relaxed));
        let (budget, busy) = (Arc::new(Budget::default()), Busy::default());
        *self.busy.lock().unwrap() = busy.clone();
        for (number, account) in self.accounts.iter().enumerate() {
            *account.broker.lock().unwrap() = Some(match self.which {
                Which::Ours => {
                    Broker::ours(self, number, process, &boot, (Arc::clone(&budget), busy.clone()))
                }
                Which::Naive => Broker::naive(self, number, process),
            });
        }
        self.started.notify_waiters();
    }

    /// Dies at one of the next steps, or where it rests.
    async fn crash(self: &Arc<Self>) {
        let Ok(_alone) = self.replacing.try_lock() else { return };
        self.dies_in.store(i64::try_from(self.pick(1..40)).unwrap(), Ordering::Relaxed);
        let _ = tokio::time::timeout(Duration::from_secs(self.pick(1..1200)), self.died.notified()).await;
        self.dies_in.store(0, Ordering::Relaxed);
        self.process.store(0, Ordering::Relaxed);
        self.report().crashes += 1;
        self.trace(|| "the process is killed".to_owned());
        for (number, account) in self.accounts.iter().enumerate() {
            if let Some(broker) = account.broker.lock().unwrap().take() {
                broker.kill();
            }
            self.excuse_what_is_lost(number, "the process died before its save", self.has_service_manager);
            // It may have died before it could note it.
            *account.not_before.lock().unwrap() = BootTime::default();
        }
        self.pause_between_processes().await;
        self.start_process();
        self.disturbed(Duration::from_secs(70));
    }

    async fn restart_in_order(self: &Arc<Self>) {
        let Ok(_alone) = self.replacing.try_lock() else { return };
        self.trace(|| "the process is stopped".to_owned());
        let brokers: Vec<Broker> =
            self.accounts.iter().filter_map(|account| account.broker.lock().unwrap().take()).collect();
        for broker in &brokers {
            match broker.session() {
                Some(session) => drop(session.stop().await),
                None => broker.kill(),
            }
        }
        self.process.store(0, Ordering::Relaxed);
        for number in 0..self.accounts.len() {
            let why = "the process was stopped before its save";
            self.excuse_what_is_lost(number, why, self.has_service_manager);
        }
        self.pause_between_processes().await;
        self.start_process();
        self.disturbed(Duration::from_secs(70));
    }

    async fn pause_between_processes(&self) {
        let seconds = if self.chance(0.15) { self.pick(60..40_000) } else { 1 };
        if seconds > 600 {
            // The machine was off. Nothing but files is left.
            self.boots.fetch_add(1, Ordering::Relaxed);
            for (number, account) in self.accounts.iter().enumerate() {
                *account.held() = None;
                self.excuse_what_is_lost(number, "the machine was switched off before its save", false);
            }
        }
        self.clock.sleep(Duration::from_secs(seconds)).await;
    }

    /// `held`: what was unsaved is still there.
    fn excuse_what_is_lost(&self, account: usize, why: &'static str, held: bool) {
        let mut model = self.model();
        let rotation = model.rules.rotation;
        let Some(session) = model.sessions.get_mut(&account) else { return };
        let kept = self.accounts[account].keeps(session.number, session.current);
        if !session.alive
            || session.left
            || session.excuse.is_some()
            || kept
            || !(rotation || session.refreshes == 0)
        {
            return;
        }
        session.excuse = Some(why);
        let unsaved_for = self.now().boot.since(session.arrived);
        drop(model);
        // A save takes some milliseconds, and is tried again within a minute after the keyring is back;
        // what is held needs no keyring.
        let waits = unsaved_for < Duration::from_secs(3)
            || (self.store_mood() != StoreMood::Well && !held)
            || self.now().boot.since(*self.well_since.lock().unwrap()) < Duration::from_secs(70);
        if !waits && self.which == Which::Ours {
            self.violation(format!(
                "account {account}: not saved in {unsaved_for:?}, though the keyring was there"
            ));
        }
    }

    // --- people and programs

    async fn log_in(self: &Arc<Self>, account: usize) {
        let _alone = self.accounts[account].door.lock().await;
        let Some(broker) = self.accounts[account].broker() else { return };
        let (now, asked) = (self.now().boot, Asked::at(&self.now()));
        let tokens = self.model().log_in(account, now);
        self.report().logins += 1;
        self.trace(|| format!("account {account} logs in"));
        let granted = Granted { tokens, sub: String::new(), subject: "ayu".into(), key: None };
        if !broker.log_in(granted, asked).await {
            self.excuse_what_is_lost(account, "the process died before its save", self.has_service_manager);
        }
    }

    async fn callers(self: Arc<Self>, account: usize) {
        loop {
            let (calls, together, gap) = match self.pick(0..10) {
                0..=4 => (1, 1, self.pick(600..40_000)),
                5..=7 => (self.pick(2..20), 1, self.pick(20..300)),
                8 => (self.pick(1..4), self.pick(2..20), self.pick(1..60)),
                _ => (1, self.pick(20..101), 1),
            };
            for _ in 0..calls {
                self.clock.sleep(Duration::from_secs(gap)).await;
                let calls = (0..together).map(|_| self.call(account)).collect::<Vec<_>>();
                let over = futures_util::future::join_all(calls).await.contains(&true);
                if over {
                    self.after_login_required(account).await;
                }
            }
        }
    }

    /// Some callers want a token for one API, and some for one that there is not.
    fn wish(&self) -> Option<Narrow> {
        let resource = match self.pick(0..40) {
            0 => model::UNKNOWN_RESOURCE,
            1..=2 => "urn:one",
            3..=4 => "urn:another",
            _ => return None,
        };
        Some(Narrow { resource: resource.to_owned(), scope: String::new(), audience: String::new() })
    }

    /// One `GetToken`; whether a login is required.
    async fn call(&self, account: usize) -> bool {
        let Some(broker) = self.accounts[account].broker() else { return false };
        let access = self.model().rules.access;
        let options = TokenOptions {
            min_validity: self.chance(0.2).then(|| access.mul_f64(self.chance_number() * 1.2)),
            force_refresh: self.chance(0.02),
            narrow: self.wish().map(Arc::new),
        };
        let promised = options.min_validity;
        let wish = options.narrow.as_ref().map_or("", |narrow| &narrow.resource).to_owned();
        let (began, process) = (self.now(), self.process.load(Ordering::Relaxed));
        self.report().calls += 1;
        let answer = tokio::time::timeout(Duration::from_secs(40), broker.token(options)).await;
        let now = self.now();
        self.in_time(account, &began);
        let Ok(answer) = answer else { return false };
        match answer {
            Ok(token) => {
                self.report().tokens += 1;
                if model::resource_of(&token.text) != wish && self.which == Which::Ours {
                    self.violation(format!("account {account}: another token than the one for {wish:?}"));
                }
                let session = model::session_of(&token.text);
                if self.accounts[account].logged_out().forbids(session, began.boot) {
                    self.violation(format!("account {account}: a token of a session that was logged out"));
                }
                let left = model::access_ends(&token.text).since(now.boot);
                if left.is_zero() || Duration::from_secs(token.expires_in) > left + Duration::from_secs(1) {
                    self.violation(format!(
                        "account {account}: a token with {left:?} left, said {}",
                        token.expires_in
                    ));
                }
                if token.expires_at > now.wall_seconds_at(model::access_ends(&token.text)) + 1 {
                    self.violation(format!("account {account}: expires_at lies"));
                }
                let attainable =
                    |min: Duration| min + Duration::from_secs(12) < access && min > Duration::from_secs(5);
                let promised = promised.filter(|min| attainable(*min));
                let steady = self.model().rules.maximum.is_none()
                    // What lives is handed out when the session itself is over.
                    && self.model().sessions.get(&account).is_some_and(|session| session.alive)
                    && self.calm_for() > Duration::from_secs(180);
                if promised.is_some_and(|min| left < min) && steady && self.which == Which::Ours {
                    self.violation(format!(
                        "account {account}: {left:?} left of {promised:?} that were asked for"
                    ));
                }
                false
            }
            Err(Error::LoginRequired(_)) => true,
            Err(Error::ProviderRefused(_)) if wish == model::UNKNOWN_RESOURCE => false,
            Err(error) => {
                let calm = self.calm_for() > Duration::from_secs(90);
                let same = process != 0 && self.lives(process);
                let gone = matches!(error, Error::NoSession(_)) && !same;
                if calm && !gone && self.which == Which::Ours {
                    self.violation(format!("account {account}: refused without a reason: {error}"));
                }
                false
            }
        }
    }

    /// Every call is answered within its budget, the time asleep apart.
    pub(crate) fn in_time(&self, account: usize, began: &Now) {
        let now = self.now();
        let waited = now.boot.since(began.boot).saturating_sub(now.asleep.saturating_sub(began.asleep));
        if self.which == Which::Ours && waited > BUDGET {
            self.violation(format!("account {account}: a call took {waited:?}"));
        }
    }

    /// The broker says that the session is over: is it?
    async fn after_login_required(self: &Arc<Self>, account: usize) {
        let now = self.now().boot;
        {
            let mut model = self.model();
            model.look(account, now);
            let session = &model.sessions[&account];
            let (ended, excuse, alive) = (session.ended, session.excuse, session.alive);
            let left = session.left;
            drop(model);
            self.trace(|| format!("account {account}: login required; alive {alive}, {ended:?}, {excuse:?}"));
            match (ended, excuse) {
                _ if left => {}
                (Some(End::Idle | End::Maximum), _) => self.report().ended_by_provider += 1,
                (_, Some(excuse)) => *self.report().lost.entry(excuse).or_default() += 1,
                (Some(End::Reuse), None) if self.which == Which::Naive => {
                    *self.report().lost.entry("it was given up").or_default() += 1;
                }
                (Some(End::Reuse | End::Logout), None) => {
                    self.violation(format!("account {account}: a spent refresh token was sent"));
                }
                (None, None) => {
                    self.violation(format!("account {account}: logged out of a session that lives"));
                }
            }
        }
        self.accounts[account].logging_in.store(true, Ordering::Relaxed);
        let later = self.pick(30..20_000);
        self.clock.sleep(Duration::from_secs(later)).await;
        self.log_in(account).await;
        self.accounts[account].logging_in.store(false, Ordering::Relaxed);
    }

    /// A session that expires while nothing was wrong for a while was forgotten.
    async fn watch_expiry(self: Arc<Self>, account: usize) {
        let mut told = 0;
        loop {
            let (deadline, idled, number) = {
                let mut model = self.model();
                let now = self.now().boot;
                model.look(account, now);
                let session = &model.sessions[&account];
                let idled = session.ended == Some(End::Idle) && session.excuse.is_none() && !session.left;
                let number = session.number;
                (model.deadline(account), idled, number)
            };
            let now = self.now().boot;
            if idled && told != number {
                told = number;
                let calm_before = now.since(deadline) < Duration::from_secs(5)
                    && self.calm_for() > Duration::from_secs(180)
                    && !self.accounts[account].logging_in.load(Ordering::Relaxed);
                if calm_before {
                    self.report().expired_needlessly += 1;
                    if self.which == Which::Ours {
                        self.violation(format!("account {account}: expired, and nothing had been wrong"));
                    }
                }
            }
            let next = if now >= deadline {
                Duration::from_secs(60)
            } else {
                deadline.since(now) + Duration::from_secs(1)
            };
            self.clock.sleep(next).await;
        }
    }
}
