//! What a user has to be told of, without having asked. Pure.

use super::view::{AccountState, View};

/// Something that only the user can do, and that is worth interrupting them for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The provider has ended the session.
    LogIn,
    /// The session ends soon, and cannot be extended.
    LogInSoon,
    /// The keyring is locked.
    Unlock,
    /// The provider refuses the client or the personal token.
    Correct,
    /// The provider has been away for long; nothing but a look is asked for.
    Look,
}

impl View {
    /// What to tell the user. Trouble of the network is none of it, until it has lasted (N20); what the user is
    /// doing at the moment, such as setting up an account, is none of it either.
    #[must_use]
    pub fn need(&self) -> Option<Need> {
        match self.state {
            AccountState::Expired => Some(Need::LogIn),
            AccountState::Ready if self.reason == "session-ending" => Some(Need::LogInSoon),
            AccountState::StoreLocked => Some(Need::Unlock),
            AccountState::Unsaved if self.needs_attention => Some(Need::Unlock),
            AccountState::Refused => Some(Need::Correct),
            AccountState::Offline if self.needs_attention => Some(Need::Look),
            AccountState::NotConfigured
            | AccountState::StoreUnavailable
            | AccountState::LoggedOut
            | AccountState::Offline
            | AccountState::Unsaved
            | AccountState::Ready => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(state: AccountState, reason: &'static str, needs_attention: bool) -> View {
        View { reason, needs_attention, ..View::bare(state) }
    }

    #[test]
    fn only_what_a_user_can_mend_is_told() {
        for (state, reason, attention, need) in [
            (AccountState::Ready, "", false, None),
            (AccountState::Ready, "session-ending", false, Some(Need::LogInSoon)),
            (AccountState::Expired, "session-over", true, Some(Need::LogIn)),
            (AccountState::LoggedOut, "no-session", false, None),
            (AccountState::NotConfigured, "no-client-secret", true, None),
            (AccountState::StoreLocked, "locked", true, Some(Need::Unlock)),
            (AccountState::StoreUnavailable, "loading", false, None),
            (AccountState::Unsaved, "store-locked", true, Some(Need::Unlock)),
            (AccountState::Unsaved, "saving", false, None),
            (AccountState::Refused, "invalid_client", true, Some(Need::Correct)),
            (AccountState::Offline, "unreachable", false, None),
            (AccountState::Offline, "unreachable", true, Some(Need::Look)),
        ] {
            assert_eq!(view(state, reason, attention).need(), need, "{state:?} {reason}");
        }
    }
}
