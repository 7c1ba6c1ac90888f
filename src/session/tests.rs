//! The state machine, driven by hand: no runtime, no clock, microseconds.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::budget::Postponed;
use super::error::Error;
use super::live::Asked;
use super::schedule::Jitter;
use super::state::{Effect, Policy, RefreshOrder, Reply, RequestId, Session, TokenOptions, Urgency};
use super::view::AccountState;
use crate::clock::{BootTime, Now};
use crate::config::KeepAlive;
use crate::dpop::ProofKey;
use crate::oidc::error::{Class, ProviderError};
use crate::recovery::{Note, Recalled, Unsaved, fingerprint};
use crate::secret::{AccessToken, ClientSecret, PersonalToken, RefreshToken};
use crate::store::{Loaded, SessionRecord, StoreError};
use crate::tokens::{Granted, Lifetime, TokenResponse};

mod interruptions;
mod keyrings;
mod narrow;

const J: Jitter = Jitter(0.5);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn policy() -> Policy {
    Policy {
        account: "chaster".into(),
        personal: false,
        stored_secret: true,
        issuer: "https://id.example".into(),
        client_id: "app".into(),
        scope: "profile".into(),
        keep_alive: KeepAlive::Always,
        audience_by: None,
        min_validity: None,
        dpop: false,
        boot_id: "this-boot".into(),
        machine: "this-machine".into(),
        phase: 0.5,
    }
}

/// A session, the time, and what became of its effects.
struct Rig {
    session: Session,
    now: Now,
    next: u64,
    /// The last token number that the provider of the test issued.
    issued: u32,
    answers: BTreeMap<u64, Result<Reply, Error>>,
    /// Refreshes sent and not answered yet.
    in_flight: Vec<RefreshOrder>,
    refreshes: u32,
    /// What the next process would find.
    held: Option<Unsaved>,
    writes: Vec<(u64, Option<SessionRecord>)>,
    /// Writes end at once, unless a test holds them.
    hold_writes: bool,
    loads: u32,
    ends: Vec<RefreshToken>,
    given_up: u32,
    note: (u64, Note),
    /// Who logs in next.
    sub: &'static str,
}

impl Rig {
    fn new(policy: Policy) -> Self {
        let now =
            Now { boot: BootTime::from_duration(secs(50_000)), wall: secs(1_790_000_000), asleep: secs(0) };
        let (session, effects) = Session::new(policy, &now);
        let mut rig = Self {
            session,
            now,
            next: 0,
            issued: 0,
            answers: BTreeMap::new(),
            in_flight: Vec::new(),
            refreshes: 0,
            held: None,
            writes: Vec::new(),
            hold_writes: false,
            loads: 0,
            ends: Vec::new(),
            given_up: 0,
            note: (0, Note::default()),
            sub: "u1",
        };
        rig.take(effects);
        rig
    }

    /// Loaded with a client secret, and logged in with the seed's lifetimes.
    fn logged_in() -> Self {
        Self::with_lifetimes(300, 1800)
    }

    fn with_lifetimes(access: u64, refresh: u64) -> Self {
        let mut rig = Self::new(policy());
        rig.load(Ok(secret_only()));
        rig.log_in(access, refresh);
        rig
    }

    fn log_in(&mut self, access: u64, refresh: u64) -> u64 {
        let response = self.response(access, refresh);
        let id = self.id();
        let asked = Asked::at(&self.now);
        let granted =
            Granted { tokens: response, sub: self.sub.to_owned(), subject: "ayu".into(), key: None };
        let effects = self.session.logged_in(id, granted, &asked, &self.now, J);
        self.take(effects);
        id.0
    }

    fn response(&mut self, access: u64, refresh: u64) -> TokenResponse {
        self.issued += 1;
        let lifetime = |n| if n == 0 { Lifetime::Over } else { Lifetime::For(secs(n)) };
        TokenResponse {
            access_token: AccessToken::parse(format!("canary-a{}", self.issued)).unwrap(),
            expires_in: lifetime(access),
            refresh_token: Some(RefreshToken::parse(format!("canary-r{}", self.issued)).unwrap()),
            refresh_expires_in: lifetime(refresh),
            scope: None,
            id_token: None,
            servers: String::new(),
        }
    }

    fn id(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer(id, answer) => {
                    assert!(self.answers.insert(id.0, answer).is_none(), "answered twice");
                }
                Effect::Load => self.loads += 1,
                Effect::Refresh(order) => {
                    self.refreshes += 1;
                    self.note = (order.note_sequence, order.note.clone());
                    self.in_flight.push(order);
                    assert_eq!(self.in_flight.len(), 1, "two refreshes in flight");
                }
                Effect::Hold(unsaved) => self.held = Some(unsaved),
                Effect::Write { sequence, record } => {
                    self.writes.push((sequence, record));
                    if !self.hold_writes {
                        self.written(Ok(()));
                    }
                }
                Effect::EndSession(request) => self.ends.extend(request.refresh_token),
                Effect::GiveUp => self.given_up += 1,
                Effect::Note { sequence, note } => {
                    assert!(sequence > self.note.0, "notes in order");
                    self.note = (sequence, note);
                }
            }
        }
    }

    fn load(&mut self, result: Result<Loaded, StoreError>) {
        let effects = self.session.loaded(result, &self.now);
        self.take(effects);
    }

    fn written(&mut self, result: Result<(), StoreError>) {
        let sequence = self.writes.last().unwrap().0;
        let effects = self.session.written(sequence, result, &self.now, J);
        self.take(effects);
    }

    fn get(&mut self) -> u64 {
        self.get_with(TokenOptions::default())
    }

    fn get_min(&mut self, seconds: u64) -> u64 {
        self.get_with(TokenOptions { min_validity: Some(secs(seconds)), ..TokenOptions::default() })
    }

    fn get_with(&mut self, options: TokenOptions) -> u64 {
        let id = self.id();
        let effects = self.session.get_token(id, options, &self.now);
        self.take(effects);
        id.0
    }

    fn reject(&mut self, token: &str) -> u64 {
        let id = self.id();
        let token_id = AccessToken::parse(token).unwrap().id();
        let effects = self.session.reject(id, token_id, &self.now);
        self.take(effects);
        id.0
    }

    fn logout(&mut self) -> u64 {
        let id = self.id();
        let effects = self.session.logout(id, &self.now);
        self.take(effects);
        id.0
    }

    fn succeed(&mut self, access: u64, refresh: u64) {
        let response = self.response(access, refresh);
        self.finish(Ok(response));
    }

    fn fail(&mut self, class: Class) {
        self.finish(Err(ProviderError::new(class, "no luck")));
    }

    fn finish(&mut self, result: Result<TokenResponse, ProviderError>) {
        assert!(self.in_flight.pop().is_some(), "no refresh in flight");
        let effects = self.session.refreshed(result, &self.now, J);
        self.take(effects);
    }

    fn advance(&mut self, time: Duration) {
        self.now.boot = self.now.boot.after(time);
        self.now.wall += time;
        let effects = self.session.handle_timeout(&self.now);
        self.take(effects);
    }

    fn wait(&mut self, seconds: u64) {
        self.advance(secs(seconds));
    }

    fn suspend(&mut self, seconds: u64) {
        self.now.asleep += secs(seconds);
        self.wait(seconds);
    }

    /// Another session of the issuer has failed in place of the refresh that was on its way.
    fn postpone(&mut self, seconds: u64) {
        self.postpone_until(seconds, BootTime::default());
    }

    fn postpone_until(&mut self, seconds: u64, not_before: BootTime) {
        self.in_flight.clear();
        let postponed = Postponed {
            until: self.now.boot.after(secs(seconds)),
            not_before,
            last_attempt: self.now.boot,
            error: ProviderError::new(Class::Unreachable, "down"),
        };
        let effects = self.session.postponed(postponed, &self.now);
        self.take(effects);
    }

    /// Runs for `seconds`, waking only when the session asks to; the provider answers each refresh
    /// with these lifetimes, cut to what is left until `end` as Keycloak does.
    fn run(&mut self, seconds: u64, access: u64, refresh: u64, end: Option<BootTime>) {
        let stop = self.now.boot.after(secs(seconds));
        loop {
            if !self.in_flight.is_empty() {
                let left = end.map_or(u64::MAX, |end| end.since(self.now.boot).as_secs());
                if left == 0 {
                    self.finish(Err(ProviderError::new(Class::SessionOver, "Session not active")));
                    self.load(Ok(secret_only()));
                } else {
                    self.succeed(access.min(left), refresh.min(left));
                }
                continue;
            }
            match self.session.next_timeout(&self.now).filter(|next| *next < stop) {
                Some(next) => self.advance(next.since(self.now.boot).max(Duration::from_millis(1))),
                None => break,
            }
        }
        self.advance(stop.since(self.now.boot));
    }

    fn token(&self, id: u64) -> String {
        match self.answers.get(&id) {
            Some(Ok(Reply::Token(reply))) => reply.token.expose().to_owned(),
            Some(Ok(_)) => "no token".into(),
            Some(Err(error)) => format!("{error:?}").split('(').next().unwrap_or_default().to_owned(),
            None => "waiting".into(),
        }
    }

    fn flag(&self, id: u64) -> Option<bool> {
        match self.answers.get(&id) {
            Some(Ok(Reply::Flag(flag))) => Some(*flag),
            _ => None,
        }
    }

    fn expires_in(&self, id: u64) -> u32 {
        match self.answers.get(&id) {
            Some(Ok(Reply::Token(reply))) => reply.expires_in,
            _ => 0,
        }
    }

    fn state(&self) -> AccountState {
        self.session.view(&self.now).state
    }
}

fn forced() -> TokenOptions {
    TokenOptions { force_refresh: true, ..TokenOptions::default() }
}

fn secret_only() -> Loaded {
    Loaded { client_secret: ClientSecret::parse("canary-secret").ok(), ..Loaded::default() }
}

fn stored(refresh_token: &str, sequence: u64) -> Loaded {
    let session = Some(SessionRecord {
        key: None,
        sub: String::new(),
        refresh_token: RefreshToken::parse(refresh_token).unwrap(),
        issuer: "https://id.example".into(),
        client_id: "app".into(),
        servers: String::new(),
        scope: "profile".into(),
        subject: "ayu".into(),
        obtained_at: 1_790_000_000,
        obtained_boot: 50_000,
        boot_id: "this-boot".into(),
        refresh_lifetime: 1800,
        machine: "this-machine".into(),
        sequence,
    });
    Loaded { session, ..secret_only() }
}

/// N1.
#[test]
fn answers_from_memory_down_to_the_wanted_validity_and_not_below() {
    for (age, min, refreshes) in
        [(0, 0, 0), (269, 30, 0), (271, 30, 1), (199, 100, 0), (201, 100, 1), (294, 0, 0), (296, 0, 1)]
    {
        let mut rig = Rig::logged_in();
        rig.session.last_asked = None;
        rig.now.boot = rig.now.boot.after(secs(age));
        // Background renewal is another test's.
        rig.session.live.as_mut().unwrap().grant.as_mut().unwrap().renew_at = rig.now.boot.after(secs(900));
        let id = rig.get_min(min);
        assert_eq!(rig.refreshes, refreshes, "age {age}, min {min}");
        assert_eq!(rig.token(id), if refreshes == 0 { "canary-a1" } else { "waiting" });
    }
}

/// D3.
#[test]
fn a_hundred_callers_on_an_expired_token_share_one_refresh() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));

    let ids: Vec<u64> = (0..100).map(|_| rig.get()).collect();
    rig.succeed(300, 1800);

    assert_eq!(rig.refreshes, 1);
    assert!(ids.iter().all(|id| rig.token(*id) == "canary-a2"));
}

/// D4.
#[test]
fn callers_are_answered_when_the_save_ended_or_after_two_seconds() {
    for (saved, waited) in [(true, 0), (false, 2)] {
        let mut rig = Rig::logged_in();
        rig.hold_writes = true;
        rig.now.boot = rig.now.boot.after(secs(301));
        let id = rig.get();
        rig.succeed(300, 1800);
        assert_eq!(rig.token(id), "waiting");
        assert_eq!(rig.writes.last().unwrap().1.as_ref().unwrap().refresh_token.expose(), "canary-r2");

        if saved {
            rig.written(Ok(()));
        } else {
            rig.wait(1);
            assert_eq!(rig.token(id), "waiting");
            rig.wait(waited - 1);
        }

        assert_eq!(rig.token(id), "canary-a2");
        assert_eq!(rig.state(), if saved { AccountState::Ready } else { AccountState::Unsaved });
    }
}

/// D6.
#[test]
fn a_failed_save_is_retried_and_stops_no_refresh() {
    let mut rig = Rig::logged_in();
    rig.hold_writes = true;
    rig.now.boot = rig.now.boot.after(secs(301));
    rig.get();
    rig.succeed(300, 1800);
    rig.written(Err(StoreError::Locked));
    assert_eq!((rig.state(), rig.session.view(&rig.now).needs_attention), (AccountState::Unsaved, true));
    assert_eq!(rig.refreshes, 1, "no refresh just because a save failed");

    rig.now.boot = rig.now.boot.after(secs(301));
    let id = rig.get();
    rig.succeed(300, 1800);
    rig.wait(2);
    assert_eq!(rig.token(id), "canary-a3");

    rig.hold_writes = false;
    let effects = rig.session.written(rig.writes.last().unwrap().0, Err(StoreError::Locked), &rig.now, J);
    rig.take(effects);
    let effects = rig.session.store_changed(&rig.now);
    rig.take(effects);
    assert_eq!(rig.state(), AccountState::Ready);
    assert_eq!(rig.writes.last().unwrap().1.as_ref().unwrap().refresh_token.expose(), "canary-r3");
}

/// D15, O.
#[test]
fn invalid_grant_ends_the_session_once_and_removes_the_refresh_token() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));
    let id = rig.get();
    let loads = rig.loads;
    rig.fail(Class::SessionOver);
    assert_eq!((rig.loads, rig.token(id).as_str()), (loads + 1, "waiting"), "the store is read again first");
    rig.load(Ok(secret_only()));

    assert_eq!((rig.token(id).as_str(), rig.state()), ("LoginRequired", AccountState::Expired));
    assert!(rig.writes.last().unwrap().1.is_none());
    rig.run(3600, 300, 1800, None);
    assert_eq!(rig.refreshes, 1);
}

/// O: until its end the access token is as good as before.
#[test]
fn an_access_token_outlives_its_session() {
    let mut rig = Rig::logged_in();
    rig.wait(100);
    let id = rig.id();
    let effects = rig.session.refresh_now(id, &rig.now);
    rig.take(effects);
    rig.fail(Class::SessionOver);
    rig.load(Ok(secret_only()));

    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.state()), ("canary-a1", AccountState::Expired));
    rig.wait(200);
    let id = rig.get();
    assert_eq!(rig.token(id), "LoginRequired");
}

/// D14.
#[test]
fn a_newer_refresh_token_in_the_store_is_tried_before_the_session_is_given_up() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));
    let id = rig.get();
    rig.fail(Class::SessionOver);
    rig.load(Ok(stored("canary-by-another", 9)));

    assert_eq!(rig.in_flight[0].refresh_token.expose(), "canary-by-another");
    rig.succeed(300, 1800);
    assert_eq!((rig.token(id).as_str(), rig.state()), ("canary-a2", AccountState::Ready));
}

/// N7.
#[test]
fn a_failed_refresh_hands_out_what_still_lives() {
    for class in [Class::Unreachable, Class::Ambiguous, Class::Malformed, Class::Refused] {
        let mut rig = Rig::logged_in();
        rig.now.boot = rig.now.boot.after(secs(260));
        let id = rig.get_min(100);
        rig.fail(class);
        assert_eq!((rig.token(id).as_str(), rig.expires_in(id)), ("canary-a1", 40), "{class:?}");
    }
}

#[test]
fn a_caller_waits_for_an_unreachable_provider_and_is_told_so_after_fifteen_seconds() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));
    let id = rig.get();
    let mut attempts = 0;
    for _ in 0..150 {
        if !rig.in_flight.is_empty() {
            attempts += 1;
            rig.fail(Class::Unreachable);
        }
        rig.advance(Duration::from_millis(100));
    }
    assert_eq!((rig.token(id).as_str(), rig.state()), ("ProviderUnreachable", AccountState::Offline));
    assert!((7..=16).contains(&attempts), "{attempts} attempts");

    // Back: whoever asks next has a token at once or after two seconds.
    let id = rig.get();
    rig.wait(2);
    rig.succeed(300, 1800);
    assert_eq!((rig.token(id).as_str(), rig.state()), ("canary-a2", AccountState::Ready));
}

/// N18.
#[test]
fn a_hanging_provider_costs_a_caller_fifteen_seconds_and_the_refresh_still_lands() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));
    let id = rig.get();
    rig.wait(14);
    assert_eq!(rig.token(id), "waiting");
    rig.wait(1);
    assert_eq!(rig.token(id), "Timeout");

    rig.wait(20);
    rig.succeed(300, 1800);
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.refreshes), ("canary-a2", 1));
}

/// N17.
#[test]
fn retry_after_holds_for_waiting_callers_too() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));
    rig.get();
    rig.finish(Err(ProviderError {
        retry_after: Some(secs(60)),
        ..ProviderError::new(Class::Unreachable, "busy")
    }));
    rig.run(59, 300, 1800, None);
    rig.get();
    assert_eq!(rig.refreshes, 1);
    rig.run(10, 300, 1800, None);
    assert_eq!(rig.refreshes, 2);
}

/// K14, O.
#[test]
fn a_refused_client_keeps_its_session_and_heals_with_a_new_secret() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));
    let id = rig.get();
    rig.fail(Class::Refused);
    assert_eq!((rig.token(id).as_str(), rig.state()), ("ProviderRefused", AccountState::Refused));
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.refreshes), ("ProviderRefused", 1), "no loop");

    let effects = rig.session.client_secret_set(ClientSecret::parse("better").ok(), &rig.now);
    rig.take(effects);
    let id = rig.get();
    rig.succeed(300, 1800);
    assert_eq!((rig.token(id).as_str(), rig.state()), ("canary-a2", AccountState::Ready));
}

/// D8: a failed forced refresh is repeated soon though the next one was planned for much later.
#[test]
fn a_refresh_that_failed_is_tried_again_though_nobody_waits() {
    let mut rig = Rig::logged_in();
    let id = rig.get_with(forced());
    rig.fail(Class::Ambiguous);
    assert_eq!((rig.token(id).as_str(), rig.state()), ("canary-a1", AccountState::Offline));

    rig.wait(1);

    rig.succeed(300, 1800);
    assert_eq!((rig.refreshes, rig.state()), (2, AccountState::Ready));
}

/// K14 at the code exchange: logging in again would not help, and a session that works is left alone.
/// N20: the user hears of a provider that stays away, and not of one that stumbles.
#[test]
fn only_trouble_that_lasts_needs_attention() {
    let mut rig = Rig::logged_in();
    let mut failures = 0;
    while failures < 6 {
        assert!(!rig.session.view(&rig.now).needs_attention, "after {failures} failures");
        while rig.in_flight.is_empty() {
            rig.wait(1);
        }
        rig.fail(Class::Unreachable);
        failures += 1;
    }
    assert_eq!(rig.session.view(&rig.now).need(), Some(super::Need::Look));
}

#[test]
fn a_client_refused_at_login_is_said_until_something_changes() {
    let refused = ProviderError::new(Class::Refused, "no luck");
    let mut rig = Rig::new(policy());
    rig.load(Ok(secret_only()));
    let effects = rig.session.login_failed(&refused, &rig.now);
    rig.take(effects);
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.state()), ("ProviderRefused", AccountState::Refused));

    let effects = rig.session.client_secret_set(ClientSecret::parse("better").ok(), &rig.now);
    rig.take(effects);
    assert_eq!(rig.state(), AccountState::LoggedOut);

    let mut rig = Rig::logged_in();
    let effects = rig.session.login_failed(&refused, &rig.now);
    rig.take(effects);
    assert_eq!(rig.state(), AccountState::Ready);
}

/// K14: some providers refuse a client without a word for it, which looks like a broken answer.
#[test]
fn a_new_secret_is_tried_at_once_where_the_provider_gave_no_reason() {
    let mut rig = Rig::logged_in();
    for _ in 0..6 {
        while rig.in_flight.is_empty() {
            rig.wait(1);
        }
        rig.fail(Class::Malformed);
    }
    rig.wait(1);
    assert!(rig.in_flight.is_empty(), "it is being backed off");

    let effects = rig.session.client_secret_set(ClientSecret::parse("better").ok(), &rig.now);
    rig.take(effects);

    assert!(!rig.in_flight.is_empty());
}

/// H11: the account stays whose it is, and the stranger's tokens are given back.
#[test]
fn another_users_login_is_never_merged_into_the_account() {
    let mut rig = Rig::logged_in();
    rig.sub = "u2";
    let login = rig.log_in(300, 1800);
    let Err(Error::LoginFailed(text)) = &rig.answers[&login] else { panic!("merged") };
    assert!(text.ends_with("run: bearerctl logout chaster"), "{text}");
    assert_eq!(rig.ends.len(), 1);
    let id = rig.get();
    assert_eq!(rig.token(id), "canary-a1");

    rig.logout();
    rig.log_in(300, 1800);
    assert_eq!(rig.state(), AccountState::Ready);
}

/// N3, D10.
#[test]
fn an_idle_session_lives_on_with_few_refreshes() {
    let mut rig = Rig::logged_in();
    rig.run(4 * 3600, 300, 1800, None);
    assert_eq!(rig.state(), AccountState::Ready);
    // 16 keep-alives, and those of the ten minutes after the login.
    assert!((14..=20).contains(&rig.refreshes), "{}", rig.refreshes);
}

/// N2, N4.
#[test]
fn a_hot_account_never_waits_for_the_provider() {
    let mut rig = Rig::logged_in();
    for _ in 0..120 {
        rig.run(30, 300, 1800, None);
        let id = rig.get();
        assert!(rig.token(id).starts_with("canary-a") && rig.expires_in(id) >= 30);
    }
    assert!((14..=18).contains(&rig.refreshes), "{} in an hour", rig.refreshes);
}

/// K18.
#[test]
fn without_keep_alive_an_idle_session_is_left_alone() {
    let mut rig = Rig::new(Policy { keep_alive: KeepAlive::WhenUsed, ..policy() });
    rig.load(Ok(secret_only()));
    rig.log_in(300, 1800);
    rig.run(1200, 300, 1800, None);
    let used = rig.refreshes;
    rig.run(7200, 300, 1800, None);
    assert_eq!(rig.refreshes, used);
}

/// N5.
#[test]
fn tiny_lifetimes_make_no_storm() {
    for lifetime in [1, 5, 9, 12] {
        let mut rig = Rig::with_lifetimes(lifetime, 1800);
        for _ in 0..600 {
            rig.get();
            rig.run(1, lifetime, 1800, None);
        }
        assert!(rig.refreshes <= 61, "{} refreshes of {lifetime} s tokens in 10 min", rig.refreshes);
    }
}

/// N6.
#[test]
fn a_validity_that_no_token_has_costs_one_refresh_per_token() {
    let mut rig = Rig::logged_in();
    rig.wait(50);
    let id = rig.get_min(3600);
    rig.succeed(300, 1800);
    assert_eq!((rig.token(id).as_str(), rig.expires_in(id)), ("canary-a2", 300));

    for _ in 0..10 {
        rig.wait(11);
        rig.session.live.as_mut().unwrap().grant.as_mut().unwrap().renew_at = rig.now.boot.after(secs(900));
        let id = rig.get_min(3600);
        assert_eq!(rig.token(id), "canary-a2");
    }
    assert_eq!(rig.refreshes, 1);
}

/// N6, M3: nor does one that is longer than a token without a stated lifetime is taken to live.
#[test]
fn a_validity_beyond_an_assumed_lifetime_costs_one_refresh_per_token() {
    let mut rig = Rig::logged_in();
    rig.wait(50);
    let id = rig.get_min(600);
    let mut response = rig.response(300, 1800);
    response.expires_in = Lifetime::Unknown;
    rig.finish(Ok(response));
    assert_eq!(rig.token(id), "canary-a2");

    for _ in 0..10 {
        rig.wait(11);
        let id = rig.get_min(600);
        assert_eq!(rig.token(id), "canary-a2");
    }
    assert_eq!(rig.refreshes, 1);
}

/// K8, K9, N8: lifetimes shrink towards the provider's maximum.
#[test]
fn the_end_of_a_session_is_announced_and_not_refreshed_against() {
    let mut rig = Rig::logged_in();
    let end = rig.now.boot.after(secs(7200));
    rig.run(7000, 300, 1800, Some(end));
    let view = rig.session.view(&rig.now);
    assert_eq!((view.state, view.reason), (AccountState::Ready, "session-ending"));
    assert_eq!(view.session_expires.map(|at| at.since(rig.now.boot).as_secs()), Some(200));
    let before = rig.refreshes;
    assert!(before <= 20, "{before}");

    for _ in 0..190 {
        rig.get();
        rig.run(1, 300, 1800, Some(end));
    }
    assert!(rig.refreshes - before <= 6, "{} in the last minutes", rig.refreshes - before);
    rig.run(60, 300, 1800, Some(end));
    assert_eq!(rig.state(), AccountState::Expired);
}

/// N9, N10, N12.
#[test]
fn a_laptop_that_slept_asks_once_and_tells_why_the_session_is_over() {
    let mut rig = Rig::logged_in();
    rig.run(700, 300, 1800, None);
    let before = rig.refreshes;
    rig.suspend(8 * 3600);
    rig.wait(3);
    assert_eq!(rig.refreshes, before + 1, "one refresh, not one per missed deadline");
    rig.fail(Class::SessionOver);
    rig.load(Ok(secret_only()));

    let view = rig.session.view(&rig.now);
    assert_eq!((view.state, view.reason), (AccountState::Expired, "asleep"));
    assert!(view.message.starts_with("asleep "), "{}", view.message);
    assert!(
        view.message.ends_with("the provider ends idle sessions after 30 min; run: bearerctl login chaster")
    );
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.refreshes), ("LoginRequired", before + 1));
}

#[test]
fn a_short_sleep_renews_and_nobody_notices() {
    let mut rig = Rig::logged_in();
    rig.suspend(1500);
    rig.wait(3);
    rig.succeed(300, 1800);
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.state()), ("canary-a2", AccountState::Ready));
}

/// N13.
#[test]
fn steps_of_the_wall_clock_change_only_what_is_shown() {
    for step in [86_400_i64, -86_400] {
        let mut rig = Rig::logged_in();
        rig.wait(100);
        let before = rig.session.next_timeout(&rig.now);
        rig.now.wall = secs(rig.now.wall.as_secs().saturating_add_signed(step));
        rig.wait(0);
        assert_eq!(rig.session.next_timeout(&rig.now), before);
        let id = rig.get();
        let Some(Ok(Reply::Token(reply))) = rig.answers.get(&id) else { panic!("no token") };
        assert_eq!((reply.expires_in, reply.expires_at), (200, rig.now.wall.as_secs() + 200));
    }
}

/// N14.
#[test]
fn a_restart_keeps_the_deadlines() {
    let record = |edit: fn(&mut SessionRecord)| {
        let mut loaded = stored("canary-r1", 4);
        edit(loaded.session.as_mut().unwrap());
        let mut rig = Rig::new(policy());
        rig.now.boot = rig.now.boot.after(secs(600));
        rig.now.wall += secs(600);
        rig.load(Ok(loaded));
        rig
    };
    let view =
        |rig: &Rig| rig.session.view(&rig.now).session_expires.map(|at| at.since(rig.now.boot).as_secs());
    assert_eq!(view(&record(|_| {})), Some(1200));
    assert_eq!(view(&record(|record| record.boot_id = "another".into())), Some(1200));
    // From the future: due now.
    let rig = record(|record| {
        record.boot_id = "another".into();
        record.obtained_at += 90_000;
    });
    assert_eq!(rig.refreshes, 1);
}

/// N3, N14: the session is older than the machine's uptime.
#[test]
fn a_session_from_before_a_reboot_is_renewed_before_its_end() {
    let mut rig = Rig::new(policy());
    rig.now.boot = BootTime::from_duration(secs(60));
    rig.now.wall += secs(700);
    let mut loaded = stored("canary-r1", 4);
    loaded.session.as_mut().unwrap().boot_id = "another".into();
    rig.load(Ok(loaded));
    let ends = rig.session.view(&rig.now).session_expires.unwrap();
    assert_eq!(ends.since(rig.now.boot), secs(1100));

    rig.run(300, 300, 1800, None);
    assert_eq!((rig.refreshes, rig.state()), (1, AccountState::Ready), "at half of its life");
}

/// N14: saved again without a refresh, its times stay what they are.
#[test]
fn a_session_from_before_a_reboot_that_is_saved_again_keeps_its_age() {
    let mut rig = Rig::new(policy());
    rig.now.boot = BootTime::from_duration(secs(60));
    rig.now.wall += secs(700);
    let mut loaded = stored("canary-r1", 4);
    loaded.session.as_mut().unwrap().boot_id = "another".into();
    rig.load(Ok(loaded));
    let effects = rig.session.store_changed(&rig.now);
    rig.take(effects);
    rig.load(Ok(secret_only()));

    let record = rig.writes.last().unwrap().1.clone().unwrap();
    let mut next = Rig::new(policy());
    next.now = rig.now;
    next.load(Ok(Loaded { session: Some(record), ..secret_only() }));
    let ends = next.session.view(&next.now).session_expires.unwrap();
    assert_eq!(ends.since(next.now.boot), secs(1100));
}

/// F9, D13.
#[test]
fn another_clients_or_machines_session_is_never_used() {
    for (edit, reason) in [
        ((|record| record.client_id = "other".into()) as fn(&mut SessionRecord), "other-client"),
        (|record| record.issuer = "https://other.example".into(), "other-client"),
        (|record| record.machine = "other".into(), "other-host"),
        (|record| record.key = ProofKey::generate().ok(), "dpop-changed"),
    ] {
        let mut loaded = stored("canary-r1", 4);
        edit(loaded.session.as_mut().unwrap());
        let mut rig = Rig::new(policy());
        rig.load(Ok(loaded));
        let id = rig.get();
        assert_eq!((rig.token(id).as_str(), rig.refreshes), ("LoginRequired", 0));
        assert_eq!(rig.session.view(&rig.now).reason, reason);
        assert!(rig.writes.is_empty(), "it is left where it is");
    }
}

/// E4.
#[test]
fn a_hundred_reports_of_one_refused_token_cause_one_refresh() {
    let mut rig = Rig::logged_in();
    rig.wait(20);
    let ids: Vec<u64> = (0..100).map(|_| rig.reject("canary-a1")).collect();
    rig.succeed(300, 1800);
    assert_eq!(rig.refreshes, 1);
    assert!(ids.iter().all(|id| rig.flag(*id) == Some(true)));

    let late = rig.reject("canary-a1");
    let unknown = rig.reject("canary-of-somebody-else");
    assert_eq!((rig.flag(late), rig.flag(unknown), rig.refreshes), (Some(true), Some(false), 1));
}

#[test]
fn rejections_and_forced_refreshes_share_a_bucket() {
    let mut rig = Rig::logged_in();
    let mut renewed = 0;
    for _ in 0..9 {
        let current = format!("canary-a{}", rig.issued);
        let id = if renewed % 2 == 0 { rig.reject(&current) } else { rig.get_with(forced()) };
        if !rig.in_flight.is_empty() {
            rig.succeed(300, 1800);
            renewed += 1;
        }
        assert!(rig.answers.contains_key(&id));
    }
    assert_eq!(renewed, 5);
}

/// F1.
#[test]
fn a_logout_removes_the_session_here_and_tells_the_provider() {
    let mut rig = Rig::logged_in();
    let id = rig.logout();
    assert_eq!(rig.ends.len(), 1);
    assert!(rig.writes.last().unwrap().1.is_none());
    assert_eq!(rig.flag(id), None, "the provider has not answered");
    let effects = rig.session.ended_at_provider(true, &rig.now);
    rig.take(effects);
    assert_eq!((rig.flag(id), rig.state()), (Some(true), AccountState::LoggedOut));

    let again = rig.logout();
    assert_eq!(rig.flag(again), Some(false));
}

#[test]
fn a_logout_during_a_refresh_ends_the_token_that_comes_back() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));
    let caller = rig.get();
    let id = rig.logout();
    assert_eq!(rig.token(caller), "LoginRequired");
    rig.succeed(300, 1800);
    assert_eq!(rig.ends.iter().map(RefreshToken::expose).collect::<Vec<_>>(), ["canary-r2"]);
    let effects = rig.session.ended_at_provider(true, &rig.now);
    rig.take(effects);
    assert_eq!((rig.flag(id), rig.state()), (Some(true), AccountState::LoggedOut));
}

/// F1: a daemon that was started by the logout itself has not read the keyring yet.
#[test]
fn a_logout_before_the_keyring_is_read_ends_the_session_that_is_found_there() {
    let mut rig = Rig::new(policy());
    let id = rig.logout();
    assert!(rig.writes.is_empty() && rig.flag(id).is_none(), "it is read first");
    rig.load(Ok(stored("canary-r1", 4)));
    assert_eq!(rig.ends.iter().map(RefreshToken::expose).collect::<Vec<_>>(), ["canary-r1"]);
    assert!(rig.writes.last().unwrap().1.is_none());
    let effects = rig.session.ended_at_provider(true, &rig.now);
    rig.take(effects);
    assert_eq!((rig.flag(id), rig.state()), (Some(true), AccountState::LoggedOut));
}

/// Read before the logout, told after it: it must not come to life again.
#[test]
fn a_session_that_was_read_before_its_logout_is_not_taken_up_after_it() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));
    rig.get();
    rig.fail(Class::SessionOver);
    rig.logout();
    rig.load(Ok(stored("canary-r1", 1)));
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.state()), ("LoginRequired", AccountState::LoggedOut));
    assert!(rig.writes.last().unwrap().1.is_none(), "and it is removed");
}

/// F1: a logout by a keyring that hangs is not told as done.
#[test]
fn a_logout_whose_keyring_hangs_says_that_the_entry_stays() {
    let mut rig = Rig::new(policy());
    let id = rig.logout();
    rig.wait(15);
    assert_eq!(rig.token(id), "StoreUnavailable");
}

/// F1: the refresh on its way is an earlier login's.
#[test]
fn a_logout_ends_the_latest_login_though_a_refresh_of_the_one_before_is_on_its_way() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));
    rig.get();
    rig.log_in(300, 1800);
    rig.logout();
    assert_eq!(rig.ends.iter().map(RefreshToken::expose).collect::<Vec<_>>(), ["canary-r2"]);
}

/// N7, O: nothing is tried for a client that was refused, so what lives is handed out.
#[test]
fn a_refused_client_is_served_to_the_end_of_its_token() {
    let mut rig = Rig::logged_in();
    rig.wait(235);
    rig.fail(Class::Refused);
    rig.wait(45);
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.expires_in(id), rig.refreshes), ("canary-a1", 20, 1));
    rig.wait(20);
    let id = rig.get();
    assert_eq!(rig.token(id), "ProviderRefused");
}

#[test]
fn a_logout_with_a_locked_keyring_says_so_and_removes_the_item_later() {
    let mut rig = Rig::logged_in();
    rig.hold_writes = true;
    let id = rig.logout();
    rig.written(Err(StoreError::Locked));
    let effects = rig.session.ended_at_provider(true, &rig.now);
    rig.take(effects);
    assert_eq!(rig.token(id), "StoreLocked");

    let count = rig.writes.len();
    let effects = rig.session.store_changed(&rig.now);
    rig.take(effects);
    assert_eq!(rig.writes.len(), count + 1);
    assert!(rig.writes.last().unwrap().1.is_none());
}

/// N19.
#[test]
fn a_locked_keyring_is_its_own_state_and_heals_by_itself() {
    let mut rig = Rig::new(policy());
    rig.load(Err(StoreError::Locked));
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.state()), ("StoreLocked", AccountState::StoreLocked));

    let effects = rig.session.store_changed(&rig.now);
    rig.take(effects);
    rig.load(Ok(stored("canary-r1", 4)));
    assert_eq!(rig.state(), AccountState::Ready);
    let id = rig.get();
    rig.succeed(300, 1800);
    assert_eq!(rig.token(id), "canary-a1");
}

#[test]
fn a_caller_makes_a_silent_keyring_be_looked_at_again() {
    let mut rig = Rig::new(policy());
    rig.load(Err(StoreError::Unavailable("no keyring".into())));
    rig.wait(5);
    let loads = rig.loads;
    let id = rig.get();
    assert_eq!((rig.loads, rig.token(id).as_str()), (loads + 1, "waiting"));
    rig.load(Err(StoreError::Unavailable("no keyring".into())));
    assert_eq!((rig.token(id).as_str(), rig.state()), ("StoreUnavailable", AccountState::StoreUnavailable));
}

#[test]
fn a_login_while_the_keyring_is_locked_serves_from_memory() {
    let mut rig = Rig::new(Policy { stored_secret: false, ..policy() });
    rig.load(Err(StoreError::Locked));
    rig.hold_writes = true;
    let login = rig.log_in(300, 1800);
    rig.written(Err(StoreError::Locked));
    assert_eq!((rig.flag(login), rig.state()), (Some(false), AccountState::Unsaved));
    let id = rig.get();
    assert_eq!(rig.token(id), "canary-a1");
}

/// M8.
#[test]
fn a_salvaged_refresh_token_is_saved_and_used() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));
    let id = rig.get();
    let salvaged = RefreshToken::parse("canary-salvaged").ok();
    rig.finish(Err(ProviderError { salvaged, ..ProviderError::new(Class::Malformed, "no access token") }));
    assert_eq!(rig.writes.last().unwrap().1.as_ref().unwrap().refresh_token.expose(), "canary-salvaged");
    rig.wait(2);
    assert_eq!(rig.in_flight[0].refresh_token.expose(), "canary-salvaged");
    rig.succeed(300, 1800);
    assert_eq!(rig.token(id), "canary-a2");
}

/// M4, K21.
#[test]
fn tokens_that_are_born_dead_are_tried_once_more_and_then_left() {
    let mut rig = Rig::logged_in();
    rig.now.boot = rig.now.boot.after(secs(301));
    let id = rig.get();
    rig.succeed(0, 1800);
    assert_eq!(rig.token(id), "waiting");
    rig.wait(11);
    rig.succeed(0, 1800);
    assert_eq!((rig.token(id).as_str(), rig.state()), ("ProviderRefused", AccountState::Refused));
    rig.run(1800, 0, 1800, None);
    assert_eq!(rig.refreshes, 2);
}

/// K21: a login that brings a dead token is said at once, with what mends it.
#[test]
fn a_login_whose_token_is_dead_already_is_no_ready_session() {
    let mut rig = Rig::with_lifetimes(0, 1800);
    assert_eq!(rig.state(), AccountState::Offline);
    let view = rig.session.view(&rig.now);
    assert_eq!(view.reason, "dead-token");
    assert!(view.message.ends_with("run: bearerctl logout chaster"), "{}", view.message);
    rig.wait(11);
    rig.succeed(300, 1800);
    assert_eq!(rig.state(), AccountState::Ready);
}

/// N7: a dead answer does not cost the token that still lives.
#[test]
fn a_dead_token_does_not_take_a_living_ones_place() {
    let mut rig = Rig::logged_in();
    rig.wait(235);
    assert_eq!(rig.in_flight.len(), 1, "renewed ahead");
    rig.succeed(0, 1800);
    let id = rig.get_min(10);
    assert_eq!(rig.token(id), "canary-a1");
}

/// K6, N4: nobody states an end, and the provider has one all the same.
#[test]
fn a_session_without_a_stated_end_is_renewed_weekly() {
    let mut rig = Rig::new(policy());
    rig.load(Ok(secret_only()));
    let mut tokens = rig.response(300, 1800);
    tokens.refresh_expires_in = Lifetime::Unknown;
    let (id, asked) = (rig.id(), Asked::at(&rig.now));
    let granted = Granted { tokens, sub: "u1".into(), subject: "ayu".into(), key: None };
    let effects = rig.session.logged_in(id, granted, &asked, &rig.now, J);
    rig.take(effects);
    rig.wait(700);
    if !rig.in_flight.is_empty() {
        rig.succeed(300, 1800);
    }
    let due = rig.session.view(&rig.now).next_refresh.unwrap();
    assert!(due.since(rig.now.boot) > secs(600), "left alone for now");
    assert!(due.since(rig.now.boot) < secs(9 * 86_400), "and not for ever");
}

#[test]
fn a_missing_client_secret_is_named_before_the_provider_is_bothered() {
    let mut rig = Rig::new(policy());
    rig.load(Ok(Loaded { client_secret: None, ..stored("canary-r1", 1) }));
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.refreshes), ("NotConfigured", 0));
    assert_eq!(rig.state(), AccountState::NotConfigured);
}

/// K24, K26.
#[test]
fn a_personal_token_is_handed_out_never_refreshed_and_refused_once() {
    let mut rig = Rig::new(Policy { personal: true, stored_secret: false, ..policy() });
    rig.load(Ok(Loaded::default()));
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.state()), ("LoginRequired", AccountState::LoggedOut));

    let effects = rig.session.personal_token_set(PersonalToken::parse("canary-p").ok(), &rig.now);
    rig.take(effects);
    rig.wait(1_000_000);
    let id = rig.get_with(TokenOptions { min_validity: Some(secs(60)), ..forced() });
    assert_eq!((rig.token(id).as_str(), rig.refreshes), ("canary-p", 0));

    rig.reject("canary-p");
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.state()), ("ProviderRefused", AccountState::Refused));
}

#[test]
fn a_changed_configuration_keeps_an_unsaved_session() {
    let mut rig = Rig::logged_in();
    rig.hold_writes = true;
    rig.now.boot = rig.now.boot.after(secs(301));
    rig.get();
    rig.succeed(300, 1800);
    rig.written(Err(StoreError::Locked));
    let heirloom = rig.session.into_heirloom();

    let mut heir = Rig::new(Policy { min_validity: Some(secs(60)), ..policy() });
    heir.session.inherit(heirloom);
    heir.load(Ok(stored("canary-r1", 1)));
    let id = heir.get();
    assert_eq!(heir.token(id), "canary-a2");
    assert_eq!(heir.writes.last().unwrap().1.as_ref().unwrap().refresh_token.expose(), "canary-r2");
}

#[test]
fn a_changed_configuration_keeps_the_secrets_of_a_keyring_that_was_locked_since() {
    let heirloom = Rig::logged_in().session.into_heirloom();
    let mut heir = Rig::new(Policy { min_validity: Some(secs(60)), ..policy() });
    heir.session.inherit(heirloom);
    heir.load(Err(StoreError::Locked));
    heir.wait(1080);
    assert_eq!(heir.refreshes, 1);
    let secret = heir.in_flight.last().unwrap().client_secret.clone().unwrap();
    assert_eq!(secret.expose(), "canary-secret");

    let personal = Policy { personal: true, stored_secret: false, client_id: String::new(), ..policy() };
    let mut rig = Rig::new(personal.clone());
    rig.load(Ok(Loaded { personal_token: PersonalToken::parse("canary-p").ok(), ..Loaded::default() }));
    let mut heir = Rig::new(personal);
    heir.session.inherit(rig.session.into_heirloom());
    heir.load(Err(StoreError::Locked));
    let id = heir.get();
    assert_eq!(heir.token(id), "canary-p");
}

#[test]
fn a_changed_store_gets_the_session_and_an_unchanged_one_nothing() {
    for (loaded, writes) in [
        (secret_only(), &[2][..]),
        (stored("canary-r0", 0), &[2]),
        // What it was saved to in between counted anew.
        (stored("canary-r0", 500), &[501]),
        (stored("canary-r1", 1), &[]),
    ] {
        let mut heir = Rig::new(policy());
        heir.session.inherit(Rig::logged_in().session.into_heirloom());
        heir.load(Ok(loaded));
        let written: Vec<u64> = heir.writes.iter().map(|(sequence, _)| *sequence).collect();
        assert_eq!(written, writes);
        let saved = heir.writes.iter().all(|(_, record)| record.is_some());
        assert!(saved && !heir.session.sync.pending());
    }
}

#[test]
fn a_changed_client_or_issuer_inherits_no_secret() {
    let heirloom = || Rig::logged_in().session.into_heirloom();
    for policy in [
        Policy { client_id: "other".into(), ..policy() },
        Policy { issuer: "https://other.example".into(), ..policy() },
    ] {
        let mut heir = Rig::new(policy);
        heir.session.inherit(heirloom());
        assert!(heir.session.client_secret.is_none() && heir.session.live.is_none());
    }
}

#[derive(Debug, Clone)]
enum Op {
    Suspending,
    Awake,
    OtherNetwork,
    Postponed,
    Get(u16),
    Narrow(u8, bool),
    RejectNarrow,
    Force,
    Reject,
    RefreshNow,
    Logout,
    LogIn(u16),
    Succeed(u16, u16),
    Fail(u8),
    Salvage,
    Load(u8),
    Written(bool),
    StoreChanged,
    EndedAtProvider(bool),
    SetSecret(bool),
    Wait(u32),
    Sleep(u32),
    StepWall(i32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<u16>().prop_map(Op::Get),
        3 => any::<(u8, bool)>().prop_map(|(wish, force)| Op::Narrow(wish, force)),
        1 => Just(Op::RejectNarrow),
        1 => Just(Op::Force),
        1 => Just(Op::Reject),
        1 => Just(Op::RefreshNow),
        1 => Just(Op::Logout),
        2 => any::<u16>().prop_map(Op::LogIn),
        4 => any::<(u16, u16)>().prop_map(|(a, r)| Op::Succeed(a, r)),
        3 => (0_u8..5).prop_map(Op::Fail),
        1 => Just(Op::Salvage),
        3 => (0_u8..4).prop_map(Op::Load),
        3 => any::<bool>().prop_map(Op::Written),
        1 => Just(Op::StoreChanged),
        1 => any::<bool>().prop_map(Op::EndedAtProvider),
        1 => any::<bool>().prop_map(Op::SetSecret),
        4 => (0_u32..4000).prop_map(Op::Wait),
        1 => (0_u32..100_000).prop_map(Op::Sleep),
        1 => any::<i32>().prop_map(Op::StepWall),
        1 => Just(Op::Suspending),
        1 => Just(Op::Awake),
        1 => Just(Op::OtherNetwork),
        1 => Just(Op::Postponed),
    ]
}

proptest! {
    /// Every request is answered exactly once and in time, no two refreshes are in flight, no dead
    /// token is handed out, whatever happens in whatever order.
    #[test]
    fn any_order_of_events_keeps_the_promises(ops in prop::collection::vec(op(), 1..120)) {
        let mut rig = Rig::new(policy());
        rig.hold_writes = true;
        let mut asked: Vec<(u64, BootTime)> = Vec::new();
        for op in ops {
            let (start, first) = (rig.now.boot, rig.next + 1);
            match op {
                Op::Get(min) => { rig.get_min(u64::from(min % 700)); }
                Op::Narrow(wish, force) => {
                    let wish = narrow::wish("profile", "", &format!("urn:api:{wish}"));
                    rig.get_with(TokenOptions { force_refresh: force, narrow: Some(wish), min_validity: None });
                }
                Op::RejectNarrow => {
                    let narrower = rig.answers.values().rev().find_map(|answer| match answer {
                        Ok(Reply::Token(reply)) => Some(reply.token.expose().to_owned()),
                        _ => None,
                    });
                    rig.reject(&narrower.unwrap_or_else(|| "canary-none".to_owned()));
                }
                Op::Force => { rig.get_with(forced()); }
                Op::Reject => { rig.reject(&format!("canary-a{}", rig.issued)); }
                Op::RefreshNow => {
                    let id = rig.id();
                    let effects = rig.session.refresh_now(id, &rig.now);
                    rig.take(effects);
                }
                Op::Logout => { rig.logout(); }
                Op::LogIn(lifetime) => { rig.log_in(u64::from(lifetime % 400), u64::from(lifetime % 2000)); }
                Op::Succeed(a, r) if !rig.in_flight.is_empty() => rig.succeed(u64::from(a % 400), u64::from(r % 2000)),
                Op::Fail(class) if !rig.in_flight.is_empty() => rig.fail([
                    Class::Unreachable, Class::Ambiguous, Class::SessionOver, Class::Refused, Class::Malformed,
                ][usize::from(class)]),
                Op::Salvage if !rig.in_flight.is_empty() => {
                    let salvaged = RefreshToken::parse("canary-salvaged").ok();
                    rig.finish(Err(ProviderError { salvaged, ..ProviderError::new(Class::Malformed, "broken") }));
                }
                Op::Load(what) => rig.load(match what {
                    0 => Ok(secret_only()),
                    1 => Ok(stored("canary-stored", 5)),
                    2 => Err(StoreError::Locked),
                    _ => Err(StoreError::Unavailable("gone".into())),
                }),
                Op::Written(well) if !rig.writes.is_empty() => {
                    rig.written(if well { Ok(()) } else { Err(StoreError::Locked) });
                }
                Op::StoreChanged => {
                    let effects = rig.session.store_changed(&rig.now);
                    rig.take(effects);
                }
                Op::EndedAtProvider(ended) => {
                    let effects = rig.session.ended_at_provider(ended, &rig.now);
                    rig.take(effects);
                }
                Op::SetSecret(there) => {
                    let secret = if there { ClientSecret::parse("s").ok() } else { None };
                    let effects = rig.session.client_secret_set(secret, &rig.now);
                    rig.take(effects);
                }
                Op::Suspending => {
                    let effects = rig.session.going_to_sleep(&rig.now);
                    rig.take(effects);
                }
                Op::Awake => {
                    let effects = rig.session.woke_up(&rig.now);
                    rig.take(effects);
                }
                Op::OtherNetwork => {
                    let effects = rig.session.network_changed(&rig.now);
                    rig.take(effects);
                }
                Op::Postponed if !rig.in_flight.is_empty() => {
                    rig.postpone(7);
                }
                Op::Wait(ms) => rig.advance(Duration::from_millis(ms.into())),
                Op::Sleep(s) => rig.suspend(s.into()),
                Op::StepWall(s) => rig.now.wall = secs(rig.now.wall.as_secs().saturating_add_signed(s.into())),
                _ => {}
            }
            asked.extend((first..=rig.next).map(|id| (id, start)));
            for (id, at) in &asked {
                let waited = rig.now.boot.since(*at);
                prop_assert!(rig.answers.contains_key(id) || waited < super::CALLER_BUDGET, "{id} waits {waited:?}");
            }
            for answer in rig.answers.values() {
                if let Ok(Reply::Token(reply)) = answer {
                    prop_assert!(reply.expires_in >= 1, "a dead token");
                }
            }
            let _ = rig.session.view(&rig.now);
            let next = rig.session.next_timeout(&rig.now);
            if let Some(next) = next.filter(|next| *next <= rig.now.boot) {
                // Whatever is due now was started already, or a wake-up loop would follow.
                prop_assert!(false, "due at {next:?}, now {:?}", rig.now.boot);
            }
        }
    }
}
