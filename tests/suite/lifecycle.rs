//! The process: start, second start, reload, stop, crash, activation.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::os::fd::AsFd as _;

use bearerd::bus::NAME;
use bearerd::sandbox::provider::{Fault, Settings};
use futures_util::StreamExt as _;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use zbus::fdo::DBusProxy;

use crate::support::desk::{Desk, eventually, file_with, word};
use crate::support::keyring::{Bus, Fake};

/// Q8: whoever waits for readiness finds the name owned, and the objects behind it.
#[tokio::test]
async fn readiness_is_told_after_the_name_is_owned() {
    let mut desk = Desk::bare(Settings::default()).await;
    desk.write_config(&desk.account("work", "store = \"memory\""));

    let told = desk.start_daemon().await;

    let bus = DBusProxy::new(&desk.connection).await.unwrap();
    assert!(bus.name_has_owner(NAME.try_into().unwrap()).await.unwrap());
    assert_eq!(desk.broker.list_accounts().await.unwrap().len(), 1);
    assert!(told.lines().any(|line| line.starts_with("STATUS=")), "{told}");
}

/// A second instance says what is there already, and leaves it alone.
#[tokio::test]
async fn a_second_instance_ends_with_a_clear_message() {
    let desk = Desk::logged_in().await;

    let second = desk.program(env!("CARGO_BIN_EXE_bearerd")).output().await.unwrap();

    assert!(!second.status.success());
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert!(stderr.contains("another bearerd owns org.bearerd.Broker1"), "{stderr}");
    assert!(desk.token("work").await.is_ok());
}

/// An option or a mistyped word is answered, and nothing starts.
#[tokio::test]
async fn the_daemon_takes_no_arguments_and_says_so() {
    let desk = Desk::bare(Settings::default()).await;
    for (argument, code) in [("--version", 0), ("--help", 0), ("--frobnicate", 2)] {
        let done = desk.program(env!("CARGO_BIN_EXE_bearerd")).arg(argument).output().await.unwrap();
        assert_eq!(done.status.code(), Some(code), "{argument}: {done:?}");
    }
}

/// Without a bus there is nothing to serve; the message says what is missing.
#[tokio::test]
async fn without_a_session_bus_the_daemon_says_so() {
    let desk = Desk::bare(Settings::default()).await;
    let mut command = desk.program(env!("CARGO_BIN_EXE_bearerd"));
    command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", desk.path("nothing").display()));

    let done = command.output().await.unwrap();

    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8(done.stderr).unwrap().contains("bus"));
}

/// D5: a stop waits for the refresh that is on its way, for its answer holds the only valid refresh token.
#[tokio::test]
async fn a_stop_waits_for_the_refresh_on_its_way_and_its_save() {
    let (mut desk, _keyring) = Desk::with_keyring().await;
    let forced = held_refresh(&desk).await;

    stops_without_a_loss(&mut desk, forced).await;
}

/// D5: a stop in the midst of a reload waits too, for the session that the reload is about to replace.
#[tokio::test]
async fn a_stop_during_a_reload_waits_for_the_refresh_on_its_way_and_its_save() {
    let (mut desk, _keyring) = Desk::with_keyring().await;
    let forced = held_refresh(&desk).await;
    desk.write_config(&desk.account("work", "keep_alive = \"when-used\""));
    desk.signal(Signal::HUP);
    let ending = async || desk.token("work").await.is_err_and(|error| word(&error) == "NoSession");
    assert!(eventually(ending).await, "it takes no callers any more");

    stops_without_a_loss(&mut desk, forced).await;
}

/// Design section 3: a reload answers in time though a changed account waits for its provider, and goes on.
#[tokio::test]
async fn a_reload_that_waits_for_a_provider_is_answered_and_goes_on() {
    let desk = Desk::logged_in().await;
    let forced = held_refresh(&desk).await;
    desk.write_config(&desk.account("work", "store = \"memory\"\nkeep_alive = \"when-used\""));

    let error = desk.broker.reload().await.unwrap_err();

    assert_eq!(word(&error), "Timeout", "{error}");
    desk.provider.release();
    let _ = forced.await;
    assert!(eventually(async || desk.token("work").await.is_ok()).await);
    assert_eq!(desk.provider.token_requests("authorization_code").len(), 1);
}

/// D4, D7, N14; promise 2: nothing but the keyring survives, and that is enough.
#[tokio::test]
async fn a_killed_daemon_goes_on_where_it_was() {
    let (mut desk, _keyring) = Desk::with_keyring().await;

    for _ in 0..3 {
        desk.forced_token("work").await.unwrap();
        desk.kill_daemon().await;
        desk.start_daemon().await;
        assert!(desk.provider.accepts(&desk.access_token("work").await));
    }

    assert_eq!(desk.provider.token_requests("authorization_code").len(), 1);
    assert_eq!(desk.provider.live_sessions(), 1);
}

/// Design section 5: sessions of unchanged accounts go on, new ones come, removed ones go.
#[tokio::test]
async fn a_reload_keeps_the_sessions_of_unchanged_accounts() {
    let desk = Desk::logged_in().await;
    let before = desk.access_token("work").await;
    let work = desk.account("work", "store = \"memory\"");
    desk.write_config(&(work.clone() + &desk.account("more", "store = \"memory\"")));

    desk.broker.reload().await.unwrap();

    let names =
        async || desk.broker.list_accounts().await.unwrap().into_iter().map(|(name, ..)| name).collect();
    let both: Vec<String> = names().await;
    assert_eq!(both, ["more", "work"]);
    assert_eq!(desk.access_token("work").await, before);
    desk.write_config(&work);
    desk.signal(Signal::HUP);
    assert!(eventually(async || names().await == ["work"]).await);
    assert_eq!(desk.access_token("work").await, before);
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 0);
}

/// Bad input: a broken file names file, line and key, and changes nothing.
#[tokio::test]
async fn a_broken_configuration_is_refused_whole_and_names_its_place() {
    let desk = Desk::logged_in().await;
    let before = desk.access_token("work").await;
    desk.write_config("[accounts.work]\nclient_idd = \"x\"\n");

    let error = desk.broker.reload().await.unwrap_err();

    assert_eq!(word(&error), "InvalidConfiguration");
    let place = format!("{}:2: unknown key `client_idd`", desk.config_file().display());
    assert!(error.to_string().contains(&place), "{error}");
    assert!(error.to_string().contains("`client_id`"), "the nearest known key: {error}");
    assert_eq!(desk.access_token("work").await, before);
    let done = desk.ctl(&["reload"], "").await;
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8(done.stderr).unwrap().contains(&place));
}

/// Design section 3: a daemon with a bad configuration answers, and heals with a reload.
#[tokio::test]
async fn a_daemon_with_a_broken_configuration_answers_with_it() {
    let mut desk = Desk::bare(Settings::default()).await;
    desk.write_config("default_account = 7\n");
    desk.start_daemon().await;

    for error in [
        desk.token("work").await.unwrap_err(),
        desk.broker.list_accounts().await.unwrap_err(),
        desk.broker.logout("work").await.unwrap_err(),
        desk.broker.unlock_store().await.unwrap_err(),
    ] {
        assert_eq!(word(&error), "InvalidConfiguration");
        assert!(error.to_string().contains("config.toml:1: `default_account`"), "{error}");
    }

    desk.write_config(&desk.account("work", "store = \"memory\""));
    desk.broker.reload().await.unwrap();
    assert_eq!(word(&desk.token("work").await.unwrap_err()), "NotConfigured");
}

/// K24, K25: a personal token is handed out as it is, and a refused one is the user's to replace.
#[tokio::test]
async fn a_personal_token_is_served_from_the_keyring_and_refused_once() {
    let mut desk = Desk::bare(Settings::default()).await;
    let _keyring = Fake::start(&desk.bus).await;
    desk.write_config("[accounts.dev]\nsource = \"personal\"\n");
    desk.start_daemon().await;
    assert_eq!(word(&desk.token("dev").await.unwrap_err()), "LoginRequired");
    let set = desk.ctl(&["set-token", "dev"], "Bearer canary-personal\n").await;
    assert!(set.status.success(), "{set:?}");

    desk.kill_daemon().await;
    desk.start_daemon().await;

    let (token, expires_at, details) = desk.token("dev").await.unwrap();
    assert_eq!((token.as_str(), expires_at), ("canary-personal", 0));
    assert_eq!(String::try_from(details["source"].clone()).unwrap(), "personal");
    assert!(!desk.broker.reject_token("dev", "canary-personal").await.unwrap());
    assert_eq!(desk.state("dev").await, "refused");
    assert_eq!(word(&desk.token("dev").await.unwrap_err()), "ProviderRefused");
    desk.broker.set_personal_token("dev", file_with("canary-newer").as_fd().into()).await.unwrap();
    assert_eq!(desk.access_token("dev").await, "canary-newer");
}

/// Q8: the end of the bus is the end of the session, and no fault.
#[tokio::test]
async fn the_end_of_the_bus_ends_the_daemon_cleanly() {
    let mut desk = Desk::logged_in().await;
    // As dbus-daemon ends with its session.
    desk.bus.end().await;

    assert!(desk.daemon_end().await.success(), "{}", desk.log());
}

/// Q8: the activation file alone starts it, on a bus without systemd.
#[tokio::test]
async fn the_first_call_starts_the_daemon_through_its_activation_file() {
    let shipped =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/dbus/org.bearerd.Broker1.service"));
    let service = shipped.unwrap().replace("/usr/bin/bearerd", env!("CARGO_BIN_EXE_bearerd"));
    // Without the unit's line: no systemd listens on this bus.
    let service: Vec<&str> = service.lines().filter(|line| !line.starts_with("SystemdService=")).collect();
    let bus = Bus::with_service("org.bearerd.Broker1.service", &service.join("\n")).await;
    let connection = bus.connect().await;
    let dbus = DBusProxy::new(&connection).await.unwrap();
    assert!(!dbus.name_has_owner(NAME.try_into().unwrap()).await.unwrap());

    let reply =
        connection.call_method(Some(NAME), bearerd::bus::ROOT_PATH, Some(NAME), "GetToken", &"nobody").await;

    let Err(zbus::Error::MethodError(name, ..)) = reply else { panic!("{reply:?}") };
    assert_eq!(name.as_str(), "org.bearerd.Broker1.Error.NoSuchAccount");
    // It ends with its bus.
    let mut lost = dbus.receive_name_owner_changed_with_args(&[(0, NAME)]).await.unwrap();
    let pid = dbus.get_connection_unix_process_id(NAME.try_into().unwrap()).await.unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    lost.next().await.unwrap();
}

/// Q8: what systemctl --user service-log-level does; the level is the daemon's, never its libraries'.
#[tokio::test]
async fn the_log_level_can_be_read_and_set_over_the_bus() {
    let desk = Desk::start().await;
    let builder = zbus::fdo::PropertiesProxy::builder(&desk.connection).destination(NAME).unwrap();
    let log = builder.path("/org/freedesktop/LogControl1").unwrap().build().await.unwrap();
    let interface = || zbus::names::InterfaceName::try_from("org.freedesktop.LogControl1").unwrap();

    let level = async || String::try_from(log.get(interface(), "LogLevel").await.unwrap()).unwrap();

    assert_eq!(level().await, "debug", "syslog has no trace");
    log.set(interface(), "LogLevel", "warning".into()).await.unwrap();
    assert_eq!(level().await, "warning");
    assert!(log.set(interface(), "LogLevel", "loud".into()).await.is_err());
    let identifier = log.get(interface(), "SyslogIdentifier").await.unwrap();
    assert_eq!(String::try_from(identifier).unwrap(), "bearerd");
}

/// R3: neither a debugger of the same user nor a core dump gets at the tokens in memory.
#[tokio::test]
async fn the_daemon_is_not_dumpable() {
    let desk = Desk::start().await;
    let pid = desk.pid().as_raw_nonzero();

    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();

    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}/mem")).unwrap());
    assert_eq!(owner, 0, "a process that can't be dumped belongs to root in /proc");
}

/// A log that nobody reads must not end the daemon.
#[tokio::test]
async fn a_closed_log_ends_nothing() {
    let desk = Desk::bare(Settings::default()).await;
    desk.write_config(&desk.account("work", "store = \"memory\""));
    let mut command = desk.daemon();
    let mut daemon = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().unwrap().contains("ready") {}
    drop(lines);

    desk.set_secret("work").await;
    desk.log_in("work").await;

    assert!(desk.token("work").await.is_ok());
    assert!(daemon.try_wait().unwrap().is_none());
}

/// D12: two buses of one user, as `dbus-run-session` makes them, share a home and its sessions.
#[tokio::test]
async fn a_second_daemon_of_the_user_on_another_bus_ends_with_a_clear_message() {
    let desk = Desk::logged_in().await;
    let other = Bus::start().await;

    let mut second = desk.program(env!("CARGO_BIN_EXE_bearerd"));
    let second = second.env("DBUS_SESSION_BUS_ADDRESS", &other.address).output().await.unwrap();

    assert!(!second.status.success());
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert!(stderr.contains("another bearerd of this user runs on another bus"), "{stderr}");
    assert!(desk.provider.accepts(&desk.access_token("work").await));
}

/// R25: a daemon that dies and comes back again and again does not hammer the provider, though somebody asks
/// each time; and the session lives.
#[tokio::test]
async fn thirty_restarts_cause_few_requests() {
    // One that is cut off in the midst of a rotation may lose it; that is another test.
    let mut desk = Desk::bare(Settings { rotation: false, ..Settings::default() }).await;
    let _keyring = Fake::start(&desk.bus).await;
    desk.write_config(&desk.account("work", ""));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk.log_in("work").await;
    for _ in 0..30 {
        desk.kill_daemon().await;
        desk.start_daemon().await;
        let asked = desk.token("work");
        // The sixth and later ones are made to wait, and the daemon does not live so long.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(150), asked).await;
    }

    let sent = desk.provider.token_requests("refresh_token").len();

    assert!((3..=10).contains(&sent), "{sent} requests in 30 starts");
    assert!(desk.provider.accepts(&desk.access_token("work").await));
}

/// A daemon whose name is gone would be asked nothing any more, and would go on spending refresh tokens.
#[tokio::test]
async fn a_daemon_that_loses_its_name_ends() {
    let desk = Desk::bare(Settings::default()).await;
    let connection = desk.bus.connect().await;
    let dirs = bearerd::config::ConfigDirs {
        user: desk.path("config/bearerd"),
        vendor: desk.path("vendor"),
        state: desk.path("state"),
        runtime: None,
        credentials: None,
        home: None,
    };
    let levels = bearerd::logging::start().unwrap();
    let system = async { Err(zbus::Error::Unsupported) };
    let vault = bearerd::recovery::Vault::empty();
    let daemon = bearerd::daemon::run(connection.clone(), system, dirs, vault, levels);
    let loss = async {
        let bus = DBusProxy::new(&desk.connection).await.unwrap();
        let owned = async || bus.name_has_owner(NAME.try_into().unwrap()).await.unwrap();
        assert!(eventually(owned).await);
        connection.release_name(NAME).await.unwrap();
    };

    let (end, ()) = tokio::join!(daemon, loss);

    assert!(matches!(end, Err(bearerd::daemon::DaemonError::NameLost)), "{end:?}");
}

/// Stops the daemon in the midst of a refresh, and starts the next one.
async fn stops_without_a_loss(desk: &mut Desk, forced: tokio::task::JoinHandle<zbus::Result<zbus::Message>>) {
    desk.signal(Signal::TERM);
    assert!(eventually(async || desk.log().contains("stopping")).await);
    desk.provider.release();

    assert!(desk.daemon_end().await.success());
    let _ = forced.await;
    desk.start_daemon().await;
    let token = desk.access_token("work").await;
    assert!(desk.provider.accepts(&token), "the rotated refresh token was saved");
    assert_eq!(desk.provider.token_requests("authorization_code").len(), 1);
}

/// A forced refresh that waits at the provider until it is released.
async fn held_refresh(desk: &Desk) -> tokio::task::JoinHandle<zbus::Result<zbus::Message>> {
    desk.provider.next(Fault::Hold);
    let connection = desk.bus.connect().await;
    let forced = tokio::spawn(async move {
        let options = std::collections::HashMap::from([("force_refresh", zbus::zvariant::Value::from(true))]);
        let body = ("work", options);
        connection
            .call_method(Some(NAME), bearerd::bus::ROOT_PATH, Some(NAME), "GetTokenWithOptions", &body)
            .await
    });
    desk.provider.wait_for("refresh_token", 1).await;
    forced
}
