//! Who asks: real processes on a private bus, and what is remembered of them.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::process::{Output, Stdio};

use bearerd::bus::NAME;
use bearerd::bus::proxy::{AccessProxy, Properties};
use bearerd::sandbox::provider::{Fault, Settings};
use zbus::zvariant::OwnedObjectPath;

use crate::support::desk::{ACCOUNT, Desk, account_path, eventually, word};
use crate::support::desktop::{Logind, NotificationServer, pretend};

async fn access(desk: &Desk) -> AccessProxy<'static> {
    AccessProxy::new(&desk.connection).await.unwrap()
}

fn text(entry: &Properties, name: &str) -> String {
    entry[name].downcast_ref::<&str>().unwrap().to_owned()
}

fn number(entry: &Properties, name: &str) -> u64 {
    entry[name].downcast_ref::<u64>().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// R1, Q5: every hand-out, refusal, login and logout is on record with its caller; the desk looks for tokens
/// in the daemon's log at its end.
#[tokio::test]
async fn everything_that_was_asked_for_is_on_record_with_its_caller() {
    let desk = Desk::start().await;
    desk.token("work").await.unwrap_err();
    desk.log_in("work").await;
    let (_, expires, _) = desk.token("work").await.unwrap();
    let printed = desk.ctl(&["token", "work"], "").await;
    let token = out(&printed).trim().to_owned();
    desk.ctl(&["logout", "work"], "").await;

    let (next, entries) = access(&desk).await.read_log(0, 0).await.unwrap();

    let told: Vec<(String, String)> =
        entries.iter().map(|entry| (text(entry, "event"), text(entry, "outcome"))).collect();
    for (event, outcome) in [
        ("set-secret", "granted"),
        ("token", "LoginRequired"),
        ("login", "granted"),
        ("login-end", "succeeded"),
        ("token", "granted"),
        ("logout", "granted"),
    ] {
        assert!(told.contains(&(event.into(), outcome.into())), "{event} {outcome}: {told:?}");
    }
    let exe = std::env::current_exe().unwrap();
    let ours = entries.iter().find(|entry| text(entry, "caller") == format!("exe:{}", exe.display()));
    assert_eq!(ours.unwrap()["pid"].downcast_ref::<u32>().unwrap(), std::process::id());
    let granted = |entry: &&Properties| {
        text(entry, "event") == "token"
            && text(entry, "outcome") == "granted"
            && text(entry, "caller").ends_with("/bearerctl")
    };
    let granted = entries.iter().find(granted).unwrap();
    assert!(text(granted, "chain").starts_with("bearerctl ← "), "{granted:?}");
    assert_eq!(number(granted, "expires"), expires);
    assert!(!format!("{entries:?}").contains(&token));
    assert!(access(&desk).await.read_log(next, 0).await.unwrap().1.is_empty());
}

/// Q5: ten thousand calls of one program are one entry with a count, and two lines.
#[tokio::test]
async fn many_calls_of_one_program_are_one_entry_with_their_count() {
    let desk = Desk::logged_in().await;
    for _ in 0..10 {
        let calls = (0..1000).map(|_| desk.token("work"));
        for token in futures_util::future::join_all(calls).await {
            token.unwrap();
        }
    }

    let (_, entries) = access(&desk).await.read_log(0, 0).await.unwrap();

    let tokens: Vec<&Properties> = entries.iter().filter(|entry| text(entry, "event") == "token").collect();
    assert_eq!(tokens.iter().map(|entry| number(entry, "count")).sum::<u64>(), 10_000);
    // Five minutes may end in between.
    assert!(tokens.len() <= 2, "{tokens:?}");
    let lines = desk.log().lines().filter(|line| line.contains("gave a token of")).count();
    assert!(lines <= 2, "{lines} lines");
}

/// Design section 4: for people and for programs, with filters; and the last use in `status`.
#[tokio::test]
async fn the_log_is_printed_and_filtered_and_status_says_who_used_it_last() {
    let desk = Desk::logged_in().await;
    desk.ctl(&["token", "work"], "").await;

    let lines = out(&desk.ctl(&["log", "work", "--caller", "bearerctl", "--outcome", "granted"], "").await);
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.contains("  work  token  granted  exe:/") && lines.contains("(bearerctl ← "), "{lines}");
    assert_eq!(out(&desk.ctl(&["log", "--outcome", "AccessDenied"], "").await), "");
    let json = out(&desk.ctl(&["log", "--json"], "").await);
    for line in json.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(entry["first"].as_u64().unwrap() > 1_700_000_000 && entry["account"] == "work", "{line}");
    }
    let status: serde_json::Value =
        serde_json::from_str(&out(&desk.ctl(&["status", "--json"], "").await)).unwrap();
    assert!(status[0]["last_used_by"].as_str().unwrap().ends_with("/bearerctl"), "{status}");
    assert!(status[0]["last_used"].as_u64().unwrap() > 1_700_000_000);
    let table = out(&desk.ctl(&["status"], "").await);
    assert!(table.contains("work: last used ") && table.contains(" ago by exe:/"), "{table}");
}

/// Whoever follows is told as it happens.
#[tokio::test]
async fn a_reader_of_the_log_waits_for_what_comes() {
    let desk = Desk::start().await;
    let reader = access(&desk).await;
    let (next, _) = reader.read_log(0, 0).await.unwrap();

    let (read, asked) = tokio::join!(reader.read_log(next, 20_000), desk.token("work"));

    asked.unwrap_err();
    let (_, entries) = read.unwrap();
    assert_eq!((entries.len(), text(&entries[0], "outcome").as_str()), (1, "LoginRequired"));
}

/// With a session, and these keys for its account.
async fn ruled(keys: &str) -> Desk {
    let desk = Desk::logged_in().await;
    desk.write_config(&desk.account("work", &format!("store = \"memory\"\n{keys}")));
    desk.broker.reload().await.unwrap();
    desk
}

const ASK: &str = "rules = [{ caller = \"exe:*/bearerctl\", access = \"ask\" }]";

/// The number of the question that is open, once there is one.
async fn question(server: &NotificationServer) -> u32 {
    server.until_card().await.0
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Q5, R1: a rule holds for its callers, for logins as for tokens, and for nobody else.
#[tokio::test]
async fn a_rule_denies_its_callers_everything_and_says_which_it_is() {
    let desk = ruled("rules = [{ caller = \"exe:*/bearerctl\", access = \"deny\" }]").await;

    for command in
        [&["token", "work"][..], &["login", "work", "--force", "--no-browser"], &["logout"], &["refresh"]]
    {
        let denied = desk.ctl(command, "").await;
        let said = err(&denied);
        assert_eq!(denied.status.code(), Some(6), "{command:?}: {said}");
        assert!(
            said.contains("AccessDenied: exe:/") && said.contains("its rule for \"exe:*/bearerctl\""),
            "{said}"
        );
    }
    desk.token("work").await.unwrap();
    let log = out(&desk.ctl(&["log", "--outcome", "AccessDenied"], "").await);
    assert_eq!(log.lines().count(), 4, "{log}");
}

/// Q5, R1: nor do a rule's callers touch the login that another program began.
#[tokio::test]
async fn a_rule_denies_its_callers_the_end_of_others_logins() {
    let exe = std::env::current_exe().unwrap();
    let desk = ruled(&format!("rules = [{{ caller = \"exe:{}\", access = \"deny\" }}]", exe.display())).await;
    let mut login = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    login.args(["login", "work", "--force", "--paste"]).stdin(Stdio::piped());
    let _login = login.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let path = async || {
        let path = desk.property(&account_path("work"), ACCOUNT, "LoginAttempt").await;
        OwnedObjectPath::try_from(path).unwrap()
    };
    assert!(eventually(async || path().await.as_str() != "/").await, "{}", desk.log());
    let login = desk.login(path().await).await;

    for denied in [login.complete("http://127.0.0.1/callback?code=x").await, login.cancel().await] {
        assert_eq!(word(&denied.unwrap_err()), "AccessDenied");
    }

    assert_eq!(login.wait(0).await.unwrap(), "pending");
    let log = out(&desk.ctl(&["log", "--outcome", "AccessDenied"], "").await);
    assert!(log.contains("  complete  AccessDenied  ") && log.contains("  cancel  AccessDenied  "), "{log}");
}

/// Q5, J1: a rule's callers get its narrower token, whatever they ask for, and others the whole one.
#[tokio::test]
async fn a_rule_gives_its_callers_a_narrower_token_and_never_the_wide_one() {
    let desk =
        ruled("rules = [{ caller = \"exe:*/bearerctl\", access = \"allow\", scope = \"locks\" }]").await;
    let ask = async |arguments: &[&str]| desk.ctl(&[&["token", "work"], arguments].concat(), "").await;
    let scope = |output: &Output| desk.provider.grant_of(out(output).trim()).unwrap().0;

    let own = desk.access_token("work").await;
    assert_eq!(desk.provider.grant_of(&own).unwrap().0, "profile locks");
    let given = ask(&[]).await;
    assert!(given.status.success(), "{}", err(&given));
    assert_eq!(scope(&given), "locks");
    assert_eq!(scope(&ask(&["--scope", "locks"]).await), "locks");
    assert_eq!(scope(&ask(&["--min-validity", "1"]).await), "locks");

    for wide in ["profile", "profile locks"] {
        let refused = ask(&["--scope", wide]).await;
        assert_eq!(refused.status.code(), Some(6), "{}", err(&refused));
        let said = err(&refused);
        assert!(
            said.contains("gives exe:/") && said.contains(" scope \"locks\" alone; change the rule"),
            "{said}"
        );
    }

    let rule = "rules = [{ caller = \"*\", access = \"allow\", scope = \"messaging\" }]";
    desk.write_config(&desk.account("work", &format!("store = \"memory\"\n{rule}")));
    desk.broker.reload().await.unwrap();
    let error = desk.token("work").await.unwrap_err().to_string();
    assert!(error.contains("AccessDenied: the rule of \"work\" for \"*\" gives exe:/"), "{error}");
    assert!(error.contains("and there is no such token: scope \"messaging\" is not within"), "{error}");
    let log = out(&desk.ctl(&["log", "--outcome", "AccessDenied"], "").await);
    assert_eq!(log.lines().count(), 2, "{log}");
}

/// Q5, J2: a provider may grant more than was asked for; a rule's callers get no such token.
#[tokio::test]
async fn a_token_that_goes_beyond_its_rule_is_not_handed_out() {
    let desk =
        ruled("rules = [{ caller = \"exe:*/bearerctl\", access = \"allow\", scope = \"locks\" }]").await;
    desk.provider.next(Fault::Patch(serde_json::json!({ "scope": "locks messaging" })));

    let refused = desk.ctl(&["token", "work"], "").await;

    let said = err(&refused);
    assert_eq!((refused.status.code(), out(&refused)), (Some(6), String::new()), "{said}");
    assert!(said.contains("alone, and the provider grants \"locks messaging\" all the same"), "{said}");
    let log = out(&desk.ctl(&["log", "--outcome", "AccessDenied"], "").await);
    assert_eq!(log.lines().count(), 1, "{log}");
}

/// Q5, J1: a caller names no target beside its rule's: a provider may make one token for all that are named.
#[tokio::test]
async fn a_rules_callers_cannot_add_a_target_to_the_rules_own() {
    let api = "https://api.sandbox.example/";
    let rule =
        format!("rules = [{{ caller = \"exe:*/bearerctl\", access = \"allow\", resource = \"{api}\" }}]");
    let desk = ruled(&rule).await;

    let added = desk.ctl(&["token", "work", "--audience", "inventory"], "").await;
    let own = desk.ctl(&["token", "work", "--resource", api], "").await;

    assert_eq!(added.status.code(), Some(6), "{}", err(&added));
    assert!(err(&added).contains(" alone; change the rule"), "{}", err(&added));
    assert_eq!(desk.provider.grant_of(out(&own).trim()).unwrap().1, api);
}

/// Q6: one question for many calls; a yes for good lasts and can be taken back, a no saves from being asked again.
#[tokio::test]
async fn the_user_is_asked_once_and_the_answer_is_remembered() {
    let mut desk = ruled(ASK).await;
    let server = NotificationServer::start(&desk.bus).await;

    let (first, second, ()) =
        tokio::join!(desk.ctl(&["token"], ""), desk.ctl(&["token", "work"], ""), async {
            let id = question(&server).await;
            let card = server.shown.lock().unwrap().open[&id].clone();
            assert_eq!(card.summary, "A program wants to use work");
            assert!(card.body.starts_with("exe:/") && card.body.contains("(bearerctl ← "), "{}", card.body);
            assert_eq!(card.actions, ["once", "Allow once", "always", "Allow always", "deny", "Deny"]);
            server.click(id, "always", "").await;
        });
    assert!(first.status.success() && second.status.success(), "{}{}", err(&first), err(&second));
    assert_eq!(server.shown.lock().unwrap().shown, 1);

    // A restart loses this account's session, and not the permission.
    desk.signal(rustix::process::Signal::TERM);
    desk.daemon_end().await;
    desk.start_daemon().await;
    let after = desk.ctl(&["token"], "").await;
    assert_ne!(after.status.code(), Some(6), "{}", err(&after));
    let list = out(&desk.ctl(&["permissions"], "").await);
    let caller = list.trim().strip_prefix("work  ").unwrap().to_owned();
    assert!(caller.starts_with("exe:/") && caller.ends_with("/bearerctl"), "{list}");

    let forgotten = desk.ctl(&["permissions", "--forget", &caller, "work"], "").await;
    assert!(forgotten.status.success(), "{}", err(&forgotten));
    let (denied, ()) = tokio::join!(desk.ctl(&["token"], ""), async {
        let id = question(&server).await;
        server.click(id, "deny", "").await;
    });
    assert_eq!(denied.status.code(), Some(6), "{}", err(&denied));
    let again = desk.ctl(&["token"], "").await;
    let hint = format!("bearerctl permissions --forget {caller} work\n");
    assert!(err(&again).ends_with(&hint), "{}", err(&again));
    assert_eq!(server.shown.lock().unwrap().shown, 2);
    assert!(eventually(async || server.shown.lock().unwrap().open.is_empty()).await);
}

/// R1, R6, Q6: the answer is the user's, which only the server that asked can bring.
#[tokio::test]
async fn no_other_program_answers_a_question_for_the_user() {
    let desk = ruled(ASK).await;
    let server = NotificationServer::start(&desk.bus).await;

    let (denied, ()) = tokio::join!(desk.ctl(&["token"], ""), async {
        let id = question(&server).await;
        pretend(&desk.bus, NAME, "ActionInvoked", &(id, "always")).await;
        server.click(id, "deny", "").await;
    });

    assert_eq!(denied.status.code(), Some(6), "{}", err(&denied));
    assert!(err(&denied).contains("the user has denied"), "{}", err(&denied));
    assert_eq!(out(&desk.ctl(&["permissions"], "").await), "");
}

/// Without anybody to ask the answer is no, at once, and says why.
#[tokio::test]
async fn a_system_without_notifications_refuses_and_says_so() {
    let desk = ruled(ASK).await;

    let refused = desk.ctl(&["token"], "").await;

    assert_eq!(refused.status.code(), Some(6));
    assert!(err(&refused).contains("no notification server to ask through"), "{}", err(&refused));
}

/// An answer that does not come is a no within the time that every call has.
#[tokio::test]
async fn a_question_nobody_answers_is_a_refusal_in_time() {
    let desk = ruled(ASK).await;
    let server = NotificationServer::start(&desk.bus).await;

    let refused = desk.ctl(&["token"], "").await;

    assert_eq!(refused.status.code(), Some(6));
    assert!(err(&refused).contains("has not answered yet"), "{}", err(&refused));
    // It is still there, and its answer counts for the next call.
    let id = question(&server).await;
    server.click(id, "once", "").await;
    assert!(eventually(async || server.shown.lock().unwrap().open.is_empty()).await);
    let given = desk.ctl(&["token"], "").await;
    assert!(given.status.success(), "{}", err(&given));
    assert_eq!(server.shown.lock().unwrap().shown, 1);
}

/// `confirm`: whoever asks, and each time.
#[tokio::test]
async fn an_account_can_be_asked_about_at_each_use() {
    let desk = ruled("confirm = true").await;
    let server = NotificationServer::start(&desk.bus).await;
    for _ in 0..2 {
        let (token, ()) = tokio::join!(desk.token("work"), async {
            let id = question(&server).await;
            let actions = server.shown.lock().unwrap().open[&id].actions.clone();
            assert_eq!(actions, ["once", "Allow once", "deny", "Deny"]);
            server.click(id, "once", "").await;
        });
        token.unwrap();
        assert!(eventually(async || server.shown.lock().unwrap().open.is_empty()).await);
    }
    assert_eq!(server.shown.lock().unwrap().shown, 2);
}

/// `confirm`: two calls of one program at the same time are two uses.
#[tokio::test]
async fn a_yes_to_one_use_hands_out_one_token() {
    let desk = ruled("confirm = true").await;
    let server = NotificationServer::start(&desk.bus).await;

    let ((first, second), ()) =
        tokio::join!(async { tokio::join!(desk.token("work"), desk.token("work")) }, async {
            let id = question(&server).await;
            server.click(id, "once", "").await;
            assert!(eventually(async || server.shown.lock().unwrap().shown == 2).await);
            let id = question(&server).await;
            server.click(id, "deny", "").await;
        });

    assert_eq!([first, second].iter().filter(|token| token.is_ok()).count(), 1);
}

/// While paused nothing is handed out, after a restart either, and sessions live on.
#[tokio::test]
async fn a_pause_holds_through_a_restart_until_it_is_ended() {
    let mut desk = Desk::logged_in().await;
    assert!(desk.ctl(&["pause"], "").await.status.success());
    let refused = desk.ctl(&["token"], "").await;
    assert_eq!(refused.status.code(), Some(6));
    assert!(err(&refused).ends_with("run: bearerctl resume\n"), "{}", err(&refused));
    assert_eq!(desk.state("work").await, "ready");

    desk.signal(rustix::process::Signal::TERM);
    desk.daemon_end().await;
    desk.start_daemon().await;

    assert!(access(&desk).await.paused().await.unwrap());
    assert_eq!(desk.ctl(&["token"], "").await.status.code(), Some(6));
    assert!(desk.ctl(&["resume"], "").await.status.success());
    assert_ne!(desk.ctl(&["token"], "").await.status.code(), Some(6));
    assert!(!access(&desk).await.paused().await.unwrap());
}

async fn until_paused(desk: &Desk, paused: bool) {
    let access = access(desk).await;
    assert!(eventually(async || access.paused().await.unwrap() == paused).await, "{}", desk.log());
}

/// `pause_on_lock`: nothing is handed out while the screen is locked, and the lock's end is not that of a
/// pause of the user's own.
#[tokio::test]
async fn a_locked_screen_pauses_if_configured_and_ends_no_other_pause() {
    let mut desk = Desk::bare(Settings::default()).await;
    let logind = Logind::start(&desk.path("system-bus"), true).await;
    desk.write_config(&format!("pause_on_lock = true\n{}", desk.account("work", "store = \"memory\"")));
    desk.start_daemon().await;
    // Locked before we came: no caller is answered otherwise.
    assert!(access(&desk).await.paused().await.unwrap());
    desk.set_secret("work").await;
    desk.log_in("work").await;
    let refused = desk.token("work").await.unwrap_err().to_string();
    assert!(refused.contains("AccessDenied: the screen is locked"), "{refused}");
    let resumed = desk.ctl(&["resume"], "").await;
    assert!(err(&resumed).contains("until you unlock it"), "{}", err(&resumed));
    desk.token("work").await.unwrap_err();

    logind.lock(false).await;
    until_paused(&desk, false).await;
    desk.token("work").await.unwrap();

    desk.ctl(&["pause"], "").await;
    logind.lock(true).await;
    assert!(eventually(async || desk.log().matches("locked=true").count() == 2).await);
    logind.lock(false).await;
    assert!(eventually(async || desk.log().matches("locked=false").count() == 2).await);
    let paused = desk.token("work").await.unwrap_err().to_string();
    assert!(paused.contains("run: bearerctl resume"), "{paused}");
    desk.ctl(&["resume"], "").await;
    desk.token("work").await.unwrap();

    // Whoever logs out leaves no lock behind, and whoever takes the line out is rid of it at once.
    logind.lock(true).await;
    until_paused(&desk, true).await;
    desk.write_config(&desk.account("work", "store = \"memory\""));
    desk.broker.reload().await.unwrap();
    until_paused(&desk, false).await;
    desk.write_config(&format!("pause_on_lock = true\n{}", desk.account("work", "store = \"memory\"")));
    desk.broker.reload().await.unwrap();
    until_paused(&desk, true).await;
    logind.end_session().await;
    until_paused(&desk, false).await;
    desk.token("work").await.unwrap();
}

/// A logind that restarts is asked again, and a session that it does not know is locked no longer.
#[tokio::test]
async fn a_lock_is_heard_of_after_logind_has_failed() {
    let mut desk = Desk::bare(Settings::default()).await;
    let logind = Logind::start(&desk.path("system-bus"), false).await;
    desk.write_config(&format!("pause_on_lock = true\n{}", desk.account("work", "store = \"memory\"")));
    desk.start_daemon().await;
    logind.answers(false).await;
    logind.lock(false).await;
    assert!(eventually(async || desk.log().contains("pause_on_lock has no effect")).await, "{}", desk.log());

    logind.answers(true).await;
    logind.lock(true).await;
    until_paused(&desk, true).await;

    // Where it forgets the hint, the desktop's next word of the same is no change, and no signal.
    logind.restart().await;
    until_paused(&desk, false).await;
    logind.lock(true).await;
    until_paused(&desk, true).await;

    logind.lose_session().await;
    until_paused(&desk, false).await;
}

/// Without logind the key has no effect, and the log says so; the daemon starts all the same.
#[tokio::test]
async fn a_lock_that_nobody_tells_of_is_none() {
    let mut desk = Desk::bare(Settings::default()).await;
    desk.write_config(&format!("pause_on_lock = true\n{}", desk.account("work", "store = \"memory\"")));
    desk.start_daemon().await;

    assert!(!access(&desk).await.paused().await.unwrap());
    assert!(desk.log().contains("pause_on_lock has no effect"), "{}", desk.log());
}
