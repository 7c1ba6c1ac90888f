//! Keyrings that open late, lose what they had, or hold what is over.

use super::*;

fn change(rig: &mut Rig) {
    let effects = rig.session.store_changed(&rig.now);
    rig.take(effects);
}

/// P5, P10: the session is in a keyring that was closed while the default one was open.
#[test]
fn a_keyring_that_opens_later_brings_its_session() {
    let mut rig = Rig::new(policy());
    rig.load(Ok(Loaded::default()));
    assert_eq!(rig.state(), AccountState::NotConfigured);

    change(&mut rig);
    rig.load(Ok(stored("canary-r7", 7)));

    assert_eq!(rig.state(), AccountState::Ready);
    rig.get();
    assert_eq!(rig.in_flight.last().unwrap().refresh_token.expose(), "canary-r7");
}

/// F1: a copy in another keyring, of a session that was logged out of, stays out of use.
#[test]
fn a_keyring_that_opens_after_a_logout_brings_nothing_back() {
    let mut rig = Rig::logged_in();
    rig.logout();
    change(&mut rig);
    rig.load(Ok(stored("canary-r9", 9)));
    assert_eq!(rig.state(), AccountState::LoggedOut);

    let mut rig = Rig::new(policy());
    rig.load(Ok(secret_only()));
    rig.logout();
    change(&mut rig);
    rig.load(Ok(stored("canary-r9", 9)));
    assert_eq!(rig.state(), AccountState::LoggedOut);
}

/// What was rotated in memory is newer than what a keyring that opens has.
#[test]
fn a_keyring_that_opens_later_takes_no_token_from_a_live_session() {
    let mut rig = Rig::logged_in();
    change(&mut rig);
    rig.load(Ok(stored("canary-r9", 9)));
    rig.get_with(forced());
    assert_eq!(rig.in_flight.last().unwrap().refresh_token.expose(), "canary-r1");
}

/// A look at the keyring that began before the user set a secret does not bring the old one back.
#[test]
fn a_secret_that_was_set_while_the_keyring_was_read_stays() {
    let mut rig = Rig::new(policy());
    let effects = rig.session.client_secret_set(ClientSecret::parse("canary-new").ok(), &rig.now);
    rig.take(effects);
    rig.load(Ok(stored("canary-r1", 1)));
    rig.get();
    let secret = rig.in_flight.last().unwrap().client_secret.clone().unwrap();
    assert_eq!(secret.expose(), "canary-new");

    let mut rig = Rig::new(Policy { personal: true, ..policy() });
    let effects = rig.session.personal_token_set(None, &rig.now);
    rig.take(effects);
    let personal_token = PersonalToken::from_pasted("canary-old").ok();
    rig.load(Ok(Loaded { personal_token, ..Loaded::default() }));
    assert_eq!(rig.state(), AccountState::LoggedOut, "removed meanwhile");
}

/// N19: an account whose last save failed is not ready while the next one is on its way.
#[test]
fn a_save_that_is_tried_again_is_not_called_saved() {
    let mut rig = Rig::logged_in();
    rig.hold_writes = true;
    rig.get_with(forced());
    rig.succeed(300, 1800);
    assert_eq!(rig.state(), AccountState::Ready, "nothing has failed yet");
    rig.written(Err(StoreError::Locked));
    assert_eq!(rig.state(), AccountState::Unsaved);

    rig.wait(11);
    rig.get_with(forced());
    rig.succeed(300, 1800);
    assert_eq!(rig.state(), AccountState::Unsaved);
    rig.written(Ok(()));
    if rig.session.is_busy() {
        rig.written(Ok(()));
    }
    assert_eq!(rig.state(), AccountState::Ready);
}

/// F1: what failed before a login or a logout is not their failure.
#[test]
fn logins_and_logouts_are_answered_by_their_own_saves() {
    let failed_before = || {
        let mut rig = Rig::logged_in();
        rig.hold_writes = true;
        rig.get_with(forced());
        rig.succeed(300, 1800);
        rig.written(Err(StoreError::Locked));
        rig
    };
    let mut rig = failed_before();
    let login = rig.log_in(300, 1800);
    assert_eq!(rig.token(login), "waiting");
    rig.written(Ok(()));
    assert_eq!(rig.flag(login), Some(true));

    let mut rig = failed_before();
    let logout = rig.logout();
    let effects = rig.session.ended_at_provider(true, &rig.now);
    rig.take(effects);
    assert_eq!(rig.token(logout), "waiting");
    rig.written(Ok(()));
    assert_eq!(rig.flag(logout), Some(true));
}

/// N19: the failure of a save that was under way is not its answer either, and the state tells no fairy tale meanwhile.
#[test]
fn a_login_is_not_answered_with_the_end_of_an_older_save() {
    let mut rig = Rig::logged_in();
    rig.hold_writes = true;
    rig.get_with(forced());
    rig.succeed(300, 1800);
    let login = rig.log_in(300, 1800);
    rig.written(Err(StoreError::Locked));
    assert_eq!((rig.token(login).as_str(), rig.state()), ("waiting", AccountState::Unsaved));
    assert_eq!(rig.writes.last().unwrap().0, 3);
    rig.written(Ok(()));
    assert_eq!((rig.flag(login), rig.state()), (Some(true), AccountState::Ready));
}

/// What the last process did before the keyring could be read, and what that then has.
fn restarted(act: impl FnOnce(&mut Rig) -> u64) -> Rig {
    let mut before = Rig::new(policy());
    before.load(Err(StoreError::Locked));
    before.hold_writes = true;
    act(&mut before);
    let mut rig = Rig::new(policy());
    rig.now.wall += secs(60);
    rig.session.recall(Recalled { note: None, unsaved: before.held }, &rig.now);
    rig.load(Ok(stored("canary-r57", 57)));
    rig
}

/// D11, F1: behind a locked keyring nobody knows how often the session was saved.
#[test]
fn a_logout_before_the_keyring_was_read_outlives_a_restart() {
    let rig = restarted(Rig::logout);
    assert_eq!(rig.state(), AccountState::LoggedOut);
    assert!(rig.writes.last().is_some_and(|(_, record)| record.is_none()));
    assert_eq!(rig.ends.last().unwrap().expose(), "canary-r57");
}

/// D11.
#[test]
fn a_login_before_the_keyring_was_read_outlives_a_restart() {
    let mut rig = restarted(|rig| rig.log_in(300, 1800));
    let saved = rig.writes.last().unwrap().1.as_ref().unwrap();
    assert_eq!(saved.refresh_token.expose(), "canary-r1");
    rig.get();
    assert_eq!(rig.in_flight.last().unwrap().refresh_token.expose(), "canary-r1");
}

/// D11: the save of the token before it hangs, and then fails.
#[test]
fn the_newest_refresh_token_outlives_a_stop_though_an_older_save_hangs() {
    let mut rig = Rig::logged_in();
    rig.hold_writes = true;
    let held = |rig: &Rig| {
        let record = rig.held.as_ref().and_then(|held| held.record.as_ref());
        record.map(|record| record.refresh_token.expose().to_owned())
    };
    for newest in ["canary-r2", "canary-r3"] {
        rig.get_with(forced());
        rig.succeed(300, 1800);
        assert_eq!(held(&rig).as_deref(), Some(newest));
        rig.wait(2);
    }
    assert_eq!(rig.writes.last().unwrap().1.as_ref().unwrap().refresh_token.expose(), "canary-r2");

    let effects = rig.session.stop(&rig.now);
    rig.take(effects);
    rig.written(Err(StoreError::Locked));
    assert_eq!(held(&rig).as_deref(), Some("canary-r3"));
    // It has a try of its own.
    assert_eq!(rig.writes.last().unwrap().1.as_ref().unwrap().refresh_token.expose(), "canary-r3");
}

/// D11, F1: nor does a session come back whose removal has to wait for an older save.
#[test]
fn a_logout_outlives_a_stop_though_an_older_save_hangs() {
    let mut rig = Rig::logged_in();
    rig.hold_writes = true;
    rig.get_with(forced());
    rig.succeed(300, 1800);
    rig.logout();
    assert!(rig.writes.last().unwrap().1.is_some(), "the older save is not over");
    assert!(rig.held.as_ref().is_some_and(|held| held.record.is_none()));
}

/// D11, F9: what the last process left for another client costs the stored session nothing.
#[test]
fn an_unsaved_session_of_another_client_removes_nothing() {
    let record =
        stored("canary-r7", 7).session.map(|record| SessionRecord { client_id: "other".into(), ..record });
    let mut rig = Rig::new(policy());
    rig.session.recall(Recalled { note: None, unsaved: Some(Unsaved { sequence: 7, record }) }, &rig.now);
    rig.load(Ok(stored("canary-r6", 6)));
    rig.wait(1);

    assert!(rig.writes.is_empty());
    assert_eq!(rig.state(), AccountState::Ready);
}

/// D11: a removal that the last process left undone is not for a login that came after it.
#[test]
fn a_removal_that_was_left_undone_spares_a_newer_login() {
    let mut rig = Rig::new(policy());
    rig.session
        .recall(Recalled { note: None, unsaved: Some(Unsaved { sequence: 7, record: None }) }, &rig.now);
    rig.load(Ok(stored("canary-r9", 9)));
    rig.wait(1);

    assert!(rig.writes.iter().all(|(_, record)| record.is_some()) && rig.ends.is_empty());
    assert_eq!(rig.state(), AccountState::Ready);
}

/// K7: a negative lifetime of the session, as some Keycloaks state it, neither ends it nor makes a storm.
#[test]
fn a_session_whose_stated_end_is_past_goes_on() {
    let mut rig = Rig::with_lifetimes(300, 0);
    rig.run(3600, 300, 0, None);
    assert!(rig.refreshes < 10, "{}", rig.refreshes);
    rig.run(4 * 3600, 300, 0, None);
    let id = rig.get();
    if !rig.in_flight.is_empty() {
        rig.succeed(300, 0);
    }
    assert!(rig.token(id).starts_with("canary-a"));
    assert_eq!(rig.state(), AccountState::Ready);
}

/// P10, K14: a client that was refused at a login is not refused with what a keyring brings.
#[test]
fn a_stored_session_is_not_held_up_by_a_login_that_was_refused_before_it_was_read() {
    let mut rig = Rig::new(policy());
    rig.load(Err(StoreError::Locked));
    let effects = rig.session.login_failed(&ProviderError::new(Class::Refused, "no luck"), &rig.now);
    rig.take(effects);
    change(&mut rig);
    rig.load(Ok(stored("canary-r1", 1)));
    assert_eq!(rig.state(), AccountState::Ready);
    rig.get();
    assert_eq!(rig.refreshes, 1);
}
