//! Suspends, networks, lost answers, and the ends of processes.

use super::*;

/// A process that begins where another was cut off.
fn begin(recalled: Recalled) -> Rig {
    let mut rig = Rig::new(policy());
    rig.session.recall(recalled, &rig.now);
    rig
}

fn note(sent: Option<&str>, seconds_ago: u64, attempts: u32) -> Note {
    Note {
        sent: sent.map(|token| fingerprint(&RefreshToken::parse(token).unwrap())),
        boot_id: "this-boot".into(),
        boot: 50_000 - seconds_ago,
        wall: 1_790_000_000 - seconds_ago,
        attempts,
        ..Note::default()
    }
}

/// D7: noted before it is sent, and until what it brought is saved.
#[test]
fn a_refresh_is_noted_from_before_it_is_sent_until_it_is_saved() {
    let mut rig = Rig::logged_in();
    rig.hold_writes = true;
    rig.advance(secs(301));
    rig.get();
    let sent = rig.in_flight.last().unwrap().note.sent.clone();
    assert_eq!(sent, Some(fingerprint(&RefreshToken::parse("canary-r1").unwrap())));

    rig.succeed(300, 1800);
    assert_eq!(rig.note.1.sent, sent, "not saved yet");
    rig.written(Ok(()));
    assert_eq!((rig.note.1.sent.clone(), rig.note.1.attempts), (None, 0));

    rig.logout();
    assert_eq!(rig.note.1, Note::default(), "nothing is left of a session that is over");
}

/// D7: cut off in the midst, it is tried at once and once, and the account says what happened.
#[test]
fn a_refresh_that_a_crash_cut_off_is_tried_once_at_once() {
    let mut rig = begin(Recalled { note: Some(note(Some("canary-r1"), 3, 1)), unsaved: None });
    rig.load(Ok(stored("canary-r1", 1)));
    assert_eq!(rig.refreshes, 1, "though nobody asked");

    rig.fail(Class::SessionOver);
    rig.load(Ok(stored("canary-r1", 1)));

    assert_eq!((rig.state(), rig.session.view(&rig.now).reason), (AccountState::Expired, "answer-lost"));
    assert_eq!(rig.refreshes, 1);
    assert_eq!(rig.note.1, Note::default());
}

#[test]
fn a_note_of_another_refresh_token_hurries_nobody() {
    let mut rig = begin(Recalled { note: Some(note(Some("canary-r0"), 3, 1)), unsaved: None });
    rig.load(Ok(stored("canary-r1", 1)));
    assert_eq!(rig.refreshes, 0);
}

/// R25, N16: a process that dies of its refresh again and again does not hammer the provider.
#[test]
fn failures_count_across_restarts() {
    for (sent, attempts) in [(Some("canary-r1"), 4), (None, 3)] {
        let mut rig = begin(Recalled { note: Some(note(sent, 1, attempts)), unsaved: None });
        rig.load(Ok(stored("canary-r1", 1)));
        assert_eq!((rig.refreshes, rig.state()), (0, AccountState::Offline));
        rig.advance(secs(61));
        assert_eq!(rig.refreshes, 1);
    }
    let told = Note { wait: 600, ..note(None, 1, 1) };
    let mut rig = begin(Recalled { note: Some(told), unsaved: None });
    rig.load(Ok(stored("canary-r1", 1)));
    let id = rig.get();
    assert_eq!((rig.token(id).as_str(), rig.refreshes), ("ProviderUnreachable", 0), "Retry-After is kept");
}

/// R25: fifty starts within a minute, each with a caller.
#[test]
fn fifty_restarts_cause_few_requests() {
    let (mut left, mut sent) = (None::<Note>, 0);
    for start in 0..50_u64 {
        let mut rig = Rig::new(policy());
        rig.now.boot = rig.now.boot.after(secs(start));
        rig.session.recall(Recalled { note: left.clone(), unsaved: None }, &rig.now);
        rig.load(Ok(stored("canary-r1", 1)));
        rig.get();
        if rig.refreshes > 0 {
            sent += 1;
            rig.succeed(300, 1800);
            left = Some(rig.note.1.clone());
        }
    }
    assert!((5..=11).contains(&sent), "{sent} requests");
}

/// D11: what no keyring had when the last process ended.
#[test]
fn an_unsaved_session_of_the_last_process_goes_on_and_is_saved() {
    let newer = stored("canary-r2", 7).session.unwrap();
    let unsaved = || Some(Unsaved { sequence: 7, record: Some(newer.clone()) });
    let mut rig = begin(Recalled { note: Some(note(Some("canary-r1"), 1, 1)), unsaved: unsaved() });
    rig.load(Ok(stored("canary-r1", 6)));

    let written = rig.writes.last().unwrap().1.as_ref().unwrap().refresh_token.expose().to_owned();
    assert_eq!((written.as_str(), rig.refreshes), ("canary-r2", 0), "and it is not doubted");
    rig.get();
    assert_eq!(rig.in_flight.last().unwrap().refresh_token.expose(), "canary-r2");

    let mut rig = begin(Recalled { note: None, unsaved: unsaved() });
    rig.load(Ok(stored("canary-r9", 9)));
    rig.get();
    assert_eq!(rig.in_flight.last().unwrap().refresh_token.expose(), "canary-r9", "the keyring's is newer");

    let mut rig = begin(Recalled { note: None, unsaved: Some(Unsaved { sequence: 7, record: None }) });
    rig.load(Ok(stored("canary-r1", 6)));
    assert!(rig.writes.last().unwrap().1.is_none(), "a logout that was pending is carried out");
    let id = rig.get();
    assert_eq!(rig.token(id), "LoginRequired");
}

/// D9, N11: nothing is sent into a suspend, and after it the sessions do not all come at once.
#[test]
fn nothing_is_sent_into_a_suspend_and_the_wake_up_is_spread() {
    let mut rig = Rig::logged_in();
    rig.advance(secs(200));
    let effects = rig.session.going_to_sleep(&rig.now);
    rig.take(effects);
    rig.advance(secs(40));
    assert_eq!(rig.refreshes, 0, "it was due");

    rig.suspend(1200);
    let effects = rig.session.woke_up(&rig.now);
    rig.take(effects);
    assert_eq!(rig.refreshes, 0);
    rig.advance(secs(3));
    assert_eq!(rig.refreshes, 1, "at its place among the others: half of five seconds");

    let effects = rig.session.going_to_sleep(&rig.now);
    rig.take(effects);
    rig.succeed(300, 1800);
    rig.get_with(forced());
    rig.advance(secs(14));
    assert_eq!(rig.refreshes, 1, "also when somebody waits");
    rig.get_with(forced());
    rig.advance(secs(47));
    rig.get_with(forced());
    assert_eq!(rig.refreshes, 2, "a suspend that does not come is forgotten after a minute");
}

/// Design section 6: an answer that a suspend or another network cut off is waited for a few seconds more.
#[test]
fn an_answer_that_a_suspend_cut_off_is_given_up_and_asked_for_again() {
    let mut rig = Rig::logged_in();
    rig.advance(secs(301));
    let id = rig.get();
    rig.suspend(7200);
    rig.advance(secs(4));
    assert_eq!(rig.given_up, 0);
    rig.advance(secs(2));
    assert_eq!(rig.given_up, 1);

    rig.fail(Class::Ambiguous);
    rig.advance(secs(1));
    assert_eq!(rig.refreshes, 2, "one prompt retry");
    rig.succeed(300, 1800);
    let _ = id;
    assert_eq!(rig.state(), AccountState::Ready);
    assert_eq!(rig.given_up, 1);
}

/// A simulated loss: the wake-up is announced after the clocks have shown it, and what was sent in between
/// must not be sent twice.
#[test]
fn what_is_sent_after_a_suspend_is_not_given_up_when_it_is_announced() {
    let mut rig = Rig::logged_in();
    rig.suspend(100);
    rig.get_with(forced());
    assert_eq!(rig.refreshes, 1);
    let effects = rig.session.woke_up(&rig.now);
    rig.take(effects);
    rig.advance(secs(12));
    assert_eq!((rig.given_up, rig.refreshes), (0, 1));
}

/// Two clocks are never read at the same moment: what lies between two looks at them is no suspend.
#[test]
fn noise_of_the_clocks_cuts_no_refresh_short() {
    let mut rig = Rig::logged_in();
    rig.now.asleep = secs(100);
    rig.get_with(forced());
    rig.now.asleep += Duration::from_micros(900);
    let effects = rig.session.woke_up(&rig.now);
    rig.take(effects);
    rig.advance(secs(30));
    assert_eq!((rig.given_up, rig.refreshes), (0, 1));
}

/// D8: a session that waited for another one's failure has the prompt retry of its own still.
#[test]
fn a_postponed_session_asks_again_for_an_answer_of_its_own_that_was_lost() {
    let mut rig = Rig::logged_in();
    rig.advance(secs(301));
    let id = rig.get();
    rig.postpone(2);
    rig.advance(secs(3));
    rig.fail(Class::Ambiguous);
    rig.advance(secs(1));
    assert_eq!(rig.in_flight.last().unwrap().urgency, Urgency::Prompt);
    rig.succeed(300, 1800);
    assert_eq!(rig.token(id), "canary-a2");
}

/// N17: what another session was told holds for all of them, until the provider answers one.
#[test]
fn a_retry_after_of_another_session_ends_with_the_providers_return() {
    let mut rig = Rig::logged_in();
    rig.advance(secs(301));
    rig.get();
    rig.postpone_until(300, rig.now.boot.after(secs(300)));
    rig.advance(secs(60));
    rig.get();
    assert_eq!(rig.refreshes, 1, "kept");

    let effects = rig.session.provider_returned(&rig.now);
    rig.take(effects);
    let id = rig.get();

    assert_eq!(rig.refreshes, 2);
    rig.succeed(300, 1800);
    assert_eq!(rig.token(id), "canary-a2");
}

/// N17: its own it keeps, whoever else is answered.
#[test]
fn a_retry_after_of_its_own_outlasts_the_providers_return() {
    let mut rig = Rig::logged_in();
    rig.advance(secs(301));
    rig.get();
    let busy = ProviderError::new(Class::Unreachable, "busy");
    rig.finish(Err(ProviderError { retry_after: Some(secs(300)), ..busy }));

    let effects = rig.session.provider_returned(&rig.now);
    rig.take(effects);
    rig.advance(secs(60));
    rig.get();

    assert_eq!(rig.refreshes, 1);
}

/// A save that waits for its next try is not left to the next process, which may have no keyring either.
#[test]
fn a_stop_tries_a_pending_save_once_more() {
    let mut rig = Rig::logged_in();
    rig.hold_writes = true;
    rig.advance(secs(301));
    rig.get();
    rig.succeed(300, 1800);
    rig.written(Err(StoreError::Unavailable("no answer".into())));
    let writes = rig.writes.len();
    assert!(!rig.session.is_busy());

    let effects = rig.session.stop(&rig.now);
    rig.take(effects);

    assert!(rig.session.is_busy() && rig.writes.len() == writes + 1);
    rig.written(Err(StoreError::Unavailable("no answer".into())));
    assert!(!rig.session.is_busy(), "once");
}

/// A client whose refusal is a matter of a file beside the configuration is tried again by a reload, once.
#[test]
fn a_refused_client_is_tried_again_by_a_reload() {
    let mut rig = Rig::logged_in();
    rig.advance(secs(301));
    rig.get();
    rig.fail(Class::Refused);
    rig.advance(secs(20));
    assert_eq!((rig.refreshes, rig.state()), (1, AccountState::Refused));

    let effects = rig.session.configuration_read(&rig.now);
    rig.take(effects);
    assert_eq!(rig.refreshes, 2);
    rig.fail(Class::Refused);
    rig.advance(secs(600));
    assert_eq!((rig.refreshes, rig.state()), (2, AccountState::Refused));

    let effects = rig.session.configuration_read(&rig.now);
    rig.take(effects);
    rig.succeed(300, 1800);
    assert_eq!(rig.state(), AccountState::Ready);
}

/// Another: the keyring comes back while it is being looked at.
#[test]
fn a_store_that_changes_while_it_is_read_is_read_again() {
    let mut rig = Rig::new(policy());
    let effects = rig.session.store_changed(&rig.now);
    rig.take(effects);
    rig.load(Err(StoreError::Unavailable("no answer".into())));
    assert_eq!(rig.loads, 2);
    rig.load(Ok(stored("canary-r1", 1)));
    assert_eq!(rig.state(), AccountState::Ready);
}

/// N11: when the network is back nobody waits for a backoff to end.
#[test]
fn another_network_ends_the_backoff() {
    let mut rig = Rig::logged_in();
    rig.advance(secs(301));
    rig.get();
    for _ in 0..8 {
        rig.fail(Class::Unreachable);
        rig.advance(secs(61));
    }
    rig.fail(Class::Unreachable);
    let sent = rig.refreshes;
    let effects = rig.session.network_changed(&rig.now);
    rig.take(effects);
    rig.advance(secs(3));
    assert_eq!(rig.refreshes, sent + 1);
}

/// D8: one prompt retry after a lost answer, also amidst other failures, and no more.
#[test]
fn a_lost_answer_is_asked_for_again_once() {
    let mut rig = Rig::logged_in();
    rig.advance(secs(301));
    rig.get();
    rig.fail(Class::Unreachable);
    rig.advance(secs(2));
    let sent = rig.refreshes;
    rig.fail(Class::Ambiguous);
    rig.advance(secs(1));
    assert_eq!(rig.refreshes, sent + 1);
    assert_eq!(rig.in_flight.last().unwrap().urgency, Urgency::Prompt);
    rig.fail(Class::Ambiguous);
    rig.advance(secs(1));
    assert_eq!(rig.refreshes, sent + 1);
}
