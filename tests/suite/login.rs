//! Logging in, on the wire: what is asked for, what is accepted, and what is not.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![allow(clippy::used_underscore_binding, reason = "zbus's macro names arguments that are not read")]

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bearerd::bus::{NAME, ROOT_PATH};
use bearerd::sandbox::provider::{Fault, Settings};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use url::Url;
use zbus::fdo::ObjectManagerProxy;
use zbus::zvariant::{OwnedObjectPath, Value};

use crate::support::browser::{Browser, parameter, raw};
use crate::support::desk::{Desk, LOGIN, eventually, listening, word};
use crate::support::desktop::Portal;

/// A1, A2, A3, A5, A8, A10, A11, A12, C1: what is in the URL, and what follows from it in the exchange.
#[tokio::test]
async fn a_login_asks_with_pkce_and_state_and_repeats_its_redirect_uri_byte_for_byte() {
    let desk = Desk::start().await;

    let (login, url) = desk.start_login("work").await;
    let page = Browser::new().approve(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded");
    let of = |name| parameter(&url, name).unwrap_or_default();
    assert_eq!((of("response_type"), of("code_challenge_method")), ("code".into(), "S256".into()));
    assert_eq!((of("scope"), of("client_id")), ("profile locks".into(), "sandbox".into()));
    assert_eq!(of("state").len(), 43, "256 bits");
    assert_eq!(parameter(&url, "nonce"), None, "no openid");
    let redirect = Url::parse(&of("redirect_uri")).unwrap();
    assert_eq!((redirect.host_str(), redirect.path()), (Some("127.0.0.1"), "/callback"));
    assert!(page.callback.contains("iss=") && page.callback.contains("session_state="));
    let [exchange] = &desk.provider.token_requests("authorization_code")[..] else {
        panic!("not one exchange")
    };
    assert_eq!(exchange.parameter("redirect_uri"), of("redirect_uri"));
    let verifier = exchange.parameter("code_verifier");
    assert_eq!(URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)), of("code_challenge"));
    assert!(!url.contains(verifier));
    assert_eq!((exchange.method.as_str(), exchange.header("accept")), ("POST", "application/json"));
    assert!(exchange.header("user-agent").starts_with("bearerd/"));
    assert!(desk.provider.accepts(&desk.access_token("work").await));
}

/// A3, A5, A9: nothing is used twice.
#[tokio::test]
async fn each_login_has_its_own_state_verifier_and_port() {
    let desk = Desk::start().await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        let (login, url) = desk.start_login("work").await;
        for name in ["state", "code_challenge"] {
            assert!(seen.insert(parameter(&url, name).unwrap()));
        }
        login.cancel().await.unwrap();
    }
}

/// B4, B12, B13, B15, R14: the last page's address holds no code, and the port closes.
#[tokio::test]
async fn the_browser_ends_on_a_clean_page_and_the_port_is_closed() {
    let desk = Desk::start().await;

    let page = desk.log_in("work").await;

    assert_eq!(page.status, 200);
    assert!(page.url.ends_with("/bearerd/done"), "{}", page.url);
    assert!(page.html.contains("You are logged in to work as <b>robin</b>."), "{}", page.html);
    let address = authority(&page.callback);
    assert!(eventually(async || !listening(&address).await).await);
}

/// B12, B13: the headers of both answers.
#[tokio::test]
async fn the_callback_is_answered_with_headers_that_keep_it_to_itself() {
    let desk = Desk::start().await;
    let (_login, url) = desk.start_login("work").await;
    let callback = Browser::new().callback_of(&url, true).await;
    let (port, target) = split(&callback);

    let answer = get(port, &target).await;

    assert!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
    let head = answer.to_lowercase();
    for header in [
        "location: /bearerd/done\r\n",
        "cache-control: no-store\r\n",
        "referrer-policy: no-referrer\r\n",
        "x-content-type-options: nosniff\r\n",
        "x-frame-options: deny\r\n",
        "content-security-policy: default-src 'none'",
    ] {
        assert!(head.contains(header), "{header} is not in {answer}");
    }
    let done = get(port, "/bearerd/done").await.to_lowercase();
    assert!(done.starts_with("http/1.1 200 ") && done.contains("cache-control: no-store\r\n"), "{done}");
}

/// A5, B5, B6, B7, B8, B9, B14: none of it ends the login, and the right answer still counts.
#[tokio::test]
async fn stray_requests_are_refused_and_the_login_goes_on() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    let callback = Browser::new().callback_of(&url, true).await;
    let (port, target) = split(&callback);
    let state = parameter(&url, "state").unwrap();
    // An idle connection, as browsers open them ahead of need, and one that never finishes its request.
    let _idle = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut slow = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    slow.write_all(b"GET /callback?code=").await.unwrap();

    let long = format!("/callback?code={}", "a".repeat(1024 * 1024));
    for (target, status) in [
        ("/favicon.ico", "404"),
        ("/", "404"),
        ("/callback/more", "404"),
        ("/callback", "400"),
        ("/callback?code=a&state=wrong", "400"),
        ("/callback?error=access_denied", "400"),
        ("/callback?error=access_denied&state=wrong", "400"),
        (&format!("/callback?code=a&code=b&state={state}"), "400"),
        (&format!("/callback?code=a&state={state}&state={state}"), "400"),
        (&format!("/callback?state={state}"), "400"),
        (long.as_str(), "4"),
    ] {
        let answer = get(port, target).await;
        let shown = &target[..target.len().min(60)];
        assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")), "{shown}: {answer}");
        assert!(!answer.to_lowercase().contains("location:"), "{shown}: {answer}");
    }
    for host in ["evil.test", &format!("evil.test:{port}"), &format!("localhost:{port}"), "127.0.0.1"] {
        let answer = raw(port, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
    }
    for method in ["HEAD", "POST", "PUT", "OPTIONS"] {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let answer = raw(port, &request).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
    }
    assert_eq!(login.wait(0).await.unwrap(), "pending");
    assert!(desk.provider.token_requests("authorization_code").is_empty());

    Browser::new().open(&callback).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded");
}

/// B15, C14: a reload, or a second browser, never spends the code again.
#[tokio::test]
async fn a_callback_opened_twice_at_once_is_exchanged_once() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    let callback = Browser::new().callback_of(&url, true).await;
    let (port, target) = split(&callback);

    let answers = tokio::join!(get(port, &target), get(port, &target), get(port, &target));

    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded");
    let answers = [answers.0, answers.1, answers.2];
    assert_eq!(answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 303")).count(), 1, "{answers:?}");
    assert_eq!(desk.provider.token_requests("authorization_code").len(), 1);
    assert_eq!(desk.provider.live_sessions(), 1, "a second exchange would have ended it");
}

/// A9, C13, R12: an answer counts at its own login's port only.
#[tokio::test]
async fn an_answer_at_another_logins_port_is_refused() {
    let mut desk = Desk::bare(Settings::default()).await;
    let accounts = desk.account("one", "store = \"memory\"") + &desk.account("two", "store = \"memory\"");
    desk.write_config(&accounts);
    desk.start_daemon().await;
    for account in ["one", "two"] {
        desk.set_secret(account).await;
    }
    let (one, url_one) = desk.start_login("one").await;
    let (two, url_two) = desk.start_login("two").await;
    let callback = Browser::new().callback_of(&url_one, true).await;
    let (_, target) = split(&callback);
    let (other_port, _) = split(&parameter(&url_two, "redirect_uri").unwrap());

    let answer = get(other_port, &target).await;

    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(desk.provider.token_requests("authorization_code").is_empty());
    Browser::new().open(&callback).await;
    assert_eq!(one.wait(20_000).await.unwrap(), "succeeded");
    assert_eq!(two.wait(0).await.unwrap(), "pending");
}

/// G7: a response that names another issuer is not from where we sent the user.
#[tokio::test]
async fn a_response_of_another_issuer_ends_the_login_without_a_token_request() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    let callback = Browser::new().callback_of(&url, true).await;
    let issuer = parameter(&callback, "iss").unwrap();
    let forged = callback.replace(
        &url::form_urlencoded::byte_serialize(issuer.as_bytes()).collect::<String>(),
        "https%3A%2F%2Fevil.test",
    );
    assert_ne!(forged, callback);

    let page = Browser::new().open(&forged).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert!(page.html.contains("another issuer"), "{}", page.html);
    assert!(desk.provider.token_requests("authorization_code").is_empty());
}

/// K4, B6, B11.
#[tokio::test]
async fn a_denied_login_says_so_and_sends_nothing() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;

    let page = Browser::new().deny(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "denied");
    assert!(page.html.contains("Login denied"), "{}", page.html);
    let message = login.error_message().await.unwrap();
    assert!(message.ends_with("run: bearerctl login work"), "{message}");
    assert!(desk.provider.token_requests("authorization_code").is_empty());
    assert_eq!(word(&desk.token("work").await.unwrap_err()), "LoginRequired");
}

/// B11: nothing of the provider's words is markup on our page.
#[tokio::test]
async fn the_providers_words_are_escaped_on_the_page() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    let redirect = parameter(&url, "redirect_uri").unwrap();
    let state = parameter(&url, "state").unwrap();
    let words = "%3Cscript%3Ealert(1)%3C%2Fscript%3E";

    let page = Browser::new()
        .open(&format!("{redirect}?error=server_error&error_description={words}&state={state}"))
        .await;

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert!(!page.html.contains("<script"), "{}", page.html);
}

/// C14: whether the code was spent is unknown, and a second exchange would end what the first began.
#[tokio::test]
async fn an_exchange_whose_answer_got_lost_is_not_repeated() {
    let desk = Desk::start().await;
    desk.provider.next(Fault::LoseAnswer);
    let (login, url) = desk.start_login("work").await;

    let page = Browser::new().approve(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert!(page.html.contains("Login failed"), "{}", page.html);
    assert_eq!(desk.provider.token_requests("authorization_code").len(), 1);
}

/// B17, K14: a failed exchange is no success on the page, and callers hear that the client is refused.
#[tokio::test]
async fn a_wrong_client_secret_fails_the_login_and_is_named_to_callers() {
    let desk = Desk::start().await;
    desk.provider.configure(|settings| settings.client_secret = Some("canary-other".to_owned()));
    let (login, url) = desk.start_login("work").await;

    let page = Browser::new().approve(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert!(page.html.contains("Login failed"), "{}", page.html);
    assert_eq!(desk.state("work").await, "refused");
    assert_eq!(word(&desk.token("work").await.unwrap_err()), "ProviderRefused");
}

/// Design section 3: the old session serves until the new one is there, and a failed login never harms it.
#[tokio::test]
async fn a_failed_second_login_leaves_the_session_alone() {
    let desk = Desk::logged_in().await;
    let before = desk.access_token("work").await;
    let (login, url) = desk.start_login("work").await;
    assert_eq!(desk.access_token("work").await, before, "served meanwhile");
    desk.provider.next(Fault::error(400, "invalid_grant", "no luck"));

    Browser::new().approve(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert_eq!((desk.state("work").await.as_str(), desk.access_token("work").await), ("ready", before));
}

/// A16, B4: nobody comes.
#[tokio::test]
async fn a_login_that_nobody_answers_ends_by_itself() {
    let mut desk = Desk::bare(Settings::default()).await;
    desk.write_config(&desk.account("work", "store = \"memory\"\nlogin_timeout = 1"));
    desk.start_daemon().await;
    desk.set_secret("work").await;

    let (login, url) = desk.start_login("work").await;

    assert_eq!(login.wait(20_000).await.unwrap(), "expired");
    let message = login.error_message().await.unwrap();
    let redirect = parameter(&url, "redirect_uri").unwrap();
    assert!(message.contains("within 1 s") && message.contains(&redirect), "{message}");
    assert!(eventually(async || !listening(&authority(&redirect)).await).await);
}

/// A16, C14: who cancels too late gets the session, and not one that stays behind at the provider.
#[tokio::test]
async fn a_cancel_after_the_answer_leaves_no_session_behind() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    desk.provider.next(Fault::Hold);
    let late = async {
        desk.provider.wait_for("authorization_code", 1).await;
        let release = async {
            login.wait(0).await.unwrap();
            desk.provider.release();
        };
        tokio::join!(login.cancel(), release).0.unwrap();
    };

    let browser = Browser::new();
    tokio::join!(browser.approve(&url), late);

    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());
    assert!(desk.provider.accepts(&desk.access_token("work").await));
    assert!(desk.broker.logout("work").await.unwrap());
    assert_eq!(desk.provider.live_sessions(), 0);
}

/// Q3: what begins logins by itself does not fill the screen with browsers.
#[tokio::test]
async fn a_program_cannot_open_one_browser_after_the_other() {
    let desk = Desk::start().await;
    let portal = Portal::start(&desk.bus).await;
    let mut begun = 0;
    let error = loop {
        let (path, _) = match desk.broker.login_with_options("work", HashMap::new()).await {
            Ok(started) => started,
            Err(error) => break error,
        };
        // Who joins opens none.
        assert_eq!(desk.broker.login_with_options("work", HashMap::new()).await.unwrap().0, path);
        desk.login(path).await.cancel().await.unwrap();
        begun += 1;
        assert!(begun < 50, "there is no limit");
    };

    assert_eq!(word(&error), "RateLimited", "{error}");
    assert!(begun >= 5, "a user who tries again is not held up");
    assert!(eventually(async || portal.opened.lock().unwrap().len() == begun).await);
    // One for which nothing is opened is a login as ever.
    desk.log_in("work").await;
    assert_eq!(portal.opened.lock().unwrap().len(), begun);
}

/// Design section 3: one attempt for everybody who asks.
#[tokio::test]
async fn a_second_login_joins_the_pending_one() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;

    let (other, other_url) = desk.start_login("work").await;

    assert_eq!((other.inner().path(), &other_url), (login.inner().path(), &url));
    let attempt =
        desk.property("/org/bearerd/Broker1/account/work", "org.bearerd.Broker1.Account", "LoginAttempt");
    assert_eq!(OwnedObjectPath::try_from(attempt.await).unwrap().as_str(), login.inner().path().as_str());
    Browser::new().approve(&url).await;
    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded");
    assert_eq!(other.wait(0).await.unwrap(), "succeeded");
}

/// B4; design section 3: the URL goes with the end, and an ended attempt stays as it is.
#[tokio::test]
async fn a_cancelled_login_closes_its_port_and_forgets_its_url() {
    let desk = Desk::start().await;
    let (login, url) = desk.start_login("work").await;
    let address = authority(&parameter(&url, "redirect_uri").unwrap());
    assert!(listening(&address).await);

    login.cancel().await.unwrap();

    assert_eq!(login.wait(0).await.unwrap(), "cancelled");
    let shown = desk.property(login.inner().path().as_str(), LOGIN, "Url").await;
    assert_eq!(String::try_from(shown).unwrap(), "");
    assert!(eventually(async || !listening(&address).await).await);
    login.cancel().await.unwrap();
    assert_eq!(login.wait(0).await.unwrap(), "cancelled");
}

/// Q7: a program that begins and cancels logins fills nothing; the latest stay readable.
#[tokio::test]
async fn of_ended_logins_the_latest_are_kept() {
    let desk = Desk::start().await;
    let mut logins = Vec::new();
    for _ in 0..12 {
        let (login, _) = desk.start_login("work").await;
        login.cancel().await.unwrap();
        logins.push(login);
    }
    let builder = ObjectManagerProxy::builder(&desk.connection).destination(NAME).unwrap();
    let manager = builder.path(ROOT_PATH).unwrap().build().await.unwrap();
    let kept = async || {
        let objects = manager.get_managed_objects().await.unwrap();
        let kept = logins
            .iter()
            .map(|login| objects.contains_key(&OwnedObjectPath::from(login.inner().path().to_owned())));
        kept.collect::<Vec<_>>()
    };

    let wanted = [vec![false; 2], vec![true; 10]].concat();
    assert!(eventually(async || kept().await == wanted).await, "{:?}", kept().await);
    assert_eq!(logins.last().unwrap().wait(0).await.unwrap(), "cancelled");
}

/// B1: nobody but this machine can reach the listener.
#[tokio::test]
async fn the_listener_is_on_127_0_0_1_only() {
    let desk = Desk::start().await;
    let (_login, url) = desk.start_login("work").await;
    let (port, _) = split(&parameter(&url, "redirect_uri").unwrap());

    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let table6 = std::fs::read_to_string("/proc/net/tcp6").unwrap_or_default();

    let wanted = format!(":{port:04X} ");
    let addresses: Vec<&str> = table
        .lines()
        .chain(table6.lines())
        .filter(|line| line.split_whitespace().nth(3) == Some("0A"))
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|address| format!("{address} ").contains(&wanted))
        .collect();
    assert_eq!(addresses, [format!("0100007F:{port:04X}")]);
}

/// B2: no silent other port, which the provider would not accept.
#[tokio::test]
async fn a_taken_fixed_port_fails_the_login_with_its_number() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut desk = Desk::bare(Settings::default()).await;
    let redirect = format!("store = \"memory\"\nredirect_uri = \"http://127.0.0.1:{port}/back\"");
    desk.write_config(&desk.account("work", &redirect));
    desk.start_daemon().await;
    desk.set_secret("work").await;

    let options = HashMap::from([("open_browser", Value::from(false))]);
    let error = desk.broker.login_with_options("work", options.clone()).await.unwrap_err();

    assert_eq!(word(&error), "LoginFailed");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    drop(taken);
    let (_, url) = desk.broker.login_with_options("work", options).await.unwrap();
    assert_eq!(parameter(&url, "redirect_uri").unwrap(), format!("http://127.0.0.1:{port}/back"));
}

/// A7, Q3: `Login` asks the portal, with the caller's activation token; nothing else ever does.
#[tokio::test]
async fn the_portal_opens_the_browser_for_a_login_and_for_nothing_else() {
    let desk = Desk::start().await;
    let portal = Portal::start(&desk.bus).await;

    desk.token("work").await.unwrap_err();
    let (login, _) = desk.start_login("work").await;
    assert!(portal.opened.lock().unwrap().is_empty(), "not for a token, and not against the caller's wish");
    login.cancel().await.unwrap();
    let options = HashMap::from([("activation_token", Value::from("wayland-1"))]);
    let (_, url) = desk.broker.login_with_options("work", options).await.unwrap();

    assert!(eventually(async || portal.opened.lock().unwrap().len() == 1).await);
    assert_eq!(*portal.opened.lock().unwrap(), [(url, "wayland-1".to_owned())]);
}

async fn get(port: u16, target: &str) -> String {
    raw(port, &format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")).await
}

/// The port, and what comes after it.
fn split(url: &str) -> (u16, String) {
    let url = Url::parse(url).unwrap();
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    (url.port().unwrap(), target)
}

fn authority(url: &str) -> String {
    format!("127.0.0.1:{}", split(url).0)
}
