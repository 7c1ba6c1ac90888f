//! Who asks, who may, and what came of it.
//!
//! [`caller`] says what a peer of the bus is, `process` reads that from /proc. [`policy`] decides by the
//! account's rules, [`consent`] knows what the user has answered, `pause` stops everything. [`log`] remembers
//! what was done for whom and `journal` tells the journal.
//!
//! **Invariant:** the boundary is the uid. What is known of a sandboxed program was written by its sandbox;
//! what is known of any other program of the user that program may have arranged.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::account::AccountName;
use crate::clock::Clock;
use crate::config::AccountConfig;
use caller::Caller;
use consent::{Answer, Consent, Known, Permission};
use journal::Journal;
use log::{Entry, Event, LastUse, Log};
use pause::Pause;
use policy::Verdict;

pub mod caller;
pub mod consent;
pub(crate) mod journal;
pub mod log;
mod pause;
pub mod policy;
pub(crate) mod process;

/// What is known of callers, and what they may, for the whole daemon.
pub struct Access {
    clock: Clock,
    log: Mutex<Log>,
    logged: Notify,
    journal: Journal,
    consent: Mutex<Consent>,
    permissions: Arc<consent::File>,
    /// One writer at a time, the last one with the last word.
    writing: tokio::sync::Mutex<()>,
    /// A lasting answer was given, and is not written yet.
    unwritten: AtomicBool,
    pause: Pause,
}

/// What holds for a request.
pub(crate) enum Ruling {
    Go,
    /// Why not.
    Refuse(String),
    /// The user is asked; for `each` use anew.
    Ask {
        each: bool,
    },
}

impl Access {
    /// `state` is the user's state folder; what was answered before is read from below it.
    #[must_use]
    pub fn new(clock: Clock, state: &Path) -> Self {
        let permissions = consent::File::below(state);
        Self {
            clock,
            log: Mutex::default(),
            logged: Notify::new(),
            journal: Journal::open(),
            consent: Mutex::new(Consent::with(permissions.read())),
            permissions: Arc::new(permissions),
            writing: tokio::sync::Mutex::default(),
            unwritten: AtomicBool::new(false),
            pause: Pause::below(state),
        }
    }

    /// What holds for this request, by the account's rules and while paused.
    pub(crate) fn rule(&self, account: &AccountConfig, caller: &Caller, event: Event) -> Ruling {
        if let Err(why) = self.admit(caller) {
            return Ruling::Refuse(why);
        }
        if matches!(event, Event::Token | Event::Proof)
            && let Some(why) = self.pause.why()
        {
            return Ruling::Refuse(why.to_owned());
        }
        let decision = account.rules.decide(caller);
        match decision.verdict {
            Verdict::Allow if event == Event::Token && account.rules.confirm => Ruling::Ask { each: true },
            Verdict::Allow => Ruling::Go,
            Verdict::Ask => Ruling::Ask { each: event == Event::Token && account.rules.confirm },
            Verdict::Deny => {
                let rule = decision.rule.map_or("", |rule| rule.text.as_str());
                Ruling::Refuse(format!(
                    "{} may not use {:?}: its rule for {rule:?} denies it; change the rule and run: bearerctl reload",
                    caller.id,
                    account.name.as_str()
                ))
            }
        }
    }

    /// What the user has answered about the caller, if anything.
    pub(crate) fn look(&self, account: &AccountName, caller: &Caller, each: bool) -> Known {
        self.consent().look(self.clock.now().boot, account, caller, each)
    }

    /// Takes the user's answer.
    pub(crate) async fn answered(&self, account: &AccountName, caller: &Caller, answer: Answer) {
        let now = self.clock.now();
        tracing::info!(%account, %caller, ?answer, "the user was asked about a caller");
        let lasting = self.consent().answered(now.boot, now.wall.as_secs(), account, caller, answer);
        if lasting {
            self.unwritten.store(true, Ordering::Relaxed);
            self.write_permissions().await;
        }
    }

    /// The lasting answers.
    pub(crate) fn permissions(&self) -> Vec<Permission> {
        self.consent().lasting().to_vec()
    }

    /// Forgets what was answered about this caller and account; whether there was anything.
    pub(crate) async fn forget(&self, account: &str, caller: &str) -> bool {
        let known = self.consent().forget(account, caller);
        if known {
            self.unwritten.store(true, Ordering::Relaxed);
            self.write_permissions().await;
        }
        known
    }

    async fn write_permissions(&self) {
        let _one = self.writing.lock().await;
        if !self.unwritten.swap(false, Ordering::Relaxed) {
            return;
        }
        let (file, permissions) = (Arc::clone(&self.permissions), self.permissions());
        let written = tokio::task::spawn_blocking(move || file.write(&permissions)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "permissions cannot be saved; they hold until bearerd ends");
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.pause.why().is_some()
    }

    /// The screen is locked, or not any more; whether that is news.
    pub(crate) fn set_locked(&self, locked: bool) -> bool {
        let news = self.pause.lock(locked);
        if news {
            tracing::info!(locked, "the screen");
        }
        news
    }

    /// Hands nothing out, or does so again; through restarts, too.
    pub(crate) async fn set_paused(&self, paused: bool) {
        let _one = self.writing.lock().await;
        self.pause.set(paused).await;
        tracing::info!(paused, "handing out");
    }

    /// Whether the caller may talk to us at all.
    ///
    /// # Errors
    /// Why not: it is another user's.
    pub(crate) fn admit(&self, caller: &Caller) -> Result<(), String> {
        let own = rustix::process::getuid().as_raw();
        if caller.uid == own {
            return Ok(());
        }
        Err(format!(
            "you are uid {}, and this bearerd serves uid {own} alone; run it as that user",
            caller.uid
        ))
    }

    /// Whether the caller may see and change who may.
    ///
    /// # Errors
    /// Why not: it is sandboxed.
    pub(crate) fn admit_to_control(&self, caller: &Caller) -> Result<(), String> {
        if caller.kind.is_sandboxed() {
            return Err(format!("{} is sandboxed; run bearerctl outside of it", caller.id));
        }
        Ok(())
    }

    /// Notes what came of a request: `granted`, or the word of an error.
    pub fn note(
        &self,
        event: Event,
        account: &AccountName,
        caller: &Arc<Caller>,
        outcome: &'static str,
        expires: u64,
    ) {
        let now = self.clock.now().wall.as_secs();
        let told = self.log().note(now, event, account, caller, outcome, expires);
        for entry in told {
            self.journal.tell(&entry);
        }
        self.logged.notify_waiters();
    }

    /// What has changed in the log since the change of this number, and the number of its last one.
    pub(crate) fn read_log(&self, after: u64) -> (u64, Vec<Entry>) {
        self.log().since(after)
    }

    /// Waits until there is something after the change of this number.
    pub(crate) async fn logged_after(&self, after: u64) {
        loop {
            let logged = self.logged.notified();
            tokio::pin!(logged);
            // Before the look, or a change between the two would be missed.
            logged.as_mut().enable();
            if self.log().changes() > after {
                return;
            }
            logged.await;
        }
    }

    /// By account: who was last given a token.
    pub(crate) fn last_used(&self) -> Vec<(AccountName, LastUse)> {
        self.log().last_used()
    }

    /// Brings to an end what is still under way: answers to be written, and what has only been counted so far.
    pub async fn close(&self) {
        self.write_permissions().await;
        for entry in self.log().untold() {
            self.journal.tell(&entry);
        }
    }

    fn consent(&self) -> MutexGuard<'_, Consent> {
        self.consent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::caller::Kind;
    use super::*;

    fn caller(uid: u32, kind: Kind) -> Caller {
        Caller::new(kind, uid, 7, "/usr/bin/x".to_owned(), "", String::new())
    }

    /// R7: root too, where the bus lets it in.
    #[tokio::test]
    async fn another_users_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let access = Access::new(Clock::system().unwrap(), folder.path());
        let own = rustix::process::getuid().as_raw();

        assert_eq!(access.admit(&caller(own, Kind::Host)), Ok(()));
        let why = access.admit(&caller(own + 1, Kind::Host)).unwrap_err();
        assert!(why.starts_with(&format!("you are uid {}, ", own + 1)), "{why}");
        assert!(access.admit(&caller(own.wrapping_sub(1), Kind::Host)).is_err());
    }

    /// A sandboxed program can't lift its own limits, nor see what others do.
    #[tokio::test]
    async fn a_sandboxed_program_sees_and_changes_nothing_about_access() {
        let folder = tempfile::tempdir().unwrap();
        let access = Access::new(Clock::system().unwrap(), folder.path());
        let own = rustix::process::getuid().as_raw();

        assert!(access.admit_to_control(&caller(own, Kind::Host)).is_ok());
        for kind in [Kind::Flatpak("org.x.Y".into()), Kind::Snap("x".into()), Kind::Hidden("it has ended")] {
            assert!(access.admit_to_control(&caller(own, kind)).is_err());
        }
    }
}
