//! How a session comes to rest after an event: who is answered, and what is started.
//!
//! **Invariant:** a request is answered or stays parked with a deadline; nothing else happens to it.

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
use crate::recovery::fingerprint;
use crate::store::SessionRecord;

/// How often a closed store is looked at though it said nothing.
const STORE_POLL: Duration = Duration::from_secs(300);
/// A caller makes us look at a closed store again, but not more often than this.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// A deadline that has been dealt with.
const NEVER: BootTime = BootTime::from_duration(Duration::MAX);

enum Verdict {
    Answer(Answer),
    /// Parked; `true`: it needs a refresh.
    Wait(bool),
}

impl Session {
    /// Brings everything to rest: answers who can be answered, starts what is due.
    pub(super) fn settle(&mut self, now: &Now) -> Vec<Effect> {
        self.observe(now);
        let mut effects = Vec::new();
        if self.held_until.is_some_and(|until| now.boot >= until) {
            self.held_until = None;
        }
        let mut look_again = matches!(&self.store, StoreState::Closed { looked_at, .. } if now.boot.since(*looked_at) >= STORE_POLL);

        let mut demand = false;
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
                Verdict::Wait(needs_refresh) => {
                    demand |= needs_refresh;
                    let lifetime = self.live.as_ref().and_then(|live| live.grant.as_ref()?.lifetime);
                    stretch |= matches!(waiter.want, Want::Token { min_validity: Some(min), .. } if exceeds(min, lifetime));
                    self.waiters.push(waiter);
                }
            }
        }
        if look_again && matches!(self.store, StoreState::Closed { .. }) {
            self.store = StoreState::Loading { stale: false };
            effects.push(Effect::Load);
        }
        if self.next_refresh(now, demand).is_some_and(|due| due <= now.boot) {
            effects.extend(self.start_refresh(now, demand, stretch));
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

    fn start_refresh(&mut self, now: &Now, demand: bool, stretch: bool) -> Option<Effect> {
        let live = self.live.as_ref()?;
        let refresh_token = live.refresh_token.clone()?;
        let (sub, left) = (live.sub.clone(), live.ends().map(|ends| ends.since(now.boot)));
        self.count_start(now);
        let attempts = self.trouble.as_ref().map_or(0, |trouble| trouble.attempts);
        let wait = self.trouble.as_ref().map_or(Duration::ZERO, |trouble| trouble.not_before.since(now.boot));
        let note = self.note(Some(fingerprint(&refresh_token)), attempts + 1, wait, now);
        self.noted.clone_from(&note.sent);
        self.notes += 1;
        let urgency = match &self.trouble {
            Some(trouble) if trouble.asks_again => Urgency::Prompt,
            _ if demand => Urgency::Caller,
            _ => Urgency::Planned,
        };
        if let Some(trouble) = &mut self.trouble {
            trouble.asks_again = false;
        }
        self.refresh = Some(InFlight {
            generation: self.generation,
            asked: Asked::at(now),
            sent: refresh_token.clone(),
            stretch,
            logout: false,
            give_up_at: None,
        });
        Some(Effect::Refresh(RefreshOrder {
            refresh_token,
            client_secret: self.client_secret.clone(),
            sub,
            urgency,
            left,
            note,
            note_sequence: self.notes,
        }))
    }

    fn start_write(&mut self, now: &Now) -> Option<Effect> {
        if !self.sync.pending() || self.sync.writing || self.sync.retry_at.is_some_and(|at| now.boot < at) {
            return None;
        }
        self.sync.writing = true;
        let sequence = self.sync.wanted;
        let record = self.live.as_ref().and_then(|live| {
            Some(SessionRecord {
                refresh_token: live.refresh_token.clone()?,
                issuer: self.policy.issuer.clone(),
                client_id: self.policy.client_id.clone(),
                scope: live.scope.clone(),
                subject: live.subject.clone(),
                sub: live.sub.clone(),
                obtained_at: live.obtained_wall,
                obtained_boot: live.obtained.since_boot().as_secs(),
                boot_id: self.policy.boot_id.clone(),
                refresh_lifetime: live.lifetime.map_or(0, |lifetime| lifetime.as_secs()),
                machine: self.policy.machine.clone(),
                sequence,
            })
        });
        Some(Effect::Write { sequence, record })
    }

    /// When the next refresh is due, `None` when none is planned or possible.
    fn next_refresh(&self, now: &Now, demand: bool) -> Option<BootTime> {
        let waits = self.refresh.is_some() || self.held_until.is_some() || self.rereading.is_some();
        if waits || self.sleep_ends(now).is_some() { None } else { self.planned_refresh(now, demand) }
    }

    /// The same, whatever is on its way at the moment.
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
            let forced = self.waiters.iter().any(|waiter| waiter.forces() && waiter.since == self.outcomes);
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
        let demand =
            self.waiters.iter().any(|waiter| matches!(self.verdict(waiter, now), Verdict::Wait(true)));
        let refresh = self.next_refresh(now, demand);
        let waiter = self.waiters.iter().map(|waiter| waiter.deadline).min();
        let write = self.sync.retry_at.filter(|_| self.sync.pending() && !self.sync.writing);
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
        let writing = self.sync.pending() && self.sync.error.is_none() && !late;
        match waiter.want {
            Want::Saved if writing && self.held_until.is_some() => return Verdict::Wait(false),
            Want::Saved => return Verdict::Answer(Ok(Reply::Flag(!self.sync.pending()))),
            Want::LoggedOut if writing || (matches!(self.ending, Ending::Running) && !late) => {
                return Verdict::Wait(false);
            }
            Want::LoggedOut => return Verdict::Answer(self.logged_out_answer()),
            Want::Token { .. } | Want::Renewed { .. } | Want::Refresh => {}
        }
        if self.policy.personal {
            return match &self.store {
                StoreState::Loading { .. } if self.personal.is_none() && !late => Verdict::Wait(false),
                _ => Verdict::Answer(self.personal_answer()),
            };
        }
        let Some(live) = &self.live else {
            return match &self.store {
                StoreState::Loading { .. } if !late => Verdict::Wait(false),
                _ => Verdict::Answer(Err(self.no_session())),
            };
        };
        if self.held_until.is_some() && !late {
            return Verdict::Wait(false);
        }
        let tried = self.outcomes > waiter.since;
        let valid = live.valid_grant(now.boot);
        let settled = match &waiter.want {
            Want::Token { min_validity, force } => valid
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
                .map(|(grant, _)| Ok(Reply::Token(Self::token_reply(live, grant, now)))),
            Want::Renewed { rejected } => match &live.grant {
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
                    Ok(Reply::Token(Self::token_reply(live, grant, now)))
                }
                _ => Err(self.no_session()),
            });
        }
        if self.secret_missing() {
            return match &self.store {
                StoreState::Loading { .. } if !late => Verdict::Wait(false),
                StoreState::Closed { error, .. } => {
                    Verdict::Answer(Err(text::store_closed(&self.policy.account, error)))
                }
                _ => Verdict::Answer(Err(Error::NotConfigured(text::no_client_secret(&self.policy.account)))),
            };
        }
        if let Some(trouble) = &self.trouble {
            let refused =
                trouble.class == Class::Refused && self.refresh.is_none() && (tried || !waiter.forces());
            let gives_up = tried && !matches!(waiter.want, Want::Token { .. });
            if refused || gives_up || (late && self.refresh.is_none()) {
                return Verdict::Answer(Err(self.in_trouble(trouble)));
            }
        }
        if late {
            return Verdict::Answer(Err(Error::Timeout(text::timeout(&self.policy.account))));
        }
        Verdict::Wait(true)
    }

    fn token_reply(live: &Live, grant: &Grant, now: &Now) -> TokenReply {
        let left = grant.expires().map_or(Duration::ZERO, |at| at.since(now.boot));
        TokenReply {
            token: grant.token.clone(),
            expires_at: grant.expires().map_or(0, |at| now.wall_seconds_at(at)),
            expires_in: u32::try_from(left.as_secs()).unwrap_or(u32::MAX),
            scope: live.scope.clone(),
            subject: live.subject.clone(),
            token_id: grant.id.clone(),
            personal: false,
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
                }))
            }
            (None, StoreState::Closed { error, .. }) => Err(text::store_closed(account, error)),
            (None, _) => Err(Error::LoginRequired(text::no_personal_token(account))),
        }
    }

    fn logged_out_answer(&self) -> Answer {
        match &self.sync.error {
            Some(error) if self.sync.pending() => Err(text::still_stored(&self.policy.account, error)),
            _ => Ok(Reply::Flag(matches!(self.ending, Ending::Done(true)))),
        }
    }

    fn in_trouble(&self, trouble: &Trouble) -> Error {
        let account = &self.policy.account;
        match trouble.class {
            Class::Refused => Error::ProviderRefused(text::refused(account, &trouble.message)),
            _ => Error::ProviderUnreachable(text::unreachable(account, &trouble.message)),
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
    fn forces(&self) -> bool {
        matches!(self.want, Want::Token { force: true, .. } | Want::Renewed { .. } | Want::Refresh)
    }
}

/// Whether no token of this lifetime can be `min` away from its end for any time worth having.
pub(super) fn exceeds(min: Duration, lifetime: Option<Duration>) -> bool {
    lifetime.is_some_and(|lifetime| min.saturating_add(schedule::REFRESH_FLOOR) > lifetime)
}
