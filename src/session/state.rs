//! The state machine of one account's session: what it is made of. [`events`](super::events) is what
//! happens to it, [`settle`](super::settle) what it does about that, [`view`](super::view) how it looks.
//!
//! **Invariants:** no IO, no clock, no randomness, no async. Every event is handled in every state.
//! At most one refresh is outstanding. Every request is answered exactly once.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::interruptions::Starts;
use super::live::{Asked, Live};
use super::narrow::NarrowTokens;
use super::schedule::Bucket;
use super::text;
use crate::clock::{BootTime, Now};
use crate::config::{AudienceBy, KeepAlive};
use crate::dpop::ProofKey;
use crate::oidc::EndRequest;
use crate::oidc::error::{Class, ProviderError};
use crate::recovery::{Note, Unsaved};
use crate::secret::{AccessToken, ClientSecret, PersonalToken, RefreshToken};
use crate::store::{SessionRecord, StoreError};
use crate::tokens::Narrow;

/// A gap in the running time that is worth telling a user about.
const NOTABLE_SLEEP: Duration = Duration::from_secs(60);

/// What never changes during a session's life.
#[derive(Clone)]
pub struct Policy {
    pub account: String,
    pub personal: bool,
    /// A client secret is needed and comes from the store.
    pub stored_secret: bool,
    pub issuer: String,
    pub client_id: String,
    pub scope: String,
    pub keep_alive: KeepAlive,
    pub audience_by: Option<AudienceBy>,
    pub min_validity: Option<Duration>,
    /// The session has a key, and its tokens are bound to it (RFC 9449).
    pub dpop: bool,
    pub boot_id: String,
    pub machine: String,
    /// From 0 to 1, drawn for each session: what comes to all of them at once they do one after another.
    pub phase: f64,
}

/// Names one pending request to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RequestId(pub u64);

/// What a caller of `GetToken` wants.
#[derive(Debug, Clone, Default)]
pub struct TokenOptions {
    pub min_validity: Option<Duration>,
    pub force_refresh: bool,
    /// Less than what the account may do.
    pub narrow: Option<Arc<Narrow>>,
}

/// A token as a caller gets it.
#[derive(Clone)]
pub struct TokenReply {
    pub token: AccessToken,
    /// Seconds since the Unix epoch; 0 when unknown.
    pub expires_at: u64,
    pub expires_in: u32,
    pub scope: String,
    pub subject: String,
    pub token_id: String,
    pub personal: bool,
    /// What the token is bound to.
    pub key: Option<ProofKey>,
}

/// What a request is answered with when it succeeds.
#[derive(Clone)]
pub(super) enum Reply {
    Token(TokenReply),
    /// `RejectToken`: renewed; `Logout`: ended at the provider.
    Flag(bool),
    Done,
}

pub(super) type Answer = Result<Reply, Error>;

/// What the actor has to do.
pub(super) enum Effect {
    Answer(RequestId, Answer),
    /// Read the store, then call [`Session::loaded`].
    Load,
    /// Write the note, send the refresh, then call [`Session::refreshed`]; or if the issuer's budget
    /// forbids it, call [`Session::postponed`].
    Refresh(RefreshOrder),
    /// Wait no longer for the refresh on its way: its answer is lost.
    GiveUp,
    /// Leave this for the next process.
    Note {
        sequence: u64,
        note: Note,
    },
    /// Keep this for the next process until it is stored.
    Hold(Unsaved),
    /// Bring the stored session up to date (`None`: remove it), then call [`Session::written`].
    Write {
        sequence: u64,
        record: Option<SessionRecord>,
    },
    /// End the session at the provider, then call [`Session::ended_at_provider`].
    EndSession(EndRequest),
}

/// One refresh to be sent.
#[derive(Clone)]
pub(super) struct RefreshOrder {
    pub refresh_token: RefreshToken,
    pub client_secret: Option<ClientSecret>,
    pub key: Option<ProofKey>,
    /// Whose session it is; empty when that is not known.
    pub sub: String,
    /// Where its tokens may be sent.
    pub servers: String,
    /// `None`: for the session's own token.
    pub narrow: Option<Arc<Narrow>>,
    /// What is exchanged for the narrower one, the refresh token staying unused.
    pub subject: Option<AccessToken>,
    pub urgency: Urgency,
    /// What is left of the session.
    pub left: Option<Duration>,
    pub note: Note,
    pub note_sequence: u64,
}

/// Why a refresh is sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// The one retry after an answer that was lost: some providers repeat it, for a short while.
    Prompt,
    /// Somebody waits.
    Caller,
    /// It is due.
    Planned,
}

pub(super) enum StoreState {
    Loading {
        /// It has changed since the look at it began.
        stale: bool,
    },
    Loaded,
    Closed {
        error: StoreError,
        looked_at: BootTime,
    },
}

/// A refresh on its way.
pub(super) struct InFlight {
    /// The session it belongs to; another one's answer is not taken.
    pub(super) generation: u64,
    pub(super) asked: Asked,
    pub(super) sent: RefreshToken,
    pub(super) servers: String,
    /// What it is for; `None`: the session's own token.
    pub(super) narrow: Option<Arc<Narrow>>,
    /// That is had in exchange: the refresh token was not sent.
    pub(super) exchange: bool,
    /// A waiting caller wants more validity than the provider grants.
    pub(super) stretch: bool,
    /// The user logged out meanwhile: whatever comes back is ended at the provider.
    pub(super) logout: bool,
    /// When its answer is not waited for any longer; set by a suspend or another network.
    pub(super) give_up_at: Option<BootTime>,
}

/// Refreshes are failing.
pub(super) struct Trouble {
    pub(super) class: Class,
    pub(super) message: String,
    pub(super) reason: &'static str,
    pub(super) attempts: u32,
    /// An answer was lost, and has been asked for again or will be at once (D8).
    pub(super) prompted: bool,
    /// The next try is that.
    pub(super) asks_again: bool,
    pub(super) retry_at: BootTime,
    /// `Retry-After`: nobody gets an attempt before this.
    pub(super) not_before: BootTime,
    /// What of it this session was told itself; the rest ends with the provider's return.
    pub(super) told: BootTime,
    pub(super) last_attempt: BootTime,
}

/// Why there is no session.
#[derive(Clone)]
pub(super) struct Ended {
    /// The provider did it; otherwise nobody is logged in.
    pub(super) by_provider: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Keeps the stored session equal to the one in memory.
#[derive(Default)]
pub(super) struct Sync {
    pub(super) wanted: u64,
    pub(super) done: u64,
    /// What the next process would find, should no store have it.
    pub(super) held: u64,
    pub(super) writing: bool,
    pub(super) attempts: u32,
    pub(super) retry_at: Option<BootTime>,
    /// Why the last write failed.
    pub(super) error: Option<StoreError>,
    /// The number of the last one that did.
    pub(super) failed: u64,
    /// The store is being read to see whether it still has what it was given.
    pub(super) checking: bool,
}

impl Sync {
    pub(super) fn pending(&self) -> bool {
        self.wanted > self.done
    }
}

pub(super) struct Waiter {
    pub(super) id: RequestId,
    pub(super) want: Want,
    pub(super) deadline: BootTime,
    /// How many refreshes had ended when it came.
    pub(super) since: u64,
}

pub(super) enum Want {
    Token { min_validity: Option<Duration>, force: bool, narrow: Option<Arc<Narrow>> },
    Renewed { rejected: String, narrow: Option<Arc<Narrow>> },
    Refresh,
    Saved,
    LoggedOut,
}

/// The end of a session at the provider.
pub(super) enum Ending {
    Running,
    Done(bool),
}

/// The session of one account.
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other and of the rest")]
pub(super) struct Session {
    pub(super) policy: Policy,
    pub(super) store: StoreState,
    /// The keyring's last prompt was dismissed, or could not be shown.
    pub(super) unlock_failed: bool,
    pub(super) client_secret: Option<ClientSecret>,
    pub(super) personal: Option<PersonalToken>,
    /// One of the two was set or removed by the user in this process.
    pub(super) secrets_set: bool,
    pub(super) personal_refused: bool,
    pub(super) live: Option<Live>,
    pub(super) ended: Option<Ended>,
    pub(super) refresh: Option<InFlight>,
    pub(super) trouble: Option<Trouble>,
    pub(super) sync: Sync,
    /// A new token is being saved: its callers wait until then at most.
    pub(super) held_until: Option<BootTime>,
    /// The store is being read again before `invalid_grant` is believed (D14).
    pub(super) rereading: Option<ProviderError>,
    pub(super) reread: bool,
    pub(super) ending: Ending,
    /// No refresh is begun any more.
    pub(super) stopping: bool,
    /// It has a predecessor's session, which may have been saved to another store.
    pub(super) inherited: bool,
    /// Logged out before the store was read: a session that is found there is not taken up, but ended.
    pub(super) leaving: bool,
    pub(super) waiters: Vec<Waiter>,
    pub(super) generation: u64,
    /// How many refreshes have ended, either way.
    pub(super) outcomes: u64,
    /// The number of the last one that says something of the session's own token.
    pub(super) own_outcome: u64,
    pub(super) last_asked: Option<BootTime>,
    pub(super) last_refresh: Option<BootTime>,
    pub(super) bucket: Bucket,
    pub(super) narrow_bucket: Bucket,
    pub(super) old_tokens: Vec<String>,
    pub(super) seen: Now,
    pub(super) slept: Option<text::Sleep>,
    /// A suspend was announced: nothing is sent before this running time.
    pub(super) asleep_until: Option<Duration>,
    /// Nothing is sent unasked before this.
    pub(super) spread_until: BootTime,
    /// The first refresh of this process comes no earlier.
    pub(super) start_at: BootTime,
    pub(super) starts: Starts,
    /// How many notes were written.
    pub(super) notes: u64,
    /// The refresh token that the last note says was sent, until its successor is saved.
    pub(super) noted: Option<String>,
    /// The last process's note, until its session is known.
    pub(super) left_note: Option<Note>,
    /// The number of the session that the last process left unsaved, until the store is read.
    pub(super) left_unsaved: Option<u64>,
}

impl Session {
    #[must_use]
    pub(super) fn new(policy: Policy, now: &Now) -> (Self, Vec<Effect>) {
        let session = Self {
            policy,
            store: StoreState::Loading { stale: false },
            unlock_failed: false,
            client_secret: None,
            personal: None,
            secrets_set: false,
            personal_refused: false,
            live: None,
            ended: None,
            refresh: None,
            trouble: None,
            sync: Sync::default(),
            held_until: None,
            rereading: None,
            reread: false,
            ending: Ending::Done(false),
            stopping: false,
            inherited: false,
            leaving: false,
            waiters: Vec::new(),
            generation: 0,
            outcomes: 0,
            own_outcome: 0,
            last_asked: None,
            last_refresh: None,
            bucket: Bucket::forced(now.boot),
            narrow_bucket: Bucket::narrow(now.boot),
            old_tokens: Vec::new(),
            seen: *now,
            slept: None,
            asleep_until: None,
            spread_until: BootTime::default(),
            start_at: BootTime::default(),
            starts: Starts::default(),
            notes: 0,
            noted: None,
            left_note: None,
            left_unsaved: None,
        };
        (session, vec![Effect::Load])
    }

    /// Whether something is on its way to the provider or the store whose loss would cost a token.
    #[must_use]
    pub(super) fn is_busy(&self) -> bool {
        self.refresh.is_some() || self.sync.writing || matches!(self.ending, Ending::Running)
    }

    /// Hands the session to its successor after a change of the configuration.
    #[must_use]
    pub(super) fn into_heirloom(self) -> Heirloom {
        Heirloom {
            issuer: self.policy.issuer,
            client_id: self.policy.client_id,
            client_secret: self.client_secret,
            personal: self.personal,
            live: self.live,
            ended: self.ended,
            sync: self.sync,
            last_asked: self.last_asked,
        }
    }

    /// Takes over its predecessor's session and secrets, if they are the same client's. What the store says of
    /// the secrets later is as new at least.
    pub(super) fn inherit(&mut self, heirloom: Heirloom) {
        if heirloom.issuer == self.policy.issuer {
            self.personal = heirloom.personal;
        }
        let bound = heirloom.live.as_ref().is_none_or(|live| live.key.is_some() == self.policy.dpop);
        if heirloom.issuer == self.policy.issuer && heirloom.client_id == self.policy.client_id && bound {
            self.client_secret = heirloom.client_secret;
            // What narrower tokens there may be is for the new configuration to say.
            self.live = heirloom.live.map(|live| Live { narrow: NarrowTokens::default(), ..live });
            self.ended = heirloom.ended;
            self.sync = Sync { writing: false, checking: false, retry_at: None, ..heirloom.sync };
            self.last_asked = heirloom.last_asked;
            self.inherited = self.live.is_some();
            self.leaving = self.live.is_none() && self.sync.pending();
        }
    }

    /// Notes a suspend since the last look.
    pub(super) fn observe(&mut self, now: &Now) {
        let slept = now.asleep.saturating_sub(self.seen.asleep);
        if slept >= NOTABLE_SLEEP {
            tracing::info!(account = %self.policy.account, seconds = slept.as_secs(), "was suspended");
            self.slept = Some(text::Sleep {
                from_wall: now.wall.saturating_sub(slept),
                to_wall: now.wall,
                until: now.boot,
            });
        }
        self.seen = *now;
        self.jumped(slept, now);
    }

    /// The client secret, for a login; `Err` while it cannot be known.
    ///
    /// # Errors
    /// When the store is closed, or has none though the client needs one.
    pub(super) fn login_secret(&self) -> Result<Option<ClientSecret>, Error> {
        if !self.secret_missing() {
            return Ok(self.client_secret.clone());
        }
        match &self.store {
            StoreState::Closed { error, .. } => Err(text::store_closed(&self.policy.account, error)),
            StoreState::Loading { .. } => {
                Err(Error::StoreUnavailable(text::store_slow(&self.policy.account)))
            }
            StoreState::Loaded => Err(Error::NotConfigured(text::no_client_secret(&self.policy.account))),
        }
    }
}

/// What a session leaves to its successor when its account's configuration changed.
pub struct Heirloom {
    issuer: String,
    client_id: String,
    client_secret: Option<ClientSecret>,
    personal: Option<PersonalToken>,
    live: Option<Live>,
    ended: Option<Ended>,
    sync: Sync,
    last_asked: Option<BootTime>,
}
