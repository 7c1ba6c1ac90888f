//! One failure budget per issuer: a provider in trouble is asked by one session at a time, not by
//! all of them, and all of them learn of its return.
//!
//! **Invariant:** while the provider answers, it holds up nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;

use super::schedule;
use super::state::{RefreshOrder, Urgency};
use super::text;
use crate::clock::{BootTime, Now};
use crate::oidc::error::{Class, ProviderError};

/// What the sessions of one issuer know together.
pub struct Budget {
    state: Mutex<State>,
    /// The provider's returns.
    returns: broadcast::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Since the provider last answered.
    failures: u32,
    last_attempt: BootTime,
    /// `Retry-After`, whichever session was told.
    not_before: BootTime,
    last: Option<ProviderError>,
}

/// Not now: another session has just tried in vain.
pub(super) struct Postponed {
    pub(super) until: BootTime,
    pub(super) not_before: BootTime,
    pub(super) last_attempt: BootTime,
    pub(super) error: ProviderError,
}

impl Default for Budget {
    fn default() -> Self {
        Self { state: Mutex::default(), returns: broadcast::Sender::new(1) }
    }
}

impl Budget {
    /// Until when this refresh has to wait; `None`: it may be sent now, and counts as an attempt.
    pub(super) fn admit(&self, order: &RefreshOrder, now: &Now) -> Option<Postponed> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let error = state.last.clone()?;
        let gap = match order.urgency {
            Urgency::Prompt => Duration::ZERO,
            Urgency::Caller => schedule::CALLER_RETRY,
            Urgency::Planned => schedule::issuer_gap(state.failures, order.left),
        };
        let until = state.last_attempt.after(gap).max(state.not_before);
        if now.boot < until {
            let (not_before, last_attempt) = (state.not_before, state.last_attempt);
            return Some(Postponed { until, not_before, last_attempt, error });
        }
        state.last_attempt = now.boot;
        None
    }

    /// A refresh has ended. Any OAuth answer, also a refusal, shows that the provider is there.
    pub(super) fn outcome(&self, error: Option<&ProviderError>, now: &Now) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = error
            .filter(|error| matches!(error.class, Class::Unreachable | Class::Ambiguous | Class::Malformed));
        if let Some(error) = failed {
            state.failures += 1;
            state.last_attempt = now.boot;
            if let Some(wait) = error.retry_after {
                state.not_before = state.not_before.max(now.boot.after(wait));
            }
            state.last = Some(ProviderError { salvaged: None, ..error.clone() });
        } else if state.last.is_some() {
            *state = State::default();
            drop(state);
            // Nobody may be waiting for it.
            let _ = self.returns.send(());
        }
    }

    /// The machine has another network than the one of the failures.
    pub(super) fn network_changed(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = 0;
        state.last_attempt = BootTime::default();
        if state.last.as_ref().is_some_and(|error| error.retry_after.is_none()) {
            state.last = None;
        }
    }

    pub(super) fn returns(&self) -> broadcast::Receiver<()> {
        self.returns.subscribe()
    }
}

impl Postponed {
    pub(super) fn reason(&self) -> &'static str {
        text::trouble_reason(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::RefreshToken;

    fn now(seconds: u64) -> Now {
        Now { boot: BootTime::from_duration(Duration::from_secs(seconds)), ..Now::default() }
    }

    fn order(urgency: Urgency) -> RefreshOrder {
        RefreshOrder {
            refresh_token: RefreshToken::parse("canary-r").unwrap(),
            client_secret: None,
            key: None,
            sub: String::new(),
            servers: String::new(),
            narrow: None,
            subject: None,
            urgency,
            left: None,
            note: crate::recovery::Note::default(),
            note_sequence: 1,
        }
    }

    /// Fifty accounts of one issuer don't hammer it: one try each two seconds if callers wait, fewer if
    /// none does, and none before `Retry-After`.
    #[test]
    fn fifty_accounts_share_the_tries_of_a_sick_provider() {
        let budget = Budget::default();
        let count = |budget: &Budget, urgency, seconds: std::ops::Range<u64>| {
            let mut sent = 0;
            for second in seconds {
                for _account in 0..50 {
                    if budget.admit(&order(urgency), &now(second)).is_none() {
                        sent += 1;
                        budget.outcome(Some(&ProviderError::new(Class::Unreachable, "down")), &now(second));
                    }
                }
            }
            sent
        };
        assert!(budget.admit(&order(Urgency::Planned), &now(999)).is_none());
        budget.outcome(Some(&ProviderError::new(Class::Unreachable, "down")), &now(999));
        assert_eq!(count(&budget, Urgency::Caller, 1000..1060), 30);
        assert!(count(&budget, Urgency::Planned, 1060..1660) <= 21);

        let busy = ProviderError {
            retry_after: Some(Duration::from_secs(300)),
            ..ProviderError::new(Class::Unreachable, "busy")
        };
        budget.outcome(Some(&busy), &now(2000));
        assert_eq!(count(&budget, Urgency::Caller, 2000..2300), 0);
        assert_eq!(count(&budget, Urgency::Prompt, 2000..2300), 0);
    }

    #[test]
    fn an_answer_of_any_kind_ends_it_and_wakes_the_others() {
        let budget = Budget::default();
        let mut returns = budget.returns();
        budget.outcome(None, &now(1));
        assert!(returns.try_recv().is_err(), "nothing was wrong");
        budget.outcome(Some(&ProviderError::new(Class::Malformed, "portal")), &now(1));
        assert!(budget.admit(&order(Urgency::Caller), &now(2)).is_some());

        budget.outcome(Some(&ProviderError::new(Class::SessionOver, "invalid_grant")), &now(3));

        assert!(returns.try_recv().is_ok());
        assert!((0..50).all(|_| budget.admit(&order(Urgency::Planned), &now(3)).is_none()));
    }
}
