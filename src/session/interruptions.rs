//! What comes between a session and its provider from outside: suspend, a change of network, another
//! session's failures, and the end of the last process.

use std::time::Duration;

use super::budget::Postponed;
use super::live::Live;
use super::schedule;
use super::state::{Effect, InFlight, Session, Trouble};
use crate::clock::{BootTime, Now};
use crate::oidc::error::Class;
use crate::recovery::{Note, Recalled, fingerprint};

/// After a wake-up, or when a network has come, the sessions' refreshes spread over this (N11).
const SPREAD: Duration = Duration::from_secs(5);
/// An answer that was under way in a suspend, or over the old network, still has this long to come.
const LAST_CHANCE: Duration = Duration::from_secs(5);
/// A suspend that was announced and is neither begun nor called off within this running time is forgotten.
const SUSPEND_WAIT: Duration = Duration::from_secs(60);
/// A suspend that nobody announced, as the clocks show it.
const NOTABLE_JUMP: Duration = Duration::from_secs(2);
/// So many first refreshes of processes that lived briefly are free, and one more each ten seconds (R25).
const FREE_STARTS: u32 = 5;
const START_GAIN: Duration = Duration::from_secs(10);

/// First refreshes of this and of earlier processes.
#[derive(Default)]
pub(super) struct Starts {
    count: u32,
    counted_at: BootTime,
    /// This process has had its own.
    started: bool,
}

impl Session {
    /// Takes up what the last process left, before the store is read.
    pub(super) fn recall(&mut self, recalled: Recalled, now: &Now) {
        if let Some(unsaved) = recalled.unsaved {
            if let Some(record) = &unsaved.record {
                self.adopt(record, now);
            }
            self.leaving = unsaved.record.is_none();
            if self.live.is_some() || self.leaving {
                self.sync.wanted = unsaved.sequence;
                self.sync.held = unsaved.sequence;
                self.sync.done = unsaved.sequence.saturating_sub(1);
                self.left_unsaved = Some(unsaved.sequence);
            }
        }
        if let Some(note) = recalled.note {
            self.heed(note, now);
        }
    }

    fn heed(&mut self, note: Note, now: &Now) {
        let age = if note.boot_id == self.policy.boot_id {
            now.boot.since(BootTime::from_duration(Duration::from_secs(note.boot)))
        } else {
            Duration::from_secs(now.wall.as_secs().saturating_sub(note.wall))
        };
        let attempted = now.boot.before(age);
        let gained = u32::try_from(age.as_secs() / START_GAIN.as_secs()).unwrap_or(u32::MAX);
        self.starts =
            Starts { count: note.starts.saturating_sub(gained), counted_at: now.boot, started: false };
        let excess = (self.starts.count + 1).saturating_sub(FREE_STARTS);
        self.start_at = now.boot.after(START_GAIN.saturating_mul(excess));
        let not_before = attempted.after(Duration::from_secs(note.wait.min(3600)));
        // One that was cut off is tried at once: the provider may still repeat its answer. The second
        // in a row, and others that failed, keep their distance (R25).
        let failed = note.attempts.saturating_sub(u32::from(note.sent.is_some() && note.attempts == 1));
        if failed > 0 {
            let left = self.live.as_ref().and_then(Live::ends).map(|ends| ends.since(now.boot));
            let wait = schedule::backoff(failed.saturating_sub(1), left, schedule::Jitter(1.0));
            self.trouble = Some(Trouble {
                class: Class::Unreachable,
                message: "the last tries before the restart failed".to_owned(),
                reason: "unreachable",
                attempts: failed,
                prompted: note.sent.is_some(),
                asks_again: false,
                retry_at: attempted.after(wait).max(not_before),
                not_before,
                told: not_before,
                last_attempt: attempted,
            });
        }
        self.left_note = Some(note);
        self.compare_note(now);
    }

    /// Whether the session at hand is the one whose refresh was cut off: then its refresh token may be
    /// spent, and that is found out at once (D7).
    pub(super) fn compare_note(&mut self, now: &Now) {
        let Some(live) = &mut self.live else { return };
        let Some(note) = self.left_note.take() else { return };
        let Some(token) = &live.refresh_token else { return };
        if note.sent.is_some_and(|sent| sent == fingerprint(token)) {
            tracing::warn!(account = %self.policy.account, "the last bearerd ended in the midst of a refresh; trying it again");
            live.doubtful = true;
            live.keep_alive_at = Some(now.boot);
        }
    }

    /// The note for the refresh that is about to be sent, or for how the last one ended.
    pub(super) fn note(&self, sent: Option<String>, attempts: u32, wait: Duration, now: &Now) -> Note {
        let gained = now.boot.since(self.starts.counted_at).as_secs() / START_GAIN.as_secs();
        Note {
            sent,
            boot_id: self.policy.boot_id.clone(),
            boot: now.boot.since_boot().as_secs(),
            wall: now.wall.as_secs(),
            attempts,
            wait: wait.as_secs(),
            starts: self.starts.count.saturating_sub(u32::try_from(gained).unwrap_or(u32::MAX)),
        }
    }

    /// The first refresh of a process is counted, for the next one's patience.
    pub(super) fn count_start(&mut self, now: &Now) {
        if !self.starts.started {
            let so_far = self.note(None, 0, Duration::ZERO, now).starts;
            self.starts = Starts { count: so_far + 1, counted_at: now.boot, started: true };
        }
    }

    pub(super) fn write_note(&mut self, note: Note) -> Effect {
        self.notes += 1;
        Effect::Note { sequence: self.notes, note }
    }

    /// logind says that the machine is about to sleep (D9): what is sent now may lose its answer.
    pub(super) fn going_to_sleep(&mut self, now: &Now) -> Vec<Effect> {
        self.asleep_until = Some(running(now) + SUSPEND_WAIT);
        self.settle(now)
    }

    /// The process or the account's configuration ends: nothing is begun any more but the save that is due.
    pub(super) fn stop(&mut self, now: &Now) -> Vec<Effect> {
        self.stopping = true;
        self.sync.retry_at = None;
        self.settle(now)
    }

    /// The configuration was read again and is the same for this account; a file that it names may not be.
    pub(super) fn configuration_read(&mut self, now: &Now) -> Vec<Effect> {
        self.try_refused(now);
        self.settle(now)
    }

    /// A client that was refused is tried again: why may be over.
    pub(super) fn try_refused(&mut self, now: &Now) {
        if self.trouble.take_if(|trouble| trouble.class == Class::Refused).is_some()
            && let Some(live) = &mut self.live
        {
            live.keep_alive_at = Some(now.boot);
        }
    }

    /// It is awake, or stayed awake.
    pub(super) fn woke_up(&mut self, now: &Now) -> Vec<Effect> {
        self.asleep_until = None;
        self.try_soon(now);
        self.doubt_what_slept(now);
        self.settle(now)
    }

    /// There is a route where there was none, or another one.
    pub(super) fn network_changed(&mut self, now: &Now) -> Vec<Effect> {
        self.try_soon(now);
        self.doubt_the_answer(now);
        self.settle(now)
    }

    /// Another session of the same issuer got an answer.
    pub(super) fn provider_returned(&mut self, now: &Now) -> Vec<Effect> {
        if let Some(trouble) = &mut self.trouble {
            trouble.not_before = trouble.told;
        }
        self.retry_soon(now);
        self.settle(now)
    }

    /// Another session of the same issuer has just failed: nothing was sent.
    pub(super) fn postponed(&mut self, postponed: Postponed, now: &Now) -> Vec<Effect> {
        if self.refresh.take_if(|flight| !flight.logout).is_none() {
            return Vec::new();
        }
        let reason = postponed.reason();
        let trouble = self.trouble.get_or_insert(Trouble {
            class: postponed.error.class,
            message: postponed.error.message,
            reason,
            attempts: 0,
            // An answer of its own that is lost is asked for again at once (D8).
            prompted: false,
            asks_again: false,
            retry_at: postponed.until,
            not_before: postponed.not_before,
            told: BootTime::default(),
            last_attempt: postponed.last_attempt,
        });
        trouble.retry_at = trouble.retry_at.max(postponed.until);
        trouble.not_before = trouble.not_before.max(postponed.not_before);
        trouble.last_attempt = trouble.last_attempt.max(postponed.last_attempt);
        self.settle(now)
    }

    /// A suspend that the clocks show; logind may not have announced it.
    pub(super) fn jumped(&mut self, slept: Duration, now: &Now) {
        if slept >= NOTABLE_JUMP {
            self.asleep_until = None;
            self.try_soon(now);
            self.doubt_what_slept(now);
        }
    }

    fn try_soon(&mut self, now: &Now) {
        self.spread_until = now.boot.after(SPREAD.mul_f64(self.policy.phase));
        self.retry_soon(now);
    }

    /// What was sent since the machine is awake is not cut off.
    fn doubt_what_slept(&mut self, now: &Now) {
        // The two clocks are read one after the other, so what lies between them is never quite the same.
        let slept = |flight: &InFlight| now.asleep.saturating_sub(flight.asked.asleep) >= NOTABLE_JUMP;
        if self.refresh.as_ref().is_some_and(slept) {
            self.doubt_the_answer(now);
        }
    }

    fn doubt_the_answer(&mut self, now: &Now) {
        if let Some(flight) = &mut self.refresh {
            flight.give_up_at.get_or_insert(now.boot.after(LAST_CHANCE));
        }
    }

    fn retry_soon(&mut self, now: &Now) {
        let soon = now.boot.after(SPREAD.mul_f64(self.policy.phase));
        if let Some(trouble) = self.trouble.as_mut().filter(|trouble| !trouble.class.needs_a_person()) {
            trouble.retry_at = trouble.retry_at.min(soon).max(trouble.not_before);
            // Whoever waits need not.
            trouble.last_attempt = trouble.last_attempt.before(schedule::CALLER_RETRY);
        }
    }

    /// Whether the machine is about to sleep; until when, at the latest.
    pub(super) fn sleep_ends(&self, now: &Now) -> Option<BootTime> {
        let left = self.asleep_until?.checked_sub(running(now)).filter(|left| !left.is_zero())?;
        Some(now.boot.after(left))
    }
}

/// The time since boot that was not slept.
fn running(now: &Now) -> Duration {
    now.boot.since_boot().saturating_sub(now.asleep)
}
