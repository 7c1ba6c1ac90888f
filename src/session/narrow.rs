//! Narrower tokens: of fewer scopes, or for one audience or resource, beside the session's own.
//!
//! They come out of the same refresh token, and so through the same single refresh at a time (RFC 8707
//! section 2.2). **Invariants:** none replaces the session's own token or answers another wish. What a
//! provider says to such a request never ends or troubles the session: the session's own refresh decides.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::live::{Grant, Live};
use super::schedule::{self, Jitter};
use super::settle::{Awaited, Verdict, exceeds};
use super::state::{InFlight, Reply, Session, Waiter, Want};
use super::text;
use crate::clock::{BootTime, Now};
use crate::config::AudienceBy;
use crate::oidc::error::{Class, ProviderError};
use crate::tokens::{Lifetime, Narrow, TokenResponse};

/// What a provider refused is not asked for again before this.
const REFUSED_REST: Duration = Duration::from_secs(60);
/// The same for what did not come for another reason.
const FAILED_REST: Duration = Duration::from_secs(10);
/// So often a request is sent before its failure is no longer put down to the network.
const TRIES: u32 = 2;

/// The narrower tokens of a session.
#[derive(Clone, Default)]
pub(super) struct NarrowTokens(Vec<Narrowed>);

/// What became of one wish.
#[derive(Clone)]
struct Narrowed {
    wish: Arc<Narrow>,
    grant: Option<Grant>,
    failure: Option<Failure>,
    /// What was granted.
    scope: String,
    /// The number of the outcome that was the last one of this wish.
    outcome: u64,
    used: BootTime,
}

#[derive(Clone)]
struct Failure {
    class: Class,
    message: String,
    tries: u32,
    until: BootTime,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The session's own refresh has to show first whether it is about this wish at all.
    Open,
    /// The network may have caused it: it may be sent again.
    Again,
    Settled,
}

impl NarrowTokens {
    /// Drops what has expired.
    pub(super) fn prune(&mut self, now: BootTime) {
        self.0.retain(|held| {
            let lives = held.grant.as_ref().is_some_and(|grant| grant.remaining(true, now) > Duration::ZERO);
            lives || held.failure.as_ref().is_some_and(|failure| failure.until > now)
        });
    }

    /// The current token of this id, and what it was wished for as.
    pub(super) fn find(&mut self, token_id: &str) -> Option<(Arc<Narrow>, &mut Grant)> {
        self.0.iter_mut().find_map(|held| {
            let grant = held.grant.as_mut().filter(|grant| grant.id == token_id)?;
            Some((Arc::clone(&held.wish), grant))
        })
    }

    fn get(&self, wish: &Narrow) -> Option<&Narrowed> {
        self.0.iter().find(|held| *held.wish == *wish)
    }

    /// The wish's place; what was not used for longest makes room for it.
    fn place(&mut self, wish: &Arc<Narrow>, now: BootTime) -> Option<&mut Narrowed> {
        self.prune(now);
        if !self.0.iter().any(|held| held.wish == *wish) {
            if self.0.len() >= schedule::NARROW_KEPT as usize {
                let oldest = self.0.iter().enumerate().min_by_key(|(_, held)| held.used);
                oldest.map(|(index, _)| index).map(|index| self.0.swap_remove(index));
            }
            let (wish, scope) = (Arc::clone(wish), String::new());
            self.0.push(Narrowed { wish, grant: None, failure: None, scope, outcome: 0, used: now });
        }
        self.0.iter_mut().find(|held| held.wish == *wish)
    }

    fn touch(&mut self, wish: &Narrow, now: BootTime) {
        if let Some(held) = self.0.iter_mut().find(|held| *held.wish == *wish) {
            held.used = now;
        }
    }

    /// The session's own refresh succeeded, so failures in doubt were about their wishes; one that
    /// the network may have caused is worth another try.
    pub(super) fn session_is_well(&mut self) {
        for failure in self.0.iter_mut().filter_map(|held| held.failure.as_mut()) {
            if failure.standing == Standing::Open {
                let again = failure.class != Class::SessionOver && failure.tries < TRIES;
                failure.standing = if again { Standing::Again } else { Standing::Settled };
            }
        }
    }
}

impl Session {
    /// The wish as the session can take it: `None` is its own token.
    ///
    /// # Errors
    /// When the account has no such tokens.
    pub(super) fn wish(
        &mut self,
        wish: Option<Arc<Narrow>>,
        now: &Now,
    ) -> Result<Option<Arc<Narrow>>, Error> {
        let Some(wish) = wish else { return Ok(None) };
        let account = &self.policy.account;
        if self.policy.personal {
            return Err(Error::InvalidOption(text::personal_has_all_rights(account)));
        }
        if !wish.audience.is_empty() && self.policy.audience_by.is_none() {
            return Err(Error::InvalidOption(text::no_audiences(account)));
        }
        if let Some(live) = &mut self.live {
            live.narrow.touch(&wish, now.boot);
            if wish.is_all_of(&live.scope) {
                return Ok(None);
            }
        }
        Ok(Some(wish))
    }

    /// Whether a token for this wish is had in exchange for the session's own (RFC 8693).
    pub(super) fn exchanges(&self, wish: &Narrow) -> bool {
        self.policy.audience_by == Some(AudienceBy::Exchange) && !wish.audience.is_empty()
    }

    /// What a request for a narrower token, or the report of a refused one, can be told now.
    pub(super) fn narrow_verdict(
        &self,
        live: &Live,
        wish: &Arc<Narrow>,
        waiter: &Waiter,
        late: bool,
        now: &Now,
    ) -> Verdict {
        let account = &self.policy.account;
        if !wish.is_within(&live.scope) {
            let text = text::outside_scope(account, &wish.scope, &live.scope);
            return Verdict::Answer(Err(Error::InvalidOption(text)));
        }
        let held = live.narrow.get(wish);
        let answered = held.is_some_and(|held| held.outcome > waiter.since);
        let failing = self.trouble.is_some() && self.own_outcome > waiter.since;
        let tried = answered || failing;
        let failure = held.and_then(|held| held.failure.as_ref()).filter(|failure| failure.until > now.boot);
        let standing = failure.map(|failure| failure.standing);
        let refused = failure.filter(|_| standing == Some(Standing::Settled));
        let open = standing == Some(Standing::Open);
        let valid = held.and_then(|held| {
            let grant = held.grant.as_ref()?;
            let remaining = grant.remaining(live.renewable(), now.boot);
            (remaining >= Duration::from_secs(1)).then_some((held, grant, remaining))
        });
        match (&waiter.want, valid) {
            (Want::Token { min_validity, force, .. }, Some((held, grant, remaining))) => {
                let need = min_validity
                    .unwrap_or_else(|| grant.lifetime.map_or(Duration::ZERO, schedule::default_min_validity));
                let enough = remaining >= need.max(schedule::MIN_VALIDITY_FLOOR)
                    || (grant.stretched && exceeds(need, grant.lifetime))
                    || now.boot.since(grant.obtained) < schedule::REFRESH_FLOOR;
                let fresh = enough && !grant.suspect && (!force || answered);
                // As for the session's own token: what lives is better than nothing (N7).
                let stays = (tried && standing.is_none()) || refused.is_some() || !live.renewable();
                if fresh || stays || late {
                    let reply = Self::token_reply(live, grant, &held.scope, now);
                    return Verdict::Answer(Ok(Reply::Token(reply)));
                }
            }
            (Want::Renewed { rejected, .. }, Some((_, grant, _))) if grant.id != *rejected => {
                return Verdict::Answer(Ok(Reply::Flag(true)));
            }
            (Want::Renewed { .. }, Some(_)) if answered && !open => {
                return Verdict::Answer(Ok(Reply::Flag(false)));
            }
            _ => {}
        }
        if !live.renewable() {
            return Verdict::Answer(Err(match &self.ended {
                Some(_) => self.no_session(),
                None => Error::InvalidOption(text::nothing_to_narrow(account)),
            }));
        }
        if let Some(failure) = refused {
            let text = text::narrow_refused(account, wish, &failure.message);
            return Verdict::Answer(Err(match failure.class {
                Class::Refused | Class::SessionOver | Class::Elsewhere => Error::ProviderRefused(text),
                Class::Unreachable | Class::Ambiguous | Class::Malformed => Error::ProviderUnreachable(text),
            }));
        }
        if let Some(verdict) = self.obstacle(waiter, tried, late) {
            return verdict;
        }
        // While refreshes fail, it is the session's own that is tried.
        if open || self.trouble.is_some() {
            return Verdict::Wait(Awaited::Refresh);
        }
        let on_its_way = self.refresh.as_ref().is_some_and(|flight| flight.narrow.as_ref() == Some(wish));
        if !on_its_way && self.narrow_bucket.is_empty(now.boot) {
            return Verdict::Answer(Err(Error::RateLimited(text::too_many_wishes(account))));
        }
        Verdict::Wait(Awaited::Narrow(Arc::clone(wish)))
    }

    /// A narrower token came, and with it perhaps a new refresh token.
    pub(super) fn narrowed(
        &mut self,
        wish: &Arc<Narrow>,
        response: TokenResponse,
        flight: &InFlight,
        now: &Now,
        jitter: Jitter,
    ) {
        let (outcome, asked) = (self.outcomes, &flight.asked);
        let Some(live) = &mut self.live else { return };
        if !flight.exchange {
            live.take_session(response.refresh_token, response.refresh_expires_in, asked, jitter);
            self.trouble = None;
            self.reread = false;
        }
        // What narrows nothing must not be handed out as if it did.
        let scope = response.scope.unwrap_or_else(|| match wish.scope.as_str() {
            "" => live.scope.clone(),
            scope => scope.to_owned(),
        });
        let problem = if response.expires_in == Lifetime::Over {
            Some("the token has expired already".to_owned())
        } else if wish.is_ignored_by(&scope, &live.scope) {
            Some(format!("it grants {scope:?} all the same"))
        } else {
            None
        };
        if let Some(problem) = problem {
            let error = ProviderError::new(Class::Refused, problem);
            self.wish_failed(wish, &error, now);
            if !flight.exchange {
                self.want_saved(now);
            }
            return;
        }
        let mut grant = Grant::new(response.access_token, response.expires_in.known(), asked, jitter);
        let too_much = |waiter: &Waiter| {
            matches!(&waiter.want, Want::Token { min_validity: Some(min), narrow: Some(narrow), .. }
                if narrow == wish && exceeds(*min, grant.lifetime))
        };
        grant.stretched = self.waiters.iter().any(too_much);
        let mut old = None;
        if let Some(held) = live.narrow.place(wish, now.boot) {
            old = held.grant.replace(grant).map(|grant| grant.id);
            (held.scope, held.failure, held.outcome, held.used) = (scope, None, outcome, now.boot);
        }
        if let Some(old) = old {
            self.remember_old(old);
        }
        tracing::info!(account = %self.policy.account, "a narrower token came");
        if !flight.exchange {
            self.want_saved(now);
        }
    }

    /// The provider did not give a narrower token.
    pub(super) fn wish_failed(&mut self, wish: &Arc<Narrow>, error: &ProviderError, now: &Now) {
        let outcome = self.outcomes;
        let Some(live) = &mut self.live else { return };
        tracing::warn!(account = %self.policy.account, class = ?error.class, error = %error, "no narrower token");
        let Some(held) = live.narrow.place(wish, now.boot) else { return };
        let (standing, rest) = match error.class {
            Class::Refused | Class::Elsewhere => (Standing::Settled, REFUSED_REST),
            // A page of somebody else's; nothing was spent.
            Class::Malformed => (Standing::Settled, FAILED_REST),
            Class::SessionOver => (Standing::Open, REFUSED_REST),
            Class::Unreachable | Class::Ambiguous => (Standing::Open, FAILED_REST),
        };
        let tries = held.failure.as_ref().map_or(0, |failure| failure.tries) + 1;
        let until = now.boot.after(error.retry_after.map_or(rest, |after| after.max(rest)));
        let message = error.message.clone();
        held.failure = Some(Failure { class: error.class, message, tries, until, standing });
        (held.outcome, held.used) = (outcome, now.boot);
    }
}
