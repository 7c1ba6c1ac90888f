//! Narrower tokens beside the session's own.

use std::sync::Arc;

use super::*;
use crate::config::AudienceBy;
use crate::tokens::Narrow;

pub(super) fn wish(scope: &str, audience: &str, resource: &str) -> Arc<Narrow> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Arc::new(Narrow::new(some(scope), some(audience), some(resource)).unwrap().unwrap())
}

impl Rig {
    fn narrow(&mut self, wish: &Arc<Narrow>) -> u64 {
        self.get_with(TokenOptions { narrow: Some(Arc::clone(wish)), ..TokenOptions::default() })
    }

    /// A session with the scopes `profile locks`.
    fn with_scopes() -> Self {
        Self::of(Policy { audience_by: Some(AudienceBy::Refresh), ..policy() })
    }

    fn of(policy: Policy) -> Self {
        let mut rig = Self::new(Policy { scope: "profile locks".into(), ..policy });
        rig.load(Ok(secret_only()));
        rig.log_in(300, 1800);
        rig
    }

    fn text(&self, id: u64) -> String {
        match &self.answers[&id] {
            Err(error) => error.to_string(),
            Ok(_) => String::new(),
        }
    }

    fn sent_for(&self) -> Option<&Narrow> {
        self.in_flight[0].narrow.as_deref()
    }
}

/// J2: each wish has its own token, and none answers another, wider or narrower.
#[test]
fn each_wish_has_its_own_token() {
    let mut rig = Rig::with_scopes();
    let wishes = [
        wish("profile", "", ""),
        wish("locks", "", ""),
        wish("", "api", ""),
        wish("", "", "https://api.example"),
        wish("profile", "", "https://api.example"),
    ];
    let mut tokens = Vec::new();
    for wish in &wishes {
        let id = rig.narrow(wish);
        assert_eq!(rig.sent_for(), Some(&**wish));
        rig.succeed(300, 1800);
        tokens.push(rig.token(id));
    }
    assert_eq!(tokens, ["canary-a2", "canary-a3", "canary-a4", "canary-a5", "canary-a6"]);

    for (wish, token) in wishes.iter().zip(&tokens) {
        let id = rig.narrow(wish);
        assert_eq!(rig.token(id), *token);
    }
    let own = rig.get();
    // All that there is, in another order, is no wish of its own.
    let all = rig.narrow(&wish("locks profile", "", ""));
    assert_eq!((rig.token(own).as_str(), rig.token(all).as_str()), ("canary-a1", "canary-a1"));
    assert_eq!(rig.refreshes, 5);
}

/// J3, D3, D4: one refresh token, one queue, and each rotation is saved before it is used.
#[test]
fn wishes_and_the_sessions_own_token_wait_in_one_queue() {
    let mut rig = Rig::with_scopes();
    rig.hold_writes = true;
    rig.now.boot = rig.now.boot.after(secs(301));
    let own = rig.get();
    let first: Vec<u64> = (0..50).map(|_| rig.narrow(&wish("profile", "", ""))).collect();
    let second = rig.narrow(&wish("locks", "", ""));
    let mut used = Vec::new();
    for _ in 0..3 {
        assert_eq!(rig.in_flight.len(), 1);
        used.push(rig.in_flight[0].refresh_token.expose().to_owned());
        rig.succeed(300, 1800);
        assert!(rig.in_flight.is_empty(), "the rotated one is not used before it is saved");
        let record = rig.writes.last().unwrap().1.as_ref().unwrap();
        assert_eq!(record.refresh_token.expose(), format!("canary-r{}", rig.issued));
        rig.written(Ok(()));
    }

    assert_eq!(used, ["canary-r1", "canary-r2", "canary-r3"]);
    assert_eq!(rig.token(own), "canary-a2");
    assert!(first.iter().all(|id| rig.token(*id) == "canary-a3"));
    assert_eq!((rig.token(second).as_str(), rig.refreshes), ("canary-a4", 3));
    let own = rig.get();
    assert_eq!(rig.token(own), "canary-a2", "and none of them replaces the session's own");
}

/// N1: what comes for a wish is no answer to those who wait for the session's own token.
#[test]
fn a_wish_fulfilled_is_no_refresh_of_the_sessions_own_token() {
    let mut rig = Rig::with_scopes();
    rig.wait(20);
    let narrower = rig.narrow(&wish("profile", "", ""));
    let own = rig.get_min(290);
    let forced = rig.get_with(forced());
    rig.succeed(300, 1800);
    assert_eq!((rig.token(narrower).as_str(), rig.token(own).as_str()), ("canary-a2", "waiting"));
    rig.succeed(300, 1800);
    assert_eq!((rig.token(own).as_str(), rig.token(forced).as_str()), ("canary-a3", "canary-a3"));
}

/// A11.
#[test]
fn nobody_gets_more_than_was_granted() {
    let mut rig = Rig::with_scopes();
    let id = rig.narrow(&wish("locks messaging", "", ""));
    assert_eq!((rig.token(id).as_str(), rig.refreshes), ("InvalidOption", 0));
    assert!(rig.text(id).contains("\"profile locks\""), "{}", rig.text(id));

    let mut rig = Rig::of(policy());
    let id = rig.narrow(&wish("", "api", ""));
    assert_eq!((rig.token(id).as_str(), rig.refreshes), ("InvalidOption", 0));
    assert!(rig.text(id).contains("audience_by"), "{}", rig.text(id));
}

/// J1: `invalid_target` is its caller's error, and asked for once a minute at most.
#[test]
fn a_refused_wish_harms_nothing_and_is_remembered() {
    for class in [Class::Refused, Class::Malformed] {
        let mut rig = Rig::with_scopes();
        let nowhere = wish("", "", "urn:nowhere");
        let id = rig.narrow(&nowhere);
        rig.fail(class);
        let word = if class == Class::Refused { "ProviderRefused" } else { "ProviderUnreachable" };
        assert_eq!((rig.token(id).as_str(), rig.state()), (word, AccountState::Ready));
        assert!(rig.text(id).contains("urn:nowhere"), "{}", rig.text(id));

        for _ in 0..9 {
            rig.wait(1);
            let id = rig.narrow(&nowhere);
            assert_eq!(rig.token(id), word);
        }
        assert_eq!(rig.refreshes, 1);
        let own = rig.get();
        assert_eq!(rig.token(own), "canary-a1");
        rig.wait(60);
        rig.narrow(&nowhere);
        assert_eq!(rig.refreshes, 2);
    }
}

/// J1, D15: what a provider says to a wish ends no session; its answer to the session's own refresh does.
#[test]
fn an_invalid_grant_to_a_wish_is_believed_only_when_the_session_gets_it_too() {
    for over in [false, true] {
        let mut rig = Rig::with_scopes();
        rig.wait(20);
        let id = rig.narrow(&wish("profile", "", ""));
        rig.fail(Class::SessionOver);
        assert_eq!((rig.token(id).as_str(), rig.state()), ("waiting", AccountState::Ready));
        assert_eq!((rig.refreshes, rig.sent_for()), (2, None), "the session's own is tried");
        if over {
            rig.fail(Class::SessionOver);
            rig.load(Ok(secret_only()));
            assert_eq!((rig.token(id).as_str(), rig.state()), ("LoginRequired", AccountState::Expired));
        } else {
            rig.succeed(300, 1800);
            assert_eq!((rig.token(id).as_str(), rig.state()), ("ProviderRefused", AccountState::Ready));
        }
        assert_eq!(rig.refreshes, 2);
    }
}

/// D8: an answer that was lost may have held a rotated refresh token, whatever it was asked for.
#[test]
fn a_lost_answer_to_a_wish_is_found_out_with_the_session_and_the_wish_tried_once_more() {
    for class in [Class::Ambiguous, Class::Unreachable] {
        let mut rig = Rig::with_scopes();
        let id = rig.narrow(&wish("profile", "", ""));
        rig.fail(class);
        assert_eq!(rig.state(), AccountState::Offline);
        rig.wait(1);
        assert_eq!(rig.sent_for(), None);
        rig.succeed(300, 1800);
        assert!(rig.sent_for().is_some());
        rig.fail(class);
        rig.wait(2);
        rig.succeed(300, 1800);
        assert_eq!((rig.token(id).as_str(), rig.state()), ("ProviderUnreachable", AccountState::Ready));
        assert_eq!(rig.refreshes, 4, "{class:?}");
    }
}

#[test]
fn a_wish_waits_for_a_provider_that_is_away_no_longer_than_anybody() {
    let mut rig = Rig::with_scopes();
    let id = rig.narrow(&wish("profile", "", ""));
    for _ in 0..160 {
        if !rig.in_flight.is_empty() {
            rig.fail(Class::Unreachable);
        }
        rig.advance(Duration::from_millis(100));
    }
    assert_eq!(rig.token(id), "ProviderUnreachable");

    let mut rig = Rig::with_scopes();
    let id = rig.narrow(&wish("profile", "", ""));
    rig.wait(15);
    assert_eq!(rig.token(id), "Timeout");
    rig.succeed(300, 1800);
    let id = rig.narrow(&wish("profile", "", ""));
    assert_eq!((rig.token(id).as_str(), rig.refreshes), ("canary-a2", 1));
}

/// A caller can fill neither the memory nor the provider's log.
#[test]
fn wishes_are_bounded_in_number_and_in_rate() {
    let mut rig = Rig::with_scopes();
    let mut limited = 0;
    for number in 0..200 {
        let id = rig.narrow(&wish("", "", &format!("urn:api:{number}")));
        if rig.in_flight.is_empty() {
            assert_eq!(rig.token(id), "RateLimited");
            limited += 1;
        } else {
            rig.succeed(3000, 9000);
        }
    }
    assert_eq!((limited, rig.refreshes), (168, 32));

    for number in 0..100 {
        rig.wait(2);
        rig.narrow(&wish("", "", &format!("urn:more:{number}")));
        rig.succeed(3000, 9000);
    }
    rig.wait(2);
    let refreshes = rig.refreshes;
    rig.narrow(&wish("", "", "urn:more:99"));
    assert_eq!(rig.refreshes, refreshes, "the last ones are kept");
    rig.narrow(&wish("", "", "urn:api:0"));
    assert_eq!(rig.refreshes, refreshes + 1, "and the first ones not");
}

/// E4 for a narrower token.
#[test]
fn a_refused_narrower_token_is_replaced_and_the_sessions_own_is_not() {
    let mut rig = Rig::with_scopes();
    rig.narrow(&wish("profile", "", ""));
    rig.succeed(300, 1800);

    let id = rig.reject("canary-a2");
    assert_eq!(rig.sent_for(), Some(&*wish("profile", "", "")));
    rig.succeed(300, 1800);

    assert_eq!(rig.flag(id), Some(true));
    let late = rig.reject("canary-a2");
    let (own, narrower) = (rig.get(), rig.narrow(&wish("profile", "", "")));
    assert_eq!(
        (rig.flag(late), rig.token(own).as_str(), rig.token(narrower).as_str()),
        (Some(true), "canary-a1", "canary-a3")
    );
    assert_eq!(rig.refreshes, 2);
}

/// J2: a provider that narrows nothing is not passed off as one that does; its defaults are reported.
#[test]
fn what_was_really_granted_is_reported_and_all_of_it_is_refused() {
    let mut rig = Rig::with_scopes();
    for (granted, word) in [
        ("locks profile", "ProviderRefused"),
        ("email locks profile", "ProviderRefused"),
        ("email profile", "canary-a4"),
    ] {
        let id = rig.narrow(&wish("profile", "", ""));
        let response = TokenResponse { scope: Some(granted.into()), ..rig.response(300, 1800) };
        rig.finish(Ok(response));
        assert_eq!(rig.token(id), word);
        if let Ok(Reply::Token(reply)) = &rig.answers[&id] {
            assert_eq!(reply.scope, granted);
        }
        rig.wait(60);
    }
    assert_eq!(rig.writes.last().unwrap().1.as_ref().unwrap().refresh_token.expose(), "canary-r4");
    assert_eq!(rig.session.view(&rig.now).scope, "profile locks");
}

#[test]
fn narrower_tokens_end_with_their_session() {
    let mut rig = Rig::with_scopes();
    rig.narrow(&wish("profile", "", ""));
    rig.succeed(300, 1800);
    rig.log_in(300, 1800);
    let id = rig.narrow(&wish("profile", "", ""));
    assert_eq!(rig.token(id), "waiting", "of the new session");
    rig.logout();
    assert_eq!(rig.token(id), "LoginRequired");
}

#[test]
fn without_a_refresh_token_and_for_personal_tokens_nothing_is_narrowed() {
    let mut rig = Rig::with_scopes();
    let response = TokenResponse { refresh_token: None, ..rig.response(300, 1800) };
    let (id, asked) = (rig.id(), Asked::at(&rig.now));
    let granted = Granted { tokens: response, sub: "u1".into(), subject: "ayu".into(), key: None };
    let effects = rig.session.logged_in(id, granted, &asked, &rig.now, J);
    rig.take(effects);
    let id = rig.narrow(&wish("profile", "", ""));
    assert_eq!(rig.token(id), "InvalidOption");

    let mut rig = Rig::new(Policy { personal: true, stored_secret: false, ..policy() });
    rig.load(Ok(Loaded { personal_token: PersonalToken::parse("canary-p").ok(), ..Loaded::default() }));
    let id = rig.narrow(&wish("profile", "", ""));
    assert_eq!(rig.token(id), "InvalidOption");
}
