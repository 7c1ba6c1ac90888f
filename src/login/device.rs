//! The device flow after its code is shown (RFC 8628 sections 3.3 to 3.5): polls until there is a verdict.

use std::sync::Arc;
use std::time::Duration;

use super::{Attempt, LoginState};
use crate::clock::{BootTime, Clock};
use crate::oidc::Provider;
use crate::oidc::device::{DeviceAuthorization, Polled};
use crate::secret::ClientSecret;
use crate::session::error::Error;
use crate::session::{Asked, SessionHandle};

/// What `slow_down` adds for good.
const SLOWER: Duration = Duration::from_secs(5);
/// Lost polls double the pause up to this, or to the provider's own.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// What a poll means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Pending,
    SlowDown(Option<Duration>),
    /// Nothing, or trouble, with the provider's `Retry-After`.
    Nothing(Option<Duration>),
}

/// When to poll. Pure: pauses count from the answer (section 3.5).
struct Schedule {
    interval: Duration,
    lost: u32,
    next: BootTime,
    ends: BootTime,
}

impl Schedule {
    fn new(interval: Duration, expires_in: Duration, now: BootTime) -> Self {
        Self { interval, lost: 0, next: now.after(interval), ends: now.after(expires_in) }
    }

    /// `None` when the code will have expired by then.
    fn next(&self) -> Option<BootTime> {
        (self.next < self.ends).then_some(self.next)
    }

    fn heard(&mut self, heard: Heard, now: BootTime) {
        let pause = match heard {
            Heard::Pending => {
                self.lost = 0;
                self.interval
            }
            Heard::SlowDown(wanted) => {
                self.lost = 0;
                self.interval = (self.interval + SLOWER).max(wanted.unwrap_or_default());
                self.interval
            }
            Heard::Nothing(retry_after) => {
                self.lost = (self.lost + 1).min(10);
                let doubled = self.interval.saturating_mul(1 << self.lost);
                doubled.min(MAX_BACKOFF).max(self.interval).max(retry_after.unwrap_or_default())
            }
        };
        self.next = now.after(pause);
    }
}

struct End {
    state: LoginState,
    error: &'static str,
    message: String,
}

impl End {
    fn new(state: LoginState, error: &'static str, message: impl Into<String>) -> Self {
        Self { state, error, message: message.into() }
    }
}

/// Drives `attempt` to its end. Cancelled, it stops in the middle of a poll.
pub(crate) async fn run<P: Provider>(
    attempt: Arc<Attempt>,
    authorization: DeviceAuthorization,
    secret: Option<ClientSecret>,
    provider: Arc<P>,
    session: SessionHandle,
    clock: Clock,
) {
    let End { state, error, message } = tokio::select! {
        biased;
        () = attempt.cancelled() => End::new(LoginState::Cancelled, "cancelled", "the login was cancelled"),
        end = poll(&authorization, secret, provider.as_ref(), &session, &clock) => end,
    };
    let message = match state {
        LoginState::Succeeded => message,
        _ => format!("{message}; run: bearerctl login {} --device", attempt.account),
    };
    attempt.end(state, error, message);
}

async fn poll<P: Provider>(
    authorization: &DeviceAuthorization,
    secret: Option<ClientSecret>,
    provider: &P,
    session: &SessionHandle,
    clock: &Clock,
) -> End {
    let mut schedule = Schedule::new(authorization.interval, authorization.expires_in, clock.now().boot);
    loop {
        let over = || {
            End::new(LoginState::Expired, "timeout", "nobody entered the code in time, and it has expired")
        };
        let Some(next) = schedule.next() else {
            clock.sleep_until(schedule.ends).await;
            return over();
        };
        clock.sleep_until(next).await;
        let asked = Asked::at(&clock.now());
        let heard = match provider.poll_device(authorization, secret.clone()).await {
            Polled::Granted(granted) => {
                return match session.logged_in(*granted, asked).await {
                    Ok(true) => End::new(LoginState::Succeeded, "", ""),
                    Ok(false) => {
                        let why = format!("logged in, not saved: {}", session.view().message);
                        End::new(LoginState::Succeeded, "", why)
                    }
                    Err(Error::LoginFailed(why)) => End::new(LoginState::Failed, "another-user", why),
                    Err(error) => End::new(LoginState::Failed, "stopped", error.to_string()),
                };
            }
            Polled::Pending => Heard::Pending,
            Polled::SlowDown(wanted) => Heard::SlowDown(wanted),
            Polled::Lost(error) => {
                tracing::warn!(%error, "the provider could not be asked whether the code was entered");
                Heard::Nothing(error.retry_after)
            }
            Polled::Denied => {
                let why = "the login was denied at the provider";
                return End::new(LoginState::Denied, "access_denied", why);
            }
            Polled::Over => return over(),
            Polled::Failed(error) => {
                tracing::warn!(class = ?error.class, "the device code brought no tokens");
                let message = format!("the login did not succeed: {}", error.message);
                session.login_failed(error).await;
                return End::new(LoginState::Failed, "exchange-failed", message);
            }
        };
        schedule.heard(heard, clock.now().boot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses after these answers, for a code that lives long.
    fn pauses(interval: u64, heard: &[Heard]) -> Vec<u64> {
        let mut now = BootTime::default();
        let mut schedule = Schedule::new(secs(interval), secs(100_000), now);
        let mut pauses = vec![schedule.next().unwrap().since(now).as_secs()];
        for &heard in heard {
            // Answers take their time, which is no part of the pause.
            now = schedule.next().unwrap().after(secs(3));
            schedule.heard(heard, now);
            pauses.push(schedule.next().unwrap().since(now).as_secs());
        }
        pauses
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// I2, I3, I5.
    #[test]
    fn pauses_follow_the_answers() {
        use Heard::{Nothing, Pending, SlowDown};

        assert_eq!(pauses(5, &[Pending, Pending]), [5, 5, 5]);
        assert_eq!(pauses(5, &[SlowDown(None), Pending, SlowDown(None), Pending]), [5, 10, 10, 15, 15]);
        assert_eq!(pauses(5, &[SlowDown(Some(secs(30))), Pending]), [5, 30, 30]);
        assert_eq!(pauses(20, &[SlowDown(Some(secs(1)))]), [20, 25], "never less");
        assert_eq!(pauses(5, &[Nothing(None); 5]), [5, 10, 20, 40, 60, 60]);
        assert_eq!(pauses(5, &[Nothing(None), Pending, Nothing(None)]), [5, 10, 5, 10]);
        assert_eq!(pauses(90, &[Nothing(None)]), [90, 90], "never sooner than usual");
        assert_eq!(pauses(5, &[Nothing(Some(secs(300)))]), [5, 300]);
    }

    /// I6: no poll after the end.
    #[test]
    fn polling_ends_with_the_code() {
        let now = BootTime::default();
        let mut schedule = Schedule::new(secs(5), secs(12), now);
        assert_eq!(schedule.next(), Some(now.after(secs(5))));
        schedule.heard(Heard::Pending, now.after(secs(5)));
        assert_eq!(schedule.next(), Some(now.after(secs(10))));
        schedule.heard(Heard::Pending, now.after(secs(10)));
        assert_eq!(schedule.next(), None);
    }
}
