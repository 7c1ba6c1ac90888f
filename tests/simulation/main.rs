//! A deterministic simulation of the real session code: the state machine, its task, and the ports of the
//! provider, the store and the last process's remains, in virtual time, under faults of every kind.
//!
//! `SEED=n` runs one world and prints its trace; `BEARERD_SIMULATED_YEARS` says for how many account-years
//! the worlds run altogether. A violation names its seed.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
#![expect(clippy::cast_precision_loss, reason = "counts of a report")]

mod broker;
mod logout;
mod model;
mod naive;
mod ports;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use world::{Report, Which};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long one world lasts.
const WORLD: Duration = Duration::from_secs(20 * 24 * 3600);

/// Promises 1 and 2: no dead token, no lost session, one refresh at a time, every call answered in time.
#[test]
fn no_fault_breaks_a_promise() {
    if let Some(seed) = number("SEED") {
        let report = world::run(seed, WORLD, Which::Ours, true);
        println!("{}", report.summary());
        assert!(report.violations.is_empty(), "seed {seed}: {}", report.violations.join("\n"));
        return;
    }
    let years = number("BEARERD_SIMULATED_YEARS").unwrap_or(2);
    let (ours, failed) = run_all(years, Which::Ours);
    println!("bearerd: {}", ours.summary());
    let Some(seed) = failed else { return };
    let again = world::run(seed, WORLD, Which::Ours, true);
    panic!("{} of seed {seed}; it is told above, and again by SEED={seed}", again.violations.join("\n"));
}

/// What the measures against lost answers are worth: the same worlds with a broker of the usual making.
#[test]
fn fewer_sessions_are_lost_than_by_a_broker_without_the_measures() {
    if number("SEED").is_some() {
        return;
    }
    let years = number("BEARERD_SIMULATED_YEARS").unwrap_or(2).div_ceil(5);
    let (ours, _) = run_all(years, Which::Ours);
    let (naive, _) = run_all(years, Which::Naive);
    println!("bearerd:              {}", ours.summary());
    println!("a broker of the usual making: {}", naive.summary());
    assert!(naive.lost_rotations() > ours.lost_rotations(), "no better");
}

/// A seed is worth something only if it repeats itself.
#[test]
fn a_world_repeats_itself() {
    let one = world::run(7, Duration::from_secs(5 * 24 * 3600), Which::Ours, false);
    let two = world::run(7, Duration::from_secs(5 * 24 * 3600), Which::Ours, false);
    assert_eq!(one.summary(), two.summary());
    assert_eq!(one.digest, two.digest, "the same seed went another way");
}

/// Runs worlds on all cores until they add up; also the first seed that broke a promise.
fn run_all(years: u64, which: Which) -> (Report, Option<u64>) {
    let next = AtomicU64::new(number("BEARERD_FIRST_SEED").unwrap_or(1));
    let total = Mutex::new((Report::default(), None::<u64>));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let (lived, failed) = {
                        let total = total.lock().unwrap();
                        (total.0.lived, total.1.is_some())
                    };
                    if lived >= YEAR * u32::try_from(years).unwrap() || failed {
                        return;
                    }
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let report = world::run(seed, WORLD, which, false);
                    let mut total = total.lock().unwrap();
                    if !report.violations.is_empty() {
                        total.1 = Some(total.1.map_or(seed, |other| other.min(seed)));
                    }
                    total.0.add(report);
                }
            });
        }
    });
    total.into_inner().unwrap()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
