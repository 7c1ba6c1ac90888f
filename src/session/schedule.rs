//! When to refresh: fractions of the stated lifetimes with a floor and a ceiling, never fixed margins.
//!
//! Pure: jitter comes in as a number between 0 and 1.

use std::time::Duration;

use crate::clock::BootTime;

/// The least validity that a token handed out from memory has while a refresh is possible.
pub(super) const MIN_VALIDITY_FLOOR: Duration = Duration::from_secs(5);
/// Two successful refreshes are never closer than this, unless a caller forces one.
pub(super) const REFRESH_FLOOR: Duration = Duration::from_secs(10);
/// For how long after a request an account's access token is renewed ahead of its end.
pub(super) const HOT: Duration = Duration::from_secs(600);
/// Taken as the lifetime of an access token that came without one.
pub(super) const ASSUMED_LIFETIME: Duration = Duration::from_secs(300);
/// Taken as the life of an idle session whose end nobody states: renewed weekly, for its provider still has one (K6).
pub(super) const ASSUMED_SESSION: Duration = Duration::from_secs(14 * 86_400);
/// Two deadlines closer than this are the same one: lifetimes come in whole seconds.
pub(super) const SAME_DEADLINE: Duration = Duration::from_secs(2);
/// A refresh that a waiting caller asks for follows the last one by at least this.
pub(super) const CALLER_RETRY: Duration = Duration::from_secs(2);
/// How many narrower tokens a session keeps: no caller can fill the memory.
pub(super) const NARROW_KEPT: u32 = 32;

const MARGIN_FLOOR: Duration = Duration::from_secs(5);
const MARGIN_CEILING: Duration = Duration::from_secs(60);
const DEFAULT_MIN_VALIDITY: Duration = Duration::from_secs(30);
const BACKOFF_BASE: Duration = Duration::from_secs(1);
const BACKOFF_CAP: Duration = Duration::from_secs(60);
/// Full jitter can draw nothing at all; this keeps it from becoming a loop.
const BACKOFF_FLOOR: Duration = Duration::from_millis(250);

/// A random number from 0 to 1, drawn by whoever calls the pure code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Jitter(pub(super) f64);

/// When the access token of a hot account is renewed: 210 to 240 s into a life of 300 s.
pub(super) fn renew_at(obtained: BootTime, lifetime: Duration, jitter: Jitter) -> BootTime {
    let margin = (lifetime / 5).clamp(MARGIN_FLOOR, MARGIN_CEILING);
    let spread = (lifetime / 10).mul_f64(jitter.0);
    obtained.after(lifetime.saturating_sub(margin).saturating_sub(spread))
}

/// When the session is renewed though nobody asks: at 0.5 to 0.6 of the refresh token's life.
pub(super) fn keep_alive_at(obtained: BootTime, lifetime: Option<Duration>, jitter: Jitter) -> BootTime {
    obtained.after(lifetime.unwrap_or(ASSUMED_SESSION).mul_f64(jitter.0.mul_add(0.1, 0.5)))
}

/// The validity that a caller gets without asking for one.
pub(super) fn default_min_validity(lifetime: Duration) -> Duration {
    DEFAULT_MIN_VALIDITY.min(lifetime / 5)
}

/// The wait after the `attempt`-th failure in a row (from 0), with full jitter; at least four tries
/// fit into what is `left` of the session.
pub(super) fn backoff(attempt: u32, left: Option<Duration>, jitter: Jitter) -> Duration {
    let grown = BACKOFF_BASE.saturating_mul(2_u32.saturating_pow(attempt.min(16)));
    let cap = match left {
        Some(left) if !left.is_zero() => BACKOFF_CAP.min(left / 4),
        _ => BACKOFF_CAP,
    };
    grown.min(cap).mul_f64(jitter.0).max(BACKOFF_FLOOR)
}

/// How far apart unasked tries of all sessions of an issuer are that has failed so often in a row; at
/// least four of them fit into what is `left` of the session that would try.
pub(super) fn issuer_gap(failures: u32, left: Option<Duration>) -> Duration {
    let grown = BACKOFF_BASE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)));
    let cap = match left {
        Some(left) if !left.is_zero() => (BACKOFF_CAP / 2).min(left / 4),
        _ => BACKOFF_CAP / 2,
    };
    grown.min(cap)
}

/// So many of something, and then one more each time that one has been regained.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    size: u32,
    gain: Duration,
    tokens: u32,
    counted_at: BootTime,
}

impl Bucket {
    /// Forced refreshes, and browsers: five, and one every ten seconds.
    pub(crate) fn forced(now: BootTime) -> Self {
        Self { size: 5, gain: Duration::from_secs(10), tokens: 5, counted_at: now }
    }

    /// Requests for narrower tokens: as many as are kept, and one every two seconds.
    pub(super) fn narrow(now: BootTime) -> Self {
        Self { size: NARROW_KEPT, gain: CALLER_RETRY, tokens: NARROW_KEPT, counted_at: now }
    }

    pub(crate) fn take(&mut self, now: BootTime) -> bool {
        let gained = self.gained(now);
        if gained > 0 {
            self.tokens = self.tokens.saturating_add(gained).min(self.size);
            self.counted_at = self.counted_at.after(self.gain.saturating_mul(gained));
        }
        if self.tokens == 0 {
            return false;
        }
        if self.tokens == self.size {
            self.counted_at = now;
        }
        self.tokens -= 1;
        true
    }

    pub(super) fn is_empty(&self, now: BootTime) -> bool {
        self.tokens == 0 && self.gained(now) == 0
    }

    fn gained(&self, now: BootTime) -> u32 {
        u32::try_from(now.since(self.counted_at).as_secs() / self.gain.as_secs()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> BootTime {
        BootTime::from_duration(Duration::from_secs(seconds))
    }

    /// N2, N3.
    #[test]
    fn the_seed_renews_within_its_windows_whatever_the_jitter() {
        for step in 0..=1000 {
            let jitter = Jitter(f64::from(step) / 1000.0);
            let renew = renew_at(at(1000), SEED, jitter);
            assert!(renew >= at(1210) && renew <= at(1240), "{renew:?}");
            let keep = keep_alive_at(at(1000), Some(Duration::from_secs(1800)), jitter);
            assert!(keep >= at(1900) && keep <= at(2080), "{keep:?}");
        }
    }

    #[test]
    fn tiny_lifetimes_are_no_underflow() {
        for seconds in 0..20 {
            let renew = renew_at(at(1000), Duration::from_secs(seconds), Jitter(1.0));
            assert!(renew >= at(1000) && renew <= at(1000 + seconds));
        }
    }

    #[test]
    fn twelve_second_tokens_do_not_refresh_on_every_call() {
        assert!(default_min_validity(Duration::from_secs(12)) < Duration::from_secs(3));
        assert_eq!(default_min_validity(SEED), Duration::from_secs(30));
    }

    /// N16.
    #[test]
    fn backoff_grows_to_a_minute_and_leaves_four_tries_before_the_end() {
        assert_eq!(backoff(0, None, Jitter(1.0)), Duration::from_secs(1));
        assert_eq!(backoff(40, None, Jitter(1.0)), Duration::from_secs(60));
        assert_eq!(backoff(40, Some(Duration::from_secs(100)), Jitter(1.0)), Duration::from_secs(25));
        assert_eq!(backoff(3, None, Jitter(0.0)), BACKOFF_FLOOR);
    }

    #[test]
    fn the_bucket_gives_five_and_then_one_every_ten_seconds() {
        let mut bucket = Bucket::forced(at(1000));
        assert_eq!((0..9).filter(|_| bucket.take(at(1000))).count(), 5);
        assert!(bucket.is_empty(at(1009)) && !bucket.is_empty(at(1010)));
        assert!(!bucket.take(at(1009)));
        assert!(bucket.take(at(1010)) && !bucket.take(at(1019)));
        assert_eq!((0..9).filter(|_| bucket.take(at(9000))).count(), 5);
    }
}
