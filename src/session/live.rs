//! A session in memory: the tokens of one login and the deadlines that follow from them.

use std::sync::Arc;
use std::time::Duration;

use super::narrow::NarrowTokens;
use super::schedule::{self, ASSUMED_LIFETIME, Jitter, SAME_DEADLINE};
use crate::clock::{BootTime, Now};
use crate::dpop::ProofKey;
use crate::secret::{AccessToken, RefreshToken};
use crate::store::SessionRecord;
use crate::tokens::{Granted, Lifetime, Narrow, TokenResponse};

/// What an access token must live on for, to be exchanged.
const EXCHANGEABLE: Duration = Duration::from_secs(20);
/// Deadlines are compared for stagnation only when the answers lie this far apart.
const STAGNATION_SPAN: Duration = Duration::from_secs(5);

/// One login's tokens.
#[derive(Clone)]
pub(super) struct Live {
    /// `None` when the provider gave none, or has ended the session.
    pub(super) refresh_token: Option<RefreshToken>,
    /// `None` after a restart, until the first refresh.
    pub(super) grant: Option<Grant>,
    pub(super) narrow: NarrowTokens,
    pub(super) scope: String,
    pub(super) subject: String,
    pub(super) sub: String,
    /// Where its tokens may be sent: where the login's came from.
    pub(super) servers: String,
    /// What its tokens are bound to.
    pub(super) key: Option<ProofKey>,
    /// Just before the request that brought the tokens.
    pub(super) obtained: BootTime,
    pub(super) obtained_wall: u64,
    /// The refresh token's stated lifetime.
    pub(super) lifetime: Option<Duration>,
    pub(super) keep_alive_at: Option<BootTime>,
    /// The session's end no longer moves: the provider's maximum is reached (N8, K9).
    pub(super) stagnant: bool,
    /// Answers in a row whose access token was over already.
    pub(super) dead_in_row: u32,
    /// An answer to this refresh token was lost: it may be spent.
    pub(super) doubtful: bool,
}

/// One access token and its deadlines.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) token: AccessToken,
    pub(super) id: String,
    pub(super) obtained: BootTime,
    /// `None` when the provider did not say.
    pub(super) lifetime: Option<Duration>,
    pub(super) renew_at: BootTime,
    /// It was fetched for a validity longer than the provider grants: another would be no longer.
    pub(super) stretched: bool,
    /// Its end did not move with the last refresh: it is the session's last one.
    pub(super) last: bool,
    /// A caller reported that it was refused.
    pub(super) suspect: bool,
}

impl Grant {
    pub(super) fn new(token: AccessToken, lifetime: Option<Duration>, asked: &Asked, jitter: Jitter) -> Self {
        Self {
            id: token.id(),
            token,
            obtained: asked.at,
            lifetime,
            renew_at: schedule::renew_at(asked.at, lifetime.unwrap_or(ASSUMED_LIFETIME), jitter),
            stretched: false,
            last: false,
            suspect: false,
        }
    }

    pub(super) fn expires(&self) -> Option<BootTime> {
        self.lifetime.map(|lifetime| self.obtained.after(lifetime))
    }

    /// How long it may still be handed out. A token without a stated lifetime is taken to live for
    /// [`ASSUMED_LIFETIME`] if it can be renewed, and until somebody rejects it otherwise.
    pub(super) fn remaining(&self, renewable: bool, now: BootTime) -> Duration {
        match self.lifetime {
            Some(lifetime) => self.obtained.after(lifetime).since(now),
            None if renewable => self.obtained.after(ASSUMED_LIFETIME).since(now),
            None => Duration::MAX,
        }
    }
}

impl Live {
    /// Whether a login is another user's than this session: by the issuer's identifier, else by the name, where
    /// both tell one.
    pub(super) fn is_another(&self, granted: &Granted) -> bool {
        let differ = |ours: &str, theirs: &str| !ours.is_empty() && !theirs.is_empty() && ours != theirs;
        let identified = !self.sub.is_empty() || !granted.sub.is_empty();
        differ(&self.sub, &granted.sub) || (!identified && differ(&self.subject, &granted.subject))
    }

    /// The session's own access token, if it lives long enough to be sent to the provider.
    pub(super) fn exchangeable(&self, now: &Now) -> Option<&AccessToken> {
        let grant = self.grant.as_ref()?;
        let lives = grant.remaining(self.renewable(), now.boot) >= EXCHANGEABLE && !grant.suspect;
        lives.then_some(&grant.token)
    }

    /// A fresh login's tokens.
    pub(super) fn from_login(
        response: TokenResponse,
        asked: &Asked,
        requested_scope: &str,
        jitter: Jitter,
    ) -> Self {
        let mut live = Self {
            refresh_token: None,
            grant: None,
            narrow: NarrowTokens::default(),
            scope: requested_scope.to_owned(),
            subject: String::new(),
            sub: String::new(),
            servers: String::new(),
            key: None,
            obtained: asked.at,
            obtained_wall: asked.wall,
            lifetime: None,
            keep_alive_at: None,
            stagnant: false,
            dead_in_row: 0,
            doubtful: false,
        };
        live.take(response, asked, jitter);
        live
    }

    /// What the store kept of an earlier process's session.
    ///
    /// In the same boot its times are exact; after another boot, wall time is all there is, and a
    /// session from the future is taken to be due now (N14).
    pub(super) fn from_record(record: &SessionRecord, boot_id: &str, now: &Now) -> Self {
        let age = if record.boot_id == boot_id {
            now.boot.since(BootTime::from_duration(Duration::from_secs(record.obtained_boot)))
        } else {
            Duration::from_secs(now.wall.as_secs().saturating_sub(record.obtained_at))
        };
        let obtained = now.boot.before(age);
        let lifetime = (record.refresh_lifetime > 0).then(|| Duration::from_secs(record.refresh_lifetime));
        let keep_alive_at = if record.boot_id != boot_id && record.obtained_at > now.wall.as_secs() {
            Some(now.boot)
        } else {
            Some(schedule::keep_alive_at(obtained, lifetime, Jitter(0.0)))
        };
        Self {
            refresh_token: Some(record.refresh_token.clone()),
            grant: None,
            narrow: NarrowTokens::default(),
            scope: record.scope.clone(),
            subject: record.subject.clone(),
            sub: record.sub.clone(),
            servers: record.servers.clone(),
            key: record.key.clone(),
            obtained,
            obtained_wall: record.obtained_at,
            lifetime,
            keep_alive_at,
            stagnant: false,
            dead_in_row: 0,
            doubtful: false,
        }
    }

    /// Takes over a successful answer: new tokens replace the old, what is absent stays (D1, C11).
    pub(super) fn take(&mut self, response: TokenResponse, asked: &Asked, jitter: Jitter) {
        self.take_session(response.refresh_token, response.refresh_expires_in, asked, jitter);
        if let Some(scope) = response.scope {
            self.scope = scope;
        }
        // Never by a later answer: a server that was not the login's cannot make itself one.
        if self.servers.is_empty() {
            self.servers = response.servers;
        }
        let lifetime = match response.expires_in {
            Lifetime::Over => {
                // What was there before may live on.
                self.dead_in_row += 1;
                return;
            }
            Lifetime::Unknown => None,
            Lifetime::For(lifetime) => Some(lifetime),
        };
        let old = self.grant.take();
        self.dead_in_row = 0;
        let mut grant = Grant::new(response.access_token, lifetime, asked, jitter);
        grant.last = old.is_some_and(|old| {
            asked.at.since(old.obtained) >= STAGNATION_SPAN && stands_still(old.expires(), grant.expires())
        });
        self.grant = Some(grant);
    }

    /// The session's part of an answer, whichever access token came with it.
    pub(super) fn take_session(
        &mut self,
        refresh_token: Option<RefreshToken>,
        lifetime: Lifetime,
        asked: &Asked,
        jitter: Jitter,
    ) {
        let elapsed = asked.at.since(self.obtained);
        let old_end = self.ends();
        self.doubtful = false;
        if let Some(token) = refresh_token {
            self.refresh_token = Some(token);
        }
        self.obtained = asked.at;
        self.obtained_wall = asked.wall;
        // A provider that has just answered has not ended it, whatever it says of the session's life (K7).
        self.lifetime = lifetime.known().filter(|lifetime| !lifetime.is_zero());
        self.stagnant = elapsed >= STAGNATION_SPAN && stands_still(old_end, self.ends());
        self.keep_alive_at =
            (!self.stagnant).then(|| schedule::keep_alive_at(asked.at, self.lifetime, jitter));
    }

    /// When the provider ends the session unless it is renewed.
    pub(super) fn ends(&self) -> Option<BootTime> {
        self.lifetime.map(|lifetime| self.obtained.after(lifetime))
    }

    pub(super) fn renewable(&self) -> bool {
        self.refresh_token.is_some()
    }

    /// The current token of this id, and what it was wished for as.
    pub(super) fn find(&mut self, token_id: &str) -> Option<(Option<Arc<Narrow>>, &mut Grant)> {
        match self.grant.as_mut().filter(|grant| grant.id == token_id) {
            Some(grant) => Some((None, grant)),
            None => self.narrow.find(token_id).map(|(wish, grant)| (Some(wish), grant)),
        }
    }

    /// The access token, while it lives.
    pub(super) fn valid_grant(&self, now: BootTime) -> Option<(&Grant, Duration)> {
        let grant = self.grant.as_ref()?;
        let remaining = grant.remaining(self.renewable(), now);
        // Under a second is nothing that a caller could use.
        (remaining >= Duration::from_secs(1)).then_some((grant, remaining))
    }
}

/// When a token request was about to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub at: BootTime,
    pub wall: u64,
    /// Suspended time until then, for the story of an expired session.
    pub asleep: Duration,
}

impl Asked {
    #[must_use]
    pub fn at(now: &Now) -> Self {
        Self { at: now.boot, wall: now.wall.as_secs(), asleep: now.asleep }
    }
}

fn stands_still(old: Option<BootTime>, new: Option<BootTime>) -> bool {
    matches!((old, new), (Some(old), Some(new)) if new <= old.after(SAME_DEADLINE) && old <= new.after(SAME_DEADLINE))
}
