//! The sandbox as a newcomer and as a developer use it.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::PathBuf;
use std::process::Output;

use tokio::process::Command;

/// The README's first command: every step happened, or it fails.
#[tokio::test]
async fn the_tour_walks_to_its_end() {
    let done = sandbox(&[]).await;

    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    for happened in
        ["LoginRequired", "renewed: ", "ProviderUnreachable", "the provider ended the session too"]
    {
        assert!(said.contains(happened), "{happened} is not in:\n{said}");
    }
}

/// Like dbus-run-session: the command is logged in, and its exit code is ours.
#[tokio::test]
async fn a_command_runs_in_the_session_and_gives_its_exit_code() {
    let done = sandbox(&["--", "sh", "-c", "bearerctl token && exit 7"]).await;

    assert_eq!(done.status.code(), Some(7), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).starts_with("canary-at-"));
    let missing = sandbox(&["--", "/nonexistent"]).await;
    assert_eq!(missing.status.code(), Some(1));
}

/// A developer sees how a program fares with a provider that misbehaves.
#[tokio::test]
async fn a_failing_provider_is_met_as_it_would_be_for_real() {
    for (mode, code) in [("down", 5), ("html", 5), ("busy", 5), ("ended", 3), ("refused", 6)] {
        let done = sandbox(&["--fail", mode, "--", "bearerctl", "refresh"]).await;
        assert_eq!(done.status.code(), Some(code), "{mode}: {done:?}");
    }
}

/// The documentation's example in Rust, as it is printed there.
#[tokio::test]
async fn the_rust_example_works() {
    let example = PathBuf::from(env!("CARGO_BIN_EXE_bearerd")).with_file_name("examples").join("get_token");
    assert!(example.exists(), "cargo test builds it; for this test alone: cargo build --example get_token");
    let line = format!("{} \"$BEARERD_SANDBOX_API\"", example.display());

    let done = sandbox(&["--", "sh", "-c", &line]).await;

    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "200", "{done:?}");
    assert!(done.status.success());
}

async fn sandbox(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bearerd-sandbox"));
    command.args(arguments).env_remove("http_proxy").env_remove("HTTP_PROXY").kill_on_drop(true);
    tokio::time::timeout(std::time::Duration::from_secs(120), command.output()).await.unwrap().unwrap()
}
