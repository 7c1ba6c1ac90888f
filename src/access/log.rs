//! What was done for whom: a ring of bounded length in which equal events of a while are one entry. Pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::caller::Caller;
use crate::account::AccountName;

/// The most entries that are kept.
const CAPACITY: usize = 1000;
/// Equal events within these seconds are one entry, and one line of the journal.
const WHILE: u64 = 300;

/// The outcome of what was done as asked.
pub const GRANTED: &str = "granted";

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    Token,
    /// A proof for a request with a bound token.
    Proof,
    Reject,
    Refresh,
    Login,
    /// An attempt has ended; the caller is the one who began it.
    LoginEnd,
    Complete,
    Cancel,
    Logout,
    SetPersonalToken,
    SetClientSecret,
}

impl Event {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Proof => "proof",
            Self::Reject => "reject",
            Self::Refresh => "refresh",
            Self::Login => "login",
            Self::LoginEnd => "login-end",
            Self::Complete => "complete",
            Self::Cancel => "cancel",
            Self::Logout => "logout",
            Self::SetPersonalToken => "set-token",
            Self::SetClientSecret => "set-secret",
        }
    }
}

/// Equal events of a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Counts entries.
    pub number: u64,
    /// The number of its last change.
    pub changed: u64,
    pub event: Event,
    pub account: AccountName,
    /// The last one of them.
    pub caller: Arc<Caller>,
    /// [`GRANTED`], the word of an error, or how a login ended.
    pub outcome: &'static str,
    /// Seconds since the Unix epoch.
    pub first: u64,
    pub last: u64,
    pub count: u64,
    /// When the last token handed out expires, in seconds since the Unix epoch; 0 for none or unknown.
    pub expires: u64,
    /// How many the journal has not been told of.
    untold: u64,
}

/// Who was last given a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastUse {
    pub at: u64,
    pub caller: Arc<Caller>,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    event: Event,
    account: AccountName,
    program: Arc<str>,
    unit: Arc<str>,
    outcome: &'static str,
}

/// The ring.
#[derive(Default)]
pub struct Log {
    entries: VecDeque<Entry>,
    /// The number of each key's last entry.
    open: HashMap<Key, u64>,
    /// How many entries there were.
    numbered: u64,
    changes: u64,
    last_used: HashMap<AccountName, LastUse>,
}

impl Log {
    /// Notes an event, and returns what the journal should be told, with the counts that it has not heard of.
    pub fn note(
        &mut self,
        now: u64,
        event: Event,
        account: &AccountName,
        caller: &Arc<Caller>,
        outcome: &'static str,
        expires: u64,
    ) -> Vec<Entry> {
        if event == Event::Token && outcome == GRANTED {
            let last = LastUse { at: now, caller: Arc::clone(caller) };
            match self.last_used.get_mut(account) {
                Some(used) => *used = last,
                None => drop(self.last_used.insert(account.clone(), last)),
            }
        }
        self.changes += 1;
        let changed = self.changes;
        let key = Key {
            event,
            account: account.clone(),
            program: Arc::clone(&caller.id),
            unit: Arc::clone(&caller.unit),
            outcome,
        };
        let mut untold = 1;
        let number = self.open.get(&key).copied();
        if let Some(entry) = number.and_then(|number| self.entry(number)) {
            // A wall clock that was set back begins a new entry, too.
            if (entry.first..entry.first + WHILE).contains(&now) {
                entry.changed = changed;
                entry.last = now;
                entry.count += 1;
                entry.untold += 1;
                entry.expires = expires;
                if !Arc::ptr_eq(&entry.caller, caller) {
                    entry.caller = Arc::clone(caller);
                }
                return Vec::new();
            }
            untold += std::mem::take(&mut entry.untold);
        }
        self.numbered += 1;
        let number = self.numbered;
        self.open.insert(key, number);
        let entry = Entry {
            number,
            changed,
            event,
            account: account.clone(),
            caller: Arc::clone(caller),
            outcome,
            first: now,
            last: now,
            count: 1,
            expires,
            untold: 0,
        };
        let mut told = vec![Entry { count: untold, ..entry.clone() }];
        self.entries.push_back(entry);
        if self.entries.len() > CAPACITY
            && let Some(oldest) = self.entries.pop_front()
        {
            self.open.retain(|_, number| *number != oldest.number);
            told.extend(Self::rest(oldest));
        }
        told
    }

    /// What the journal has not been told of; it is told now.
    pub fn untold(&mut self) -> Vec<Entry> {
        let rests: Vec<Entry> = self.entries.iter().cloned().filter_map(Self::rest).collect();
        for entry in &mut self.entries {
            entry.untold = 0;
        }
        rests
    }

    /// What has changed after the change of this number, oldest first, and the number of the last one.
    #[must_use]
    pub fn since(&self, after: u64) -> (u64, Vec<Entry>) {
        let mut changed: Vec<Entry> =
            self.entries.iter().filter(|entry| entry.changed > after).cloned().collect();
        changed.sort_by_key(|entry| entry.changed);
        (self.changes, changed)
    }

    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    #[must_use]
    pub fn last_used(&self) -> Vec<(AccountName, LastUse)> {
        self.last_used.iter().map(|(account, used)| (account.clone(), used.clone())).collect()
    }

    fn rest(entry: Entry) -> Option<Entry> {
        (entry.untold > 0).then_some(Entry { count: entry.untold, ..entry })
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let oldest = self.entries.front()?.number;
        self.entries.get_mut(usize::try_from(number.checked_sub(oldest)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::caller::Kind;
    use super::*;

    fn program(name: &str) -> Arc<Caller> {
        Arc::new(Caller::new(Kind::Host, 1000, 7, format!("/usr/bin/{name}"), "a.scope", String::new()))
    }

    fn account(name: &str) -> AccountName {
        AccountName::parse(name).unwrap()
    }

    #[test]
    fn ten_thousand_calls_of_one_program_are_one_entry_and_two_lines() {
        let mut log = Log::default();
        let mut lines = Vec::new();
        for _ in 0..10_000 {
            // Each a process of its own.
            lines.extend(log.note(1000, Event::Token, &account("work"), &program("curl"), GRANTED, 1300));
        }
        lines.extend(log.untold());
        lines.extend(log.untold());

        let (changes, entries) = log.since(0);
        assert_eq!((changes, entries.len(), entries[0].count), (10_000, 1, 10_000));
        assert_eq!(lines.iter().map(|line| line.count).collect::<Vec<_>>(), [1, 9999]);
        assert!(log.since(changes).1.is_empty());
    }

    #[test]
    fn whatever_differs_is_an_entry_of_its_own_and_so_is_the_next_while() {
        let mut log = Log::default();
        let mut note = |now, event, name, caller: &Arc<Caller>, outcome| {
            log.note(now, event, &account(name), caller, outcome, 0)
                .iter()
                .map(|line| line.count)
                .sum::<u64>()
        };
        let curl = program("curl");
        assert_eq!(note(1000, Event::Token, "work", &curl, GRANTED), 1);
        assert_eq!(note(1001, Event::Token, "work", &curl, "LoginRequired"), 1);
        assert_eq!(note(1002, Event::Token, "home", &curl, GRANTED), 1);
        assert_eq!(note(1003, Event::Login, "work", &curl, GRANTED), 1);
        assert_eq!(note(1004, Event::Token, "work", &program("git"), GRANTED), 1);
        assert_eq!(note(1299, Event::Token, "work", &curl, GRANTED), 0);
        // The line of the next while tells of the last one's calls as well.
        assert_eq!(note(1300, Event::Token, "work", &curl, GRANTED), 2);
        // The clock was set back.
        assert_eq!(note(900, Event::Token, "work", &curl, GRANTED), 1);
        assert_eq!(log.since(0).1.len(), 7);
    }

    #[test]
    fn the_ring_is_bounded_and_what_falls_out_is_told() {
        let mut log = Log::default();
        log.note(1, Event::Token, &account("work"), &program("first"), GRANTED, 0);
        log.note(1, Event::Token, &account("work"), &program("first"), GRANTED, 0);
        let mut told = 0;
        for n in 0..2 * CAPACITY as u64 {
            let lines = log.note(2, Event::Token, &account("work"), &program(&format!("p{n}")), GRANTED, 0);
            told += lines.iter().map(|line| line.count).sum::<u64>();
        }
        assert_eq!(told, 2 * CAPACITY as u64 + 1);
        assert_eq!((log.entries.len(), log.open.len()), (CAPACITY, CAPACITY));
        assert_eq!(log.last_used().len(), 1);
    }
}
