//! The rules that hold for all commands of `bearerctl`, found by walking through its own help.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::HashMap;
use std::process::{Output, Stdio};

use bearerd::sandbox::provider::Settings;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::support::desk::Desk;
use crate::support::keyring::Person;
use crate::support::terminal;

/// Every command and every option says what it does, the same on a page, to a shell and on a terminal.
#[tokio::test]
async fn every_command_explains_itself_everywhere() {
    let pages = tempfile::tempdir().unwrap();
    assert!(run(&["man", pages.path().to_str().unwrap()]).await.status.success());
    let mut shells = Vec::new();
    for shell in ["bash", "zsh", "fish"] {
        shells.push((shell, out(&run(&["completions", shell]).await)));
    }

    for name in commands().await {
        let short = run(&[&name, "-h"]).await;
        let long = run(&[&name, "--help"]).await;
        assert_eq!(out(&long), out(&run(&["help", &name]).await), "{name}");
        let page = std::fs::read_to_string(pages.path().join(format!("bearerctl-{name}.1"))).unwrap();
        for (shell, text) in &shells {
            assert!(text.contains(&name), "{shell} does not know {name}");
        }
        for help in [&short, &long] {
            let text = out(help);
            assert!(help.status.success() && help.stderr.is_empty(), "{name}: {help:?}");
            assert!(text.is_ascii() && !text.contains('\x1b'), "{name}: {text}");
            assert!(text.contains(&format!("Usage: bearerctl {name}")), "{name}: {text}");
        }
        for (word, about) in words(&out(&short)) {
            assert!(!about.is_empty(), "{name}: nothing is said about {word}");
            let Some(option) = word.split_once("--").map(|(_, long)| long.split(' ').next().unwrap()) else {
                continue;
            };
            assert!(page.contains(&option.replace('-', "\\-")), "bearerctl-{name}.1 has no --{option}");
            for (shell, text) in &shells {
                assert!(text.contains(option), "{shell} does not know {name} --{option}");
            }
        }
    }
}

/// Design section 4: what is not understood ends with 2, says what would be, and prints no data.
#[tokio::test]
async fn what_is_not_understood_is_a_usage_error() {
    for name in commands().await {
        let done = run(&[&name, "--no-such-option"]).await;

        assert_eq!((done.status.code(), out(&done).as_str()), (Some(2), ""), "{name}");
        assert!(err(&done).trim_end().ends_with("try '--help'."), "{name}: {}", err(&done));
    }
}

/// `"$ACCOUNT"` with nothing in it is a mistake, and not the default account.
#[tokio::test]
async fn an_empty_account_is_a_usage_error() {
    let desk = Desk::logged_in().await;
    for command in ["token", "login", "status", "logout", "refresh", "log", "set-secret", "doctor"] {
        let done = desk.ctl(&[command, ""], "canary-x").await;
        assert_eq!((done.status.code(), out(&done).as_str()), (Some(2), ""), "{command}: {done:?}");
        assert!(err(&done).contains("for the names run: bearerctl status"), "{command}: {done:?}");
    }
    assert_eq!(desk.state("work").await, "ready");
}

/// Whoever runs it without a bus or a daemon learns that at once, on one line, with what to do.
#[tokio::test]
async fn without_a_daemon_every_command_says_what_to_do() {
    let desk = Desk::bare(Settings::default()).await;
    for arguments in requests() {
        let done = desk.ctl(arguments, "canary-x\n").await;
        assert_eq!((done.status.code(), out(&done).as_str()), (Some(1), ""), "{arguments:?}");
        let said = err(&done);
        assert!(
            said.ends_with("run: bearerctl setup\n") && said.lines().count() == 1,
            "{arguments:?}: {said}"
        );

        let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
        let nothing = format!("unix:path={}", desk.path("nothing").display());
        command.args(arguments).env("DBUS_SESSION_BUS_ADDRESS", nothing);
        let done = desk.run(command, "canary-x\n").await;
        assert_eq!((done.status.code(), out(&done).as_str()), (Some(1), ""), "{arguments:?}");
        assert!(
            err(&done).contains("no session bus") && err(&done).lines().count() == 1,
            "{arguments:?}: {done:?}"
        );
    }
}

/// A reader that has seen enough ends it without a word; a full disk is told.
#[tokio::test]
async fn a_reader_that_goes_is_no_trouble_and_a_full_disk_is() {
    let desk = Desk::logged_in().await;
    for (arguments, ends_with) in [
        (&["token"][..], 1),
        (&["token", "--format", "json"], 1),
        (&["status"], 1),
        (&["status", "--json"], 1),
        (&["status", "--watch"], 0),
        (&["log"], 0),
        (&["log", "--follow", "--json"], 0),
        (&["doctor"], 1),
        (&["doctor", "--json"], 1),
        (&["completions", "bash"], 1),
        (&["man"], 1),
        (&["--help"], 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let end = async |stdout: Stdio| {
            let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
            let child = command.args(arguments).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
            let done = child.wait_with_output().await.unwrap();
            (done.status.code(), err(&done))
        };

        assert_eq!(end(writer.into()).await, (Some(ends_with), String::new()), "{arguments:?}");

        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let (code, said) = end(full.into()).await;
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(said.starts_with("bearerctl: stdout cannot be written: No space left"), "{said}");
    }
}

/// Design section 4: `NO_COLOR` is honoured, and files and plain terminals get no control characters at all.
#[tokio::test]
async fn colours_are_for_terminals_that_show_them() {
    let desk = Desk::logged_in().await;
    let table = async |name: &str, value: &str| {
        let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
        command.arg("status").env("TERM", "xterm").env(name, value);
        terminal::shown(command, 80, "").await.1
    };

    assert!(table("LANG", "C").await.contains("\x1b[32mready"));
    assert!(!table("NO_COLOR", "1").await.contains('\x1b'));
    assert!(!table("TERM", "dumb").await.contains('\x1b'));
    let piped = async |more: &[(&str, &str)]| {
        let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
        command.arg("status").envs(more.iter().copied());
        out(&desk.run(command, "").await).contains('\x1b')
    };
    assert!(!piped(&[]).await && piped(&[("CLICOLOR_FORCE", "1")]).await);
    assert!(!piped(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).await);
}

/// Whatever the locale, what is shown can be read; programs get UTF-8.
#[tokio::test]
async fn a_locale_without_utf_8_gets_plain_signs() {
    let desk = Desk::logged_in().await;
    desk.ctl(&["token"], "").await;
    for (name, value, plain) in [
        ("LANG", "C.UTF-8", false),
        ("LC_ALL", "C", true),
        ("LC_CTYPE", "de_DE", true),
        ("LC_ALL", "de_DE.utf8", false),
    ] {
        let run = async |arguments: &[&str]| {
            let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
            command.args(arguments).env(name, value);
            out(&desk.run(command, "").await)
        };

        let log = run(&["log"]).await;

        assert_eq!((log.contains(" <- "), log.contains(" ← ")), (plain, !plain), "{value}: {log}");
        assert!(run(&["log", "--json"]).await.contains(" ← "), "{value}");
    }
}

/// A picture for a camera is shown whole or not at all, and what turns stays on its line.
#[tokio::test]
async fn a_device_login_fits_its_terminal() {
    let desk = Desk::start().await;
    let last = "waiting for the code";
    let shown = async |columns: u16, environment: &[(&str, &str)]| {
        let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
        command.args(["login", "--device"]).env("TERM", "xterm").envs(environment.iter().copied());
        let (status, shown) = terminal::shown(command, columns, last).await;
        assert_eq!(status.code(), Some(130), "{shown}");
        shown
    };
    let wide = shown(100, &[]).await;
    assert!(wide.contains("\x1b[30;107m") && wide.contains('▀'), "{wide}");
    let plain = shown(100, &[("NO_COLOR", "1")]).await;
    assert!(plain.contains('▀') && !plain.contains("\x1b[30"), "{plain}");
    for (columns, environment) in [(30, ("LANG", "C.UTF-8")), (100, ("LC_ALL", "C"))] {
        let shown = shown(columns, &[environment]).await;
        assert!(shown.contains("and enter the code:") && !shown.contains('▀'), "{shown}");
        let turning = shown.split('\r').filter(|line| line.contains(last));
        for line in turning {
            assert!(line.trim_end_matches("\x1b[K").chars().count() < usize::from(columns), "{line:?}");
        }
    }
}

/// Help is as wide as the terminal, and no wider than what is easily read.
#[tokio::test]
async fn help_fits_its_terminal() {
    for columns in [50, 200] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearerctl"));
        command.env_clear().env("NO_COLOR", "1").args(["login", "--help"]);

        let (_, help) = terminal::shown(command, columns, "").await;

        assert!(help.lines().all(|line| line.trim_end().len() <= usize::from(columns.min(100))), "{help}");
    }
}

/// A pause is what somebody who wonders about refused tokens looks for; it is told as long as it lasts.
#[tokio::test]
async fn a_followed_status_shows_a_pause() {
    let desk = Desk::logged_in().await;
    desk.ctl(&["pause"], "").await;
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    command.args(["status", "--watch"]).env("TERM", "xterm");

    let (status, shown) = terminal::shown(command, 80, "paused: nothing is handed out").await;

    assert!(status.success() && shown.contains("run: bearerctl resume"), "{shown}");
    let unknown = desk.ctl(&["status", "--watch", "nobody"], "").await;
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}

/// A daemon that has ended is no account that is ready, and following it does not start it.
#[tokio::test]
async fn what_is_followed_shows_the_end_of_the_daemon_and_its_next_start() {
    let mut desk = Desk::logged_in().await;
    for (arguments, before, after) in [
        (&["status", "--watch"][..], "work ", "work "),
        (&["monitor"], "following the accounts", "bearerd has started again"),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
        command.args(arguments).stdout(writer.try_clone().unwrap()).stderr(writer);
        let child = command.kill_on_drop(true).spawn().unwrap();
        drop(command);
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).unwrap();
        let mut lines = BufReader::new(reader).lines();
        let mut until = async |start: &str| {
            while !lines.next_line().await.unwrap().unwrap().starts_with(start) {}
        };

        until(before).await;
        desk.kill_daemon().await;
        until("bearerd has ended; waiting for its next start").await;
        desk.start_daemon().await;
        until(after).await;

        drop(child);
    }
}

/// A login that somebody else has begun is not ended by whoever only waits for it, nor by an empty paste.
#[tokio::test]
async fn a_login_that_was_joined_goes_on() {
    let desk = Desk::start().await;
    let (login, _) = desk.start_login("work").await;
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    let mut child = command.args(["login"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().unwrap().contains("http://") {}
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();

    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();

    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    let last = lines.next_line().await.unwrap().unwrap();
    assert!(last.contains("goes on") && last.ends_with("run: bearerctl login work"), "{last}");
    assert_eq!(login.wait(0).await.unwrap(), "pending");
    login.cancel().await.unwrap();

    let options = HashMap::from([("open_browser", false.into()), ("flow", "paste".into())]);
    let (path, _) = desk.broker.login_with_options("work", options).await.unwrap();
    let done = desk.ctl(&["login"], "").await;
    assert_eq!(done.status.code(), Some(2));
    assert!(err(&done).ends_with("to try again run: bearerctl login work --paste\n"), "{done:?}");
    assert_eq!(desk.login(path).await.wait(0).await.unwrap(), "pending");
}

/// A provider that never answers holds up nobody who wants to go.
#[tokio::test]
async fn ctrl_c_is_heard_while_a_login_starts() {
    let provider = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", provider.local_addr().unwrap());
    let mut desk = Desk::bare(Settings::default()).await;
    desk.write_config(&format!(
        "[accounts.work]\nissuer = {issuer:?}\nclient_id = \"x\"\nclient_auth = \"none\"\nscopes = [\"openid\"]\nstore = \"memory\"\n"
    ));
    desk.start_daemon().await;
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    let mut child = command.args(["login", "--no-browser"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let asked = provider.accept().await.unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();

    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let heard = lines.next_line().await.unwrap().unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();

    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    assert!(heard.starts_with("it is cancelled when the provider has answered"), "{heard}");
    assert!(lines.next_line().await.unwrap().unwrap().ends_with("this joins it: bearerctl login work"));
    drop(asked);
}

/// Whoever has seen enough of the prompt stops waiting, and is told what is still so.
#[tokio::test]
async fn ctrl_c_stops_waiting_for_the_keyring() {
    let (mut desk, keyring) = Desk::with_keyring().await;
    desk.kill_daemon().await;
    keyring.set_locked("login", true).await;
    desk.start_daemon().await;
    desk.ctl(&["token"], "").await;
    keyring.state().person = Person::IsAway;
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    command.arg("unlock").env("TERM", "xterm");

    let (status, shown) = terminal::shown(command, 80, "answer the keyring's prompt").await;

    assert_eq!(status.code(), Some(130), "{shown}");
    assert!(shown.ends_with("for another run: bearerctl unlock\r\n"), "{shown}");
}

/// The names are in the configuration's files; no bus is there to ask.
#[tokio::test]
async fn a_shell_completes_the_names_of_accounts() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bearerd");
    std::fs::create_dir_all(config.join("accounts.d")).unwrap();
    std::fs::write(config.join("config.toml"), "[accounts.work]\n[[accounts.work.access]]\n").unwrap();
    std::fs::write(config.join("accounts.d/a.toml"), "[accounts.\"work.old\"] # later\n").unwrap();
    let completed = async |words: &str, number: u32, last: &str| {
        let script = format!(
            "eval \"$({} completions bash)\"; COMP_WORDS=({words}); COMP_CWORD={number}; \
             _bearerctl bearerctl '{last}' \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\"",
            env!("CARGO_BIN_EXE_bearerctl")
        );
        let mut command = Command::new("bash");
        command.args(["--norc", "-c", &script]).env("XDG_CONFIG_HOME", folder.path());
        let done = command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent").output().await.unwrap();
        (out(&done), err(&done))
    };

    for (words, number) in [("bearerctl token w", 2), ("bearerctl set-secret w", 2)] {
        assert_eq!(completed(words, number, "w").await, ("work work.old\n".into(), String::new()), "{words}");
    }
    assert_eq!(completed("bearerctl add w", 2, "w").await.0, "\n", "a new name");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bearerctl"));
    let zsh = out(&command.args(["completions", "zsh"]).output().await.unwrap());
    assert!(zsh.starts_with("#compdef bearerctl\n") && zsh.matches(":_bearerctl_accounts'").count() > 10);
}

/// Nothing found is an answer too: what was looked for, and what there is.
#[tokio::test]
async fn a_log_without_a_match_says_what_it_looked_for() {
    let desk = Desk::logged_in().await;
    for format in [&[][..], &["--json"]] {
        let arguments = [&["log", "--outcome", "Granted"][..], format].concat();
        let done = desk.ctl(&arguments, "").await;
        assert_eq!((done.status.code(), out(&done).as_str()), (Some(0), ""), "{done:?}");
        let said = err(&done);
        assert!(said.contains("outcome \"Granted\" (there are: granted, succeeded)"), "{said}");
        assert!(said.ends_with("; for all run: bearerctl log\n"), "{said}");
    }
}

/// The names of all commands.
async fn commands() -> Vec<String> {
    let help = out(&run(&["--help"]).await);
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = list.take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  "));
    let names: Vec<String> = names
        .filter(|line| !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

/// The arguments and options in a command's short help, and what it says about each.
fn words(help: &str) -> Vec<(&str, &str)> {
    let listed = help.lines().map(str::trim).filter(|line| line.starts_with(['-', '[', '<']));
    listed.map(|line| line.split_once("  ").unwrap_or((line, ""))).collect()
}

/// One call of everything that asks the daemon.
fn requests() -> Vec<&'static [&'static str]> {
    vec![
        &["status"],
        &["status", "--json"],
        &["status", "--watch"],
        &["monitor"],
        &["log"],
        &["permissions"],
        &["permissions", "--forget", "a", "b"],
        &["pause"],
        &["resume"],
        &["login"],
        &["token"],
        &["token", "work", "--format", "json"],
        &["reject"],
        &["logout"],
        &["refresh"],
        &["reload"],
        &["unlock"],
        &["set-token"],
        &["set-secret", "work"],
        &["exec", "--", "true"],
    ]
}

/// Without a session.
async fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bearerctl"));
    command.env_clear().args(arguments).stdin(Stdio::null()).output().await.unwrap()
}

fn out(done: &Output) -> String {
    String::from_utf8(done.stdout.clone()).unwrap()
}

fn err(done: &Output) -> String {
    String::from_utf8(done.stderr.clone()).unwrap()
}
