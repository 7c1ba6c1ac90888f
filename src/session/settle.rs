//! How a session comes to rest after an event: who is answered, and what is started.
//!
//! **Invariant:** a request is answered or stays parked with a deadline; nothing else happens to it.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::live::{Asked, Grant, Live};
use super::schedule;
use super::state::{
    Answer, Effect, Ending, InFlight, RefreshOrder, Reply, Session, StoreState, TokenReply, Trouble, Urgency,
    Waiter, Want,
};
use super::text;
use crate::clock::{BootTime, Now};
use crate::config::KeepAlive;
use crate::oidc::error::Class;
use crate::recovery::{Unsaved, fingerprint};
use crate::store::{SessionRecord, StoreError};
use crate::tokens::Narrow;

/// How often a closed store is looked at though it said nothing.
const STORE_POLL: Duration = Duration::from_secs(300);
/// A caller makes us look at a closed store again, but not more often than this.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// A deadline that has been dealt with.
const NEVER: BootTime = BootTime::from_duration(Duration::MAX);

pub(super) enum Verdict {
    Answer(Answer),
    /// Parked until this is done.
    Wait(Awaited),
}

/// What a parked request waits for.
pub(super) enum Awaited {
    /// Nothing that it has to ask for.
    Nothing,
    Refresh,
    /// A refresh that brings this.
    Narrow(Arc<Narrow>),
}

/// What all parked requests wait for.
#[derive(Default)]
struct Demand {
    refresh: bool,
    /// The longest waiting one's.
    narrow: Option<Arc<Narrow>>,
}

impl Demand {
    fn add(&mut self, awaited: Awaited) {
        match awaited {
            Awaited::Nothing => {}
            Awaited::Refresh => self.refresh = true,
            Awaited::Narrow(wish) => {
                self.narrow.get_or_insert(wish);
            }
        }
    }
}

impl Session {
    /// Brings everything to rest: answers who can be answered, starts what is due.
    pub(super) fn settle(&mut self, now: &Now) -> Vec<Effect> {
        self.observe(now);
        let mut effects = Vec::new();
        if self.held_until.is_some_and(|until| now.boot >= until) {
            self.held_until = None;
        }
        if let Some(live) = &mut self.live {
            live.narrow.prune(now.boot);
        }
        effects.extend(self.hold());
        let mut look_again = matches!(&self.store, StoreState::Closed { looked_at, .. } if now.boot.since(*looked_at) >= STORE_POLL);

        let mut demand = Demand::default();
        let mut stretch = false;
        for waiter in std::mem::take(&mut self.waiters) {
            match self.verdict(&waiter, now) {
                Verdict::Answer(Err(Error::StoreLocked(_) | Error::StoreUnavailable(_)))
                    if now.boot < waiter.deadline && self.may_look_again(now) =>
                {
                    look_again = true;
                    self.waiters.push(waiter);
                }
                Verdict::Answer(answer) => effects.push(Effect::Answer(waiter.id, answer)),
                Verdict::Wait(awaited) => {
                    demand.add(awaited);
                    let lifetime = self.live.as_ref().and_then(|live| live.grant.as_ref()?.lifetime);
                    stretch |= matches!(waiter.want, Want::Token { min_validity: Some(min), narrow: None, .. } if exceeds(min, lifetime));
                    self.waiters.push(waiter);
                }
            }
        }
        if look_again && matches!(self.store, StoreState::Closed { .. }) {
            self.store = StoreState::Loading { stale: false };
            effects.push(Effect::Load);
        }
        if let Some((_, narrow)) = self.next_refresh(now, &demand).filter(|(due, _)| *due <= now.boot) {
            let narrow = narrow.map(Arc::clone);
            effects.extend(self.start_refresh(now, narrow, demand.refresh, stretch));
        }
        effects.extend(self.start_write(now));
        if let Some(flight) =
            self.refresh.as_mut().filter(|flight| flight.give_up_at.is_some_and(|at| at <= now.boot))
        {
            // Said once; what comes back is the end of it.
            flight.give_up_at = Some(NEVER);
            effects.push(Effect::GiveUp);
        }
        effects
    }

    fn may_look_again(&self, now: &Now) -> bool {
        match &self.store {
            StoreState::Closed { looked_at, .. } => now.boot.since(*looked_at) >= STORE_RETRY,
            StoreState::Loading { .. } | StoreState::Loaded => false,
        }
    }

    fn start_refresh(
        &mut self,
        now: &Now,
        narrow: Option<Arc<Narrow>>,
        demand: bool,
        stretch: bool,
    ) -> Option<Effect> {
        let live = self.live.as_ref()?;
        let refresh_token = live.refresh_token.clone()?;
        let (sub, servers, key) = (live.sub.clone(), live.servers.clone(), live.key.clone());
        let left = live.ends().map(|ends| ends.since(now.boot));
        let subject = match &narrow {
            Some(wish) if self.exchanges(wish) => Some(live.exchangeable(now)?.clone()),
            _ => None,
        };
        if narrow.is_some() && !self.narrow_bucket.take(now.boot) {
            return None;
        }
        self.count_start(now);
        let attempts = self.trouble.as_ref().map_or(0, |trouble| trouble.attempts);
        let wait = self.trouble.as_ref().map_or(Duration::ZERO, |trouble| trouble.not_before.since(now.boot));
        let sent = subject.is_none().then(|| fingerprint(&refresh_token));
        let note = self.note(sent, attempts + u32::from(subject.is_none()), wait, now);
        self.noted.clone_from(&note.sent);
        self.notes += 1;
        let urgency = match &self.trouble {
            Some(trouble) if trouble.asks_again => Urgency::Prompt,
            _ if demand || narrow.is_some() => Urgency::Caller,
            _ => Urgency::Planned,
        };
        if let Some(trouble) = &mut self.trouble {
            trouble.asks_again = false;
        }
        self.refresh = Some(InFlight {
            generation: self.generation,
            asked: Asked::at(now),
            sent: refresh_token.clone(),
            servers: servers.clone(),
            narrow: narrow.clone(),
            exchange: subject.is_some(),
            stretch,
            logout: false,
            give_up_at: None,
        });
        Some(Effect::Refresh(RefreshOrder {
            refresh_token,
            client_secret: self.client_secret.clone(),
            key,
            sub,
            servers,
            narrow,
            subject,
            urgency,
            left,
            note,
            note_sequence: self.notes,
        }))
    }

    /// Keeps what no store has yet for the next process; also while an older save hangs, or is backed off (D11).
    fn hold(&mut self) -> Option<Effect> {
        let sequence = self.sync.wanted;
        if !self.sync.pending() || sequence <= self.sync.held {
            return None;
        }
        self.sync.held = sequence;
        Some(Effect::Hold(Unsaved { sequence, record: self.record() }))
    }

    fn start_write(&mut self, now: &Now) -> Option<Effect> {
        if !self.may_write() || self.sync.retry_at.is_some_and(|at| now.boot < at) {
            return None;
        }
        self.sync.writing = true;
        Some(Effect::Write { sequence: self.sync.wanted, record: self.record() })
    }

    /// What is to be stored; `None`: nothing.
    fn record(&self) -> Option<SessionRecord> {
        let live = self.live.as_ref()?;
        Some(SessionRecord {
            refresh_token: live.refresh_token.clone()?,
            issuer: self.policy.issuer.clone(),
            client_id: self.policy.client_id.clone(),
            servers: live.servers.clone(),
            scope: live.scope.clone(),
            subject: live.subject.clone(),
            sub: live.sub.clone(),
            key: live.key.clone(),
            obtained_at: live.obtained_wall,
            obtained_boot: live.obtained.since_boot().as_secs(),
            // One from before this boot has no other time than the wall's.
            boot_id: Some(&self.policy.boot_id)
                .filter(|_| !live.obtained.is_before_boot())
                .cloned()
                .unwrap_or_default(),
            refresh_lifetime: live.lifetime.map_or(0, |lifetime| lifetime.as_secs()),
            machine: self.policy.machine.clone(),
            sequence: self.sync.wanted,
        })
    }

    fn may_write(&self) -> bool {
        // What is to be removed is read first, to be ended at the provider as well.
        let read_first = self.leaving && matches!(self.store, StoreState::Loading { .. });
        self.sync.pending() && !self.sync.writing && !read_first
    }

    /// When the next refresh is due, and for which narrower token if not for the session's own; `None`
    /// when none is planned or possible.
    fn next_refresh<'a>(&self, now: &Now, demand: &'a Demand) -> Option<(BootTime, Option<&'a Arc<Narrow>>)> {
        let waits =
            self.refresh.is_some() || self.held_until.is_some() || self.rereading.is_some() || self.stopping;
        if waits || self.sleep_ends(now).is_some() {
            return None;
        }
        let own = self.planned_refresh(now, demand.refresh).map(|at| (at, None));
        // There must be something to exchange.
        let lacking = self.live.as_ref().is_some_and(|live| live.exchangeable(now).is_none());
        if lacking && demand.narrow.as_ref().is_some_and(|wish| self.exchanges(wish)) {
            return self.planned_refresh(now, true).map(|at| (at, None));
        }
        let narrow = demand.narrow.as_ref().map(|wish| (now.boot.max(self.start_at), Some(wish)));
        // Of two that are due the session's own goes first.
        own.into_iter().chain(narrow).min_by_key(|(at, _)| *at)
    }

    /// When the session's own refresh is due, whatever is on its way at the moment.
    pub(super) fn planned_refresh(&self, now: &Now, demand: bool) -> Option<BootTime> {
        let live = self.live.as_ref().filter(|live| live.renewable())?;
        if self.secret_missing() {
            return None;
        }
        let hot = |at: BootTime| self.last_asked.is_some_and(|asked| at.since(asked) <= schedule::HOT);
        let keep_alive =
            live.keep_alive_at.filter(|at| self.policy.keep_alive == KeepAlive::Always || hot(*at));
        let renew = live
            .grant
            .as_ref()
            .filter(|grant| !grant.last && hot(grant.renew_at))
            .map(|grant| grant.renew_at);
        // Past its end by our arithmetic, the provider is asked once more before it is believed (N12).
        let last_try = live.ends().filter(|_| live.stagnant);
        let floor = self.last_refresh.map_or(self.start_at, |at| at.after(schedule::REFRESH_FLOOR));
        let unasked = floor.max(self.spread_until);
        let planned = [keep_alive, renew, last_try].into_iter().flatten().min().map(|at| at.max(unasked));

        let Some(trouble) = &self.trouble else {
            let forced =
                self.waiters.iter().any(|waiter| waiter.forces_own() && waiter.since >= self.own_outcome);
            return match (demand, forced) {
                (true, true) => Some(now.boot.max(self.start_at)),
                (true, false) => Some(now.boot.max(floor)),
                (false, _) => planned,
            };
        };
        // What failed was due, so it is tried again though nothing else is planned yet; a session that
        // is kept for its users only waits for one of them.
        let retried = self.policy.keep_alive == KeepAlive::Always || hot(trouble.retry_at);
        let planned = if retried {
            Some(trouble.retry_at.max(self.spread_until))
        } else {
            planned.map(|at| at.max(trouble.retry_at))
        };
        let wanted = demand.then(|| {
            let soon = trouble.last_attempt.after(schedule::CALLER_RETRY);
            trouble.retry_at.min(soon).max(trouble.not_before).max(self.start_at)
        });
        [planned, wanted].into_iter().flatten().min()
    }

    pub(super) fn secret_missing(&self) -> bool {
        self.policy.stored_secret && self.client_secret.is_none()
    }

    /// When [`Session::handle_timeout`] has to be called next.
    #[must_use]
    pub(super) fn next_timeout(&self, now: &Now) -> Option<BootTime> {
        let mut demand = Demand::default();
        for waiter in &self.waiters {
            if let Verdict::Wait(awaited) = self.verdict(waiter, now) {
                demand.add(awaited);
            }
        }
        let refresh = self.next_refresh(now, &demand).map(|(at, _)| at);
        let waiter = self.waiters.iter().map(|waiter| waiter.deadline).min();
        let write = self.sync.retry_at.filter(|_| self.may_write());
        let poll = match &self.store {
            StoreState::Closed { looked_at, .. } => Some(looked_at.after(STORE_POLL)),
            StoreState::Loading { .. } | StoreState::Loaded => None,
        };
        // A token that is the last one, and the end of a session without renewal, change the state.
        let ends = self.live.as_ref().and_then(|live| {
            let end = live.grant.as_ref()?.expires()?;
            (!live.renewable() && end > now.boot).then_some(end)
        });
        let give_up = self.refresh.as_ref().and_then(|flight| flight.give_up_at).filter(|at| *at != NEVER);
        [refresh, waiter, write, poll, ends, self.held_until, give_up, self.sleep_ends(now)]
            .into_iter()
            .flatten()
            .min()
    }

    fn verdict(&self, waiter: &Waiter, now: &Now) -> Verdict {
        // Told to come back after the caller's time, there is nothing to wait for.
        let hopeless = self.refresh.is_none()
            && self.trouble.as_ref().is_some_and(|trouble| trouble.not_before > waiter.deadline);
        let late = now.boot >= waiter.deadline || hopeless;
        // Its answer is about its own save, not about an earlier one's failure.
        let writing = self.sync.pending() && self.sync.failed < self.sync.wanted && !late;
        match &waiter.want {
            Want::Saved if writing && self.held_until.is_some() => return Verdict::Wait(Awaited::Nothing),
            Want::Saved => return Verdict::Answer(Ok(Reply::Flag(!self.sync.pending()))),
            Want::LoggedOut if writing || (matches!(self.ending, Ending::Running) && !late) => {
                return Verdict::Wait(Awaited::Nothing);
            }
            Want::LoggedOut => return Verdict::Answer(self.logged_out_answer()),
            Want::Token { .. } | Want::Renewed { .. } | Want::Refresh => {}
        }
        if self.policy.personal {
            return match &self.store {
                StoreState::Loading { .. } if self.personal.is_none() && !late => {
                    Verdict::Wait(Awaited::Nothing)
                }
                _ => Verdict::Answer(self.personal_answer()),
            };
        }
        let Some(live) = &self.live else {
            return match &self.store {
                StoreState::Loading { .. } if !late => Verdict::Wait(Awaited::Nothing),
                _ => Verdict::Answer(Err(self.no_session())),
            };
        };
        if self.held_until.is_some() && !late {
            return Verdict::Wait(Awaited::Nothing);
        }
        if let Want::Token { narrow: Some(wish), .. } | Want::Renewed { narrow: Some(wish), .. } =
            &waiter.want
        {
            return self.narrow_verdict(live, wish, waiter, late, now);
        }
        let tried = self.own_outcome > waiter.since;
        let valid = live.valid_grant(now.boot);
        let settled = match &waiter.want {
            Want::Token { min_validity, force, .. } => valid
                .filter(|(grant, remaining)| {
                    let need = min_validity.unwrap_or_else(|| {
                        grant.lifetime.map_or(Duration::ZERO, schedule::default_min_validity)
                    });
                    let enough = *remaining >= need.max(schedule::MIN_VALIDITY_FLOOR)
                        || (grant.stretched && exceeds(need, grant.lifetime));
                    let recent =
                        self.last_refresh.is_some_and(|at| now.boot.since(at) < schedule::REFRESH_FLOOR);
                    let fresh = (enough || grant.last || recent) && !grant.suspect && (!force || tried);
                    // A refresh was tried and failed: what lives is better than nothing (N7).
                    fresh || tried || late
                })
                .map(|(grant, _)| Ok(Reply::Token(Self::token_reply(live, grant, &live.scope, now)))),
            Want::Renewed { rejected, .. } => match &live.grant {
                Some(grant) if grant.id != *rejected => Some(Ok(Reply::Flag(true))),
                _ if tried && self.trouble.is_none() && self.rereading.is_none() => {
                    Some(Ok(Reply::Flag(false)))
                }
                _ => None,
            },
            Want::Refresh if tried && self.rereading.is_none() => Some(match &self.trouble {
                Some(trouble) => Err(self.in_trouble(trouble)),
                None if live.renewable() => Ok(Reply::Done),
                None => Err(self.no_session()),
            }),
            Want::Refresh | Want::Saved | Want::LoggedOut => None,
        };
        if let Some(answer) = settled {
            return Verdict::Answer(answer);
        }
        if !live.renewable() {
            // No way to a new token; one that still lives is handed out as it is.
            return Verdict::Answer(match (&waiter.want, valid) {
                (Want::Token { .. }, Some((grant, _))) => {
                    Ok(Reply::Token(Self::token_reply(live, grant, &live.scope, now)))
                }
                _ => Err(self.no_session()),
            });
        }
        let obstacle = self.obstacle(waiter, tried, late);
        let refused = matches!(obstacle, Some(Verdict::Answer(Err(Error::ProviderRefused(_)))));
        if let (true, Want::Token { .. }, Some((grant, _))) = (refused, &waiter.want, valid) {
            // No refresh will be tried for it, and what lives is better than nothing (N7, O).
            return Verdict::Answer(Ok(Reply::Token(Self::token_reply(live, grant, &live.scope, now))));
        }
        obstacle.unwrap_or(Verdict::Wait(Awaited::Refresh))
    }

    /// Why a refresh is not waited for, or not yet possible.
    pub(super) fn obstacle(&self, waiter: &Waiter, tried: bool, late: bool) -> Option<Verdict> {
        if self.secret_missing() {
            return Some(match &self.store {
                StoreState::Loading { .. } if !late => Verdict::Wait(Awaited::Nothing),
                StoreState::Closed { error, .. } => {
                    Verdict::Answer(Err(text::store_closed(&self.policy.account, error)))
                }
                _ => Verdict::Answer(Err(Error::NotConfigured(text::no_client_secret(&self.policy.account)))),
            });
        }
        if let Some(trouble) = &self.trouble {
            let refused =
                trouble.class.needs_a_person() && self.refresh.is_none() && (tried || !waiter.forces());
            let gives_up = tried && !matches!(waiter.want, Want::Token { .. });
            if refused || gives_up || (late && self.refresh.is_none()) {
                return Some(Verdict::Answer(Err(self.in_trouble(trouble))));
            }
        }
        if late {
            return Some(Verdict::Answer(Err(Error::Timeout(text::timeout(&self.policy.account)))));
        }
        None
    }

    pub(super) fn token_reply(live: &Live, grant: &Grant, scope: &str, now: &Now) -> TokenReply {
        let left = grant.expires().map_or(Duration::ZERO, |at| at.since(now.boot));
        TokenReply {
            token: grant.token.clone(),
            expires_at: grant.expires().map_or(0, |at| now.wall_seconds_at(at)),
            expires_in: u32::try_from(left.as_secs()).unwrap_or(u32::MAX),
            scope: scope.to_owned(),
            subject: live.subject.clone(),
            token_id: grant.id.clone(),
            personal: false,
            key: live.key.clone(),
        }
    }

    fn personal_answer(&self) -> Answer {
        let account = &self.policy.account;
        match (&self.personal, &self.store) {
            (Some(_), _) if self.personal_refused => {
                Err(Error::ProviderRefused(text::personal_refused(account)))
            }
            (Some(token), _) => {
                let token = token.as_access_token();
                Ok(Reply::Token(TokenReply {
                    token_id: token.id(),
                    token,
                    expires_at: 0,
                    expires_in: 0,
                    scope: String::new(),
                    subject: String::new(),
                    personal: true,
                    key: None,
                }))
            }
            (None, StoreState::Closed { error, .. }) => Err(text::store_closed(account, error)),
            (None, _) => Err(Error::LoginRequired(text::no_personal_token(account))),
        }
    }

    fn logged_out_answer(&self) -> Answer {
        match &self.sync.error {
            Some(error) if self.sync.pending() => Err(text::still_stored(&self.policy.account, error)),
            None if self.sync.pending() => {
                let hangs = StoreError::Unavailable("the keyring has not answered yet".to_owned());
                Err(text::still_stored(&self.policy.account, &hangs))
            }
            _ => Ok(Reply::Flag(matches!(self.ending, Ending::Done(true)))),
        }
    }

    fn in_trouble(&self, trouble: &Trouble) -> Error {
        let account = &self.policy.account;
        match trouble.class {
            Class::Refused => Error::ProviderRefused(text::trouble(account, trouble)),
            Class::Elsewhere => Error::LoginRequired(text::trouble(account, trouble)),
            _ => Error::ProviderUnreachable(text::trouble(account, trouble)),
        }
    }

    /// Why there is no token to be had without a user's act.
    pub(super) fn no_session(&self) -> Error {
        let account = &self.policy.account;
        if let Some(trouble) = self.trouble.as_ref().filter(|trouble| trouble.class == Class::Refused) {
            return self.in_trouble(trouble);
        }
        if let Some(ended) = &self.ended {
            return Error::LoginRequired(text::login_again(account, &ended.message));
        }
        if self.live.is_some() {
            return Error::LoginRequired(text::no_refresh_token(account));
        }
        match &self.store {
            StoreState::Closed { error, .. } => text::store_closed(account, error),
            StoreState::Loading { .. } => Error::StoreUnavailable(text::store_slow(account)),
            StoreState::Loaded if self.secret_missing() => {
                Error::NotConfigured(text::no_client_secret(account))
            }
            StoreState::Loaded => Error::LoginRequired(text::not_logged_in(account)),
        }
    }
}

impl Waiter {
    /// As [`Waiter::forces`], about the session's own token.
    fn forces_own(&self) -> bool {
        let narrow =
            matches!(self.want, Want::Token { narrow: Some(_), .. } | Want::Renewed { narrow: Some(_), .. });
        self.forces() && !narrow
    }

    fn forces(&self) -> bool {
        matches!(self.want, Want::Token { force: true, .. } | Want::Renewed { .. } | Want::Refresh)
    }
}

/// Whether no token of this lifetime can be `min` away from its end for any time worth having.
pub(super) fn exceeds(min: Duration, lifetime: Option<Duration>) -> bool {
    min.saturating_add(schedule::REFRESH_FLOOR) > lifetime.unwrap_or(schedule::ASSUMED_LIFETIME)
}
