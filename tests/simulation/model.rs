//! The provider as it really is: which sessions live, and why the others do not.

use std::collections::BTreeMap;
use std::time::Duration;

use bearerd::clock::BootTime;
use bearerd::oidc::error::{Class, ProviderError};
use bearerd::secret::{AccessToken, RefreshToken};
use bearerd::tokens::{Lifetime, TokenResponse};

/// What a provider grants, and how it treats a refresh token that comes again.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) access: Duration,
    /// Of an idle session.
    pub(crate) idle: Duration,
    /// Of any session; both lifetimes are cut to it.
    pub(crate) maximum: Option<Duration>,
    pub(crate) rotation: bool,
    /// For how long the last refresh token is accepted once more.
    pub(crate) grace: Duration,
}

/// What no provider here has a token for.
pub(crate) const UNKNOWN_RESOURCE: &str = "urn:unknown";

/// Why a session ended at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Idle,
    Maximum,
    /// A spent refresh token came back.
    Reuse,
    Logout,
}

/// One account's session.
#[derive(Default)]
pub(crate) struct Session {
    pub(crate) number: u64,
    pub(crate) alive: bool,
    pub(crate) ended: Option<End>,
    started: BootTime,
    used: BootTime,
    pub(crate) current: u64,
    rotated: Option<BootTime>,
    /// Why the broker may lack the current refresh token through no fault of its own.
    pub(crate) excuse: Option<&'static str>,
    pub(crate) refreshes: u64,
    /// Its user wants no more of it.
    pub(crate) left: bool,
    /// The provider was asked to end it, or would have been with better weather.
    pub(crate) told: bool,
    /// When the broker got the current refresh token.
    pub(crate) arrived: BootTime,
}

pub(crate) struct Model {
    pub(crate) rules: Rules,
    pub(crate) sessions: BTreeMap<usize, Session>,
}

impl Model {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, sessions: BTreeMap::new() }
    }

    /// A user logs in: a new session, and the end of the old one.
    pub(crate) fn log_in(&mut self, account: usize, now: BootTime) -> TokenResponse {
        let number = self.sessions.get(&account).map_or(1, |session| session.number + 1);
        let session = Session {
            number,
            alive: true,
            started: now,
            used: now,
            arrived: now,
            current: 1,
            ..Session::default()
        };
        self.sessions.insert(account, session);
        self.issue(account, "", now)
    }

    /// Until when the session lives if nothing comes.
    pub(crate) fn deadline(&self, account: usize) -> BootTime {
        let session = &self.sessions[&account];
        let idle = session.used.after(self.rules.idle);
        self.rules.maximum.map_or(idle, |maximum| idle.min(session.started.after(maximum)))
    }

    /// Ends what is due.
    pub(crate) fn look(&mut self, account: usize, now: BootTime) {
        let deadline = self.deadline(account);
        let maximum = self.rules.maximum;
        let Some(session) = self.sessions.get_mut(&account) else { return };
        if session.alive && now > deadline {
            let over = maximum.is_some_and(|maximum| now > session.started.after(maximum));
            session.alive = false;
            session.ended = Some(if over { End::Maximum } else { End::Idle });
        }
    }

    /// A refresh has arrived.
    pub(crate) fn refresh(
        &mut self,
        account: usize,
        token: &str,
        wish: &str,
        now: BootTime,
    ) -> Result<TokenResponse, ProviderError> {
        self.look(account, now);
        let rules = self.rules;
        let over = || Err(ProviderError::new(Class::SessionOver, "invalid_grant"));
        let Some(session) = self.sessions.get_mut(&account) else { return over() };
        let Some((number, counter)) = parse(token) else { return over() };
        if !session.alive || number != session.number {
            return over();
        }
        let replay = counter + 1 == session.current
            && session.rotated.is_some_and(|at| now.since(at) <= rules.grace && !rules.grace.is_zero());
        if rules.rotation && counter != session.current && !replay {
            session.alive = false;
            session.ended = Some(End::Reuse);
            return over();
        }
        if wish == UNKNOWN_RESOURCE {
            return Err(ProviderError::new(Class::Refused, "invalid_target"));
        }
        session.used = now;
        session.refreshes += 1;
        if rules.rotation {
            if !replay {
                session.rotated = Some(now);
                session.current += 1;
            }
            // Until it is known to be where it belongs.
            session.excuse = Some("its answer never arrived");
        }
        Ok(self.issue(account, wish, now))
    }

    fn issue(&self, account: usize, wish: &str, now: BootTime) -> TokenResponse {
        let session = &self.sessions[&account];
        let left =
            self.rules.maximum.map_or(Duration::MAX, |maximum| session.started.after(maximum).since(now));
        let whole = |time: Duration| Duration::from_secs(time.as_secs());
        let (access, idle) = (whole(self.rules.access.min(left)), whole(self.rules.idle.min(left)));
        let ends = now.since_boot() + access;
        let lifetime = |time: Duration| if time.is_zero() { Lifetime::Over } else { Lifetime::For(time) };
        TokenResponse {
            access_token: AccessToken::parse(format!(
                "a.{account}.{}.{wish}.{}",
                session.number,
                ends.as_millis()
            ))
            .unwrap(),
            expires_in: lifetime(access),
            refresh_token: RefreshToken::parse(format!("r.{account}.{}.{}", session.number, session.current))
                .ok(),
            refresh_expires_in: lifetime(idle),
            scope: None,
            id_token: None,
            servers: String::new(),
        }
    }
}

/// A refresh token's session and number.
pub(crate) fn parse(token: &str) -> Option<(u64, u64)> {
    let mut parts = token.split('.').skip(2);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// An access token's session.
pub(crate) fn session_of(token: &str) -> u64 {
    token.split('.').nth(2).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What an access token was wished for as; empty: as the session's own.
pub(crate) fn resource_of(token: &str) -> &str {
    token.rsplit('.').nth(1).unwrap_or_default()
}

/// When an access token ends, whatever anybody says.
pub(crate) fn access_ends(token: &str) -> BootTime {
    let millis = token.rsplit('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    BootTime::from_duration(Duration::from_millis(millis))
}
