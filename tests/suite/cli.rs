//! `bearerctl`: what it prints, where, and how it exits.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::HashMap;
use std::process::{Output, Stdio};

use bearerd::sandbox::provider::{Fault, Settings};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::support::browser::Browser;
use crate::support::desk::Desk;
use crate::support::keyring::{Fake, Person};

/// Design section 4: data on stdout, the token alone by default.
#[tokio::test]
async fn a_token_is_printed_in_every_format() {
    let desk = Desk::logged_in().await;
    let token = desk.access_token("work").await;

    for account in [&["token", "work"][..], &["token"], &["token", "work", "--min-validity", "1m"]] {
        assert_eq!(texts(&desk.ctl(account, "").await), (format!("{token}\n"), String::new()), "{account:?}");
    }
    let format = async |format| texts(&desk.ctl(&["token", "--format", format], "").await).0;
    assert_eq!(format("header").await, format!("Authorization: Bearer {token}\n"));
    assert_eq!(format("env").await, format!("BEARER_TOKEN={token}\n"));
    let json: serde_json::Value = serde_json::from_str(&format("json").await).unwrap();
    assert_eq!(
        (json["access_token"].as_str(), json["account"].as_str()),
        (Some(token.as_str()), Some("work"))
    );
    assert_eq!((json["subject"].as_str(), json["token_type"].as_str()), (Some("robin"), Some("Bearer")));
    assert!(
        json["expires_at"].as_u64().unwrap() > 1_700_000_000 && json["expires_in"].as_u64().unwrap() <= 300
    );
}

/// Design section 4: the address on stderr, the end said, the second time nothing to do.
#[tokio::test]
async fn a_login_prints_its_address_waits_and_names_the_user() {
    let desk = Desk::start().await;

    let (status, said) = login(&desk, &["login", "work", "--no-browser"], true).await;

    assert_eq!(status, Some(0), "{said}");
    assert!(said.ends_with("logged in to \"work\" as robin\n"), "{said}");
    let again = desk.ctl(&["login"], "").await;
    let (out, err) = texts(&again);
    assert_eq!((again.status.code(), out.as_str()), (Some(0), ""));
    assert_eq!(err, "already logged in to \"work\" as robin; use --force to log in again\n");
    let (status, said) = login(&desk, &["login", "work", "--force", "--no-browser"], true).await;
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(desk.provider.token_requests("authorization_code").len(), 2);
}

/// K4.
#[tokio::test]
async fn a_denied_login_fails_and_says_what_to_do() {
    let desk = Desk::start().await;

    let (status, said) = login(&desk, &["login", "--no-browser"], false).await;

    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("bearerctl: the login was denied at the provider; run: bearerctl login work\n"),
        "{said}"
    );
}

/// Design section 4: the browser that the user has named gets the address, where there is no portal.
#[tokio::test]
async fn a_login_opens_the_browser_that_is_named() {
    let desk = Desk::start().await;
    let program = desk.path("browser");
    let opened = desk.path("opened");
    std::fs::write(
        &program,
        format!("#!/bin/sh\necho \"$1\" > {0}.new && mv {0}.new {0}\n", opened.display()),
    )
    .unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    let mut child = command.args(["login"]).env("BROWSER", &program).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    let url = lines.next_line().await.unwrap().unwrap();

    assert!(crate::support::desk::eventually(async || opened.exists()).await);

    assert!(first.contains("in the browser that opens"), "{first}");
    assert_eq!(std::fs::read_to_string(&opened).unwrap().trim(), url.trim());
    Browser::new().approve(url.trim()).await;
    assert!(child.wait().await.unwrap().success());
}

/// A15: over ssh the browser is elsewhere; its last address is pasted, and a wrong one asked for again.
#[tokio::test]
async fn an_address_is_pasted_where_the_browser_is_elsewhere() {
    let desk = Desk::start().await;
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    command.args(["login", "--paste"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut input = child.stdin.take().unwrap();
    lines.next_line().await.unwrap();
    let url = lines.next_line().await.unwrap().unwrap();
    let callback = Browser::new().callback_of(url.trim(), true).await;

    input.write_all(b"hello\n").await.unwrap();
    while !lines.next_line().await.unwrap().unwrap().starts_with("InvalidArgument: it is no address") {}
    input.write_all(format!("{callback}\n").as_bytes()).await.unwrap();

    while !lines.next_line().await.unwrap().unwrap().starts_with("logged in to \"work\" as robin") {}
    assert!(child.wait().await.unwrap().success());
}

/// I1, I9: without a browser the code flow would lead nowhere; address, code and a warning are shown.
#[tokio::test]
async fn without_a_browser_a_login_shows_a_code_for_another_device() {
    let desk = Desk::start().await;
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    command.args(["login"]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    while !said.last().is_some_and(|line: &String| line.starts_with("Go on only if you")) {
        said.push(lines.next_line().await.unwrap().unwrap());
    }
    let url = said.iter().find(|line| line.contains("?user_code=")).unwrap().trim();
    let code = url.split_once('=').unwrap().1;
    assert!(said.iter().any(|line| line.trim() == code), "{said:?}");
    assert!(said.iter().any(|line| url.starts_with(line.trim()) && line.trim() != url), "{said:?}");

    Browser::new().answer_device(url, true).await;

    while !lines.next_line().await.unwrap().unwrap().starts_with("logged in to \"work\" as robin") {}
    assert!(child.wait().await.unwrap().success());
}

/// I1: a provider that has codes for other clients only leaves the next way, without the user's doing.
#[tokio::test]
async fn a_client_without_device_logins_is_logged_in_the_next_way() {
    let desk = Desk::start().await;
    desk.provider.next_front(Fault::error(400, "unauthorized_client", "The flow is disabled."));
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    command.args(["login"]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    let url = lines.next_line().await.unwrap().unwrap();
    assert!(url.trim().starts_with(&desk.provider.authorization_endpoint()), "{first} {url}");

    Browser::new().approve(url.trim()).await;

    while !lines.next_line().await.unwrap().unwrap().starts_with("logged in to \"work\" as robin") {}
    assert!(child.wait().await.unwrap().success());
}

/// Ctrl-C ends the login that it started, and its port.
#[tokio::test]
async fn ctrl_c_cancels_the_login() {
    let desk = Desk::start().await;
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    let mut child = command.args(["login", "--no-browser"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().unwrap().contains("http://") {}
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();

    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();

    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    let last = lines.next_line().await.unwrap().unwrap();
    assert_eq!(last, "bearerctl: the login to \"work\" was cancelled; for another run: bearerctl login work");
    assert_eq!(desk.state("work").await, "logged-out");
    let attempt =
        desk.property("/org/bearerd/Broker1/account/work", crate::support::desk::ACCOUNT, "LoginAttempt");
    assert_eq!(zbus::zvariant::OwnedObjectPath::try_from(attempt.await).unwrap().as_str(), "/");
}

/// Design section 4, exit codes; the message says what to run.
#[tokio::test]
async fn each_reason_has_its_exit_code_and_its_word() {
    let desk = Desk::start().await;
    let fails = async |arguments: &[&str], stdin: &str, code: i32, word: &str| {
        let done = desk.ctl(arguments, stdin).await;
        let (out, err) = texts(&done);
        assert_eq!((done.status.code(), out.as_str()), (Some(code), ""), "{arguments:?}: {err}");
        assert!(err.starts_with(&format!("bearerctl: {word}")), "{arguments:?}: {err}");
    };
    fails(&["token"], "", 3, "LoginRequired: not logged in to \"work\"; run: bearerctl login work").await;
    fails(&["refresh"], "", 3, "LoginRequired: ").await;
    fails(&["token", "nobody"], "", 2, "NoSuchAccount: ").await;
    fails(&["login", "nobody"], "", 2, "NoSuchAccount: ").await;
    fails(&["set-token", "work"], "canary-x", 2, "InvalidArgument: \"work\" takes no personal token").await;
    fails(&["set-secret", "work"], "", 2, "the client secret for \"work\" is empty").await;
    fails(&["reject"], "", 2, "give the refused token").await;
    desk.log_in("work").await;
    fails(&["reject"], "something", 1, "there is no newer token for \"work\"").await;
    desk.provider.always(Some(Fault::html(503)));
    fails(&["refresh"], "", 5, "ProviderUnreachable: ").await;
    desk.provider.always(Some(Fault::error(401, "invalid_client", "no")));
    fails(&["refresh"], "", 6, "ProviderRefused: ").await;
    desk.provider.always(None);
    desk.write_config("[accounts.work\n");
    fails(&["reload"], "", 1, "InvalidConfiguration: ").await;
    for usage in [&["frobnicate"][..], &[], &["token", "--min-validity", "soon"], &["set-secret"]] {
        assert_eq!(desk.ctl(usage, "").await.status.code(), Some(2), "{usage:?}");
    }
}

/// Design section 4: refused tokens and secrets come on stdin, never as arguments.
#[tokio::test]
async fn a_refused_token_is_renewed_from_stdin() {
    let desk = Desk::logged_in().await;
    let token = desk.access_token("work").await;

    let done = desk.ctl(&["reject", "work"], &format!("{token}\n")).await;

    assert!(done.status.success(), "{done:?}");
    assert_ne!(desk.access_token("work").await, token);
    assert!(desk.ctl(&["refresh"], "").await.status.success());
}

/// Design section 4: a table for people, JSON for programs.
#[tokio::test]
async fn the_status_shows_every_account_and_what_to_do() {
    let mut desk = Desk::bare(Settings::default()).await;
    let accounts = desk.account("work", "store = \"memory\"") + &desk.account("later", "store = \"memory\"");
    desk.write_config(&accounts);
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk.log_in("work").await;

    let table = texts(&desk.ctl(&["status"], "").await).0;
    let json = texts(&desk.ctl(&["status", "--json"], "").await).0;

    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ACCOUNT  STATE "), "{table}");
    assert!(lines[1].starts_with("later    not-configured  "), "{table}");
    assert!(lines[2].starts_with("work     ready           robin  "), "{table}");
    assert!(lines[2].contains(" min ") && lines[2].ends_with("memory"), "{table}");
    assert!(
        lines[3].starts_with("later: no client secret") && lines[3].ends_with("bearerctl set-secret later"),
        "{table}"
    );
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json[1]["name"].as_str(), json[1]["state"].as_str()), (Some("work"), Some("ready")));
    assert_eq!(
        (json[0]["needs_attention"].as_bool(), json[0]["access_expires"].as_u64()),
        (Some(true), Some(0))
    );
    let one = texts(&desk.ctl(&["status", "work"], "").await).0;
    assert_eq!(one.lines().count(), 2, "{one}");
}

/// Design section 4: `unlock` waits for the end of the keyring's own prompt.
#[tokio::test]
async fn unlocking_waits_for_the_person_and_brings_the_session_back() {
    let (mut desk, keyring) = Desk::with_keyring().await;
    desk.kill_daemon().await;
    keyring.set_locked("login", true).await;
    desk.start_daemon().await;
    let refused = desk.ctl(&["token"], "").await;
    assert_eq!(refused.status.code(), Some(4));
    assert!(texts(&refused).1.ends_with("run: bearerctl unlock\n"));
    for _ in 0..2 {
        keyring.state().person = Person::Dismisses;
        let dismissed = desk.ctl(&["unlock"], "").await;
        assert_eq!(dismissed.status.code(), Some(4));
        assert!(texts(&dismissed).1.contains("the keyring's prompt was dismissed"), "{dismissed:?}");
    }
    keyring.state().person = Person::Accepts;

    let done = desk.ctl(&["unlock"], "").await;

    let said = texts(&done).1;
    assert_eq!(done.status.code(), Some(0), "{said}");
    assert!(
        said.starts_with("answer the keyring's prompt ") && said.ends_with("\nthe keyring is unlocked\n")
    );
    assert!(desk.ctl(&["token"], "").await.status.success());
    assert_eq!(texts(&desk.ctl(&["unlock"], "").await).1, "the keyring is not locked\n");
}

/// Design section 4: what is wrong is named, with what to do; a healthy installation has nothing wrong.
#[tokio::test]
async fn the_doctor_finds_what_is_wrong_and_says_what_to_do() {
    let mut desk = Desk::bare(Settings::default()).await;
    let done = desk.ctl(&["doctor"], "").await;
    let found = texts(&done).0;
    assert_eq!(done.status.code(), Some(1), "{found}");
    for wrong in ["WRONG configuration: no account", "WRONG activation: ", "WRONG keyring: nothing provides"]
    {
        assert!(found.contains(wrong), "{wrong} is not in:\n{found}");
    }
    let listed = findings(&desk.ctl(&["doctor", "--json"], "").await);
    for (check, fix) in [
        ("configuration", json!("bearerctl add NAME")),
        ("bearerd", json!("bearerctl setup")),
        ("keyring", json!(null)),
    ] {
        assert_eq!((&listed[check]["verdict"], &listed[check]["fix"]), (&json!("wrong"), &fix), "{check}");
    }

    let _keyring = Fake::start(&desk.bus).await;
    desk.write_config(&(desk.discovered_account("work", "") + &desk.account("other", "store = \"memory\"")));
    desk.start_daemon().await;
    for account in ["work", "other"] {
        desk.set_secret(account).await;
        desk.log_in(account).await;
    }
    let found = texts(&desk.ctl(&["doctor"], "").await).0;
    for fine in [
        "ok    configuration: 2 accounts\n",
        "ok    bearerd: it answers\n",
        "ok    keyring: unlocked\n",
        "ok    work: ready\n",
        "ok    work: its provider was found by its issuer\n",
        "ok    other: its provider can be reached\n",
        "note  work: register the redirect URI http://127.0.0.1/callback (any port",
    ] {
        assert!(found.contains(fine), "{fine} is not in:\n{found}");
    }

    desk.ctl(&["pause"], "").await;
    let listed = findings(&desk.ctl(&["doctor", "--json"], "").await);
    for (check, verdict, fix) in [
        ("keyring", "ok", json!(null)),
        ("activation", "wrong", json!("bearerctl setup")),
        ("portal", "note", json!(null)),
        ("notifications", "note", json!(null)),
        ("paused", "note", json!("bearerctl resume")),
        ("work", "ok", json!(null)),
    ] {
        assert_eq!((&listed[check]["verdict"], &listed[check]["fix"]), (&json!(verdict), &fix), "{check}");
    }
    desk.ctl(&["resume"], "").await;
    assert!(!findings(&desk.ctl(&["doctor", "--json"], "").await).contains_key("paused"));

    desk.provider
        .configure(|settings| settings.metadata = serde_json::json!({ "issuer": "https://other.test" }));
    let found = texts(&desk.ctl(&["doctor"], "").await).0;
    assert!(
        found.contains("WRONG work: the metadata is of another issuer, \"https://other.test\""),
        "{found}"
    );
    desk.provider.go_down();
    let found = texts(&desk.ctl(&["doctor"], "").await).0;
    assert!(found.contains("WRONG other: its provider cannot be reached: no connection"), "{found}");
    desk.write_config("[accounts.work]\nclient_idd = \"x\"\n");
    let found = texts(&desk.ctl(&["doctor"], "").await).0;
    assert!(found.contains("config.toml:2: unknown key `client_idd`"), "{found}");
}

/// Without a daemon and without a bus the message says which of them it is.
#[tokio::test]
async fn a_missing_daemon_or_bus_is_named() {
    let desk = Desk::bare(Settings::default()).await;
    let done = desk.ctl(&["status"], "").await;
    assert_eq!(done.status.code(), Some(1));
    assert!(texts(&done).1.contains("run: bearerctl setup"), "{done:?}");

    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", desk.path("nothing").display()));
    let done = command.arg("status").output().await.unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(texts(&done).1.contains("no session bus"), "{done:?}");
}

/// Starts a login, follows the address that it prints, and returns how it ended and what it said.
async fn login(desk: &Desk, arguments: &[&str], consent: bool) -> (Option<i32>, String) {
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    let mut child = command.args(arguments).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        said = said + &line + "\n";
        if let Some(url) = line.split_whitespace().find(|word| word.starts_with("http://")) {
            let callback = Browser::new().callback_of(url, consent).await;
            Browser::new().open(&callback).await;
        }
    }
    (child.wait().await.unwrap().code(), said)
}

/// The first finding of each check.
fn findings(done: &Output) -> HashMap<String, serde_json::Value> {
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&done.stdout).unwrap();
    // Of equal keys the last one stays.
    findings.into_iter().rev().map(|found| (found["check"].as_str().unwrap().to_owned(), found)).collect()
}

fn texts(done: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&done.stdout), text(&done.stderr))
}

/// Made from the arguments, so they are complete; a package puts them in their places.
#[tokio::test]
async fn completions_and_manual_pages_are_printed_without_a_bus() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_bearerctl"));
        command.env_clear().args(arguments).output().await.unwrap()
    };

    for shell in ["bash", "zsh", "fish"] {
        let text = String::from_utf8(run(&["completions", shell]).await.stdout).unwrap();
        assert!(text.contains("min-validity"), "{shell}");
    }
    let page = String::from_utf8(run(&["man"]).await.stdout).unwrap();
    assert!(page.contains(".TH") && page.contains("unlock"), "{page}");
    assert!(run(&["man", folder.path().to_str().unwrap()]).await.status.success());
    assert!(folder.path().join("bearerctl-login.1").is_file());
    assert!(!run(&["man", folder.path().join("missing").to_str().unwrap()]).await.status.success());
}

/// Issue 6: without systemd the activation file is what starts the daemon; a foreign file is left alone.
#[tokio::test]
async fn setup_writes_its_files_once_and_leaves_others_alone() {
    let desk = Desk::bare(Settings::default()).await;
    let run = async |arguments: &[&str]| {
        let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
        // No systemctl, as on a system without systemd.
        let output = command.env("PATH", "/nonexistent").args(arguments).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let activation = desk.path("home/.local/share/dbus-1/services/org.bearerd.Broker1.service");
    let unit = desk.path("config/systemd/user/bearerd.service");

    let (code, said) = run(&["setup"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the bus starts bearerd at the first call"), "{said}");
    let folder =
        std::path::Path::new(env!("CARGO_BIN_EXE_bearerctl")).parent().unwrap().display().to_string();
    assert!(std::fs::read_to_string(&activation).unwrap().contains(&format!("Exec={folder}/bearerd")));
    assert!(std::fs::read_to_string(&unit).unwrap().contains(&format!("ExecStart={folder}/bearerd")));
    assert_eq!(run(&["setup"]).await.1.matches("is as it should be").count(), 2);

    std::fs::write(&unit, "mine").unwrap();
    let (code, said) = run(&["setup"]).await;
    assert!(code == Some(1) && said.contains("was not written by bearerctl setup"), "{said}");
    let (code, said) = run(&["setup", "--remove"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(!activation.exists() && unit.exists(), "{said}");
}

/// What somebody wonders about is said where they look first: a pause, a missing account, a logout of nothing.
#[tokio::test]
async fn status_and_logout_say_what_is_not_as_expected() {
    let desk = Desk::logged_in().await;
    let said = async |arguments: &[&str]| texts(&desk.ctl(arguments, "").await).1;

    desk.ctl(&["pause"], "").await;
    assert_eq!(said(&["status"]).await, "paused: nothing is handed out; to go on run: bearerctl resume\n");
    desk.ctl(&["resume"], "").await;
    assert_eq!(said(&["status"]).await, "");
    assert!(said(&["logout"]).await.starts_with("logged out of \"work\""));
    assert_eq!(said(&["logout"]).await, "not logged in to \"work\"; nothing was ended\n");

    desk.write_config("");
    desk.ctl(&["reload"], "").await;
    assert_eq!(said(&["status"]).await, "no account is configured; to add one run: bearerctl add NAME\n");
}
