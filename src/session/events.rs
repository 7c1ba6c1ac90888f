//! What happens to a session: requests, answers of the provider, and time. [`stored`](super::stored) has the
//! answers of the store, [`interruptions`](super::interruptions) what comes from outside.
//!
//! Each event changes the state, then [`Session::settle`] brings it to rest.

use std::time::Duration;

use super::error::Error;
use super::live::{Asked, Live};
use super::schedule::{self, Jitter};
use super::settle;
use super::state::{
    Effect, Ended, Ending, InFlight, Reply, RequestId, Session, StoreState, TokenOptions, Trouble, Waiter,
    Want,
};
use super::text;
use crate::clock::Now;
use crate::oidc::EndRequest;
use crate::oidc::error::{Class, ProviderError};
use crate::recovery::{Note, fingerprint};
use crate::secret::{AccessToken, ClientSecret, PersonalToken, RefreshToken};
use crate::tokens::{Granted, TokenResponse};

/// Every caller has an answer after this.
pub const CALLER_BUDGET: Duration = Duration::from_secs(15);
/// How long callers wait for the store before they get a token that is not saved yet.
const SAVE_HOLD: Duration = Duration::from_secs(2);
/// A refused client is tried again after this though nothing changed here.
const REFUSED_RETRY: Duration = Duration::from_secs(3600);
/// How many replaced access tokens are remembered for late rejections.
const REMEMBERED_TOKENS: usize = 16;

impl Session {
    /// `GetToken`.
    pub(super) fn get_token(&mut self, id: RequestId, options: TokenOptions, now: &Now) -> Vec<Effect> {
        self.last_asked = Some(now.boot);
        let narrow = match self.wish(options.narrow, now) {
            Ok(narrow) => narrow,
            Err(error) => return vec![Effect::Answer(id, Err(error))],
        };
        let force = options.force_refresh && !self.policy.personal && self.bucket.take(now.boot);
        let min_validity = options.min_validity.or(self.policy.min_validity);
        self.ask(id, Want::Token { min_validity, force, narrow }, now)
    }

    /// `RejectToken`: a caller reports that an API refused this token (or the token of this id).
    pub(super) fn reject(&mut self, id: RequestId, token_id: String, now: &Now) -> Vec<Effect> {
        if self.policy.personal {
            let current = self.personal.as_ref().map(|token| token.as_access_token().id());
            if current.is_some_and(|current| current == token_id) {
                self.personal_refused = true;
            }
            return vec![Effect::Answer(id, Ok(Reply::Flag(false)))];
        }
        let Some(live) = &mut self.live else { return vec![Effect::Answer(id, Ok(Reply::Flag(false)))] };
        let Some((narrow, grant)) = live.find(&token_id) else {
            // Replaced already: whoever reports it late has a newer one to ask for.
            return vec![Effect::Answer(id, Ok(Reply::Flag(self.old_tokens.contains(&token_id))))];
        };
        if !grant.suspect && !self.bucket.take(now.boot) {
            return vec![Effect::Answer(id, Ok(Reply::Flag(false)))];
        }
        grant.suspect = true;
        self.last_asked = Some(now.boot);
        self.ask(id, Want::Renewed { rejected: token_id, narrow }, now)
    }

    /// `Account.Refresh`.
    pub(super) fn refresh_now(&mut self, id: RequestId, now: &Now) -> Vec<Effect> {
        if self.policy.personal {
            let message = text::personal_has_no_session(&self.policy.account);
            return vec![Effect::Answer(id, Err(Error::NoSession(message)))];
        }
        if self.live.as_ref().is_some_and(Live::renewable) && !self.bucket.take(now.boot) {
            let message = text::refresh_limited(&self.policy.account);
            return vec![Effect::Answer(id, Err(Error::RateLimited(message)))];
        }
        self.ask(id, Want::Refresh, now)
    }

    fn ask(&mut self, id: RequestId, want: Want, now: &Now) -> Vec<Effect> {
        let since = self.outcomes;
        self.waiters.push(Waiter { id, want, deadline: now.boot.after(CALLER_BUDGET), since });
        self.settle(now)
    }

    /// The provider ended it (D15): the refresh token goes, the access token serves out its time.
    pub(super) fn end_session(&mut self, error: &ProviderError, now: &Now) -> Option<Effect> {
        let live = self.live.as_mut()?;
        live.refresh_token = None;
        live.keep_alive_at = None;
        let slept = self.slept.as_ref().filter(|sleep| sleep.until >= live.obtained);
        let overdue = live.ends().is_some_and(|ends| now.boot >= ends);
        let (reason, message) =
            text::session_over(&self.policy.account, live.lifetime, slept, overdue, live.doubtful, error);
        tracing::info!(account = %self.policy.account, reason, "the provider ended the session");
        self.ended = Some(Ended { by_provider: true, reason, message });
        self.trouble = None;
        self.advance(now);
        self.noted = None;
        Some(self.write_note(Note::default()))
    }

    /// The refresh has ended.
    pub(super) fn refreshed(
        &mut self,
        result: Result<TokenResponse, ProviderError>,
        now: &Now,
        jitter: Jitter,
    ) -> Vec<Effect> {
        let Some(flight) = self.refresh.take() else { return Vec::new() };
        self.outcomes += 1;
        if flight.narrow.is_none() {
            self.own_outcome = self.outcomes;
        }
        if flight.logout {
            let (rotated, access_token) = match result {
                Ok(response) => (response.refresh_token, Some(response.access_token)),
                Err(error) => (error.salvaged, None),
            };
            let refresh_token = Some(rotated.unwrap_or(flight.sent));
            let mut effects = vec![self.end_at_provider(refresh_token, access_token, flight.servers)];
            effects.extend(self.settle(now));
            return effects;
        }
        if flight.generation != self.generation {
            return self.settle(now);
        }
        let mut effects = Vec::new();
        match result {
            Ok(response) => match &flight.narrow {
                None => self.renewed(response, &flight, now, jitter),
                Some(wish) => self.narrowed(wish, response, &flight, now, jitter),
            },
            Err(error) => effects.extend(self.failed(error, &flight, now, jitter)),
        }
        if let Some(error) = &self.rereading {
            tracing::debug!(account = %self.policy.account, code = error.code, "reading the store again");
            effects.push(Effect::Load);
        }
        effects.extend(self.settle(now));
        effects
    }

    fn renewed(&mut self, response: TokenResponse, flight: &InFlight, now: &Now, jitter: Jitter) {
        let Some(live) = &mut self.live else { return };
        let rotated = response.refresh_token.is_some();
        let old = live.grant.as_ref().map(|grant| grant.id.clone());
        live.take(response, &flight.asked, jitter);
        if let Some(grant) = &mut live.grant {
            let too_much = |waiter: &Waiter| matches!(waiter.want, Want::Token { min_validity: Some(min), narrow: None, .. } if settle::exceeds(min, grant.lifetime));
            grant.stretched = flight.stretch || self.waiters.iter().any(too_much);
        }
        if live.dead_in_row == 0 {
            live.narrow.session_is_well();
        }
        self.trouble = dead_trouble(live.dead_in_row, now);
        if let Some(old) = old {
            self.remember_old(old);
        }
        self.reread = false;
        self.last_refresh = Some(now.boot);
        tracing::info!(account = %self.policy.account, rotated, "refreshed");
        // An unchanged refresh token is saved too: its deadlines moved.
        self.want_saved(now);
    }

    fn failed(
        &mut self,
        error: ProviderError,
        flight: &InFlight,
        now: &Now,
        jitter: Jitter,
    ) -> Option<Effect> {
        if let (Some(token), Some(live)) = (&error.salvaged, &mut self.live) {
            live.refresh_token = Some(token.clone());
            self.want_saved(now);
        }
        if let (Class::Ambiguous, Some(live), false) = (error.class, &mut self.live, flight.exchange) {
            live.doubtful = true;
        }
        // Whatever was wanted of the provider: it is not where the session is from.
        if let (Some(wish), false) = (&flight.narrow, error.class == Class::Elsewhere) {
            self.wish_failed(wish, &error, now);
            if !matches!(error.class, Class::Unreachable | Class::Ambiguous) {
                let doubtful = self.live.as_ref().is_some_and(|live| live.doubtful);
                let note = self.note(doubtful.then(|| fingerprint(&flight.sent)), 0, Duration::ZERO, now);
                return Some(self.write_note(note));
            }
            self.own_outcome = self.outcomes;
        }
        if error.class == Class::SessionOver {
            if self.reread {
                self.reread = false;
                return self.end_session(&error, now);
            }
            self.rereading = Some(error);
            return None;
        }
        let (attempts, prompted) =
            self.trouble.as_ref().map_or((0, false), |trouble| (trouble.attempts, trouble.prompted));
        let prompt = error.class == Class::Ambiguous && !prompted;
        let left = self.live.as_ref().and_then(Live::ends).map(|ends| ends.since(now.boot));
        let wait = match error.class {
            // One prompt retry: several providers repeat their answer for a short while (D8).
            Class::Ambiguous if prompt => Duration::from_millis(500).mul_f64(1.0 + jitter.0),
            Class::Refused | Class::Elsewhere => REFUSED_RETRY,
            _ => schedule::backoff(attempts, left, jitter),
        };
        let not_before = error
            .retry_after
            .map_or(now.boot, |after| now.boot.after(after.mul_f64(0.1_f64.mul_add(jitter.0, 1.0))));
        match attempts {
            0 => {
                tracing::warn!(account = %self.policy.account, class = ?error.class, error = %error, "refresh failed");
            }
            // Said once more when it is no hiccup (N20), and then tried quietly.
            5 => {
                tracing::warn!(account = %self.policy.account, class = ?error.class, error = %error, "refresh failed six times in a row; it is tried again by itself");
            }
            _ => {
                tracing::debug!(account = %self.policy.account, class = ?error.class, error = %error, attempts, "refresh failed");
            }
        }
        self.trouble = Some(Trouble {
            class: error.class,
            reason: text::trouble_reason(&error),
            message: error.message,
            attempts: attempts + 1,
            prompted: prompted || prompt,
            asks_again: prompt,
            retry_at: now.boot.after(wait).max(not_before),
            not_before,
            told: not_before,
            last_attempt: now.boot,
        });
        // Whether it was spent is open until there is an answer.
        let doubtful = self.live.as_ref().is_some_and(|live| live.doubtful);
        let sent = doubtful.then(|| fingerprint(&flight.sent));
        let counted = if error.class.needs_a_person() { 0 } else { attempts + 1 };
        let note = self.note(sent, counted, not_before.since(now.boot), now);
        Some(self.write_note(note))
    }

    /// Remembers a replaced access token for late rejections.
    pub(super) fn remember_old(&mut self, token_id: String) {
        self.old_tokens.insert(0, token_id);
        self.old_tokens.truncate(REMEMBERED_TOKENS);
    }

    pub(super) fn want_saved(&mut self, now: &Now) {
        self.advance(now);
        self.sync.retry_at = None;
        self.sync.attempts = 0;
        if self.live.as_ref().is_some_and(Live::renewable) {
            self.held_until = Some(now.boot.after(SAVE_HOLD));
        }
    }

    /// A login succeeded; the request is answered once the session is saved, or after two seconds.
    /// Another user's login is never merged into the account: its tokens are given back (H11).
    pub(super) fn logged_in(
        &mut self,
        id: RequestId,
        granted: Granted,
        asked: &Asked,
        now: &Now,
        jitter: Jitter,
    ) -> Vec<Effect> {
        if let Some(old) = self.live.as_ref().filter(|live| live.is_another(&granted)) {
            let text = text::other_user(&self.policy.account, &old.subject, &granted.subject);
            let mut effects = vec![Effect::Answer(id, Err(Error::LoginFailed(text)))];
            let TokenResponse { refresh_token, access_token, servers, .. } = granted.tokens;
            effects.push(self.end_at_provider(refresh_token, Some(access_token), servers));
            return effects;
        }
        let mut live = Live::from_login(granted.tokens, asked, &self.policy.scope, jitter);
        live.subject = granted.subject;
        live.sub = granted.sub;
        live.key = granted.key;
        let trouble = dead_trouble(live.dead_in_row, now);
        self.live = Some(live);
        self.leaving = false;
        self.generation += 1;
        self.ended = None;
        self.trouble = trouble;
        self.reread = false;
        self.rereading = None;
        self.last_refresh = Some(now.boot);
        // Somebody who logs in is about to ask.
        self.last_asked = Some(now.boot);
        self.want_saved(now);
        self.ask(id, Want::Saved, now)
    }

    /// A login failed at the token endpoint. A refused client will be refused again, so callers are told
    /// that instead of being sent to log in; a session that works is not harmed.
    pub(super) fn login_failed(&mut self, error: &ProviderError, now: &Now) -> Vec<Effect> {
        if error.class == Class::Refused && self.live.is_none() {
            let retry_at = now.boot.after(REFUSED_RETRY);
            self.trouble = Some(Trouble {
                class: error.class,
                reason: text::trouble_reason(error),
                message: error.message.clone(),
                attempts: 1,
                prompted: true,
                asks_again: false,
                retry_at,
                not_before: retry_at,
                told: retry_at,
                last_attempt: now.boot,
            });
        }
        self.settle(now)
    }

    /// `Logout`: the session is gone here at once, whatever the provider says (F1).
    pub(super) fn logout(&mut self, id: RequestId, now: &Now) -> Vec<Effect> {
        let live = self.live.take();
        // What was read before may arrive after the removal.
        self.leaving = !matches!(self.store, StoreState::Loaded) || self.rereading.is_some();
        self.trouble = None;
        self.rereading = None;
        self.held_until = None;
        self.ended = None;
        // Also without a session: a stored one may be behind a locked keyring.
        self.advance(now);
        self.sync.retry_at = None;
        self.noted = None;
        let mut effects = vec![self.write_note(Note::default())];
        let current = self.generation;
        self.generation += 1;
        let (refresh_token, access_token, servers) = match live {
            Some(live) => (live.refresh_token, live.grant.map(|grant| grant.token), live.servers),
            None => (None, None, String::new()),
        };
        match &mut self.refresh {
            // One that belongs to an earlier login says nothing about this one.
            Some(flight) if refresh_token.is_some() && flight.generation == current => {
                flight.logout = true;
                self.ending = Ending::Running;
            }
            _ if refresh_token.is_some() || access_token.is_some() => {
                self.ending = Ending::Running;
                effects.push(self.end_at_provider(refresh_token, access_token, servers));
            }
            _ if matches!(self.ending, Ending::Running) => {}
            _ => self.ending = Ending::Done(false),
        }
        effects.extend(self.ask(id, Want::LoggedOut, now));
        effects
    }

    pub(super) fn end_at_provider(
        &self,
        refresh_token: Option<RefreshToken>,
        access_token: Option<AccessToken>,
        servers: String,
    ) -> Effect {
        let stored_secret = self.client_secret.clone();
        Effect::EndSession(EndRequest { refresh_token, access_token, stored_secret, servers })
    }

    /// The provider answered, or not, to the end of a session.
    pub(super) fn ended_at_provider(&mut self, ended: bool, now: &Now) -> Vec<Effect> {
        self.ending = Ending::Done(ended);
        self.settle(now)
    }

    /// A client secret was stored or removed.
    pub(super) fn client_secret_set(&mut self, secret: Option<ClientSecret>, now: &Now) -> Vec<Effect> {
        self.client_secret = secret;
        self.secrets_set = true;
        // Whether the new one is accepted is worth knowing now.
        self.try_refused(now);
        // Some providers refuse a client without a word that says so: what looked broken may have been that.
        if let Some(trouble) = self.trouble.as_mut().filter(|trouble| trouble.class == Class::Malformed) {
            trouble.retry_at = now.boot.max(trouble.not_before);
        }
        self.settle(now)
    }

    /// A personal token was stored or removed.
    pub(super) fn personal_token_set(&mut self, token: Option<PersonalToken>, now: &Now) -> Vec<Effect> {
        self.personal = token;
        self.secrets_set = true;
        self.personal_refused = false;
        self.settle(now)
    }

    /// The keyring's prompt is shown (`None`), or has ended, with the keyring open or not.
    pub(super) fn unlocking(&mut self, opened: Option<bool>) {
        self.unlock_failed = opened == Some(false);
    }

    /// A deadline may have passed. Early and late calls are harmless.
    pub(super) fn handle_timeout(&mut self, now: &Now) -> Vec<Effect> {
        self.settle(now)
    }
}

/// Answers that bring access tokens which are over already: asked once more, then left (M4, K21).
fn dead_trouble(in_row: u32, now: &Now) -> Option<Trouble> {
    let (class, retry) = match in_row {
        0 => return None,
        1 => (Class::Malformed, schedule::REFRESH_FLOOR),
        _ => (Class::Refused, REFUSED_RETRY),
    };
    Some(Trouble {
        class,
        message: String::new(),
        reason: text::DEAD_TOKEN,
        attempts: in_row,
        prompted: true,
        asks_again: false,
        retry_at: now.boot.after(retry),
        not_before: now.boot.after(retry),
        told: now.boot.after(retry),
        last_attempt: now.boot,
    })
}
