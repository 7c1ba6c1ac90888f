//! What the store says, and what a session makes of it.

use std::time::Duration;

use super::live::Live;
use super::schedule::{self, Jitter};
use super::state::{Effect, Ended, Ending, Session, StoreState};
use super::text;
use crate::clock::Now;
use crate::oidc::error::{Class, ProviderError};
use crate::secret::{ClientSecret, PersonalToken};
use crate::store::{Loaded, SessionRecord, StoreError};

impl Session {
    /// The store was read.
    pub(super) fn loaded(&mut self, result: Result<Loaded, StoreError>, now: &Now) -> Vec<Effect> {
        if let Some(error) = self.rereading.take() {
            let mut effects: Vec<Effect> = self.believe_or_adopt(&error, result, now).into_iter().collect();
            effects.extend(self.settle(now));
            return effects;
        }
        if std::mem::take(&mut self.sync.checking) {
            self.compare_stored(result, now);
            return self.settle(now);
        }
        let mut effects = Vec::new();
        match result {
            Ok(loaded) => {
                self.store = StoreState::Loaded;
                self.take_secrets(loaded.client_secret, loaded.personal_token);
                let leaving = std::mem::take(&mut self.leaving);
                match loaded.session {
                    Some(record) if leaving && self.is_newer_than_left(&record) => self.adopt(&record, now),
                    Some(record) if leaving => effects.extend(self.leave(record)),
                    Some(record) if self.live.is_none() && !self.sync.pending() => self.adopt(&record, now),
                    Some(record) if self.sync.pending() => self.reconcile(&record, now),
                    stored if self.inherited => self.save_if_another(stored.as_ref()),
                    _ => {}
                }
            }
            // What was seen may be over already.
            Err(_) if matches!(self.store, StoreState::Loading { stale: true }) => {
                self.store = StoreState::Loading { stale: false };
                effects.push(Effect::Load);
            }
            Err(error) => self.store = StoreState::Closed { error, looked_at: now.boot },
        }
        effects.extend(self.settle(now));
        effects
    }

    /// Gives what is to be stored next its number. It is newer than what was stored before, also while nobody has seen the
    /// number of that: then it is the wall clock's seconds, which no session's count of its saves comes up to.
    pub(super) fn advance(&mut self, now: &Now) {
        let next = self.sync.wanted + 1;
        let known = matches!(self.store, StoreState::Loaded);
        self.sync.wanted = if known { next } else { next.max(now.wall.as_secs()) };
    }

    /// What was set or removed in this process is newer than what a look at the store brings.
    fn take_secrets(&mut self, client_secret: Option<ClientSecret>, personal: Option<PersonalToken>) {
        if !self.secrets_set {
            self.client_secret = client_secret.or(self.client_secret.take());
            self.personal = personal.or(self.personal.take());
        }
    }

    /// Finds what was logged out of before it was known: it is removed, and ended at the provider.
    fn leave(&mut self, record: SessionRecord) -> Option<Effect> {
        self.sync.wanted = self.sync.wanted.max(record.sequence) + 1;
        let ours = record.issuer == self.policy.issuer
            && record.client_id == self.policy.client_id
            && record.machine == self.policy.machine;
        if !ours || !matches!(self.ending, Ending::Done(false)) {
            return None;
        }
        self.ending = Ending::Running;
        Some(self.end_at_provider(Some(record.refresh_token), None, record.servers))
    }

    /// Takes a stored session, unless it is another client's another host's, or bound otherwise than
    /// configured (F9, D13, J6).
    pub(super) fn adopt(&mut self, record: &SessionRecord, now: &Now) {
        let account = &self.policy.account;
        if record.issuer != self.policy.issuer || record.client_id != self.policy.client_id {
            let message = text::other_client(account);
            self.ended = Some(Ended { by_provider: false, reason: "other-client", message });
        } else if record.machine != self.policy.machine {
            let message = text::other_host(account);
            self.ended = Some(Ended { by_provider: false, reason: "other-host", message });
        } else if record.key.is_some() != self.policy.dpop {
            let message = text::otherwise_bound(account);
            self.ended = Some(Ended { by_provider: false, reason: "dpop-changed", message });
        } else {
            self.live = Some(Live::from_record(record, &self.policy.boot_id, now));
            self.ended = None;
            // That of a login; what is stored was good for another one.
            self.trouble.take_if(|trouble| trouble.class == Class::Refused);
            self.generation += 1;
            self.compare_note(now);
        }
        self.sync.wanted = self.sync.wanted.max(record.sequence);
        self.sync.done = self.sync.wanted;
    }

    /// Whether a login was saved since the last process left a removal undone.
    fn is_newer_than_left(&self, stored: &SessionRecord) -> bool {
        self.left_unsaved.is_some_and(|left| left == self.sync.wanted && stored.sequence > left)
    }

    /// The store was read, while an unsaved session of the last process, or of ours, waits for it.
    pub(super) fn reconcile(&mut self, stored: &SessionRecord, now: &Now) {
        match self.left_unsaved.take().filter(|left| *left == self.sync.wanted) {
            // It was saved, and the end came before that was noted.
            Some(left) if stored.sequence == left => self.sync.done = left,
            Some(left) if stored.sequence > left && self.refresh.is_none() => self.adopt(stored, now),
            // Ours is newer, so it must be numbered higher.
            _ => self.sync.wanted = self.sync.wanted.max(stored.sequence + 1),
        }
    }

    fn believe_or_adopt(
        &mut self,
        error: &ProviderError,
        stored: Result<Loaded, StoreError>,
        now: &Now,
    ) -> Option<Effect> {
        let ours = self.live.as_ref().and_then(|live| live.refresh_token.clone());
        let newer = stored.ok().and_then(|loaded| loaded.session).filter(|record| {
            Some(&record.refresh_token) != ours.as_ref()
                && record.sequence >= self.sync.wanted
                && !self.sync.pending()
        });
        match newer {
            Some(record) => {
                let grant = self.live.take().and_then(|live| live.grant);
                self.adopt(&record, now);
                if let Some(live) = &mut self.live {
                    live.grant = grant;
                    live.keep_alive_at = Some(now.boot);
                }
                self.reread = true;
            }
            None => return self.end_session(error, now),
        }
        None
    }

    /// What was saved and is there no longer is saved again; what a keyring held that was closed before is taken.
    fn compare_stored(&mut self, stored: Result<Loaded, StoreError>, now: &Now) {
        let Ok(loaded) = stored else { return };
        self.take_secrets(loaded.client_secret, loaded.personal_token);
        if self.live.is_none() {
            // Not a copy of a session that has ended here.
            let untouched = self.generation == 0 && !self.sync.pending();
            if let Some(record) =
                loaded.session.filter(|record| untouched && record.sequence > self.sync.wanted)
            {
                self.adopt(&record, now);
            }
            return;
        }
        self.save_if_older(loaded.session.as_ref());
    }

    /// What the predecessor had is newer than what another store has, whatever the numbers say.
    fn save_if_another(&mut self, stored: Option<&SessionRecord>) {
        let ours = self.live.as_ref().and_then(|live| live.refresh_token.as_ref());
        if ours.is_some() && !self.sync.pending() && stored.map(|record| &record.refresh_token) != ours {
            self.sync.wanted = self.sync.wanted.max(stored.map_or(0, |record| record.sequence)) + 1;
        }
    }

    /// What is saved is saved again where it is missing.
    fn save_if_older(&mut self, stored: Option<&SessionRecord>) {
        let renewable = self.live.as_ref().is_some_and(Live::renewable);
        let older = stored.is_none_or(|record| record.sequence < self.sync.done);
        if renewable && older && !self.sync.pending() {
            tracing::warn!(account = %self.policy.account, "the store does not have the session; saving it again");
            self.sync.wanted += 1;
        }
    }

    /// A write of the session ended.
    pub(super) fn written(
        &mut self,
        sequence: u64,
        result: Result<(), StoreError>,
        now: &Now,
        jitter: Jitter,
    ) -> Vec<Effect> {
        self.sync.writing = false;
        let mut effects = Vec::new();
        match result {
            Ok(()) => {
                self.sync.done = self.sync.done.max(sequence);
                self.sync.attempts = 0;
                self.sync.retry_at = None;
                self.sync.error = None;
                if !self.sync.pending() {
                    self.held_until = None;
                    if self.noted.take().is_some() {
                        let note = self.note(None, 0, Duration::ZERO, now);
                        effects.push(self.write_note(note));
                    }
                }
            }
            Err(error) => {
                tracing::warn!(account = %self.policy.account, %error, "cannot write the session to the store");
                self.sync.error = Some(error);
                self.sync.failed = sequence;
                // What is newer has its own try first.
                if sequence == self.sync.wanted {
                    let wait = schedule::backoff(self.sync.attempts + 2, None, jitter);
                    self.sync.attempts += 1;
                    self.sync.retry_at = Some(now.boot.after(wait));
                    // Nothing more to wait for.
                    self.held_until = None;
                }
            }
        }
        effects.extend(self.settle(now));
        effects
    }

    /// The store may have become available, locked or absent.
    pub(super) fn store_changed(&mut self, now: &Now) -> Vec<Effect> {
        self.sync.retry_at = None;
        let mut effects = Vec::new();
        match &mut self.store {
            StoreState::Closed { .. } => {
                self.store = StoreState::Loading { stale: false };
                effects.push(Effect::Load);
            }
            StoreState::Loading { stale } => *stale = true,
            // One that was restarted may have forgotten what it acknowledged; one of several keyrings may have
            // been opened, or another made the default one.
            StoreState::Loaded if !self.sync.checking => {
                self.sync.checking = true;
                effects.push(Effect::Load);
            }
            StoreState::Loaded => {}
        }
        effects.extend(self.settle(now));
        effects
    }
}
