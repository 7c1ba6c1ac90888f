//! What reaches a user who has not asked: notifications, and their own hooks.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::os::fd::AsFd as _;
use std::time::Duration;

use bearerd::bus::NAME;
use bearerd::sandbox::provider::{Push, Settings};
use futures_util::StreamExt as _;
use zbus::MessageStream;
use zbus::fdo::{DBusProxy, RequestNameFlags};

use crate::support::browser::Browser;
use crate::support::desk::{Desk, eventually, file_with};
use crate::support::desktop::{NotificationServer, Portal, pretend};
use crate::support::keyring::Fake;

const NOTIFICATIONS: &str = "org.freedesktop.Notifications";

/// A session that the provider has ended is told once, its button logs in through the portal with the click's
/// own permission to come to the front, and the login withdraws it.
#[tokio::test]
async fn a_lost_session_is_told_once_and_its_button_logs_in() {
    let desk = Desk::logged_in().await;
    let server = NotificationServer::start(&desk.bus).await;
    let portal = Portal::start(&desk.bus).await;
    desk.provider.end_sessions();
    desk.forced_token("work").await.ok();
    desk.until_state("work", "expired").await;
    assert!(eventually(async || server.shown.lock().unwrap().open.len() == 1).await, "{}", desk.log());
    let (id, card) = server.card().unwrap();
    assert_eq!(card.summary, "Logged out of work");
    assert!(card.body.ends_with("run: bearerctl login work"), "{}", card.body);
    assert_eq!(card.actions, ["default", "", "login", "Log in"]);

    // Another program's click is none.
    pretend(&desk.bus, NAME, "ActionInvoked", &(id, "login")).await;
    server.click(id, "login", "wayland-7").await;

    assert!(eventually(async || portal.opened.lock().unwrap().len() == 1).await, "{}", desk.log());
    let (url, token) = portal.opened.lock().unwrap()[0].clone();
    assert_eq!(token, "wayland-7");
    Browser::new().approve(&url).await;
    desk.until_state("work", "ready").await;
    assert!(eventually(async || server.shown.lock().unwrap().open.is_empty()).await);
    assert_eq!(server.shown.lock().unwrap().shown, 1);
}

/// A click that opens no browser, as on a desktop without a portal, says so and leaves no login behind, also where the
/// click has closed the notification; that it was begun is on record.
#[tokio::test]
async fn a_click_that_opens_no_browser_says_so() {
    let desk = Desk::logged_in().await;
    let server = NotificationServer::start(&desk.bus).await;
    desk.provider.end_sessions();
    desk.forced_token("work").await.ok();
    let (id, _) = server.until_card().await;

    server.click(id, "login", "").await;
    server.dismiss(id).await;

    let said = |body: &str| {
        body.starts_with("No browser could be opened from here.\n")
            && body.ends_with("run: bearerctl login work")
    };
    assert!(
        eventually(async || server.card().is_some_and(|(_, card)| said(&card.body))).await,
        "{}",
        desk.log()
    );
    assert_eq!(desk.account_text("work", "State").await, "expired");
    let log = desk.ctl(&["log", "work"], "").await;
    let log = String::from_utf8(log.stdout).unwrap();
    assert!(log.contains("  login  granted  ") && log.contains("  login-end  cancelled  "), "{log}");
}

/// A login that cannot even be started says why, in the notification.
#[tokio::test]
async fn a_click_whose_login_cannot_start_says_why() {
    let settings = Settings { push: Push::Offered, ..Settings::default() };
    let mut desk = Desk::bare(settings).await;
    desk.write_config(&desk.discovered_account("work", "store = \"memory\""));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk.log_in("work").await;
    let server = NotificationServer::start(&desk.bus).await;
    let _portal = Portal::start(&desk.bus).await;
    desk.provider.end_sessions();
    desk.forced_token("work").await.ok();
    let (id, _) = server.until_card().await;
    desk.provider.go_down();

    server.click(id, "login", "").await;

    let said = |body: &str| body.starts_with("The login could not be started: ");
    assert!(
        eventually(async || server.card().is_some_and(|(_, card)| said(&card.body))).await,
        "{}",
        desk.log()
    );
    assert_eq!(server.shown.lock().unwrap().open.len(), 1);
}

/// What the user has closed stays closed; network trouble and a plain missing login are never told.
#[tokio::test]
async fn what_was_closed_is_not_told_again_and_trouble_of_the_network_never() {
    let mut desk = Desk::bare(Settings::default()).await;
    let _keyring = Fake::start(&desk.bus).await;
    let accounts = ["lost", "away", "new"].map(|name| desk.account(name, "store = \"memory\""));
    desk.write_config(&(accounts.concat() + "[accounts.refused]\nsource = \"personal\"\n"));
    desk.start_daemon().await;
    let server = NotificationServer::start(&desk.bus).await;
    for name in ["lost", "away"] {
        desk.set_secret(name).await;
        desk.log_in(name).await;
    }
    desk.provider.end_sessions();
    desk.forced_token("lost").await.ok();
    assert!(eventually(async || server.shown.lock().unwrap().open.len() == 1).await, "{}", desk.log());
    let id = *server.shown.lock().unwrap().open.keys().next().unwrap();
    server.dismiss(id).await;
    desk.provider.go_down();
    desk.forced_token("away").await.ok();
    desk.until_state("away", "offline").await;

    // When this one is shown, nothing else was.
    desk.broker.set_personal_token("refused", file_with("canary-personal").as_fd().into()).await.unwrap();
    desk.broker.reject_token("refused", "canary-personal").await.unwrap();
    assert!(eventually(async || server.shown.lock().unwrap().shown == 2).await, "{}", desk.log());
    let cards: Vec<String> =
        server.shown.lock().unwrap().open.values().map(|card| card.summary.clone()).collect();
    assert_eq!(cards, ["refused is refused by its provider"]);
}

/// A notification server that does not answer holds nobody up, whatever another program sends meanwhile: the bus is read on.
#[tokio::test]
async fn a_silent_notification_server_holds_nobody_up() {
    let desk = Desk::logged_in().await;
    let silent = desk.bus.connect().await;
    let mut calls = MessageStream::from(&silent);
    // zbus's own way to a name answers calls for us.
    let names = DBusProxy::new(&silent).await.unwrap();
    names.request_name(NOTIFICATIONS.try_into().unwrap(), RequestNameFlags::DoNotQueue.into()).await.unwrap();
    desk.provider.end_sessions();
    desk.forced_token("work").await.ok();
    let caller = loop {
        let message = calls.next().await.unwrap().unwrap();
        if message.header().member().is_some_and(|member| member == "Notify") {
            break message.header().sender().unwrap().to_string();
        }
    };

    let stranger = desk.bus.connect().await;
    for id in 0..200_u32 {
        let (path, body) = ("/org/freedesktop/Notifications", (id, "login"));
        stranger
            .emit_signal(Some(caller.as_str()), path, NOTIFICATIONS, "ActionInvoked", &body)
            .await
            .unwrap();
    }

    let answer = tokio::time::timeout(Duration::from_secs(25), desk.broker.list_accounts()).await;
    assert!(answer.is_ok_and(|answer| answer.is_ok()), "{}", desk.log());
}

/// N20 and the contract's promise about secrets: a hook gets the state and no token.
#[tokio::test]
async fn a_hook_runs_at_each_change_with_the_state_and_no_token() {
    let mut desk = Desk::bare(Settings::default()).await;
    let (hook, told) = (desk.path("hook"), desk.path("told"));
    std::fs::write(&hook, format!("#!/bin/sh\nenv >>{0}\necho \"$1\" >>{0}\n", told.display())).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let more = format!("store = \"memory\"\non_change = [\"{}\", \"the end\"]", hook.display());
    desk.write_config(&desk.account("work", &more));
    desk.start_daemon().await;
    desk.set_secret("work").await;

    desk.log_in("work").await;

    let text = || std::fs::read_to_string(&told).unwrap_or_default();
    let ready = "BEARERD_STATE=ready\n";
    assert!(eventually(async || text().contains(ready) && text().ends_with("the end\n")).await, "{}", text());
    assert!(text().contains("BEARERD_ACCOUNT=work\n"));
    assert!(!text().contains("canary-") && !text().contains("NOTIFY_SOCKET"), "{}", text());
}
