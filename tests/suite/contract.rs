//! The D-Bus contract: what is served, under which names, with which answers and limits.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::HashMap;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use bearerd::bus::proxy::{AccountProxy, Properties};
use bearerd::bus::{NAME, ROOT_PATH};
use bearerd::sandbox::provider::{Fault, Settings};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use zbus::fdo::{IntrospectableProxy, ObjectManagerProxy, PropertiesProxy};
use zbus::message::Type;
use zbus::proxy::CacheProperties;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, MatchRule, MessageStream};

use crate::support::browser::Browser;
use crate::support::desk::{ACCOUNT, Desk, LOGIN, account_path, file_with, word};
use crate::support::keyring::Fake;
use crate::support::reference;

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/dbus.md");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dbus/org.bearerd.Broker1.xml");

/// Q1. With `UPDATE_EXPECT=1` the file is written anew: read the difference as callers will.
#[tokio::test]
async fn the_served_interfaces_are_those_of_the_golden_file() {
    let desk = Desk::start().await;
    let (login, _) = desk.start_login("work").await;
    let account = account_path("work");
    let mut served = String::from(
        "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
         \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n",
    );
    for (path, interface) in [
        (ROOT_PATH, NAME),
        (ROOT_PATH, "org.bearerd.Broker1.Access"),
        (account.as_str(), ACCOUNT),
        (login.inner().path().as_str(), LOGIN),
    ] {
        let builder = IntrospectableProxy::builder(&desk.connection).destination(NAME).unwrap();
        let xml = builder.path(path).unwrap().build().await.unwrap().introspect().await.unwrap();
        served += &interface_of(&xml, interface);
    }
    served += "</node>\n";

    for (file, text) in [(GOLDEN, &served), (REFERENCE, &reference::of(&served))] {
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(file, text).unwrap();
        }
        let golden = std::fs::read_to_string(file).unwrap_or_default();
        assert!(*text == golden, "the served interfaces differ from {file}; see CONTRIBUTING.md\n{text}");
    }
}

/// One interface with its documentation.
fn interface_of(xml: &str, name: &str) -> String {
    let open = format!("<interface name=\"{name}\">");
    let (before, rest) = xml.split_once(&open).unwrap();
    let (body, _) = rest.split_once("</interface>").unwrap();
    let indent = before.rsplit('\n').next().unwrap();
    format!("{indent}{open}{body}</interface>\n")
}

/// Design section 3, Errors: the word first, the next step last, in what `busctl` shows too.
#[tokio::test]
async fn errors_begin_with_their_word_and_end_with_what_to_do() {
    let mut desk = Desk::bare(Settings::default()).await;
    desk.write_config(&desk.account("work", "store = \"memory\""));
    desk.start_daemon().await;
    let mut errors =
        vec![(desk.token("work").await.unwrap_err(), "NotConfigured", "bearerctl set-secret work")];
    desk.set_secret("work").await;
    errors.extend([
        (desk.token("work").await.unwrap_err(), "LoginRequired", "bearerctl login work"),
        (desk.token("nobody").await.unwrap_err(), "NoSuchAccount", "bearerctl status"),
        (desk.broker.reject_token("work", "").await.unwrap_err(), "InvalidArgument", "GetToken returned it"),
        (
            desk.broker.set_personal_token("work", file_with("x").as_fd().into()).await.unwrap_err(),
            "InvalidArgument",
            "bearerctl login work",
        ),
        (
            option(&desk, "min_validty", Value::from(1_u32)).await.unwrap_err(),
            "InvalidOption",
            "min_validity",
        ),
        (option(&desk, "min_validity", Value::from("1")).await.unwrap_err(), "InvalidOption", "min_validity"),
        (option(&desk, "min_validity", Value::from(-1)).await.unwrap_err(), "InvalidOption", "min_validity"),
        (
            option(&desk, "scopes", Value::from("profile")).await.unwrap_err(),
            "InvalidOption",
            "force_refresh",
        ),
    ]);
    for (error, name, hint) in errors {
        let text = error.to_string();
        assert_eq!(word(&error), name, "{text}");
        assert!(text.contains(&format!("{name}: ")) && text.contains(hint), "{text}");
    }

    let mut busctl = desk.program("busctl");
    busctl.arg(format!("--address={}", desk.bus.address));
    let Ok(shown) = busctl.args(["call", NAME, ROOT_PATH, NAME, "GetToken", "s", "work"]).output().await
    else {
        return; // a machine without systemd's tools
    };
    let shown = String::from_utf8(shown.stderr).unwrap();
    assert!(
        shown.trim().ends_with("LoginRequired: not logged in to \"work\"; run: bearerctl login work"),
        "{shown}"
    );
}

/// Design section 3, Errors: of a keyring that is closed, of a personal account, and of a provider that says nothing.
#[tokio::test]
async fn closed_keyrings_personal_accounts_and_silent_providers_have_errors_of_their_own() {
    let mut desk = Desk::bare(Settings::default()).await;
    let memory = desk.account("work", "store = \"memory\"");
    let kept = desk.account("kept", "");
    desk.write_config(&format!("{memory}{kept}[accounts.own]\nsource = \"personal\"\n"));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk.log_in("work").await;
    let mut locked = Desk::bare(Settings::default()).await;
    let keyring = Fake::start(&locked.bus).await;
    keyring.set_locked("login", true).await;
    locked.write_config(&locked.account("work", ""));
    locked.start_daemon().await;
    desk.provider.next(Fault::Hold);
    let refresh = async |name: &str| {
        let builder = AccountProxy::builder(&desk.connection).path(account_path(name)).unwrap();
        builder.cache_properties(CacheProperties::No).build().await.unwrap().refresh().await.unwrap_err()
    };

    let (silent, personal, absent, closed) = tokio::join!(
        refresh("work"),
        refresh("own"),
        async { desk.token("kept").await.unwrap_err() },
        async { locked.token("work").await.unwrap_err() },
    );

    desk.provider.release();
    for (error, name, hint) in [
        (silent, "Timeout", "try again"),
        (personal, "NoSession", "bearerctl set-token own"),
        (absent, "StoreUnavailable", "start a keyring"),
        (closed, "StoreLocked", "bearerctl unlock"),
    ] {
        let text = error.to_string();
        assert_eq!(word(&error), name, "{text}");
        assert!(text.contains(&format!("{name}: ")) && text.contains(hint), "{text}");
    }
}

/// Design section 3, Options: any integer type with a value in range.
#[tokio::test]
async fn options_take_any_integer_type() {
    let desk = Desk::logged_in().await;
    for value in [
        Value::from(10_u8),
        Value::from(10_i16),
        Value::from(10_u32),
        Value::from(10_i64),
        Value::from(10_u64),
    ] {
        let shown = format!("{value:?}");
        assert!(option(&desk, "min_validity", value).await.is_ok(), "{shown}");
    }
}

/// Design section 3, Names: "" is the default account, or the only one.
#[tokio::test]
async fn the_empty_account_is_the_default_one() {
    let mut desk = Desk::bare(Settings::default()).await;
    let two = desk.account("one", "store = \"memory\"") + &desk.account("two-b", "store = \"memory\"");
    desk.write_config(&two);
    desk.start_daemon().await;
    let error = desk.token("").await.unwrap_err();
    assert_eq!(word(&error), "NoSuchAccount");
    assert!(error.to_string().contains("default_account"), "{error}");
    assert_eq!(desk.broker.default_account().await.unwrap(), "");

    desk.write_config(&format!("default_account = \"two-b\"\n{two}"));
    desk.broker.reload().await.unwrap();

    assert_eq!(desk.broker.default_account().await.unwrap(), "two-b");
    assert!(desk.token("").await.unwrap_err().to_string().contains("set-secret two-b"));
    let listed = desk.broker.list_accounts().await.unwrap();
    let path = "/org/bearerd/Broker1/account/two_2db";
    assert_eq!(
        listed[1],
        ("two-b".to_owned(), OwnedObjectPath::try_from(path).unwrap(), "not-configured".to_owned())
    );
}

/// Design section 3, Changes: one signal per transition with all that changed, and objects that are announced.
#[tokio::test]
async fn every_transition_is_one_signal_with_all_changed_properties() {
    let desk = Desk::start().await;
    let listener = desk.bus.connect().await;
    let mut signals = signals(&listener).await;
    let builder = ObjectManagerProxy::builder(&desk.connection).destination(NAME).unwrap();
    let manager = builder.path(ROOT_PATH).unwrap().build().await.unwrap();

    let (login, url) = desk.start_login("work").await;
    let objects = manager.get_managed_objects().await.unwrap();
    assert!(objects.keys().any(|path| path.as_str() == login.inner().path().as_str()));
    Browser::new().approve(&url).await;
    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded");
    desk.until_state("work", "ready").await;

    let mut seen = Vec::new();
    let done = |seen: &Vec<(String, String, Vec<String>)>| {
        let changed = |interface, name: &str| {
            seen.iter().any(|(_, what, names)| what == interface && names.iter().any(|known| known == name))
        };
        changed(ACCOUNT, "AccessExpires") && changed(LOGIN, "State")
    };
    while !done(&seen) {
        seen.push(signals.next().await.unwrap());
    }
    let of = |what: &str| -> Vec<Vec<String>> {
        seen.iter().filter(|(_, interface, _)| interface == what).map(|(.., names)| names.clone()).collect()
    };
    assert_eq!(
        seen.iter().filter(|(member, what, _)| member == "InterfacesAdded" && what == LOGIN).count(),
        1
    );
    // The client secret's change may still have been on its way.
    let account: Vec<Vec<String>> =
        of(ACCOUNT).into_iter().skip_while(|names| !names.contains(&"LoginAttempt".to_owned())).collect();
    assert_eq!(account[0], ["LoginAttempt"]);
    let ready = account.iter().find(|names| names.contains(&"State".to_owned())).unwrap();
    for name in
        ["AccessExpires", "SessionExpires", "NextRefresh", "LastRefresh", "Subject", "Scope", "StateReason"]
    {
        assert!(ready.contains(&name.to_owned()), "{name} is not in {ready:?}");
    }
    assert_eq!(of(LOGIN).last().unwrap(), &["State", "Url"]);
}

/// Design section 3, Limits: the 1,025th call of a connection is refused, and others don't notice.
#[tokio::test]
async fn a_flood_is_limited_per_connection() {
    let desk = Desk::logged_in().await;
    let refused = desk.access_token("work").await;
    desk.provider.next(Fault::Hold);
    let reject = desk.broker.reject_token("work", &refused);
    let flood = async {
        desk.provider.wait_for("refresh_token", 1).await;
        let flooder = desk.bus.connect().await;
        let call = || flooder.call_method(Some(NAME), ROOT_PATH, Some(NAME), "GetToken", &"work");
        let mut calls: FuturesUnordered<_> = (0..1100).map(|_| call()).collect();
        // The others wait for the refresh, so the first answers are the refusals.
        let first = calls.next().await.unwrap();
        assert!(is_rate_limited(&first), "{first:?}");
        assert_eq!(desk.broker.list_accounts().await.unwrap().len(), 1, "another connection is served");
        desk.provider.release();
        let mut limited = 1;
        while let Some(answer) = calls.next().await {
            if is_rate_limited(&answer) {
                limited += 1;
            } else {
                answer.unwrap();
            }
        }
        limited
    };

    let (renewed, limited) = tokio::join!(reject, flood);

    assert!(renewed.unwrap());
    assert_eq!(limited, 1100 - 1024);
}

fn is_rate_limited(answer: &zbus::Result<zbus::Message>) -> bool {
    matches!(answer, Err(zbus::Error::MethodError(name, ..)) if name.as_str() == "org.bearerd.Broker1.Error.RateLimited")
}

/// Design section 3: secrets come from any readable descriptor, whole, bounded, and as text.
#[tokio::test]
async fn secrets_are_read_from_descriptors_within_limits() {
    let desk = Desk::start().await;
    let set = async |fd: zbus::zvariant::Fd<'_>| desk.broker.set_client_secret("work", fd).await;
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"canary-piped\n").unwrap();
    drop(writer);
    set(reader.as_fd().into()).await.unwrap();
    set(file_with(&"x".repeat(64 * 1024)).as_fd().into()).await.unwrap();

    let (_, writer) = std::io::pipe().unwrap();
    let (idle, _kept_open) = std::io::pipe().unwrap();
    let too_long = file_with(&"x".repeat(64 * 1024 + 1));
    for (name, fd, why) in [
        ("longer than 64 KiB", too_long.as_fd(), "64 KiB"),
        ("endless", std::fs::File::open("/dev/zero").unwrap().as_fd(), "64 KiB"),
        ("not readable", writer.as_fd(), "descriptor"),
        ("never ending", idle.as_fd(), "5 seconds"),
        ("a control character", file_with("a\u{7}b").as_fd(), "character"),
        ("a folder", std::fs::File::open("/").unwrap().as_fd(), "descriptor"),
    ] {
        let error = set(fd.into()).await.unwrap_err();
        assert_eq!(word(&error), "InvalidArgument", "{name}");
        assert!(error.to_string().contains(why), "{name}: {error}");
    }
    let mut binary = tempfile::tempfile().unwrap();
    binary.write_all(&[0xff, 0xfe]).unwrap();
    assert_eq!(word(&set(binary.as_fd().into()).await.unwrap_err()), "InvalidArgument");

    set(file_with("").as_fd().into()).await.unwrap();
    assert_eq!(word(&desk.token("work").await.unwrap_err()), "NotConfigured", "nothing removes it");
}

/// Q4, R5: whoever listens to all of the bus sees access tokens in `GetToken`'s answers, and no other secret.
#[tokio::test]
async fn a_monitor_of_the_bus_sees_no_secret() {
    let desk = Desk::start().await;
    let spy = desk.bus.connect().await;
    let monitor = zbus::fdo::MonitoringProxy::new(&spy).await.unwrap();
    let mut messages = MessageStream::from(&spy);
    monitor.become_monitor(&[], 0).await.unwrap();

    let (login, url) = desk.start_login("work").await;
    let page = Browser::new().approve(&url).await;
    login.wait(20_000).await.unwrap();
    let first = desk.access_token("work").await;
    desk.broker.reject_token("work", &first).await.unwrap();
    let second = desk.access_token("work").await;
    desk.broker.logout("work").await.unwrap();
    desk.token("the-end").await.unwrap_err();

    let mut captured = Vec::new();
    while let Some(Ok(message)) = messages.next().await {
        let end = message.message_type() == Type::Error;
        captured.push(message);
        if end {
            break;
        }
    }
    assert!(captured.len() > 20, "{}", captured.len());
    let carries = |needle: &str| -> Vec<Type> {
        let bytes = needle.as_bytes();
        let with =
            captured.iter().filter(|message| message.data().windows(bytes.len()).any(|part| part == bytes));
        with.map(zbus::Message::message_type).collect()
    };
    let mut secrets: Vec<String> = desk
        .provider
        .seen()
        .iter()
        .flat_map(|seen| {
            ["code", "code_verifier", "refresh_token", "client_secret"]
                .map(|name| seen.parameter(name).to_owned())
        })
        .filter(|secret| !secret.is_empty())
        .collect();
    secrets.push(
        url::Url::parse(&page.callback)
            .unwrap()
            .query_pairs()
            .find(|(name, _)| name == "code")
            .unwrap()
            .1
            .into(),
    );
    assert!(secrets.len() >= 5, "{}", secrets.len());
    for secret in secrets {
        assert!(carries(&secret).is_empty());
    }
    assert_eq!(carries(&second), [Type::MethodReturn]);
    // The rejection's own call carries it too: its caller had it, and could have used the id.
    assert_eq!(carries(&first), [Type::MethodReturn, Type::MethodCall]);
}

/// Design section 3: an attempt answers `Wait` at once for 0, and properties tell the rest.
#[tokio::test]
async fn a_login_object_tells_its_account_flow_and_end() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    assert_eq!(login.wait(0).await.unwrap(), "pending");

    let builder = PropertiesProxy::builder(&desk.connection).destination(NAME).unwrap();
    let proxy = builder.path(login.inner().path().as_str()).unwrap().build().await.unwrap();
    let all = proxy.get_all(LOGIN.try_into().unwrap()).await.unwrap();

    let text = |name: &str| all[name].downcast_ref::<&str>().unwrap().to_owned();
    assert_eq!(
        (text("Account"), text("Flow"), text("State")),
        ("work".into(), "code".into(), "pending".into())
    );
    assert_eq!((text("Url"), text("UserCode"), text("Error")), (url, String::new(), String::new()));
    let expires = all["Expires"].downcast_ref::<u64>().unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!((now + 590..=now + 601).contains(&expires));
}

async fn option(desk: &Desk, name: &str, value: Value<'_>) -> Result<(), bearerd::bus::Error> {
    desk.broker.get_token_with_options("work", HashMap::from([(name, value)])).await.map(|_| ())
}

/// Every change that our service announces: member, interface, and the names of what changed.
async fn signals(
    connection: &Connection,
) -> impl futures_util::Stream<Item = (String, String, Vec<String>)> + Unpin {
    let rule = MatchRule::builder().msg_type(Type::Signal).sender(NAME).unwrap().build();
    let stream = MessageStream::for_match_rule(rule, connection, Some(1000)).await.unwrap();
    Box::pin(stream.map(|message| {
        let message = message.unwrap();
        let member = message.header().member().unwrap().to_string();
        let body = message.body();
        match member.as_str() {
            "PropertiesChanged" => {
                let (interface, changed, _): (String, Properties, Vec<String>) = body.deserialize().unwrap();
                let mut names: Vec<String> = changed.into_keys().collect();
                names.sort();
                (member, interface, names)
            }
            "InterfacesAdded" => {
                let (_, added): (OwnedObjectPath, HashMap<String, HashMap<String, OwnedValue>>) =
                    body.deserialize().unwrap();
                (
                    member,
                    added.into_keys().find(|name| name.starts_with(NAME)).unwrap_or_default(),
                    Vec::new(),
                )
            }
            _ => (member, String::new(), Vec::new()),
        }
    }))
}
