//! What the user has answered about callers: pure, apart from the one file with the lasting answers.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::caller::{Caller, Kind};
use crate::account::AccountName;
use crate::clock::BootTime;

/// How long a refusal saves the user from being asked the same again.
const REFUSED: Duration = Duration::from_secs(600);
/// How long a yes waits for its caller to come back.
const CREDIT: Duration = Duration::from_secs(120);
/// The most questions that are open at once: no program can fill the screen with them.
const MOST_ASKED: usize = 4;

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Once,
    Always,
    /// For good, and the desktop's own memory has it.
    Kept,
    Denied,
    /// Closed without an answer.
    Dismissed,
    /// Nobody was there.
    Unanswered,
    /// There is nobody to ask: no notification server, or one without buttons.
    NobodyToAsk,
}

/// Whose use of which account.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    account: AccountName,
    caller: Arc<str>,
    /// Of a caller that could not be looked at: all such have one name, and an answer about one must not serve
    /// the next.
    process: Option<u32>,
}

impl Key {
    fn new(account: &AccountName, caller: &Caller) -> Self {
        let process = matches!(caller.kind, Kind::Hidden(_)).then_some(caller.pid);
        Self { account: account.clone(), caller: Arc::clone(&caller.id), process }
    }

    fn is(&self, account: &str, caller: &str) -> bool {
        self.account.as_str() == account && *self.caller == *caller
    }
}

/// A lasting answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    pub account: String,
    /// As [`super::caller::Caller::id`].
    pub caller: String,
    /// Seconds since the Unix epoch.
    pub since: u64,
}

/// Where the end of a question is told.
pub(crate) type Asking = watch::Receiver<Option<Answer>>;

/// What is known about a question.
pub(crate) enum Known {
    Allowed,
    Refused(Answer),
    /// It is asked already.
    Asked(Asking),
    /// So much is asked already that this has to wait.
    Crowded,
    /// It is the caller's to ask, and to tell the answer to [`Consent::answered`].
    New(Asking),
}

/// All answers.
#[derive(Default)]
pub(crate) struct Consent {
    lasting: Vec<Permission>,
    refused: HashMap<Key, (Answer, BootTime)>,
    credits: HashMap<Key, BootTime>,
    asking: HashMap<Key, Open>,
}

/// A question that is not answered yet.
struct Open {
    told: watch::Sender<Option<Answer>>,
    /// A yes is for one use, however many wait for it.
    each: bool,
}

impl Consent {
    pub(crate) fn with(lasting: Vec<Permission>) -> Self {
        Self { lasting, ..Self::default() }
    }

    /// What is known; `each` asks for each use, whatever was allowed for good. Then a yes is no more than leave to look
    /// again: the first to do so has it.
    pub(crate) fn look(
        &mut self,
        now: BootTime,
        account: &AccountName,
        caller: &Caller,
        each: bool,
    ) -> Known {
        let key = Key::new(account, caller);
        // Nothing lasts for whom nobody knows.
        let lasts = |known: &Permission| key.process.is_none() && key.is(&known.account, &known.caller);
        if !each && self.lasting.iter().any(lasts) {
            return Known::Allowed;
        }
        self.refused.retain(|_, (_, until)| *until > now);
        self.credits.retain(|_, until| *until > now);
        if let Some((answer, _)) = self.refused.get(&key) {
            return Known::Refused(*answer);
        }
        if self.credits.remove(&key).is_some() {
            return Known::Allowed;
        }
        if let Some(open) = self.asking.get(&key) {
            return Known::Asked(open.told.subscribe());
        }
        // Each process that cannot be looked at is asked about anew, so one of an account at a time.
        let unknown = |other: &Key| other.process.is_some() && other.account == key.account;
        if self.asking.len() >= MOST_ASKED || (key.process.is_some() && self.asking.keys().any(unknown)) {
            return Known::Crowded;
        }
        let (told, receiver) = watch::channel(None);
        self.asking.insert(key, Open { told, each });
        Known::New(receiver)
    }

    /// Takes an answer; whether the lasting ones have changed.
    pub(crate) fn answered(
        &mut self,
        now: BootTime,
        wall: u64,
        account: &AccountName,
        caller: &Caller,
        answer: Answer,
    ) -> bool {
        let key = Key::new(account, caller);
        let open = self.asking.remove(&key);
        let waits = open.is_some_and(|open| open.told.send(Some(answer)).is_ok() && !open.each);
        match answer {
            Answer::Once if waits => {}
            Answer::Once => drop(self.credits.insert(key, now.after(CREDIT))),
            Answer::Always => {
                let (account, caller) = (account.to_string(), caller.id.to_string());
                self.lasting.push(Permission { account, caller, since: wall });
                return true;
            }
            // One is the desktop's to remember. The other may come at any moment, and to ask for it disturbs nobody.
            Answer::Kept | Answer::NobodyToAsk => {}
            Answer::Denied | Answer::Dismissed | Answer::Unanswered => {
                self.refused.insert(key, (answer, now.after(REFUSED)));
            }
        }
        false
    }

    pub(crate) fn lasting(&self) -> &[Permission] {
        &self.lasting
    }

    /// Forgets every answer about this caller and account, refusals too; whether there was one.
    pub(crate) fn forget(&mut self, account: &str, caller: &str) -> bool {
        let before = self.lasting.len() + self.refused.len() + self.credits.len();
        self.lasting.retain(|known| known.account != account || known.caller != caller);
        self.refused.retain(|key, _| !key.is(account, caller));
        self.credits.retain(|key, _| !key.is(account, caller));
        before != self.lasting.len() + self.refused.len() + self.credits.len()
    }
}

/// The file with the lasting answers; it holds no secret.
pub(crate) struct File {
    path: PathBuf,
}

impl File {
    /// `folder` is below the user's state folder, and is made when there is something to write.
    pub(crate) fn below(folder: &std::path::Path) -> Self {
        Self { path: folder.join("access").join("permissions.json") }
    }

    /// None when there is no file; one that cannot be read is set aside, not written over.
    pub(crate) fn read(&self) -> Vec<Permission> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::warn!(%error, file = %self.path.display(), "permissions cannot be read; you are asked again");
                return Vec::new();
            }
        };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            let aside = self.path.with_extension("json.bad");
            let _ = std::fs::rename(&self.path, &aside);
            tracing::warn!(%error, file = %aside.display(), "these permissions make no sense; you are asked again");
            Vec::new()
        })
    }

    /// Whole or not at all.
    pub(crate) fn write(&self, permissions: &[Permission]) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let new = self.path.with_extension("json.new");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(permissions)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_duration(Duration::from_secs(seconds))
    }

    fn caller(kind: Kind, pid: u32) -> Caller {
        Caller::new(kind, 1000, pid, String::new(), "", String::new())
    }

    fn asked(known: Known) -> Asking {
        match known {
            Known::New(asking) => asking,
            Known::Allowed | Known::Refused(_) | Known::Asked(_) | Known::Crowded => {
                panic!("it was not asked")
            }
        }
    }

    #[test]
    fn one_question_at_a_time_and_each_answer_holds_as_long_as_it_should() {
        let work = AccountName::parse("work").unwrap();
        let mail = caller(Kind::Flatpak("org.x.Mail".into()), 7);
        let mut consent = Consent::default();

        // Two calls, one question; a yes for once is theirs and nobody else's.
        let first = asked(consent.look(at(1), &work, &mail, false));
        assert!(matches!(consent.look(at(1), &work, &mail, false), Known::Asked(_)));
        assert!(!consent.answered(at(2), 0, &work, &mail, Answer::Once));
        assert_eq!(*first.borrow(), Some(Answer::Once));
        // Nobody waits any more: the yes waits for the next call.
        drop(asked(consent.look(at(3), &work, &mail, false)));
        consent.answered(at(4), 0, &work, &mail, Answer::Once);
        assert!(matches!(consent.look(at(5), &work, &mail, false), Known::Allowed));

        // A no holds for a while, and can be taken back.
        let _asking = asked(consent.look(at(6), &work, &mail, false));
        consent.answered(at(7), 0, &work, &mail, Answer::Dismissed);
        assert!(matches!(consent.look(at(600), &work, &mail, false), Known::Refused(Answer::Dismissed)));
        let _asking = asked(consent.look(at(607), &work, &mail, false));
        consent.answered(at(607), 0, &work, &mail, Answer::Denied);
        assert!(consent.forget("work", &mail.id) && !consent.forget("work", &mail.id));

        // Always is for this account alone, and not for uses that are each asked for.
        let _asking = asked(consent.look(at(608), &work, &mail, false));
        assert!(consent.answered(at(608), 5, &work, &mail, Answer::Always));
        assert!(matches!(consent.look(at(9999), &work, &mail, false), Known::Allowed));
        let home = AccountName::parse("home").unwrap();
        let _asking = asked(consent.look(at(9999), &home, &mail, false));
        let _asking = asked(consent.look(at(9999), &work, &mail, true));
        assert!(consent.forget("work", &mail.id) && consent.lasting().is_empty());
    }

    /// `confirm`: two calls of one program at once are two uses.
    #[test]
    fn a_yes_to_one_use_is_for_one_of_those_that_wait() {
        let work = AccountName::parse("work").unwrap();
        let mail = caller(Kind::Flatpak("org.x.Mail".into()), 7);
        let mut consent = Consent::default();

        let first = asked(consent.look(at(1), &work, &mail, true));
        assert!(matches!(consent.look(at(1), &work, &mail, true), Known::Asked(_)));
        consent.answered(at(2), 0, &work, &mail, Answer::Once);

        assert_eq!(*first.borrow(), Some(Answer::Once));
        assert!(matches!(consent.look(at(2), &work, &mail, true), Known::Allowed));
        let _second = asked(consent.look(at(2), &work, &mail, true));
    }

    /// Q6: a program that starts copies of itself does not fill the screen.
    #[test]
    fn a_few_questions_are_open_at_once_and_no_more() {
        let work = AccountName::parse("work").unwrap();
        let copy = |n: usize| caller(Kind::Snap(format!("copy-{n}")), 7);
        let mut consent = Consent::default();
        for n in 0..MOST_ASKED {
            drop(asked(consent.look(at(1), &work, &copy(n), false)));
        }

        assert!(matches!(consent.look(at(1), &work, &copy(MOST_ASKED), false), Known::Crowded));
        consent.answered(at(2), 0, &work, &copy(0), Answer::Denied);
        let _asking = asked(consent.look(at(2), &work, &copy(MOST_ASKED), false));
    }

    /// Q6: all that could not be looked at have one name.
    #[test]
    fn an_answer_about_one_unknown_caller_is_none_about_another() {
        let work = AccountName::parse("work").unwrap();
        let [one, other] = [7, 8].map(|pid| caller(Kind::Hidden("it has ended"), pid));
        assert_eq!(one.id, other.id);
        let mut consent = Consent::default();

        drop(asked(consent.look(at(1), &work, &one, false)));
        assert!(matches!(consent.look(at(1), &work, &other, false), Known::Crowded), "one at a time");
        consent.answered(at(2), 0, &work, &one, Answer::Once);

        let theirs = asked(consent.look(at(3), &work, &other, false));
        assert!(matches!(consent.look(at(3), &work, &one, false), Known::Allowed));
        assert_eq!(*theirs.borrow(), None);
        assert!(matches!(consent.look(at(3), &work, &other, false), Known::Asked(_)));
        consent.answered(at(4), 0, &work, &other, Answer::Denied);
        assert!(matches!(consent.look(at(5), &work, &one, false), Known::New(_)));
        assert!(consent.forget("work", &other.id), "by the name that is shown");
    }

    #[test]
    fn lasting_answers_survive_in_a_file_of_the_users_own_and_a_bad_one_is_set_aside() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = File::below(folder.path());
        assert!(file.read().is_empty());
        let all = [Permission { account: "work".into(), caller: "snap:x".into(), since: 7 }];

        file.write(&all).unwrap();

        assert_eq!(File::below(folder.path()).read(), all);
        assert_eq!(std::fs::metadata(&file.path).unwrap().mode() & 0o777, 0o600);
        std::fs::write(&file.path, "[{").unwrap();
        assert!(file.read().is_empty());
        assert_eq!(std::fs::read(file.path.with_extension("json.bad")).unwrap(), b"[{");
    }
}
