//! The attacks of SECURITY.md, carried out by whoever the row says: another program of the machine, a web page,
//! a provider. Each has what may have leaked to it, an address, a `state` or a code, and comes to nothing.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use bearerd::sandbox::provider::{Fault, Provider, Settings};
use serde_json::{Value as Json, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use url::Url;
use zbus::zvariant::Value;

use crate::support::browser::{Browser, parameter, raw};
use crate::support::desk::{Desk, eventually, listening, word};
use crate::support::desktop::Portal;
use crate::support::keyring::Fake;
use crate::support::trap::Trap;

/// R8: who takes the callback's port when a login is over catches the code of a slow user, and can do nothing with it.
#[tokio::test]
async fn a_squatter_of_the_port_gets_a_code_without_its_verifier() {
    let port = free_port().await;
    let desk = desk_at(port).await;
    let (login, url) = desk.start_login("work").await;
    let callback = Browser::new().callback_of(&url, true).await;
    login.cancel().await.unwrap();
    assert!(eventually(async || !listening(&format!("127.0.0.1:{port}")).await).await);

    let squatter =
        Trap::start(port, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    Browser::new().open(&callback).await;

    assert!(squatter.caught()[0].contains(&parameter(&callback, "code").unwrap()));
    assert_eq!(redeem(&desk, &callback, &[]).await, "PKCE verification failed");
    let error = desk.broker.login_with_options("work", HashMap::new()).await.unwrap_err();
    assert_eq!(word(&error), "LoginFailed", "no other port, and none that is shared: {error}");
    assert_eq!(desk.provider.live_sessions(), 0);
}

/// R8: connections that say nothing hold a login up for a while, and no longer.
#[tokio::test]
async fn a_flood_of_silent_connections_does_not_keep_the_browser_out() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    let callback = Browser::new().callback_of(&url, true).await;
    let mut flood = Vec::new();
    for number in 0..40 {
        let mut stream = TcpStream::connect(("127.0.0.1", port_of(&callback))).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /callback?code=").await.unwrap();
        }
        flood.push(stream);
    }

    Browser::new().open(&callback).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());
}

/// R10: a code of the attacker's own login, brought to ours by a link or an image.
#[tokio::test]
async fn a_login_of_somebody_else_is_not_slipped_in() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    let slipped = attackers_callback(&desk, &url, "state-of-the-attackers").await;

    for callback in [slipped.clone(), slipped.replace("state=state-of-the-attackers", "state=")] {
        let page = Browser::new().open(&callback).await;
        assert_eq!(page.status, 400, "{}", page.html);
    }

    assert_eq!(login.wait(0).await.unwrap(), "pending");
    assert!(desk.provider.token_requests("authorization_code").is_empty());
    Browser::new().approve(&url).await;
    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded");
    assert_eq!(desk.account_text("work", "Subject").await, "robin");
}

/// R10, H11: who completes a pending login as himself does not become the account, at a provider without ID tokens
/// either: what its API says of the user is compared then.
#[tokio::test]
async fn an_account_does_not_change_hands_by_a_login() {
    let desk = Desk::logged_in().await;
    let before = desk.access_token("work").await;
    let (login, url) = desk.start_login("work").await;
    desk.provider.configure(|settings| "mallory".clone_into(&mut settings.user));

    let page = Browser::new().approve(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert!(page.html.contains("mallory") && page.html.contains("robin"), "{}", page.html);
    assert_eq!(desk.access_token("work").await, before);
    assert!(
        eventually(async || desk.provider.live_sessions() == 1).await,
        "the stranger's session is given back"
    );
}

/// R9, R13: with the `state` too, as who reads the browser's arguments has it, the code is bound to another challenge.
#[tokio::test]
async fn a_code_injected_with_the_leaked_state_is_not_exchanged() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    let injected = attackers_callback(&desk, &url, &parameter(&url, "state").unwrap()).await;

    let page = Browser::new().open(&injected).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert!(page.html.contains("PKCE verification failed"), "{}", page.html);
    assert_eq!((desk.state("work").await.as_str(), desk.provider.live_sessions()), ("logged-out", 0));
}

/// R13: where a provider can't do PKCE, the ID token's nonce finds out.
#[tokio::test]
async fn a_code_injected_without_pkce_is_found_out_by_its_nonce() {
    let mut desk = Desk::bare(Settings::default()).await;
    desk.write_config(&desk.discovered_account("work", "store = \"memory\"\npkce = false"));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    let (login, url) = desk.start_login("work").await;
    let injected = attackers_callback(&desk, &url, &parameter(&url, "state").unwrap()).await;

    let page = Browser::new().open(&injected).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert!(page.html.contains("nonce"), "{}", page.html);
    assert_eq!(desk.state("work").await, "logged-out");
    assert_eq!(word(&desk.token("work").await.unwrap_err()), "LoginRequired");
}

/// R13: who saw the whole response can't trade its code, not even with the client's secret and all of the address.
#[tokio::test]
async fn a_stolen_code_is_worth_nothing() {
    let desk = Desk::start().await;
    for known in ["state", "code_challenge"] {
        let (login, url) = desk.start_login("work").await;
        let callback = Browser::new().callback_of(&url, true).await;

        let guess = parameter(&url, known).unwrap();
        let why = redeem(&desk, &callback, &[("code_verifier", &guess)]).await;

        assert_eq!(why, "PKCE verification failed");
        login.cancel().await.unwrap();
    }
    assert_eq!(desk.provider.live_sessions(), 0);
}

/// R11: a web page whose name now leads here. It even knows the `state`, and is told nothing.
#[tokio::test]
async fn a_rebound_name_reaches_nothing() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    let callback = Browser::new().callback_of(&url, true).await;
    let port = port_of(&callback);
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let page = reqwest::Client::builder().no_proxy().resolve("evil.test", here).build().unwrap();

    for address in
        [callback.replace("127.0.0.1", "evil.test"), format!("http://evil.test:{port}/bearerd/done")]
    {
        let answer = page.get(&address).header("origin", "http://evil.test").send().await.unwrap();
        assert_eq!(answer.status(), 400, "{address}");
        assert!(!answer.headers().keys().any(|name| name.as_str().starts_with("access-control-")));
        assert!(!answer.text().await.unwrap().contains("work"));
    }
    // Nor may a page of any name read what is here: no preflight is answered with a yes.
    let preflight = format!(
        "OPTIONS /callback HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://evil.test\r\nConnection: close\r\n\
         Access-Control-Request-Method: GET\r\nAccess-Control-Request-Private-Network: true\r\n\r\n"
    );
    let preflight = raw(port, &preflight).await.to_lowercase();
    assert!(preflight.starts_with("http/1.1 405") && !preflight.contains("access-control-"), "{preflight}");

    assert_eq!(login.wait(0).await.unwrap(), "pending");
    Browser::new().open(&callback).await;
    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded");
}

/// R12: the user logs in at an evil provider, which sends the browser on to the honest one with our `state` and our
/// port: the honest one's code arrives at the evil login, and must not be sent to the evil token endpoint.
#[tokio::test]
async fn a_code_of_the_honest_provider_is_not_given_to_an_evil_one() {
    let evil =
        Trap::start(0, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let discovered = Provider::start(Settings::default()).await.unwrap();
    let mut desk = Desk::bare(Settings::default()).await;
    let account = |endpoints: String| {
        format!("client_id = \"sandbox\"\nclient_auth = \"none\"\nstore = \"memory\"\n{endpoints}\n")
    };
    let named = account(format!(
        "authorization_endpoint = \"{}\"\ntoken_endpoint = \"{}\"",
        evil.url("/authorize"),
        evil.url("/token")
    ));
    let with_issuer = account(format!("issuer = \"{}\"", discovered.issuer()));
    desk.write_config(&format!("[accounts.named]\n{named}[accounts.discovered]\n{with_issuer}"));
    desk.start_daemon().await;

    for account in ["named", "discovered"] {
        let (login, url) = desk.start_login(account).await;
        let sent_on = attackers_callback(&desk, &url, &parameter(&url, "state").unwrap()).await;
        let page = Browser::new().open(&sent_on).await;

        assert_eq!(login.wait(20_000).await.unwrap(), "failed", "{account}");
        assert!(page.html.contains("issuer"), "{account}: {}", page.html);
    }

    assert_eq!(evil.caught(), Vec::<String>::new());
    assert!(discovered.token_requests("authorization_code").is_empty());
}

/// R12: an honest provider that does not name itself in its answers is kept apart by a path of its own.
#[tokio::test]
async fn a_redirect_path_of_its_own_keeps_a_provider_apart_that_sends_no_iss() {
    let evil =
        Trap::start(0, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let mut desk = Desk::bare(Settings::default()).await;
    let honest =
        desk.account("honest", "store = \"memory\"\nredirect_uri = \"http://127.0.0.1/callback/honest\"");
    desk.write_config(&format!(
        "{honest}[accounts.evil]\nclient_id = \"sandbox\"\nclient_auth = \"none\"\nstore = \"memory\"\n\
         authorization_endpoint = \"{}\"\ntoken_endpoint = \"{}\"\n",
        evil.url("/authorize"),
        evil.url("/token")
    ));
    desk.start_daemon().await;
    let (login, url) = desk.start_login("evil").await;

    // All that the honest provider lets the evil one ask for, as it is registered there.
    let sent_on = attackers_callback(&desk, &url, &parameter(&url, "state").unwrap()).await;
    let mut sent_on = Url::parse(&sent_on).unwrap();
    let silent: Vec<(String, String)> =
        sent_on.query_pairs().into_owned().filter(|(name, _)| name != "iss").collect();
    sent_on.query_pairs_mut().clear().extend_pairs(silent);
    sent_on.set_path("/callback/honest");
    let page = Browser::new().open(sent_on.as_str()).await;

    assert_eq!((page.status, login.wait(0).await.unwrap().as_str()), (404, "pending"));
    assert_eq!(evil.caught(), Vec::<String>::new());
}

/// R14: an address out of the browser's history, where the port is always the same.
#[tokio::test]
async fn an_address_from_the_history_is_no_answer_to_the_next_login() {
    let port = free_port().await;
    let desk = desk_at(port).await;
    let page = desk.log_in("work").await;
    let before = desk.access_token("work").await;
    assert!(eventually(async || !listening(&format!("127.0.0.1:{port}")).await).await);
    assert!(
        page.url.ends_with("/bearerd/done") && !page.url.contains('?'),
        "what the history shows: {}",
        page.url
    );
    let (login, _) = desk.start_login("work").await;

    let again = Browser::new().open(&page.callback).await;

    assert_eq!((again.status, login.wait(0).await.unwrap().as_str()), (400, "pending"));
    assert_eq!(desk.provider.token_requests("authorization_code").len(), 1);
    assert_eq!(desk.access_token("work").await, before);
}

/// R15: nothing in a request leads the browser anywhere but to our own last page.
#[tokio::test]
async fn the_callback_redirects_nobody_elsewhere() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    let callback = Url::parse(&Browser::new().callback_of(&url, true).await).unwrap();
    let (port, query) = (port_of(callback.as_str()), callback.query().unwrap().to_owned());
    let elsewhere = "next=//evil.test/&redirect_uri=https://evil.test/&url=https%3A%2F%2Fevil.test&post_logout_redirect_uri=//evil.test";
    for target in [
        format!("/callback?{elsewhere}"),
        format!("/bearerd/done?{elsewhere}"),
        format!("//evil.test/callback?{query}"),
        format!("/callback/..//evil.test?{query}"),
        format!("/%2f%2fevil.test?{query}"),
        format!("http://evil.test/bearerd/done?{elsewhere}"),
        format!("/callback?error=%0d%0aLocation:%20https://evil.test&{elsewhere}"),
    ] {
        let answer = get(port, &target).await.to_lowercase();
        assert!(answer.starts_with("http/1.1 4"), "{target}: {answer}");
        assert!(!answer.contains("\r\nlocation:") && !answer.contains("evil.test"), "{target}: {answer}");
    }

    let answer = get(port, &format!("/callback?{query}&{elsewhere}")).await.to_lowercase();

    assert!(answer.contains("\r\nlocation: /bearerd/done\r\n") && !answer.contains("evil.test"), "{answer}");
    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded");
}

/// R20: metadata of a provider in other hands. The session goes on at the endpoints that it began with.
#[tokio::test]
async fn metadata_that_turns_evil_gets_no_token_and_no_secret() {
    for name in [
        "token_endpoint",
        "revocation_endpoint",
        "end_session_endpoint",
        "userinfo_endpoint",
        "pushed_authorization_request_endpoint",
    ] {
        let evil = Trap::start(0, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        let mut desk = Desk::bare(Settings::default()).await;
        desk.write_config(&desk.discovered_account("work", "store = \"memory\""));
        desk.start_daemon().await;
        desk.set_secret("work").await;
        desk.log_in("work").await;
        let mut patch = json!({ name: format!("http://localhost:{}/evil", evil.port) });
        if name == "userinfo_endpoint" {
            // Asked for a name that the ID token does not tell.
            desk.provider
                .configure(|settings| settings.id_token = json!({ "preferred_username": Json::Null }));
        }
        if name == "revocation_endpoint" {
            patch["end_session_endpoint"] = Json::Null;
        }
        desk.provider.configure(|settings| settings.metadata = patch);
        // What is no answer of a token endpoint makes the metadata be read again.
        desk.provider.next(Fault::html(200));
        desk.forced_token("work").await.unwrap();

        desk.log_in("work").await;
        desk.broker.logout("work").await.unwrap();

        let read = desk.provider.seen().into_iter().filter(|seen| seen.path.contains(".well-known")).count();
        assert!(read > 1, "{name}: the evil metadata was never read:\n{}", desk.log());
        assert_eq!(evil.caught(), Vec::<String>::new(), "{name}");
    }
}

/// R20, G4: between two starts nobody watches the metadata, so the session itself remembers where it came from.
#[tokio::test]
async fn a_session_is_not_taken_to_another_server_by_a_restart() {
    let evil = Trap::start(0, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let mut desk = Desk::bare(Settings::default()).await;
    let _keyring = Fake::start(&desk.bus).await;
    let config = desk.discovered_account("work", "");
    desk.write_config(&config);
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk.log_in("work").await;
    let there = format!("http://localhost:{}/evil", evil.port);

    // By the metadata, and by a configuration whose issuer is still the same.
    for (metadata, more) in [
        (json!({ "token_endpoint": there }), String::new()),
        (Json::Null, format!("token_endpoint = \"{}\"\n", evil.url("/evil"))),
    ] {
        desk.kill_daemon().await;
        desk.provider.configure(|settings| settings.metadata = metadata);
        desk.write_config(&(config.clone() + &more));
        desk.start_daemon().await;

        let error = desk.token("work").await.unwrap_err();

        assert_eq!(word(&error), "LoginRequired", "{error}");
        assert!(error.to_string().contains("is not taken to another server"), "{error}");
        assert_eq!(desk.account_text("work", "StateReason").await, "other-server");
        assert_eq!(desk.state("work").await, "expired");
    }

    // What was a trick or a mistake costs no session.
    desk.kill_daemon().await;
    desk.write_config(&config);
    desk.start_daemon().await;
    assert!(desk.provider.accepts(&desk.access_token("work").await));

    // Nor does its end lead there.
    desk.kill_daemon().await;
    let patch = json!({ "end_session_endpoint": Json::Null, "revocation_endpoint": there });
    desk.provider.configure(|settings| settings.metadata = patch);
    desk.start_daemon().await;
    desk.access_token("work").await;
    assert!(!desk.broker.logout("work").await.unwrap());
    assert_eq!(evil.caught(), Vec::<String>::new());
}

/// R20: metadata that leads elsewhere, never ends, or is built to break its reader.
#[tokio::test]
async fn a_hostile_answer_for_metadata_fails_the_login_and_nothing_else() {
    let elsewhere = Trap::start(0, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
    let body = |text: &str| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{text}", text.len())
    };
    for (name, answer) in [
        (
            "a redirect",
            format!(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
                elsewhere.url("/")
            ),
        ),
        ("no end", body(&" ".repeat(4 * 1024 * 1024))),
        ("depth", body(&"[".repeat(500_000))),
        ("no HTTP", "\0\0\0".to_owned()),
    ] {
        let evil = Trap::start(0, answer).await;
        let mut desk = Desk::bare(Settings::default()).await;
        let honest = desk.account("work", "store = \"memory\"");
        let hostile = format!(
            "[accounts.evil]\nclient_id = \"x\"\nclient_auth = \"none\"\nissuer = \"{}\"\nstore = \"memory\"\n",
            evil.url("")
        );
        desk.write_config(&(honest + &hostile));
        desk.start_daemon().await;
        desk.set_secret("work").await;
        desk.log_in("work").await;

        let error = desk.broker.login_with_options("evil", HashMap::new()).await.unwrap_err();

        assert!(["LoginFailed", "ProviderUnreachable"].contains(&word(&error).as_str()), "{name}: {error}");
        assert!(desk.provider.accepts(&desk.access_token("work").await), "{name}");
    }
    assert_eq!(elsewhere.caught(), Vec::<String>::new());
}

/// R23: whoever may call us can't choose the provider, the client, the scopes or the way back, nor make us connect
/// to anything; A11, A13.
#[tokio::test]
async fn a_caller_cannot_make_the_user_log_in_elsewhere() {
    let evil = Trap::start(0, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
    let desk = Desk::logged_in().await;
    let portal = Portal::start(&desk.bus).await;
    for key in [
        "issuer",
        "authorization_endpoint",
        "token_endpoint",
        "redirect_uri",
        "client_id",
        "scope",
        "url",
        "extra_params",
    ] {
        let options = HashMap::from([(key, Value::from(evil.url("/")))]);
        let error = desk.broker.login_with_options("work", options).await.unwrap_err();
        assert_eq!(word(&error), "InvalidOption", "{key}");
    }
    for account in [evil.url("/"), "//evil.test".to_owned(), "../work".to_owned()] {
        assert_eq!(word(&desk.token(&account).await.unwrap_err()), "NoSuchAccount", "{account}");
    }
    for (key, value) in
        [("resource", evil.url("/")), ("audience", evil.url("/")), ("scope", "everything".to_owned())]
    {
        let options = HashMap::from([(key, Value::from(value))]);
        desk.broker.get_token_with_options("work", options).await.unwrap_err();
    }

    assert_eq!(evil.caught(), Vec::<String>::new());
    assert!(portal.opened.lock().unwrap().is_empty());
    assert!(desk.provider.accepts(&desk.access_token("work").await), "and the session is none the worse");
}

/// R23: `Complete` takes an address to read, and `CreateDpopProof` one to sign, none to open; no other method takes one.
#[test]
fn no_method_takes_an_address_to_open() {
    let xml = include_str!("../../dbus/org.bearerd.Broker1.xml");
    let taken = xml.lines().filter(|line| line.contains("<arg ") && line.contains("direction=\"in\""));
    let addresses: Vec<&str> = taken
        .filter_map(|line| line.split_once("name=\"")?.1.split('"').next())
        .filter(|name| {
            ["url", "uri", "issuer", "endpoint", "host", "address"].iter().any(|word| name.contains(word))
        })
        .collect();
    assert_eq!(addresses, ["http_uri", "redirect_url"]);
}

/// A login of the attacker's own at the honest provider, begun as ours at `url` was, with a challenge and a nonce of
/// the attacker's: the address that its code comes back on.
async fn attackers_callback(desk: &Desk, url: &str, state: &str) -> String {
    let openid = parameter(url, "nonce").is_some();
    let mut own = Url::parse(&desk.provider.authorization_endpoint()).unwrap();
    own.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", "sandbox")
        .append_pair("redirect_uri", &parameter(url, "redirect_uri").unwrap())
        .append_pair("scope", if openid { "openid profile" } else { "profile" })
        .append_pair("nonce", "the-attackers")
        .append_pair("state", state);
    if parameter(url, "code_challenge").is_some() {
        own.query_pairs_mut()
            .append_pair("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM")
            .append_pair("code_challenge_method", "S256");
    }
    desk.provider.configure(|settings| "mallory".clone_into(&mut settings.user));
    let callback = Browser::new().callback_of(own.as_str(), true).await;
    desk.provider.configure(|settings| settings.user = Settings::default().user);
    callback
}

/// Trades the code of this callback at the token endpoint, as the client and with its secret; why that failed.
async fn redeem(desk: &Desk, callback: &str, more: &[(&str, &str)]) -> String {
    let secret = Settings::default().client_secret.unwrap();
    let code = parameter(callback, "code").unwrap();
    let redirect_uri = callback.split('?').next().unwrap();
    let mut form =
        vec![("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", redirect_uri)];
    form.extend([("client_id", "sandbox"), ("client_secret", &secret)]);
    form.extend(more);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.post(desk.provider.token_endpoint()).form(&form).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let answer: Json = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    answer["error_description"].as_str().unwrap().to_owned()
}

/// With the account `work`, whose logins come back to this port.
async fn desk_at(port: u16) -> Desk {
    let mut desk = Desk::bare(Settings::default()).await;
    let redirect = format!("store = \"memory\"\nredirect_uri = \"http://127.0.0.1:{port}/callback\"");
    desk.write_config(&desk.account("work", &redirect));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk
}

async fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port()
}

async fn get(port: u16, target: &str) -> String {
    raw(port, &format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")).await
}

fn port_of(url: &str) -> u16 {
    Url::parse(url).unwrap().port().unwrap()
}
