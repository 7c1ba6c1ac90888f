//! What others may see of a session: its state and its deadlines, never a token.

use super::live::Live;
use super::schedule;
use super::state::{Session, StoreState};
use super::text;
use crate::clock::{BootTime, Now};
use crate::oidc::error::Class;
use crate::store::StoreError;

/// So many failures in a row are worth a word (N20).
const TOLD_AFTER: u32 = 6;

/// An account's state as the bus shows it: the first of these that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountState {
    NotConfigured,
    Refused,
    StoreUnavailable,
    StoreLocked,
    Expired,
    LoggedOut,
    Offline,
    Unsaved,
    Ready,
}

impl AccountState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotConfigured => "not-configured",
            Self::Refused => "refused",
            Self::StoreUnavailable => "store-unavailable",
            Self::StoreLocked => "store-locked",
            Self::Expired => "expired",
            Self::LoggedOut => "logged-out",
            Self::Offline => "offline",
            Self::Unsaved => "unsaved",
            Self::Ready => "ready",
        }
    }
}

/// A snapshot for the bus. Deadlines stay on the boot clock, so that an unchanged one compares equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub state: AccountState,
    pub reason: &'static str,
    pub message: String,
    pub needs_attention: bool,
    pub subject: String,
    pub scope: String,
    pub access_expires: Option<BootTime>,
    pub session_expires: Option<BootTime>,
    pub next_refresh: Option<BootTime>,
    pub last_refresh: Option<BootTime>,
}

#[cfg(test)]
impl View {
    /// A state, and nothing else.
    pub(crate) fn bare(state: AccountState) -> Self {
        Self {
            state,
            reason: "",
            message: String::new(),
            needs_attention: false,
            subject: String::new(),
            scope: String::new(),
            access_expires: None,
            session_expires: None,
            next_refresh: None,
            last_refresh: None,
        }
    }
}

impl Session {
    #[must_use]
    pub(super) fn view(&self, now: &Now) -> View {
        let (state, reason, message) = self.state(now);
        let keyring_locked = state == AccountState::Unsaved && self.sync.error == Some(StoreError::Locked);
        let lasting =
            state == AccountState::Offline && self.trouble.as_ref().is_some_and(|t| t.attempts >= TOLD_AFTER);
        let needs_attention = keyring_locked
            || lasting
            || matches!(
                state,
                AccountState::NotConfigured
                    | AccountState::Refused
                    | AccountState::StoreLocked
                    | AccountState::Expired
            );
        let live = self.live.as_ref();
        let grant = live.and_then(|live| live.grant.as_ref());
        View {
            state,
            reason,
            message,
            needs_attention,
            subject: live.map(|live| live.subject.clone()).unwrap_or_default(),
            scope: live.map(|live| live.scope.clone()).unwrap_or_default(),
            access_expires: grant.and_then(super::live::Grant::expires),
            session_expires: live.filter(|live| live.renewable()).and_then(Live::ends),
            next_refresh: self.shown_refresh(now),
            last_refresh: self.last_refresh,
        }
    }

    /// The next refresh, as a moment that does not move with the time of looking at it.
    fn shown_refresh(&self, now: &Now) -> Option<BootTime> {
        let due = self.planned_refresh(now, false)?;
        let floor = self.last_refresh.map_or(BootTime::default(), |at| at.after(schedule::REFRESH_FLOOR));
        Some(due.max(floor))
    }

    fn state(&self, now: &Now) -> (AccountState, &'static str, String) {
        let account = &self.policy.account;
        let loaded = matches!(self.store, StoreState::Loaded);
        if self.policy.personal {
            return match (&self.personal, &self.store) {
                (Some(_), _) if self.personal_refused => {
                    (AccountState::Refused, "token-refused", text::personal_refused(account))
                }
                (Some(_), _) => (AccountState::Ready, "", String::new()),
                (None, StoreState::Loaded) => {
                    (AccountState::LoggedOut, "no-token", text::no_personal_token(account))
                }
                (None, _) => self.closed_store(),
            };
        }
        if loaded && self.secret_missing() {
            return (AccountState::NotConfigured, "no-client-secret", text::no_client_secret(account));
        }
        let trouble = self.trouble.as_ref();
        if let Some(trouble) = trouble.filter(|trouble| trouble.class == Class::Refused) {
            return (AccountState::Refused, trouble.reason, text::trouble(account, trouble));
        }
        if let Some(trouble) = trouble.filter(|trouble| trouble.class == Class::Elsewhere) {
            return (AccountState::Expired, trouble.reason, text::trouble(account, trouble));
        }
        if let Some(ended) = &self.ended {
            let state = if ended.by_provider { AccountState::Expired } else { AccountState::LoggedOut };
            return (state, ended.reason, format!("{}; run: bearerctl login {account}", ended.message));
        }
        let Some(live) = &self.live else {
            if loaded {
                return (AccountState::LoggedOut, "no-session", text::not_logged_in(account));
            }
            return self.closed_store();
        };
        if !live.renewable() && live.valid_grant(now.boot).is_none() {
            return (AccountState::Expired, "no-refresh-token", text::no_refresh_token(account));
        }
        if let Some(trouble) = trouble {
            return (AccountState::Offline, trouble.reason, text::trouble(account, trouble));
        }
        if self.sync.pending() && (self.held_until.is_none() || self.sync.error.is_some()) {
            let (reason, error) = match &self.sync.error {
                Some(StoreError::Locked) => self.locked("store-locked"),
                Some(StoreError::Unavailable(why)) => ("store-unavailable", why.clone()),
                None => ("saving", "the keyring has not answered yet".to_owned()),
            };
            return (AccountState::Unsaved, reason, format!("the session is in memory only: {error}"));
        }
        if let (true, Some(ends)) = (live.stagnant, live.ends()) {
            return (AccountState::Ready, "session-ending", text::session_ends(now.wall_seconds_at(ends)));
        }
        if !live.renewable() {
            return (
                AccountState::Ready,
                "no-refresh-token",
                "the provider gave no refresh token".to_owned(),
            );
        }
        (AccountState::Ready, "", String::new())
    }

    /// The reason and the sentence for a locked keyring.
    fn locked(&self, reason: &'static str) -> (&'static str, String) {
        if self.unlock_failed {
            let text = "the keyring's prompt was dismissed, or could not be shown; run: bearerctl unlock";
            return ("unlock-dismissed", text.to_owned());
        }
        (reason, "the keyring is locked; run: bearerctl unlock".to_owned())
    }

    fn closed_store(&self) -> (AccountState, &'static str, String) {
        match &self.store {
            StoreState::Closed { error: StoreError::Locked, .. } => {
                let (reason, message) = self.locked("locked");
                (AccountState::StoreLocked, reason, message)
            }
            StoreState::Closed { error: StoreError::Unavailable(why), .. } => {
                (AccountState::StoreUnavailable, "absent", why.clone())
            }
            StoreState::Loading { .. } | StoreState::Loaded => {
                (AccountState::StoreUnavailable, "loading", "reading the keyring".to_owned())
            }
        }
    }
}
