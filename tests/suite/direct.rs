//! The direct socket: the root interface peer to peer, for `bearerctl token` and whoever asks often.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use bearerd::bus::proxy::BrokerProxy;
use bearerd::bus::{NAME, ROOT_PATH};
use bearerd::sandbox::provider::Fault;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use zbus::fdo::IntrospectableProxy;
use zbus::proxy::CacheProperties;
use zbus::{Connection, connection};

use crate::support::desk::{ACCOUNT, Desk, account_path, eventually, word};

fn socket(desk: &Desk) -> std::path::PathBuf {
    desk.path("run/bearerd/bus")
}

async fn connect(desk: &Desk) -> Connection {
    let stream = tokio::net::UnixStream::connect(socket(desk)).await.unwrap();
    connection::Builder::unix_stream(stream).p2p().build().await.unwrap()
}

async fn broker(connection: &Connection) -> BrokerProxy<'static> {
    BrokerProxy::builder(connection).cache_properties(CacheProperties::No).build().await.unwrap()
}

/// Design section 3, Direct socket: the root interface as on the bus, and nothing besides.
#[tokio::test]
async fn the_root_interface_alone_is_served() {
    let desk = Desk::logged_in().await;
    let connection = connect(&desk).await;
    let direct = broker(&connection).await;

    let (token, ..) = direct.get_token_with_options("work", [].into()).await.unwrap();
    assert_eq!(token, desk.access_token("work").await);
    assert!(direct.reject_token("work", &token).await.unwrap());
    assert_eq!(word(&direct.get_token_with_options("nobody", [].into()).await.unwrap_err()), "NoSuchAccount");

    let builder = IntrospectableProxy::builder(&connection).destination(NAME).unwrap();
    let xml = builder.path(ROOT_PATH).unwrap().build().await.unwrap().introspect().await.unwrap();
    assert!(
        xml.contains("org.bearerd.Broker1") && !xml.contains("ObjectManager") && !xml.contains("<node name")
    );
    let account = account_path("work");
    let refused = connection.call_method(Some(NAME), account.as_str(), Some(ACCOUNT), "Refresh", &()).await;
    assert!(refused.unwrap_err().to_string().contains("UnknownObject"));
}

/// Design section 3, Direct socket: nobody else comes near it, and what a daemon left is replaced.
#[tokio::test]
async fn the_socket_is_private_replaced_at_a_start_and_gone_at_a_stop() {
    let mut desk = Desk::logged_in().await;
    let mode = |path: &std::path::Path| path.symlink_metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(socket(&desk).parent().unwrap()), 0o700);
    desk.kill_daemon().await;
    assert!(socket(&desk).exists(), "a crash leaves it");

    desk.start_daemon().await;

    assert_eq!(broker(&connect(&desk).await).await.list_accounts().await.unwrap().len(), 1);
    desk.signal(rustix::process::Signal::TERM);
    desk.daemon_end().await;
    assert!(!socket(&desk).exists());

    std::fs::set_permissions(socket(&desk).parent().unwrap(), std::fs::Permissions::from_mode(0o755))
        .unwrap();
    desk.start_daemon().await;
    assert!(!socket(&desk).exists(), "a folder that is open to others is not used");
    assert_eq!(desk.broker.list_accounts().await.unwrap().len(), 1);
}

/// A connection that says nothing, breaks off or talks nonsense holds nobody up.
#[tokio::test]
async fn silent_and_broken_peers_hold_nobody_up() {
    let desk = Desk::logged_in().await;
    let silent: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(socket(&desk)).unwrap()).collect();
    for nonsense in [
        &b"\n"[..],
        b"\0\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\0AUTH EXTERNAL 30\r\nBEGIN\r\nxxxxxxxx",
        &[b'a'; 9000],
    ] {
        // It may be hung up on before it has said it all.
        let _ = UnixStream::connect(socket(&desk)).unwrap().write_all(nonsense);
    }

    let (token, ..) =
        broker(&connect(&desk).await).await.get_token_with_options("work", [].into()).await.unwrap();

    assert!(desk.provider.accepts(&token));
    drop(silent);
}

/// The handshake is for our own user, in small steps too, and says no to everybody else.
#[tokio::test]
async fn another_users_name_is_rejected() {
    let desk = Desk::logged_in().await;
    let talk = async |said: &'static [&'static str]| {
        let mut stream = UnixStream::connect(socket(&desk)).unwrap();
        stream.set_read_timeout(Some(crate::support::keyring::DEADLINE)).unwrap();
        let task = tokio::task::spawn_blocking(move || {
            let mut heard = Vec::new();
            for words in said {
                stream.write_all(words.as_bytes()).unwrap();
                if words.ends_with('\n') {
                    let mut answer = [0; 64];
                    let length = stream.read(&mut answer).unwrap();
                    heard.push(String::from_utf8_lossy(&answer[..length]).into_owned());
                }
            }
            heard
        });
        task.await.unwrap()
    };

    let other = talk(&["\0AUTH EXTERNAL 3939393939\r\n", "AUTH ANONYMOUS\r\n", "BEGIN\r\n"]).await;
    let slow = talk(&["\0AUTH EXT", "ERNAL\r\n", "DA", "TA\r\n", "NEGOTIATE_UNIX_FD\r\n"]).await;

    assert_eq!(other, ["REJECTED EXTERNAL\r\n", "REJECTED EXTERNAL\r\n", "ERROR\r\n"]);
    assert!(
        slow[0] == "DATA\r\n" && slow[1].starts_with("OK ") && slow[2] == "AGREE_UNIX_FD\r\n",
        "{slow:?}"
    );
}

/// Design section 3, Limits: also here; and the bus is not concerned.
#[tokio::test]
async fn a_flood_is_limited_per_direct_connection() {
    let desk = Desk::logged_in().await;
    let refused = desk.access_token("work").await;
    desk.provider.next(Fault::Hold);
    let reject = desk.broker.reject_token("work", &refused);
    let flood = async {
        desk.provider.wait_for("refresh_token", 1).await;
        let flooder = connect(&desk).await;
        let call = || flooder.call_method(Some(NAME), ROOT_PATH, Some(NAME), "GetToken", &"work");
        let mut calls: FuturesUnordered<_> = (0..1100).map(|_| call()).collect();
        let first = calls.next().await.unwrap();
        assert!(first.is_err(), "{first:?}");
        assert_eq!(broker(&connect(&desk).await).await.list_accounts().await.unwrap().len(), 1);
        desk.provider.release();
        calls.filter(|answer| std::future::ready(answer.is_err())).count().await + 1
    };

    let (renewed, limited) = tokio::join!(reject, flood);

    assert!(renewed.unwrap());
    assert_eq!(limited, 1100 - 1024);
}

/// Design section 4: `token` and `reject` need no bus while the daemon runs, and start it when it doesn't.
#[tokio::test]
async fn the_command_line_uses_it_and_falls_back_to_the_bus() {
    let mut desk = Desk::logged_in().await;
    let token = desk.access_token("work").await;
    let without_bus = async |arguments: &[&str], variable: &str, value: &std::path::Path| {
        let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
        command.args(arguments).env(variable, value).stdin(std::process::Stdio::null());
        let done = command.output().await.unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let nowhere = desk.path("nowhere");
    let bus = "DBUS_SESSION_BUS_ADDRESS";

    for arguments in [&["token"][..], &["token", "work"], &["token", "--min-validity", "1m", "work"]] {
        let done = without_bus(arguments, bus, &nowhere).await;
        assert_eq!(done, (Some(0), format!("{token}\n"), String::new()), "{arguments:?}");
    }
    let (code, _, said) = without_bus(&["token", "nobody"], bus, &nowhere).await;
    assert!(code == Some(2) && said.starts_with("bearerctl: NoSuchAccount: "), "{said}");

    let done = without_bus(&["token"], "XDG_RUNTIME_DIR", &nowhere).await;
    assert_eq!((done.0, done.1), (Some(0), format!("{token}\n")));
    desk.kill_daemon().await;
    let (code, _, said) = {
        let done = desk.ctl(&["token"], "").await;
        (done.status.code(), done.stdout, String::from_utf8(done.stderr).unwrap())
    };
    assert!(code == Some(1) && said.contains("bearerctl setup"), "a dead socket is passed by: {said}");
}

/// Libraries that know no connection without a bus are given the one answer that they wait for.
#[tokio::test]
async fn busctl_can_use_it() {
    let desk = Desk::logged_in().await;
    let mut busctl = desk.program("busctl");
    busctl.arg(format!("--address=unix:path={}", socket(&desk).display()));
    let Ok(shown) = busctl.args(["call", NAME, ROOT_PATH, NAME, "GetToken", "s", "work"]).output().await
    else {
        return; // a machine without systemd's tools
    };

    let shown = String::from_utf8(shown.stdout).unwrap() + &String::from_utf8(shown.stderr).unwrap();

    assert!(shown.starts_with("sta{sv} \"canary-"), "{shown}");
}

/// A client that ends gives its place back.
#[tokio::test]
async fn a_thousand_connections_one_after_another_are_served() {
    let desk = Desk::logged_in().await;
    for _ in 0..1000 {
        drop(UnixStream::connect(socket(&desk)).unwrap());
    }

    let served = async || {
        let Ok(stream) = tokio::net::UnixStream::connect(socket(&desk)).await else { return false };
        connection::Builder::unix_stream(stream).p2p().build().await.is_ok()
    };

    assert!(eventually(served).await);
}
