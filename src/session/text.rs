//! What people read: one sentence each, lower case, ending with what to do next.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::error::Error;
use super::state::Trouble;
use crate::clock::BootTime;
use crate::config::Loopback;
use crate::oidc::error::{Class, ProviderError};
use crate::store::StoreError;
use crate::tokens::Narrow;

/// A suspend that was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sleep {
    /// Since the Unix epoch.
    pub(super) from_wall: Duration,
    pub(super) to_wall: Duration,
    pub(super) until: BootTime,
}

pub(super) fn not_logged_in(account: &str) -> String {
    format!("not logged in to {account:?}; run: bearerctl login {account}")
}

pub(super) fn login_again(account: &str, why: &str) -> String {
    format!("the session of {account:?} is over: {why}; run: bearerctl login {account}")
}

pub(super) fn other_user(account: &str, old: &str, new: &str) -> String {
    format!(
        "you logged in as {new}, but {account:?} is {old}; to change that run: bearerctl logout {account}"
    )
}

pub(super) fn no_refresh_token(account: &str) -> String {
    format!(
        "the access token of {account:?} has expired and the provider gave no refresh token; run: bearerctl login {account}"
    )
}

pub(super) fn no_personal_token(account: &str) -> String {
    format!("no personal token for {account:?}; run: bearerctl set-token {account}")
}

pub(super) fn personal_refused(account: &str) -> String {
    format!(
        "the personal token of {account:?} was refused; make a new one and run: bearerctl set-token {account}"
    )
}

pub(super) fn personal_has_no_session(account: &str) -> String {
    format!(
        "{account:?} is a personal token, which is not refreshed; to replace it run: bearerctl set-token {account}"
    )
}

pub(super) fn no_client_secret(account: &str) -> String {
    format!("no client secret for {account:?}; run: bearerctl set-secret {account}")
}

pub(super) fn refresh_limited(account: &str) -> String {
    format!("too many refreshes of {account:?} were asked for; try again in 10 seconds")
}

pub(super) fn timeout(account: &str) -> String {
    format!("the provider of {account:?} has not answered within 15 seconds; the refresh goes on, try again")
}

fn unreachable(account: &str, why: &str) -> String {
    format!(
        "the provider of {account:?} cannot be reached: {why}; it is tried again by itself, see: bearerctl status"
    )
}

fn refused(account: &str, why: &str) -> String {
    format!(
        "the provider refused {account:?}: {why}; check client_id and run: bearerctl set-secret {account}"
    )
}

fn elsewhere(account: &str, why: &str) -> String {
    format!(
        "the session of {account:?} is not taken to another server: {why}; if the provider has moved there, run: bearerctl login {account}"
    )
}

pub(super) fn personal_has_all_rights(account: &str) -> String {
    format!(
        "{account:?} is a personal token, whose rights were settled when it was made; ask without scope, audience and resource"
    )
}

pub(super) fn no_audiences(account: &str) -> String {
    format!(
        "how the provider of {account:?} gives tokens for an audience is not configured; set audience_by, or ask for a resource"
    )
}

pub(super) fn nothing_to_narrow(account: &str) -> String {
    format!(
        "the provider gave {account:?} no refresh token, so there are no narrower tokens; ask without scope, audience and resource"
    )
}

pub(super) fn outside_scope(account: &str, wanted: &str, granted: &str) -> String {
    format!(
        "scope {wanted:?} is not within what {account:?} was granted: {granted:?}; add it to `scopes` and run: bearerctl login {account} --force"
    )
}

pub(super) fn narrow_refused(account: &str, wish: &Narrow, why: &str) -> String {
    format!(
        "the provider of {account:?} gave no token for {wish}: {why}; the session itself is well, see: bearerctl status"
    )
}

pub(super) fn too_many_wishes(account: &str) -> String {
    format!("too many different narrower tokens of {account:?} were asked for; try again in a few seconds")
}

/// The reason for which neither the network nor the client is to blame.
pub(super) const DEAD_TOKEN: &str = "dead-token";

/// What a failing refresh means for the user.
pub(super) fn trouble(account: &str, trouble: &Trouble) -> String {
    match trouble.class {
        _ if trouble.reason == DEAD_TOKEN => format!(
            "the provider of {account:?} issues access tokens that have expired already, as some do near the end of a \
             session of theirs; end that, then log in again; run: bearerctl logout {account}"
        ),
        Class::Refused => refused(account, &trouble.message),
        Class::Elsewhere => elsewhere(account, &trouble.message),
        _ => unreachable(account, &trouble.message),
    }
}

pub(super) fn store_closed(account: &str, error: &StoreError) -> Error {
    match error {
        StoreError::Locked => Error::StoreLocked(format!(
            "the keyring with the session of {account:?} is locked; run: bearerctl unlock"
        )),
        StoreError::Unavailable(why) => Error::StoreUnavailable(format!(
            "{why}; start a keyring such as gnome-keyring, or set store = \"memory\" for {account:?}"
        )),
    }
}

pub(super) fn store_slow(account: &str) -> String {
    format!(
        "the keyring with the session of {account:?} has not answered yet; try again, or see: bearerctl status"
    )
}

pub(super) fn still_stored(account: &str, error: &StoreError) -> Error {
    let next = "it is removed by itself then";
    match error {
        StoreError::Locked => Error::StoreLocked(format!(
            "logged out of {account:?}, but its entry stays in the locked keyring until that is unlocked ({next}); run: bearerctl unlock"
        )),
        StoreError::Unavailable(why) => Error::StoreUnavailable(format!(
            "logged out of {account:?}, but its keyring entry could not be removed: {why} ({next})"
        )),
    }
}

pub(super) fn not_stored(account: &str, error: &StoreError) -> Error {
    match error {
        StoreError::Locked => Error::StoreLocked(format!(
            "the keyring is locked, so nothing was stored for {account:?}; unlock it with: bearerctl unlock"
        )),
        StoreError::Unavailable(why) => Error::StoreUnavailable(format!(
            "nothing was stored for {account:?}: {why}; see: bearerctl status"
        )),
    }
}

pub(super) fn personal_has_no_login(account: &str) -> String {
    format!("{account:?} is a personal token, not a login; run: bearerctl set-token {account}")
}

pub(super) fn store_late(account: &str) -> String {
    format!(
        "the keyring has not stored the change of {account:?} yet and goes on; see: bearerctl status {account}"
    )
}

pub(super) fn login_not_started(account: &str, why: &str) -> String {
    format!("the login to {account:?} could not start: {why}; then run: bearerctl login {account}")
}

pub(super) fn other_login(account: &str) -> String {
    format!(
        "a login to {account:?} with other options is pending; to go on with that one run: bearerctl login {account}"
    )
}

pub(super) fn only_paste(account: &str) -> String {
    format!(
        "the browser of {account:?} ends on a page elsewhere, so its address must be pasted; run: bearerctl login {account} --paste"
    )
}

pub(super) fn no_device_login(account: &str) -> String {
    format!(
        "the provider of {account:?} offers this client no login by a code on another device; run: bearerctl login {account} --paste"
    )
}

pub(super) fn no_listener(redirect: &Loopback, error: &std::io::Error) -> String {
    match redirect.port {
        Some(port) => {
            format!("port {port} of redirect_uri cannot be used ({error}); free it or configure another")
        }
        None => format!("no port on 127.0.0.1 can be used ({error})"),
    }
}

pub(super) fn other_client(account: &str) -> String {
    format!("the stored session of {account:?} belongs to another client_id or provider")
}

pub(super) fn other_host(account: &str) -> String {
    format!("the stored session of {account:?} belongs to another machine")
}

pub(super) fn otherwise_bound(account: &str) -> String {
    format!("the stored session of {account:?} is from before `dpop` was changed in its configuration")
}

pub(super) fn session_ends(ends_wall: u64) -> String {
    format!(
        "the provider ends this session at {} whatever is done; log in again before",
        clock_time(ends_wall)
    )
}

/// The story of a session that the provider ended: a reason word and a sentence without next step.
pub(super) fn session_over(
    account: &str,
    lifetime: Option<Duration>,
    slept: Option<&Sleep>,
    overdue: bool,
    doubtful: bool,
    error: &ProviderError,
) -> (&'static str, String) {
    let rule = lifetime.map(|lifetime| format!("the provider ends idle sessions after {}", span(lifetime)));
    match (slept, rule) {
        (Some(sleep), Some(rule)) if overdue => (
            "asleep",
            format!(
                "asleep {}-{}; {rule}",
                clock_time(sleep.from_wall.as_secs()),
                clock_time(sleep.to_wall.as_secs())
            ),
        ),
        (None, Some(rule)) if overdue => ("idle", format!("it was not renewed in time; {rule}")),
        _ if doubtful => (
            "answer-lost",
            "the answer to a refresh was lost on its way, and the provider takes the old refresh token only once"
                .to_owned(),
        ),
        _ => {
            tracing::debug!(account, "ended by the provider");
            ("ended-by-provider", format!("the provider ended it ({error})"))
        }
    }
}

pub(super) fn trouble_reason(error: &ProviderError) -> &'static str {
    match error.class {
        Class::Unreachable if error.retry_after.is_some() => "told-to-wait",
        Class::Unreachable => "unreachable",
        Class::Ambiguous => "no-answer",
        Class::Malformed => "malformed-answer",
        Class::Elsewhere => "other-server",
        Class::Refused | Class::SessionOver => "client-refused",
    }
}

pub(crate) fn nobody_came(timeout: Duration, redirect_uri: &str) -> String {
    format!(
        "no answer came within {}; if the browser showed an error, register {redirect_uri} as a redirect URI at the provider",
        span(timeout)
    )
}

/// `30 min`, `1 h 5 min`, `45 s`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, 0) => format!("{m} min"),
        (0, m, s) if m < 5 => format!("{m} min {s} s"),
        (0, m, _) => format!("{m} min"),
        (h, 0, _) => format!("{h} h"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// `12:05` in the user's time zone.
fn clock_time(wall_seconds: u64) -> String {
    i64::try_from(wall_seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).map_or_else(
        || "an unknown time".to_owned(),
        |at| at.to_zoned_datetime(TimeZone::system()).strftime("%H:%M").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_like_speech() {
        for (seconds, text) in
            [(45, "45 s"), (90, "1 min 30 s"), (1800, "30 min"), (3900, "1 h 5 min"), (36000, "10 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_laptop_that_slept_says_when_and_which_rule_ended_the_session() {
        let sleep = Sleep {
            from_wall: Duration::from_secs(1_790_000_000),
            to_wall: Duration::from_secs(1_790_003_900),
            until: BootTime::default(),
        };
        let error = ProviderError::new(Class::SessionOver, "invalid_grant");
        let (reason, message) =
            session_over("chaster", Some(Duration::from_secs(1800)), Some(&sleep), true, false, &error);
        assert_eq!(reason, "asleep");
        assert!(
            message.starts_with("asleep ")
                && message.ends_with("; the provider ends idle sessions after 30 min")
        );
    }
}
