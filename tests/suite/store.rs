//! The Secret Service store, on a fake service that misbehaves and on a real gnome-keyring.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::HashMap;
use std::sync::Arc;

use bearerd::account::AccountName;
use bearerd::secret::{ClientSecret, PersonalToken, RefreshToken};
use bearerd::store::secret_service::SecretServiceStore;
use bearerd::store::{CALL_TIMEOUT, Item, ItemKind, SessionRecord, Store as _, StoreError};
use futures_util::StreamExt as _;
use futures_util::future::join_all;

use crate::support::desk::eventually;
use crate::support::keyring::{Bus, DEADLINE, Fake, GnomeKeyring, Person, lock};

/// P1, P2, P4, D5: one line in one item with three attributes, rewritten in place. The service has
/// no encryption, so the plain session is the fallback.
#[tokio::test]
async fn a_session_is_created_once_and_then_rewritten_in_place() {
    let (_bus, fake, store) = start().await;

    store.save(&account(), session("one", 1)).await.unwrap();
    store.save(&account(), session("two", 2)).await.unwrap();

    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-two"));
    let state = fake.state();
    let [item] = state.items.values().collect::<Vec<_>>()[..] else { panic!("not one item") };
    let expected = [("xdg:schema", "org.bearerd.Session"), ("account", "chaster"), ("version", "1")];
    assert_eq!(item.attributes, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    assert_eq!(item.label, "bearerd: session of \"chaster\"");
    assert!(!item.secret.contains(&b'\n'));
    drop(state);
    assert_eq!(fake.count("CreateItem"), 1);
    assert_eq!(fake.count("SetSecret"), 1);
    assert_eq!(fake.count("OpenSession"), 2, "encrypted refused, then plain");
}

/// P2: the other kinds are one line too, whatever characters they hold.
#[tokio::test]
async fn client_secrets_and_personal_tokens_come_back() {
    let (_bus, fake, store) = start().await;

    let secret = ClientSecret::parse("a+b%c:\"d\\ é ").unwrap();
    store.save(&account(), Item::ClientSecret(secret)).await.unwrap();
    store.save(&account(), Item::PersonalToken(PersonalToken::parse("canary").unwrap())).await.unwrap();

    let loaded = store.load(&account()).await.unwrap();
    assert_eq!(loaded.client_secret.unwrap().expose(), "a+b%c:\"d\\ é ");
    assert_eq!(loaded.personal_token.unwrap().expose(), "canary");
    assert!(loaded.session.is_none());
    assert!(fake.state().items.values().all(|item| !item.secret.contains(&b'\n')));
    assert!(store.load(&AccountName::parse("other").unwrap()).await.unwrap().client_secret.is_none());
}

/// P5, P6: locked is said at once, and nothing is searched or prompted for.
#[tokio::test]
async fn a_locked_keyring_is_reported_without_a_prompt_and_recovery_is_announced() {
    let (_bus, fake, store) = start().await;
    store.save(&account(), session("one", 1)).await.unwrap();
    fake.set_locked("login", true).await;
    fake.state().calls.clear();

    assert_eq!(store.load(&account()).await.err(), Some(StoreError::Locked));
    assert_eq!(store.save(&account(), session("two", 2)).await, Err(StoreError::Locked));
    assert_eq!(store.erase(&account(), ItemKind::Session).await, Err(StoreError::Locked));
    for call in ["SearchItems", "Unlock", "Prompt", "CreateItem", "SetSecret"] {
        assert_eq!(fake.count(call), 0, "{call}");
    }

    let mut changes = store.changes();
    settle(&mut changes).await;
    fake.set_locked("login", false).await;
    changed(&mut changes).await;
    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-one"));
}

/// P5: gnome-keyring is silent when PAM unlocks it.
#[tokio::test]
async fn an_unlock_that_nobody_announces_is_noticed() {
    let (_bus, fake, store) = start().await;
    let mut changes = store.changes();
    settle(&mut changes).await;
    fake.state().collections.insert("login".to_owned(), true);
    assert_eq!(store.load(&account()).await.err(), Some(StoreError::Locked));

    fake.state().collections.insert("login".to_owned(), false);

    changed(&mut changes).await;
    assert_eq!(fake.count("Unlock") + fake.count("Prompt"), 0);
}

/// P6, and KeePassXC, which answers a search in any locked collection with its dialog.
#[tokio::test]
async fn other_collections_are_searched_only_while_unlocked() {
    let (bus, fake, _) = start().await;
    fake.state().collections.insert("other".to_owned(), true);
    let store = restart(&bus, &fake).await;

    assert_eq!(refresh_token(&store).await, None);

    // One for each kind.
    assert_eq!(fake.count("SearchItems"), 3);
}

/// P5: the prompt is shown once for all who ask, and its end is announced.
#[tokio::test]
async fn concurrent_unlocks_share_one_prompt() {
    let (_bus, fake, store) = start().await;
    store.save(&account(), session("one", 1)).await.unwrap();
    fake.set_locked("login", true).await;
    let mut changes = store.changes();
    settle(&mut changes).await;

    let unlocks = join_all([store.unlock(), store.unlock(), store.unlock()]).await;

    assert_eq!(unlocks, [Ok(()), Ok(()), Ok(())]);
    assert_eq!(fake.count("Prompt"), 1);
    changed(&mut changes).await;
    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-one"));
}

/// P5: dismissed, or no prompter, which looks the same. The next call asks again.
#[tokio::test]
async fn a_dismissed_prompt_leaves_the_keyring_locked() {
    let (_bus, fake, store) = start().await;
    fake.set_locked("login", true).await;
    fake.state().person = Person::Dismisses;

    assert_eq!(store.unlock().await, Err(StoreError::Locked));
    assert_eq!(store.unlock().await, Err(StoreError::Locked));

    assert_eq!(fake.count("Prompt"), 2);
}

/// P5, R6: a dialog is answered by the keyring alone, and so is that it has gone.
#[tokio::test]
async fn what_another_program_says_of_a_dialog_is_not_believed() {
    let (bus, fake, store) = start().await;
    fake.set_locked("login", true).await;
    fake.state().person = Person::IsAway;
    let stranger = bus.connect().await;
    let driver = zbus::fdo::DBusProxy::new(&stranger).await.unwrap();
    let lie = async {
        assert!(eventually(async || fake.dialog().is_some()).await);
        let path = fake.dialog().unwrap();
        for name in driver.list_names().await.unwrap().iter().filter(|name| name.starts_with(':')) {
            let ended = (false, zbus::zvariant::Value::from(""));
            let prompt = "org.freedesktop.Secret.Prompt";
            stranger.emit_signal(Some(name), &path, prompt, "Completed", &ended).await.unwrap();
            let gone = ("org.freedesktop.secrets", ":1.9", "");
            let path = "/org/freedesktop/DBus";
            let interface = "org.freedesktop.DBus";
            stranger.emit_signal(Some(name), path, interface, "NameOwnerChanged", &gone).await.unwrap();
        }
        driver.get_id().await.unwrap();
        fake.answer_prompts(false).await;
    };

    let (end, ()) = tokio::join!(store.unlock(), lie);

    assert_eq!(end, Err(StoreError::Locked));
}

/// P5: the service goes away under its own dialog.
#[tokio::test]
async fn an_unlock_ends_when_the_service_does() {
    let (bus, fake, store) = start().await;
    fake.set_locked("login", true).await;
    fake.state().person = Person::IsAway;
    settle(&mut store.changes()).await;

    let store = Arc::new(store);
    let unlock = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.unlock().await }
    });
    until(|| fake.count("Prompt") == 1).await;
    fake.disappear(&bus).await;

    let end = tokio::time::timeout(DEADLINE, unlock).await.unwrap().unwrap();
    assert!(says(&end, "restart it"), "{end:?}");
}

/// KeePassXC locks items one by one until its user has let the program in.
#[tokio::test]
async fn unlock_also_asks_for_items_that_are_locked_one_by_one() {
    let (_bus, fake, store) = start().await;
    store.save(&account(), session("one", 1)).await.unwrap();
    fake.state().items.values_mut().for_each(|item| item.locked = true);
    assert_eq!(store.load(&account()).await.err(), Some(StoreError::Locked));

    store.unlock().await.unwrap();

    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-one"));
}

/// P5: the old session is gone with the old process.
#[tokio::test]
async fn a_restarted_service_gets_a_new_session() {
    let (bus, fake, store) = start().await;
    store.save(&account(), session("one", 1)).await.unwrap();
    let mut changes = store.changes();
    settle(&mut changes).await;

    fake.disappear(&bus).await;
    let gone = store.load(&account()).await.err();
    assert!(matches!(&gone, Some(StoreError::Unavailable(text)) if text.contains("no keyring service")));
    fake.appear(&bus).await;
    changed(&mut changes).await;

    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-one"));
    store.save(&account(), session("two", 2)).await.unwrap();
    assert_eq!(fake.count("CreateItem"), 1);
}

/// P5: a session that ends without a change of owner shows as `NoSession`.
#[tokio::test]
async fn a_lost_session_is_opened_again_once() {
    let (_bus, fake, store) = start().await;
    store.save(&account(), session("one", 1)).await.unwrap();

    fake.end_sessions();
    store.save(&account(), session("two", 2)).await.unwrap();
    fake.end_sessions();

    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-two"));
    assert_eq!(fake.count("OpenSession"), 6);
}

/// P5, P10: one of KWallet's sessions in 256 has another key than ours. A new one is opened, and nothing stays of the
/// first attempt.
#[tokio::test]
async fn a_creation_that_kwallet_cannot_decrypt_is_done_again_in_a_new_session() {
    let (_bus, fake, store) = start().await;
    fake.state().decrypts_badly = true;

    store.save(&account(), session("one", 1)).await.unwrap();

    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-one"));
    assert_eq!(fake.state().items.len(), 1);
}

/// P5: a hung keyring costs one time-out, for all who wait.
#[tokio::test]
async fn a_hung_keyring_is_given_up_in_time() {
    let (_bus, fake, store) = start().await;
    store.save(&account(), session("one", 1)).await.unwrap();
    fake.state().hangs = true;
    let start = tokio::time::Instant::now();

    let name = account();
    let loads = join_all((0..100).map(|_| store.load(&name))).await;

    assert!(loads.iter().all(|end| says(end, "the keyring does not answer")));
    assert!(start.elapsed() < CALL_TIMEOUT * 2);
    fake.state().hangs = false;
    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-one"));
}

/// P10.
#[tokio::test]
async fn any_collection_will_do_where_none_is_the_default() {
    let (bus, fake, _) = start().await;
    {
        let mut state = fake.state();
        state.default = None;
        state.collections.insert("archive".to_owned(), true);
    }
    let store = restart(&bus, &fake).await;

    store.save(&account(), session("one", 1)).await.unwrap();

    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-one"));
    assert_eq!(fake.state().items.values().next().unwrap().collection, "login");
}

/// P10: no collection at all is no empty keyring.
#[tokio::test]
async fn a_service_without_collections_is_unavailable_and_says_what_to_do() {
    let (_bus, fake, store) = start().await;
    fake.state().collections.clear();
    fake.state().default = None;

    assert!(says(&store.load(&account()).await, "open or create one"));
    assert!(says(&store.save(&account(), session("one", 1)).await, "open or create one"));
    assert!(says(&store.unlock().await, "open or create one"));
}

/// P7: of two sessions the higher sequence is newer, whatever the dates say.
#[tokio::test]
async fn the_newest_duplicate_wins_and_the_next_save_removes_the_others() {
    let (_bus, fake, store) = start().await;
    let old = fake.plant(&ours("1"), &json("old", 3), 900).await;
    let new = fake.plant(&ours("1"), &json("new", 7), 100).await;
    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-new"));

    store.save(&account(), session("newer", 8)).await.unwrap();

    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-newer"));
    let state = fake.state();
    assert!(state.items.contains_key(&new) && !state.items.contains_key(&old));
}

/// P7: the other kinds carry no sequence.
#[tokio::test]
async fn of_two_client_secrets_the_one_modified_last_wins() {
    let (_bus, fake, store) = start().await;
    let attributes = [("xdg:schema", "org.bearerd.ClientSecret"), ("account", "chaster"), ("version", "1")];
    fake.plant(&attributes, r#"{"v":1,"secret":"late"}"#, 900).await;
    fake.plant(&attributes, r#"{"v":1,"secret":"early"}"#, 100).await;

    let loaded = store.load(&account()).await.unwrap();

    assert_eq!(loaded.client_secret.unwrap().expose(), "late");
}

/// P4: what we can't read is not ours to change.
#[tokio::test]
async fn future_versions_and_other_programs_items_are_never_touched() {
    let (_bus, fake, store) = start().await;
    let foreign = [
        fake.plant(&ours("2"), r#"{"v":2,"x":1}"#, 1).await,
        fake.plant(&ours("1"), r#"{"v":2,"x":1}"#, 2).await,
        fake.plant(&ours("1"), "another program's", 3).await,
        fake.plant(&ours("1")[..2], &json("versionless", 4), 4).await,
    ];
    let secrets = |fake: &Fake| foreign.map(|id| fake.state().items[&id].secret.clone());
    let before = secrets(&fake);

    assert_eq!(refresh_token(&store).await, None);
    store.save(&account(), session("one", 1)).await.unwrap();
    store.save(&account(), session("two", 2)).await.unwrap();
    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-two"));
    store.erase(&account(), ItemKind::Session).await.unwrap();

    assert_eq!(refresh_token(&store).await, None);
    assert_eq!(secrets(&fake), before);
    assert_eq!(fake.state().items.len(), foreign.len());
}

/// P10: KeePassXC creates by way of a prompt, each time.
#[tokio::test]
async fn a_prompt_for_a_new_item_is_honoured() {
    let (_bus, fake, store) = start().await;
    fake.state().creates_by_prompt = true;

    store.save(&account(), session("one", 1)).await.unwrap();
    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-one"));

    fake.state().person = Person::Dismisses;
    let other = AccountName::parse("other").unwrap();
    assert!(says(&store.save(&other, session("one", 1)).await, "was dismissed"));
}

/// P5: one account's dialog holds up nobody else, for longer than a call may take.
#[tokio::test]
async fn a_dialog_may_stay_open_while_others_are_served() {
    let (_bus, fake, store) = start().await;
    store.save(&account(), session("one", 1)).await.unwrap();
    fake.state().creates_by_prompt = true;
    fake.state().person = Person::IsAway;

    let other = AccountName::parse("other").unwrap();
    let create = store.save(&other, session("one", 1));
    let meanwhile = async {
        until(|| fake.count("Prompt") == 1).await;
        store.save(&account(), session("two", 2)).await.unwrap();
        // The time-out of a call passes, and the keyring is asked whether it lives.
        let asked = fake.count("ReadAlias");
        until(|| fake.count("ReadAlias") > asked).await;
        fake.answer_prompts(true).await;
    };

    assert_eq!(futures_util::future::join(create, meanwhile).await.0, Ok(()));
}

/// P9.
#[tokio::test]
async fn a_keyring_that_drops_writes_is_found_out() {
    let (_bus, fake, store) = start().await;
    fake.state().drops_writes = true;

    assert!(says(&store.save(&account(), session("one", 1)).await, "did not keep"));
}

/// D15 and logout: all of one kind go, other kinds stay, and nothing to remove is no failure.
#[tokio::test]
async fn erase_removes_every_duplicate_of_one_kind() {
    let (_bus, fake, store) = start().await;
    fake.plant(&ours("1"), &json("a", 1), 1).await;
    fake.plant(&ours("1"), &json("b", 2), 2).await;
    store.save(&account(), Item::ClientSecret(ClientSecret::parse("s").unwrap())).await.unwrap();

    store.erase(&account(), ItemKind::Session).await.unwrap();
    store.erase(&account(), ItemKind::Session).await.unwrap();

    let loaded = store.load(&account()).await.unwrap();
    assert!(loaded.session.is_none() && loaded.client_secret.is_some());
    assert_eq!(fake.state().items.len(), 1);
}

/// KeePassXC asks before it deletes.
#[tokio::test]
async fn a_prompt_for_a_removal_is_honoured() {
    let (_bus, fake, store) = start().await;
    store.save(&account(), session("one", 1)).await.unwrap();
    fake.state().deletes_by_prompt = true;

    fake.state().person = Person::Dismisses;
    assert!(says(&store.erase(&account(), ItemKind::Session).await, "was dismissed"));
    fake.state().person = Person::Accepts;
    store.erase(&account(), ItemKind::Session).await.unwrap();

    assert_eq!(refresh_token(&store).await, None);
}

/// P5: a dialog that nobody waits for any more is closed.
#[tokio::test]
async fn a_cancelled_call_closes_its_dialog() {
    let (_bus, fake, store) = start().await;
    store.save(&account(), session("one", 1)).await.unwrap();
    fake.state().deletes_by_prompt = true;
    fake.state().person = Person::IsAway;

    let name = account();
    tokio::select! {
        end = store.erase(&name, ItemKind::Session) => panic!("{end:?}"),
        () = until(|| fake.count("Prompt") == 1) => {}
    }

    until(|| fake.count("Dismiss") == 1).await;
}

/// A thousand accounts at start: one session, a few calls at once.
#[tokio::test]
async fn a_thousand_loads_share_one_session_and_queue() {
    let (_bus, fake, store) = start().await;
    let names = (0..1000).map(|i| AccountName::parse(&format!("a{i}")).unwrap()).collect::<Vec<_>>();

    let loads = join_all(names.iter().map(|name| store.load(name))).await;

    assert!(loads.iter().all(Result::is_ok));
    assert_eq!(fake.count("OpenSession"), 2, "encrypted refused, then plain");
    assert!(fake.state().most_searching <= 4);
}

/// D3, D4: the last of an account's writes is what stays.
#[tokio::test]
async fn writes_of_one_account_keep_their_order() {
    let (_bus, fake, store) = start().await;
    let name = account();

    let saves = join_all((1..=30).map(|n| store.save(&name, session(&n.to_string(), n)))).await;

    assert!(saves.iter().all(Result::is_ok));
    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-30"));
    assert_eq!(fake.count("CreateItem"), 1, "two at once would both have found none");
}

/// A chatty service neither blocks the connection nor floods those who wait for changes.
#[tokio::test]
async fn bursts_of_signals_are_one_change() {
    let (_bus, fake, store) = start().await;
    let mut changes = store.changes();
    settle(&mut changes).await;
    let before = *changes.borrow_and_update();

    fake.chatter(1000).await;
    changed(&mut changes).await;
    assert_eq!(refresh_token(&store).await, None);

    settle(&mut changes).await;
    assert!(*changes.borrow() - before < 250);
}

/// P5: nobody owns the name and nothing can start it.
#[tokio::test]
async fn without_any_service_the_text_says_what_to_start() {
    let bus = Bus::start().await;
    let store = SecretServiceStore::new(bus.connect().await);

    let end = store.load(&account()).await.map(|_| ());

    assert!(says(&end, "start gnome-keyring"), "{end:?}");
    assert_eq!(store.unlock().await, end);
}

/// P1, P2, P5, D5 on the keyring most users have.
#[tokio::test]
async fn gnome_keyring_keeps_a_session_through_rewrite_lock_and_restart() {
    let bus = Bus::start().await;
    let Some(keyring) = GnomeKeyring::start(&bus).await else { return };
    let store = SecretServiceStore::new(bus.connect().await);
    let mut changes = store.changes();
    settle(&mut changes).await;
    let spy = Spy::start(&bus).await;

    store.save(&account(), session("one", 1)).await.unwrap();
    let path = paths(&bus).await;
    store.save(&account(), session("two", 2)).await.unwrap();
    let secret = ClientSecret::parse("canary \"é\\").unwrap();
    store.save(&account(), Item::ClientSecret(secret)).await.unwrap();
    assert_eq!(paths(&bus).await, path, "rewritten in place");
    assert_eq!(path.len(), 1);
    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-two"));
    let seen = spy.stop().await;
    assert!(contains(&seen, b"bearerd: session of"), "the spy sees what is in clear");
    assert!(!contains(&seen, b"canary"), "a secret crossed the bus in clear");
    settle(&mut changes).await;
    let quiet = *changes.borrow_and_update();
    store.save(&account(), session("three", 3)).await.unwrap();
    settle(&mut changes).await;
    assert_eq!(*changes.borrow(), quiet, "our own writes are no change");

    lock(&bus.connect().await, "/org/freedesktop/secrets/collection/login").await;
    changed(&mut changes).await;
    assert_eq!(store.load(&account()).await.err(), Some(StoreError::Locked));
    assert_eq!(store.save(&account(), session("four", 4)).await, Err(StoreError::Locked));
    settle(&mut changes).await;
    keyring.unlock(&bus).await;
    changed(&mut changes).await;
    assert_eq!(refresh_token(&store).await.as_deref(), Some("canary-three"));

    keyring.stop(&bus).await;
    assert!(says(&store.load(&account()).await, "start gnome-keyring"));
    let keyring = GnomeKeyring::start(&bus).await.unwrap();
    let loaded = store.load(&account()).await.unwrap();
    assert_eq!(loaded.session.unwrap().refresh_token.expose(), "canary-three");
    assert_eq!(loaded.client_secret.unwrap().expose(), "canary \"é\\");

    store.erase(&account(), ItemKind::Session).await.unwrap();
    assert_eq!(refresh_token(&store).await, None);
    assert!(paths(&bus).await.is_empty());
    keyring.stop(&bus).await;
}

async fn start() -> (Bus, Fake, SecretServiceStore) {
    let bus = Bus::start().await;
    let fake = Fake::start(&bus).await;
    let store = SecretServiceStore::new(bus.connect().await);
    (bus, fake, store)
}

/// The fake with new collections, and a store that has not seen the old ones.
async fn restart(bus: &Bus, fake: &Fake) -> SecretServiceStore {
    fake.disappear(bus).await;
    fake.appear(bus).await;
    fake.state().calls.clear();
    SecretServiceStore::new(bus.connect().await)
}

fn account() -> AccountName {
    AccountName::parse("chaster").unwrap()
}

fn record(token: &str, sequence: u64) -> SessionRecord {
    SessionRecord {
        key: None,
        sub: String::new(),
        refresh_token: RefreshToken::parse(format!("canary-{token}")).unwrap(),
        issuer: "https://id.example".into(),
        client_id: "app".into(),
        servers: String::new(),
        scope: "a\nb".into(),
        subject: "someone".into(),
        obtained_at: 1_790_000_000,
        obtained_boot: 77,
        boot_id: "b".into(),
        refresh_lifetime: 1800,
        machine: "m".into(),
        sequence,
    }
}

fn session(token: &str, sequence: u64) -> Item {
    Item::Session(record(token, sequence))
}

fn json(token: &str, sequence: u64) -> String {
    record(token, sequence).to_json().to_string()
}

fn ours(version: &str) -> [(&str, &str); 3] {
    [("xdg:schema", "org.bearerd.Session"), ("account", "chaster"), ("version", version)]
}

async fn refresh_token(store: &SecretServiceStore) -> Option<String> {
    let loaded = store.load(&account()).await.unwrap();
    loaded.session.map(|record| record.refresh_token.expose().to_owned())
}

/// Whether the end is `Unavailable` with such a text, fit for people.
fn says<T>(end: &Result<T, StoreError>, what: &str) -> bool {
    let Err(StoreError::Unavailable(text)) = end else { return false };
    text.contains(what) && text.starts_with(char::is_lowercase) && !text.ends_with('.')
}

async fn changed(changes: &mut tokio::sync::watch::Receiver<u64>) {
    tokio::time::timeout(DEADLINE, changes.changed()).await.unwrap().unwrap();
}

/// Waits until no change has come for a while: "nothing happens" has no event.
async fn settle(changes: &mut tokio::sync::watch::Receiver<u64>) {
    if *changes.borrow() == 0 {
        changed(changes).await;
    }
    let quiet = std::time::Duration::from_millis(300);
    while tokio::time::timeout(quiet, changes.changed()).await.is_ok() {}
}

async fn until(condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap();
}

/// The object paths of our session items.
async fn paths(bus: &Bus) -> Vec<zbus::zvariant::OwnedObjectPath> {
    let connection = bus.connect().await;
    let path = "/org/freedesktop/secrets/collection/login";
    let interface = Some("org.freedesktop.Secret.Collection");
    let attributes = HashMap::from(ours("1"));
    let name = Some("org.freedesktop.secrets");
    let reply = connection.call_method(name, path, interface, "SearchItems", &(attributes)).await.unwrap();
    reply.body().deserialize().unwrap()
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// Reads all that crosses the bus, as any program of the user may.
struct Spy {
    reader: tokio::task::JoinHandle<Vec<u8>>,
    bus_address: String,
}

impl Spy {
    async fn start(bus: &Bus) -> Self {
        let connection = bus.connect().await;
        let mut messages = zbus::MessageStream::from(&connection);
        let monitoring = zbus::fdo::MonitoringProxy::new(&connection).await.unwrap();
        monitoring.become_monitor(&[], 0).await.unwrap();
        let reader = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(Ok(message)) = messages.next().await {
                if message.header().member().is_some_and(|member| member == "EndOfSpying") {
                    break;
                }
                seen.extend_from_slice(message.data());
            }
            seen
        });
        Self { reader, bus_address: bus.address.clone() }
    }

    async fn stop(self) -> Vec<u8> {
        let address = self.bus_address.as_str();
        let connection = zbus::connection::Builder::address(address).unwrap().build().await.unwrap();
        connection.emit_signal(None::<&str>, "/", "org.example", "EndOfSpying", &()).await.unwrap();
        tokio::time::timeout(DEADLINE, self.reader).await.unwrap().unwrap()
    }
}
