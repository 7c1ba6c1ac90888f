//! Other ways to log in, on the wire: pushed requests, and a code on another device.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::HashMap;
use std::time::Duration;

use bearerd::bus::Error;
use bearerd::bus::proxy::LoginProxy;
use bearerd::sandbox::provider::{Fault, Push, Settings};
use serde_json::json;
use zbus::zvariant::Value;

use crate::support::browser::{Browser, parameter};
use crate::support::desk::{Desk, eventually, word};
use crate::support::keyring::Fake;

const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// G10, A14: nothing but the client and the reference goes through the browser.
#[tokio::test]
async fn a_request_is_pushed_where_the_provider_offers_it() {
    let desk = discovered(offering(), "").await;

    let (login, url) = desk.start_login("work").await;
    let pushed = desk.provider.pushed().unwrap();
    Browser::new().approve(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());
    let url = url::Url::parse(&url).unwrap();
    let names: Vec<_> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
    assert_eq!(names, ["client_id", "request_uri"]);
    assert_eq!(pushed.parameter("code_challenge_method"), "S256");
    assert_eq!((pushed.parameter("state").len(), pushed.parameter("nonce").len()), (43, 43));
    // Authenticated as at the token endpoint, where the metadata names Basic first.
    assert!(pushed.header("authorization").starts_with("Basic "));
}

/// G10: with a posted secret nothing is sent twice.
#[tokio::test]
async fn a_pushed_request_is_authenticated_like_a_token_request() {
    let desk = discovered(Settings { push: Push::Required, ..offering() }, "client_auth = \"post\"").await;
    desk.log_in("work").await;
    let pushed = desk.provider.pushed().unwrap();
    assert!(pushed.header("authorization").is_empty() && !pushed.parameter("client_secret").is_empty());
    assert_eq!(pushed.parameters.iter().filter(|(name, _)| name == "client_id").count(), 1);
}

/// G10: the switch.
#[tokio::test]
async fn nothing_is_pushed_where_that_is_switched_off() {
    let desk = discovered(offering(), "par = false").await;
    let (login, url) = desk.start_login("work").await;
    Browser::new().approve(&url).await;
    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded");
    assert!(desk.provider.pushed().is_none() && parameter(&url, "state").is_some());
}

/// G10: a reference is for one visit. Whoever comes later gets the pending login with a fresh one.
#[tokio::test]
async fn a_joined_login_has_an_address_that_can_still_be_opened() {
    let desk = discovered(Settings { push_lifetime: 1, ..offering() }, "").await;
    let (login, first) = desk.start_login("work").await;
    let browser = Browser::new();
    browser.callback_of(&first, true).await;
    assert!(reqwest::get(&first).await.unwrap().text().await.unwrap().contains("PAR not found"));

    let mut second = first.clone();
    // The time of the first has to be over, by the daemon's clock.
    assert!(
        eventually(async || {
            second = desk.start_login("work").await.1;
            second != first
        })
        .await
    );

    assert_eq!(login.wait(0).await.unwrap(), "pending");
    browser.approve(&second).await;
    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded");
    assert!(desk.provider.accepts(&desk.access_token("work").await));
}

/// G10: what the endpoint says decides what the caller is told, and no listener stays behind.
#[tokio::test]
async fn a_push_that_fails_says_why() {
    let desk = discovered(offering(), "").await;
    for (fault, error, text) in [
        (Fault::error(401, "invalid_client", "no"), "ProviderRefused", "invalid_client: no"),
        (Fault::error(503, "temporarily_unavailable", "busy"), "ProviderUnreachable", "busy"),
        (Fault::html(200), "LoginFailed", "no JSON object"),
        (Fault::json(201, "{}"), "LoginFailed", "request_uri"),
    ] {
        desk.provider.next_front(fault);
        let refused = start(&desk, "code").await.unwrap_err();
        assert_eq!(word(&refused), error, "{refused}");
        assert!(refused.to_string().contains(text), "{refused}");
    }
    desk.log_in("work").await;
}

/// A locked keyring with the client's secret holds up no browser, unless the request must be pushed.
#[tokio::test]
async fn a_login_behind_a_locked_keyring_is_not_pushed_where_it_need_not_be() {
    let mut desk = Desk::bare(offering()).await;
    let keyring = Fake::start(&desk.bus).await;
    desk.write_config(&desk.discovered_account("work", ""));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk.kill_daemon().await;
    keyring.set_locked("login", true).await;
    desk.start_daemon().await;

    let (_login, url) = desk.start_login("work").await;

    assert!(parameter(&url, "state").is_some() && desk.provider.pushed().is_none(), "{url}");
}

/// K5: the browser is led on to a fresh request, whose answer counts; the old request's does not any more.
#[tokio::test]
async fn a_login_whose_page_had_expired_is_started_again() {
    for push in [Push::No, Push::Offered] {
        let desk = discovered(Settings { push, ..Settings::default() }, "").await;
        let (login, first) = desk.start_login("work").await;
        let old = request_of(&desk, &first);

        let second = location(&page_expired(&desk, &old)).await;

        assert!(second.starts_with(&desk.provider.authorization_endpoint()), "{second}");
        assert_eq!(desk.start_login("work").await.1, second, "for whoever joins");
        let new = request_of(&desk, &second);
        assert_eq!(value(&old, "redirect_uri"), value(&new, "redirect_uri"));
        for name in ["state", "nonce", "code_challenge"] {
            assert!(!value(&new, name).is_empty() && value(&old, name) != value(&new, name), "{name}");
        }
        let late = reqwest::get(page_expired(&desk, &old)).await.unwrap();
        assert_eq!(late.status(), 400, "the old state");
        assert_eq!(Browser::new().approve(&second).await.status, 200);
        assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());
        assert!(desk.provider.accepts(&desk.access_token("work").await));
    }
}

/// K5: once.
#[tokio::test]
async fn a_login_whose_page_has_expired_twice_fails_with_words() {
    let desk = discovered(Settings::default(), "").await;
    let (login, first) = desk.start_login("work").await;
    let second = location(&page_expired(&desk, &request_of(&desk, &first))).await;

    let page = Browser::new().open(&page_expired(&desk, &request_of(&desk, &second))).await;

    assert!(page.url.ends_with("/bearerd/done") && page.html.contains("had expired"), "{}", page.html);
    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    let message = login.error_message().await.unwrap();
    assert!(message.contains("its login page had expired"), "{message}");
    assert!(message.ends_with("; run: bearerctl login work"), "{message}");
}

/// K5: nobody could lead the browser on whose address was pasted.
#[tokio::test]
async fn a_pasted_address_of_an_expired_page_ends_the_login() {
    let desk = discovered(Settings::default(), "").await;
    let (login, url) = start(&desk, "paste").await.unwrap();

    login.complete(&page_expired(&desk, &request_of(&desk, &url))).await.unwrap();

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert!(login.error_message().await.unwrap().contains("its login page had expired"));
}

/// K5: what stands in the way of the second request ends the login, and the browser is told.
#[tokio::test]
async fn a_login_that_cannot_be_started_again_says_why() {
    let desk = discovered(offering(), "").await;
    let (login, url) = desk.start_login("work").await;
    desk.provider.next_front(Fault::error(401, "invalid_client", "no"));

    let page = Browser::new().open(&page_expired(&desk, &request_of(&desk, &url))).await;

    assert!(page.html.contains("invalid_client"), "{}", page.html);
    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    let message = login.error_message().await.unwrap();
    assert_eq!(message.matches("run: bearerctl login work").count(), 1, "{message}");
}

/// I1, I2: code and address for the user, and a session when he has said yes.
#[tokio::test]
async fn a_login_on_another_device_succeeds_when_the_user_has_answered() {
    let desk = discovered(Settings::default(), "").await;

    let (login, url) = device(&desk).await;
    let code = login.user_code().await.unwrap();
    let page = login.verification_uri().await.unwrap();

    assert_eq!((login.flow().await.unwrap().as_str(), code.len()), ("device", 9));
    assert_eq!(login.verification_uri_complete().await.unwrap(), url);
    assert_eq!(url, format!("{page}?user_code={code}"));
    assert_eq!(word(&login.complete(&url).await.unwrap_err()), "InvalidArgument");
    desk.provider.wait_for(DEVICE_GRANT, 1).await;
    assert_eq!(login.wait(0).await.unwrap(), "pending");
    assert_eq!(Browser::new().answer_device(&url, true).await, 200);
    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());
    assert!(login.user_code().await.unwrap().is_empty());
    assert!(login.verification_uri_complete().await.unwrap().is_empty());
    assert_eq!(desk.account_text("work", "Subject").await, "robin");
    assert!(desk.provider.accepts(&desk.access_token("work").await));
    let polls = desk.provider.token_requests(DEVICE_GRANT);
    assert!(polls.iter().all(|poll| poll.header("authorization").starts_with("Basic ")));
    assert!(polls.iter().all(|poll| poll.parameter("code_verifier").len() == 43));
}

/// J2: several resources are a parameter each (RFC 8707 section 2), however a login starts; nothing else is taken apart.
#[tokio::test]
async fn a_login_names_each_resource_that_is_configured() {
    let more =
        "extra_params = { resource = \"https://a.example/  https://b.example/\", ui_locales = \"de en\" }";
    let asked = |pairs: &mut dyn Iterator<Item = (String, String)>| {
        pairs.filter(|(name, _)| name == "resource" || name == "ui_locales").collect::<Vec<_>>()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = [
        pair("resource", "https://a.example/"),
        pair("resource", "https://b.example/"),
        pair("ui_locales", "de en"),
    ];

    let desk = discovered(offering(), more).await;
    desk.start_login("work").await;
    assert_eq!(asked(&mut desk.provider.pushed().unwrap().parameters.into_iter()), expected);

    let desk = discovered(Settings::default(), more).await;
    let (login, url) = desk.start_login("work").await;
    assert_eq!(asked(&mut url::Url::parse(&url).unwrap().query_pairs().into_owned()), expected);
    login.cancel().await.unwrap();

    device(&desk).await;
    let seen = desk.provider.seen();
    let begun = seen.into_iter().find(|seen| seen.path.ends_with("/auth/device")).unwrap();
    assert_eq!(asked(&mut begun.parameters.into_iter()), expected);
}

/// `doctor ACCOUNT` says to look for these words in the journal, which shows no fields; no login's tokens are in them.
#[tokio::test]
async fn what_a_logins_token_answer_held_is_in_the_logs_own_words() {
    let desk = discovered(Settings::default(), "").await;
    let told = || desk.log().matches("a login's token answer held: access_token, expires_in=300 s, ").count();
    desk.log_in("work").await;
    assert_eq!(told(), 1, "{}", desk.log());
    let first = desk.access_token("work").await;
    let (login, url) = device(&desk).await;

    Browser::new().answer_device(&url, true).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());
    assert_eq!(told(), 2, "{}", desk.log());
    let second = desk.access_token("work").await;
    assert!([first, second].iter().all(|token| !desk.log().contains(token)));
    let advice = String::from_utf8(desk.ctl(&["doctor", "work"], "").await.stdout).unwrap();
    let command = "journalctl --user -u bearerd F_CLIENT_ID=sandbox -g \"token answer held\"";
    assert!(advice.contains(command), "{advice}");
}

/// I3, I4, I5, I7: what goes wrong on the way to the provider ends nothing.
#[tokio::test]
async fn polls_go_on_through_trouble() {
    let desk = discovered(Settings::default(), "").await;
    desk.provider.next(Fault::html(502));
    desk.provider.next(Fault::HangUp);
    desk.provider.next(Fault::error(428, "authorization_pending", ""));

    let (login, url) = device(&desk).await;
    Browser::new().answer_device(&url, true).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());
    assert_eq!(desk.provider.token_requests(DEVICE_GRANT).len(), 4);
}

/// I4, I6: an end is an end, and nothing starts again by itself.
#[tokio::test]
async fn a_device_login_ends_as_the_provider_says() {
    let desk = discovered(Settings::default(), "").await;
    let (login, url) = device(&desk).await;
    Browser::new().answer_device(&url, false).await;
    assert_eq!(login.wait(20_000).await.unwrap(), "denied");

    for (code, state) in
        [("expired_token", "expired"), ("authorization_declined", "denied"), ("unheard_of", "failed")]
    {
        desk.provider.next(Fault::error(400, code, "so it is"));
        let polls = desk.provider.token_requests(DEVICE_GRANT).len();
        let (login, _) = device(&desk).await;
        assert_eq!(login.wait(20_000).await.unwrap(), state, "{code}");
        assert!(login.error_message().await.unwrap().ends_with("run: bearerctl login work --device"));
        assert_eq!(desk.provider.token_requests(DEVICE_GRANT).len(), polls + 1);
    }
    desk.provider.configure(|settings| settings.device_lifetime = Duration::from_secs(2));
    let (login, _) = device(&desk).await;
    assert_eq!(login.wait(20_000).await.unwrap(), "expired");
}

/// I8: in the middle of a poll.
#[tokio::test]
async fn a_cancelled_device_login_stops_at_once() {
    let desk = discovered(Settings::default(), "").await;
    desk.provider.next(Fault::Hold);
    let (login, _) = device(&desk).await;
    desk.provider.wait_for(DEVICE_GRANT, 1).await;

    login.cancel().await.unwrap();

    assert_eq!(login.wait(0).await.unwrap(), "cancelled");
    assert_eq!(desk.state("work").await, "logged-out");
}

/// A provider without it is named as such, and what does work instead.
#[tokio::test]
async fn a_provider_without_device_logins_is_told_apart() {
    let desk = discovered(Settings::default(), "").await;
    desk.provider.configure(|settings| settings.metadata = json!({ "device_authorization_endpoint": null }));
    let error = start(&desk, "device").await.unwrap_err();
    assert_eq!(word(&error), "InvalidOption", "{error}");
    assert!(error.to_string().ends_with("run: bearerctl login work --paste"), "{error}");
}

/// K14: Keycloak has such logins for each realm, and for a client only if that is switched on; a wrong secret's 401 is
/// another matter.
#[tokio::test]
async fn a_client_without_device_logins_is_told_apart_and_not_refused() {
    let desk = discovered(Settings::default(), "").await;
    let off = "Client is not allowed to initiate OAuth 2.0 Device Authorization Grant.";
    for (status, expected, state) in
        [(400, "InvalidOption", "logged-out"), (401, "ProviderRefused", "refused")]
    {
        desk.provider.next_front(Fault::error(status, "unauthorized_client", off));
        let error = start(&desk, "device").await.unwrap_err();
        assert_eq!(word(&error), expected, "{error}");
        assert_eq!(desk.state("work").await, state);
    }
}

/// H9: asked for, so required and checked.
#[tokio::test]
async fn a_login_older_than_max_age_is_refused() {
    let desk = discovered(offering(), "max_age = 300").await;
    desk.log_in("work").await;
    assert_eq!(desk.provider.pushed().unwrap().parameter("max_age"), "300");
    for (auth_time, text) in [(json!(1_700_000_000), "older than max_age"), (json!(null), "auth_time")] {
        desk.provider.configure(|settings| settings.id_token = json!({ "auth_time": auth_time }));
        let (login, url) = desk.start_login("work").await;
        Browser::new().approve(&url).await;
        assert_eq!(login.wait(20_000).await.unwrap(), "failed");
        assert!(login.error_message().await.unwrap().contains(text));
    }
}

/// A provider that takes pushed requests.
fn offering() -> Settings {
    Settings { push: Push::Offered, ..Settings::default() }
}

async fn discovered(settings: Settings, more: &str) -> Desk {
    let mut desk = Desk::bare(settings).await;
    desk.write_config(&desk.discovered_account("work", &format!("store = \"memory\"\n{more}")));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk
}

async fn start(desk: &Desk, flow: &'static str) -> Result<(LoginProxy<'static>, String), Error> {
    let options = HashMap::from([("open_browser", Value::from(false)), ("flow", Value::from(flow))]);
    let (path, url) = desk.broker.login_with_options("work", options).await?;
    Ok((desk.login(path).await, url))
}

/// What this address asks for, here or in what was pushed.
fn request_of(desk: &Desk, url: &str) -> HashMap<String, String> {
    match parameter(url, "request_uri") {
        Some(_) => desk.provider.pushed().unwrap().parameters.into_iter().collect(),
        None => url::Url::parse(url).unwrap().query_pairs().into_owned().collect(),
    }
}

fn value(request: &HashMap<String, String>, name: &str) -> String {
    request.get(name).cloned().unwrap_or_default()
}

/// Where Keycloak sends a browser that has answered its login page too late.
fn page_expired(desk: &Desk, request: &HashMap<String, String>) -> String {
    let mut url = url::Url::parse(&request["redirect_uri"]).unwrap();
    url.query_pairs_mut()
        .append_pair("error", "temporarily_unavailable")
        .append_pair("error_description", "authentication_expired")
        .append_pair("state", &request["state"])
        .append_pair("iss", &desk.provider.issuer());
    url.into()
}

/// Where an address leads.
async fn location(url: &str) -> String {
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let answer = http.build().unwrap().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 303);
    answer.headers()["location"].to_str().unwrap().to_owned()
}

async fn device(desk: &Desk) -> (LoginProxy<'static>, String) {
    start(desk, "device").await.unwrap()
}
