//! The token that a session would answer most callers with, within reach of its handle: they need not wake
//! the session's task, which costs as much as all the rest of a call.
//!
//! **Invariant:** what is handed out here is what the state machine would answer at that moment. Validity
//! is judged at the call; whatever is not plain goes to the machine.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::schedule;
use super::state::{Session, TokenOptions, TokenReply};
use crate::clock::{BootTime, Now};

/// The machine hears of a caller this often at least, for it keeps the token of a busy account fresh, and
/// notices suspends.
const UNHEARD: Duration = Duration::from_secs(10);

/// A token that may be handed out.
pub(super) struct WarmToken {
    reply: TokenReply,
    expires: Option<BootTime>,
    /// For how long it may be handed out, as the machine reckons.
    good_until: BootTime,
    min_validity: Duration,
    asked: BootTime,
}

/// The place where a session leaves its token for its handle.
#[derive(Default)]
pub(super) struct Warm(Mutex<Option<WarmToken>>);

impl Warm {
    pub(super) fn put(&self, token: Option<WarmToken>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// The answer to a plain request. `None`: ask the machine.
    pub(super) fn take(&self, options: &TokenOptions, now: &Now) -> Option<TokenReply> {
        if options.force_refresh || options.narrow.is_some() {
            return None;
        }
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = slot.as_ref()?;
        let need = options.min_validity.unwrap_or(token.min_validity).max(schedule::MIN_VALIDITY_FLOOR);
        let left = token.good_until.since(now.boot);
        if left < need.max(Duration::from_secs(1)) || now.boot.since(token.asked) >= UNHEARD {
            return None;
        }
        let mut reply = token.reply.clone();
        reply.expires_at = token.expires.map_or(0, |at| now.wall_seconds_at(at));
        let seconds = token.expires.map_or(0, |at| at.since(now.boot).as_secs());
        reply.expires_in = u32::try_from(seconds).unwrap_or(u32::MAX);
        Some(reply)
    }
}

impl Session {
    /// The token that every plain request gets until something happens; `None` also for who was not asked lately.
    pub(super) fn warm(&self, now: &Now) -> Option<WarmToken> {
        let asked = self.last_asked.filter(|asked| now.boot.since(*asked) < UNHEARD)?;
        if self.policy.personal || self.held_until.is_some() {
            return None;
        }
        let live = self.live.as_ref()?;
        let (grant, left) = live.valid_grant(now.boot).filter(|(grant, _)| !grant.suspect)?;
        let usual = || grant.lifetime.map_or(Duration::ZERO, schedule::default_min_validity);
        Some(WarmToken {
            reply: Self::token_reply(live, grant, &live.scope, now),
            expires: grant.expires(),
            good_until: now.boot.after(left),
            min_validity: self.policy.min_validity.unwrap_or_else(usual),
            asked,
        })
    }
}
