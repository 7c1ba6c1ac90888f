//! Time that counts suspend.
//!
//! Deadlines live on `CLOCK_BOOTTIME` and one timerfd on it wakes whoever waits: tokio's own clock
//! (and `std::time::Instant`) stands still while the machine sleeps. Wall time is for people and
//! for the time on the bus; a step of it moves no deadline.
//!
//! **Invariant:** no other file of the daemon reads a clock.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// So much can lie before boot: a session outlives the machine's uptime.
const BEFORE_BOOT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A point in time, told from boot, suspend included. It may lie before that; the default is long ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    #[must_use]
    pub const fn from_duration(since_boot: Duration) -> Self {
        Self(since_boot.saturating_add(BEFORE_BOOT))
    }

    /// The time since boot; zero for what was before it.
    #[must_use]
    pub const fn since_boot(self) -> Duration {
        self.0.saturating_sub(BEFORE_BOOT)
    }

    #[must_use]
    pub fn is_before_boot(self) -> bool {
        self.0 < BEFORE_BOOT
    }

    /// Later by `time`; saturates.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// Earlier by `time`; saturates a century before boot.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }

    /// The time since `earlier`; zero when that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// One reading of all clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub boot: BootTime,
    /// Since the Unix epoch.
    pub wall: Duration,
    /// How long the machine has been suspended since boot, all in all.
    pub asleep: Duration,
}

impl Now {
    /// The wall time at which `deadline` comes, in whole seconds since the Unix epoch.
    #[must_use]
    pub fn wall_seconds_at(&self, deadline: BootTime) -> u64 {
        let ahead = deadline.since(self.boot);
        let behind = self.boot.since(deadline);
        // Rounded to the nearest second, so that one deadline reads the same at each look.
        (self.wall + ahead).saturating_sub(behind).saturating_add(Duration::from_millis(500)).as_secs()
    }
}

/// Reads the time and waits for it.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System(Arc<Alarms>),
    Virtual(Arc<VirtualTime>),
}

impl Clock {
    /// The machine's clocks. Must be called inside a tokio runtime, which runs its one timer task.
    ///
    /// # Errors
    /// When the kernel refuses a timerfd.
    pub fn system() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe, for types that can change their descriptor; OwnedFd cannot"
        )]
        let timer = AsyncFd::new(fd)?;
        let alarms = Arc::new(Alarms { timer, waiting: Mutex::default() });
        tokio::spawn(ring(Arc::clone(&alarms)));
        Ok(Self(Source::System(alarms)))
    }

    /// Time as tokio's (paused) clock tells it, with suspend and wall-clock steps on demand: for
    /// simulation. `wall` is the wall time at the start.
    #[must_use]
    pub fn simulated(wall: Duration) -> (Self, Arc<VirtualTime>) {
        let time = Arc::new(VirtualTime {
            start: tokio::time::Instant::now(),
            wall_at_start: wall,
            shift: Mutex::default(),
            jumped: tokio::sync::Notify::new(),
        });
        (Self(Source::Virtual(Arc::clone(&time))), time)
    }

    #[must_use]
    pub fn now(&self) -> Now {
        match &self.0 {
            Source::System(_) => {
                let boot = duration(clock_gettime(ClockId::Boottime));
                let running = duration(clock_gettime(ClockId::Monotonic));
                Now {
                    boot: BootTime::from_duration(boot),
                    wall: duration(clock_gettime(ClockId::Realtime)),
                    asleep: boot.saturating_sub(running),
                }
            }
            Source::Virtual(time) => time.now(),
        }
    }

    /// Waits until `deadline`, suspended time counted.
    pub async fn sleep_until(&self, deadline: BootTime) {
        match &self.0 {
            Source::System(alarms) => Alarms::wait(alarms, deadline).await,
            Source::Virtual(time) => time.wait(deadline).await,
        }
    }

    /// Waits for `time`, suspended time counted.
    pub async fn sleep(&self, time: Duration) {
        self.sleep_until(self.now().boot.after(time)).await;
    }

    /// What `work` comes to; `None` if it takes longer than `limit`, suspended time counted.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.sleep(limit) => None,
        }
    }
}

/// The waiting deadlines behind the one timerfd.
struct Alarms {
    timer: AsyncFd<rustix::fd::OwnedFd>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next_key: u64,
    /// What the timer is set to; it may ring early for a waiter that went away.
    armed: Option<BootTime>,
    bells: BTreeMap<(BootTime, u64), oneshot::Sender<()>>,
}

impl Alarms {
    async fn wait(alarms: &Arc<Self>, deadline: BootTime) {
        let (bell, rung) = oneshot::channel();
        let key = {
            let mut waiting = alarms.lock();
            waiting.next_key += 1;
            let key = (deadline, waiting.next_key);
            waiting.bells.insert(key, bell);
            // An actor waits anew after each event, mostly for the same moment: no system call for that.
            if waiting.armed.is_none_or(|armed| deadline < armed) {
                waiting.armed = Some(deadline);
                alarms.arm(Some(deadline));
            }
            key
        };
        let _forget = Forget { alarms, key };
        // The sender goes only when it rang or the clock itself is gone.
        let _ = rung.await;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arm(&self, deadline: Option<BootTime>) {
        // A zero value would disarm, so time zero is one nanosecond late.
        let at = deadline.map_or(Duration::ZERO, |d| d.since_boot().max(Duration::from_nanos(1)));
        let value = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: at.subsec_nanos().into(),
            },
        };
        if let Err(error) = timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &value) {
            tracing::error!(%error, "cannot set the timer");
        }
    }
}

/// Takes an alarm out when its waiter goes away first.
struct Forget<'a> {
    alarms: &'a Alarms,
    key: (BootTime, u64),
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.alarms.lock().bells.remove(&self.key);
    }
}

async fn ring(alarms: Arc<Alarms>) {
    loop {
        let Ok(mut ready) = alarms.timer.readable().await else { return };
        let mut expirations = [0_u8; 8];
        let _ = rustix::io::read(alarms.timer.get_ref(), &mut expirations);
        ready.clear_ready();
        let now = BootTime::from_duration(duration(clock_gettime(ClockId::Boottime)));
        let mut waiting = alarms.lock();
        while let Some(first) = waiting.bells.first_entry() {
            if first.key().0 > now {
                break;
            }
            let _ = first.remove().send(());
        }
        let next = waiting.bells.first_key_value().map(|(key, _)| key.0);
        waiting.armed = next;
        alarms.arm(next);
    }
}

fn duration(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The clocks of a simulation: tokio's paused time plus what was slept and stepped.
pub struct VirtualTime {
    start: tokio::time::Instant,
    wall_at_start: Duration,
    shift: Mutex<Shift>,
    /// Wakes in the order of waiting, so that a simulation repeats itself.
    jumped: tokio::sync::Notify,
}

#[derive(Clone, Copy, Default)]
struct Shift {
    asleep: Duration,
    /// Wall-clock steps, in seconds, either way.
    stepped: i64,
}

impl VirtualTime {
    /// The machine sleeps for `time`: boot and wall time jump, tokio's clock does not.
    pub fn suspend(&self, time: Duration) {
        self.shift.lock().unwrap_or_else(PoisonError::into_inner).asleep += time;
        self.jumped.notify_waiters();
    }

    /// Somebody sets the wall clock; deadlines must not move.
    pub fn step_wall(&self, seconds: i64) {
        self.shift.lock().unwrap_or_else(PoisonError::into_inner).stepped += seconds;
    }

    fn now(&self) -> Now {
        let shift = *self.shift.lock().unwrap_or_else(PoisonError::into_inner);
        let running = self.start.elapsed();
        // Well after boot, so that subtractions have room.
        let boot = Duration::from_secs(100_000) + running + shift.asleep;
        let wall = self.wall_at_start + running + shift.asleep;
        let step = Duration::from_secs(shift.stepped.unsigned_abs());
        Now {
            boot: BootTime::from_duration(boot),
            wall: if shift.stepped < 0 { wall.saturating_sub(step) } else { wall + step },
            asleep: shift.asleep,
        }
    }

    async fn wait(&self, deadline: BootTime) {
        loop {
            let jumped = self.jumped.notified();
            let now = self.now().boot;
            if now >= deadline {
                return;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(deadline.since(now)) => {}
                () = jumped => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_clock_wakes_waiters_in_order_and_forgets_the_cancelled() {
        let clock = Clock::system().unwrap();
        let start = clock.now().boot;
        let late = clock.sleep_until(start.after(Duration::from_secs(3600)));
        tokio::select! {
            biased;
            () = late => panic!("an hour has not passed"),
            () = clock.sleep_until(start.after(Duration::from_millis(5))) => {}
        }
        assert!(clock.now().boot >= start.after(Duration::from_millis(5)));
        clock.sleep_until(start).await;
        let Source::System(alarms) = &clock.0 else { unreachable!() };
        assert!(alarms.lock().bells.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspend_ends_the_wait_of_a_deadline_that_passed_meanwhile() {
        let (clock, time) = Clock::simulated(Duration::from_secs(1_790_000_000));
        let before = tokio::time::Instant::now();
        let wait = clock.sleep(Duration::from_secs(300));
        tokio::pin!(wait);
        assert!(futures_util::poll!(wait.as_mut()).is_pending());

        time.suspend(Duration::from_secs(3600));
        wait.await;

        assert_eq!(before.elapsed(), Duration::ZERO);
        assert_eq!(clock.now().asleep, Duration::from_secs(3600));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_of_the_wall_clock_moves_no_deadline() {
        let (clock, time) = Clock::simulated(Duration::from_secs(1_790_000_000));
        let boot = clock.now().boot;
        time.step_wall(-86_400);
        assert_eq!(clock.now().boot, boot);
        assert_eq!(clock.now().wall.as_secs(), 1_790_000_000 - 86_400);
    }
}
