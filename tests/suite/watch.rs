//! What follows the accounts and the log: `bearerctl monitor`, `bearerctl status --watch` and `bearerctl log --follow`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value as Json;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;
use zbus::fdo::MonitoringProxy;
use zbus::{Message, MessageStream};

use crate::support::desk::{Desk, word};

/// Changes as lines of JSON, whole and without anything secret, until Ctrl-C.
#[tokio::test]
async fn each_change_is_a_line_of_json() {
    let desk = Desk::start().await;
    let (mut child, mut lines) =
        follow(&desk, &["monitor", "work", "--json"], "following the accounts").await;

    desk.log_in("work").await;

    let ready = loop {
        let change: Json = serde_json::from_str(&next(&mut lines).await).unwrap();
        assert_eq!(change["account"], "work");
        if change["state"] == "ready" {
            break change;
        }
    };
    assert_eq!(ready["subject"], "robin");
    assert!(ready["access_expires"].as_u64().unwrap() > ready["time"].as_u64().unwrap());
    interrupt(&child);
    assert!(child.wait().await.unwrap().success());
}

/// The same for people: from which state to which, and why.
#[tokio::test]
async fn each_change_of_a_state_is_a_sentence() {
    let desk = Desk::logged_in().await;
    let (_child, mut lines) = follow(&desk, &["monitor"], "following the accounts").await;

    desk.broker.logout("work").await.unwrap();

    let line = next(&mut lines).await;
    assert!(line.contains("  work: ready -> logged-out: "), "{line}");
    assert!(line.ends_with("run: bearerctl login work"), "{line}");
}

/// Any program can send what looks like the daemon's signals to one connection.
#[tokio::test]
async fn what_another_program_says_of_an_account_is_not_shown() {
    let desk = Desk::logged_in().await;
    let (_child, mut lines) = follow(&desk, &["monitor"], "following the accounts").await;

    desk.pretend_change("work", "expired").await;
    desk.broker.logout("work").await.unwrap();

    let line = next(&mut lines).await;
    assert!(line.contains("  work: ready -> logged-out: "), "{line}");
}

/// Without a terminal there is a table for each change, and no control characters.
#[tokio::test]
async fn a_followed_status_is_told_again_when_it_changes() {
    let desk = Desk::start().await;
    let (_child, mut lines) = follow(&desk, &["status", "--watch"], "").await;
    let mut until = async |wanted: &str| {
        loop {
            let line = next(&mut lines).await;
            assert!(!line.contains('\x1b'), "{line:?}");
            if line.starts_with("work ") && line.contains(wanted) {
                return;
            }
        }
    };
    until("logged-out").await;

    desk.log_in("work").await;

    until("ready").await;
}

/// A restart empties the log, and an upgrade is one: whoever follows it sees what comes then.
#[tokio::test]
async fn a_followed_log_goes_on_with_the_next_daemon() {
    let mut desk = Desk::logged_in().await;
    desk.access_token("work").await;
    let monitor = desk.bus.connect().await;
    let mut seen = MessageStream::from(&monitor);
    MonitoringProxy::new(&monitor).await.unwrap().become_monitor(&[], 0).await.unwrap();
    let mut asked = async || {
        let is_read = |message: Message| message.header().member().is_some_and(|member| member == "ReadLog");
        while !is_read(seen.next().await.unwrap().unwrap()) {}
    };
    let (_child, mut lines) = follow(&desk, &["log", "work", "--follow"], "").await;
    let mut until = async |wanted: &str| while !next(&mut lines).await.contains(wanted) {};
    until("  work  token  granted  ").await;
    // For what there is, and for what comes: the answer to that is what the end cuts off.
    asked().await;
    asked().await;

    desk.kill_daemon().await;
    desk.start_daemon().await;
    let refused = word(&desk.token("work").await.unwrap_err());

    until(&format!("  work  token  {refused}  ")).await;
}

/// Starts it, and waits until it has said that on stderr.
async fn follow(desk: &Desk, arguments: &[&str], said: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    if !said.is_empty() {
        let line = timeout(Duration::from_secs(30), errors.next_line()).await.unwrap().unwrap().unwrap();
        assert!(line.starts_with(said), "{line}");
    }
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap().unwrap()
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}
