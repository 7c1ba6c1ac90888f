//! OpenID Connect on the wire: discovery, ID tokens, keys, and other ways back than a redirect.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::HashMap;

use bearerd::bus::proxy::AccountProxy;
use bearerd::bus::{Error, NAME};
use bearerd::sandbox::provider::{Fault, Seen, Settings};
use serde_json::{Value as Json, json};
use zbus::proxy::CacheProperties;
use zbus::zvariant::{OwnedObjectPath, Value};

use crate::support::browser::{Browser, parameter};
use crate::support::desk::{Desk, LOGIN, account_path, eventually, word};
use crate::support::keyring::Fake;
use crate::support::trap::Trap;

/// G1, G2, A6, H1, C2: the issuer is all that has to be known.
#[tokio::test]
async fn an_issuer_alone_is_enough() {
    let desk = discovered("").await;

    let (login, url) = desk.start_login("work").await;
    Browser::new().approve(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());
    assert_eq!(parameter(&url, "nonce").unwrap().len(), 43);
    assert_ne!(parameter(&url, "nonce"), parameter(&url, "state"));
    assert_eq!(desk.account_text("work", "Subject").await, "robin");
    assert_eq!(desk.account_text("work", "Issuer").await, desk.provider.issuer());
    desk.forced_token("work").await.unwrap();
    assert!(desk.provider.accepts(&desk.access_token("work").await));
    // Asked for once each, and the metadata's first way to authenticate is used.
    assert_eq!((requests(&desk, "openid-configuration").len(), requests(&desk, "certs").len()), (1, 1));
    let exchange = &desk.provider.token_requests("authorization_code")[0];
    assert!(
        exchange.header("authorization").starts_with("Basic ")
            && exchange.parameter("client_secret").is_empty()
    );
    assert!(desk.broker.logout("work").await.unwrap());
    assert_eq!(desk.provider.live_sessions(), 0);
}

/// G3: endpoints in the configuration need no metadata.
#[tokio::test]
async fn explicit_endpoints_ask_for_no_metadata() {
    let desk = Desk::logged_in().await;
    assert_eq!(requests(&desk, ".well-known").len(), 0);
}

/// H1-H4, H6-H8: what must be refused is refused, the page says why, and nothing is kept of it.
#[tokio::test]
async fn an_id_token_that_is_not_this_logins_fails_it() {
    let desk = discovered("").await;
    for (name, patch) in [
        ("another issuer", json!({ "iss": "https://evil.test" })),
        ("another client", json!({ "aud": "other", "azp": null })),
        ("another nonce", json!({ "nonce": "other" })),
        ("no nonce", json!({ "nonce": null })),
        ("no user", json!({ "sub": null })),
        ("no time", json!({ "iat": null })),
        ("expired", json!({ "exp": 1_700_000_000 })),
        ("another access token", json!({ "at_hash": "AAAAAAAAAAAAAAAAAAAAAA" })),
    ] {
        desk.provider.configure(|settings| settings.id_token = patch);
        let (login, url) = desk.start_login("work").await;
        let page = Browser::new().approve(&url).await;
        assert_eq!(login.wait(20_000).await.unwrap(), "failed", "{name}");
        assert!(
            page.html.contains("Login failed") && page.html.contains("ID token"),
            "{name}: {}",
            page.html
        );
        assert_eq!(desk.state("work").await, "logged-out", "{name}");
    }
    desk.provider.configure(|settings| settings.id_token = Json::Null);
    desk.log_in("work").await;
}

/// G12, C13: what the metadata says meanwhile does not move a login that has begun.
#[tokio::test]
async fn a_login_ends_at_the_token_endpoint_that_it_began_with() {
    let desk = discovered("").await;
    desk.log_in("work").await;
    let (login, url) = desk.start_login("work").await;
    let elsewhere = format!("{}/protocol/openid-connect/elsewhere", desk.provider.issuer());
    desk.provider.configure(|settings| settings.metadata = json!({ "token_endpoint": elsewhere }));
    // What is no answer of a token endpoint makes the metadata be read again.
    desk.provider.next(Fault::html(200));
    tokio::select! {
        _ = desk.forced_token("work") => {}
        () = desk.until_state("work", "offline") => {}
    }

    Browser::new().approve(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());
    assert!(requests(&desk, "openid-configuration").len() > 1, "it was read again:\n{}", desk.log());
    assert_eq!(desk.provider.token_requests("authorization_code").len(), 2);
}

/// F4: the address of the end of a session can be configured where the metadata has none.
#[tokio::test]
async fn a_configured_end_of_session_is_used() {
    let desk = discovered("").await;
    let end = format!("{}/protocol/openid-connect/logout", desk.provider.issuer());
    let none = json!({ "end_session_endpoint": Json::Null, "revocation_endpoint": Json::Null });
    desk.provider.configure(|settings| settings.metadata = none);
    let more = format!("store = \"memory\"\nend_session_endpoint = \"{end}\"");
    desk.write_config(&desk.discovered_account("work", &more));
    desk.broker.reload().await.unwrap();
    desk.set_secret("work").await;
    desk.log_in("work").await;

    assert!(desk.broker.logout("work").await.unwrap());

    assert_eq!(desk.provider.live_sessions(), 0);
}

/// M1: a network that wants a login of its own first, or a wrong address, is named as what it is.
#[tokio::test]
async fn a_web_page_in_place_of_the_metadata_is_named() {
    let page = "<!DOCTYPE html><title>Welcome</title>";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
    let portal = Trap::start(0, format!("{head}Content-Length: {}\r\n\r\n{page}", page.len())).await;
    let mut desk = Desk::bare(Settings::default()).await;
    desk.write_config(&format!(
        "[accounts.work]\nissuer = \"{}\"\nclient_id = \"x\"\nclient_auth = \"none\"\nstore = \"memory\"\n",
        portal.url("")
    ));
    desk.start_daemon().await;

    let error = desk.broker.login_with_options("work", HashMap::new()).await.unwrap_err();

    assert_eq!(word(&error), "LoginFailed");
    assert!(error.to_string().contains("a web page came in place of the provider's metadata"), "{error}");
    assert_eq!(desk.state("work").await, "logged-out");
}

/// H1: `openid` was asked for, so a login without an ID token proves nothing.
#[tokio::test]
async fn a_login_without_the_id_token_that_was_asked_for_fails() {
    let desk = discovered("").await;
    let patch = Fault::Patch(json!({ "id_token": null }));
    desk.provider.next(patch);
    let (login, url) = desk.start_login("work").await;

    Browser::new().approve(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert!(login.error_message().await.unwrap().contains("no ID token"));
}

/// K20: Keycloak refuses a session that lasts only when the login is over. Nothing was granted that could be fallen back
/// to, so the user is told what to leave out.
#[tokio::test]
async fn a_login_that_may_not_last_says_which_scope_to_remove() {
    let desk = discovered("").await;
    let account = desk.discovered_account("work", "store = \"memory\"");
    desk.write_config(&account.replace("\"profile\"]", "\"profile\", \"offline_access\"]"));
    desk.broker.reload().await.unwrap();
    desk.set_secret("work").await;
    for flow in ["code", "device"] {
        desk.provider.next(Fault::error(
            400,
            "not_allowed",
            "Offline tokens not allowed for the user or client",
        ));
        let options = HashMap::from([("open_browser", Value::from(false)), ("flow", Value::from(flow))]);
        let (path, url) = desk.broker.login_with_options("work", options).await.unwrap();
        let login = desk.login(path).await;

        if flow == "code" {
            Browser::new().approve(&url).await;
        } else {
            Browser::new().answer_device(&url, true).await;
        }

        assert_eq!(login.wait(20_000).await.unwrap(), "failed", "{flow}");
        let message = login.error_message().await.unwrap();
        assert!(message.contains("remove it from `scopes`"), "{flow}: {message}");
    }
}

/// G13: the next login after a rotation works, and a key that nobody knows costs one look a minute.
#[tokio::test]
async fn rotated_keys_are_fetched_again_and_not_too_often() {
    let desk = discovered("").await;
    desk.log_in("work").await;
    desk.provider.rotate_keys().unwrap();

    desk.log_in("work").await;

    assert_eq!(requests(&desk, "certs").len(), 2);
    desk.provider.rotate_keys().unwrap();
    let (login, url) = desk.start_login("work").await;
    Browser::new().approve(&url).await;
    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert_eq!(requests(&desk, "certs").len(), 2, "a minute has not passed");
}

/// Core section 5.3.2: a name is taken from userinfo only if that is about the same user.
#[tokio::test]
async fn userinfo_tells_the_name_if_it_is_about_the_same_user() {
    let desk = discovered("").await;
    desk.provider.configure(|settings| settings.id_token = json!({ "preferred_username": null }));
    desk.log_in("work").await;
    assert_eq!(desk.account_text("work", "Subject").await, "robin");
    desk.broker.logout("work").await.unwrap();

    desk.provider
        .configure(|settings| settings.id_token = json!({ "preferred_username": null, "sub": "u7" }));
    desk.log_in("work").await;
    assert_eq!(desk.account_text("work", "Subject").await, "u7");
}

/// H11: whoever logs in as somebody else is told, and the session stays what it was.
#[tokio::test]
async fn another_users_login_is_refused_until_the_account_is_logged_out() {
    let desk = discovered("").await;
    desk.log_in("work").await;
    let before = desk.access_token("work").await;
    desk.provider.configure(|settings| settings.user = "mallory".to_owned());
    let (login, url) = desk.start_login("work").await;

    let page = Browser::new().approve(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    let message = login.error_message().await.unwrap();
    assert!(
        message.contains("mallory") && message.contains("robin") && message.contains("bearerctl logout work")
    );
    assert!(page.html.contains("Login failed"), "{}", page.html);
    assert_eq!(desk.access_token("work").await, before);
    desk.broker.logout("work").await.unwrap();
    desk.log_in("work").await;
    assert_eq!(desk.account_text("work", "Subject").await, "mallory");
}

/// H10: a refresh that brings somebody else's ID token is the end of the session.
#[tokio::test]
async fn a_refresh_for_another_user_ends_the_session() {
    let desk = discovered("").await;
    desk.log_in("work").await;
    desk.provider.configure(|settings| settings.id_token = json!({ "sub": "u2" }));

    let error = refresh(&desk).await.unwrap_err();

    assert_eq!(word(&error), "LoginRequired", "{error}");
    assert_eq!(desk.state("work").await, "expired");
}

/// M8, H10: a bad ID token makes a bad answer, but the refresh token in it has replaced ours.
#[tokio::test]
async fn a_bad_id_token_of_a_refresh_costs_no_session() {
    let desk = discovered("").await;
    desk.log_in("work").await;
    desk.provider.configure(|settings| settings.id_token = json!({ "aud": "other", "azp": null }));

    let error = refresh(&desk).await.unwrap_err();

    assert_eq!(word(&error), "ProviderUnreachable", "{error}");
    assert!(error.to_string().contains("another client"), "{error}");
    desk.provider.configure(|settings| settings.id_token = Json::Null);
    assert!(eventually(async || refresh(&desk).await.is_ok()).await, "{}", desk.log());
    assert_eq!(desk.state("work").await, "ready");
    assert_eq!(desk.provider.token_requests("authorization_code").len(), 1);
}

/// G1, G4, R20: what the metadata must not say keeps a login from starting, and says why.
#[tokio::test]
async fn metadata_that_must_not_be_followed_fails_the_login() {
    let desk = discovered("").await;
    for (patch, why) in [
        (json!({ "issuer": "https://evil.test" }), "another issuer"),
        (json!({ "token_endpoint": "http://evil.test/token" }), "token_endpoint"),
        (json!({ "authorization_endpoint": "ftp://evil.test/auth" }), "authorization_endpoint"),
        (json!({ "token_endpoint": null }), "token_endpoint"),
    ] {
        desk.provider.configure(|settings| settings.metadata = patch);
        let error = desk.broker.login_with_options("work", HashMap::new()).await.unwrap_err();
        assert_eq!(word(&error), "LoginFailed");
        assert!(error.to_string().contains(why), "{error}");
    }
    desk.provider.go_down();
    let error = desk.broker.login_with_options("work", HashMap::new()).await.unwrap_err();
    assert_eq!(word(&error), "ProviderUnreachable");
    assert_eq!(desk.state("work").await, "logged-out");
}

/// G5: metadata that cannot be had ends no session, not even right after a start.
#[tokio::test]
async fn broken_metadata_is_waited_for() {
    let mut desk = Desk::bare(Settings::default()).await;
    let _keyring = Fake::start(&desk.bus).await;
    desk.write_config(&desk.discovered_account("work", ""));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk.log_in("work").await;
    desk.kill_daemon().await;
    desk.provider.configure(|settings| settings.metadata = json!({ "issuer": "https://being.installed" }));
    desk.start_daemon().await;
    let error = refresh(&desk).await.unwrap_err();
    assert_eq!(word(&error), "ProviderUnreachable");
    desk.until_state("work", "offline").await;

    desk.provider.configure(|settings| settings.metadata = Json::Null);

    desk.until_state("work", "ready").await;
    assert!(desk.provider.accepts(&desk.access_token("work").await));
}

/// G7, G8: a provider that says that it sends `iss` must; the configuration can say otherwise.
#[tokio::test]
async fn a_missing_iss_is_refused_where_the_metadata_promises_it() {
    for (more, state) in [("", "failed"), ("iss = \"if-present\"", "succeeded")] {
        let desk = discovered(more).await;
        let (login, url) = desk.start_login("work").await;
        let callback = Browser::new().callback_of(&url, true).await;
        let mut without = url::Url::parse(&callback).unwrap();
        let kept: Vec<(String, String)> =
            without.query_pairs().into_owned().filter(|(name, _)| name != "iss").collect();
        without.query_pairs_mut().clear().extend_pairs(kept);
        Browser::new().open(without.as_str()).await;
        assert_eq!(login.wait(20_000).await.unwrap(), state);
    }
}

/// B16.
#[tokio::test]
async fn a_response_may_come_back_as_a_form() {
    let desk = discovered("response_mode = \"form_post\"").await;
    let (login, url) = desk.start_login("work").await;
    assert_eq!(parameter(&url, "response_mode").as_deref(), Some("form_post"));

    let page = Browser::new().approve_and_post(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());
    assert!(page.html.contains("You are logged in to work"), "{}", page.html);
}

/// A15, L14: the browser is elsewhere, and its last address is brought here; the checks are the same.
#[tokio::test]
async fn a_pasted_address_ends_the_login() {
    for more in ["", "redirect_uri = \"https://app.example.org/signed-in\""] {
        let desk = discovered(more).await;
        // The page elsewhere is only looked at by a browser, so the provider may as well take it.
        let options = HashMap::from([("open_browser", Value::from(false)), ("flow", Value::from("paste"))]);
        let (path, url) = desk.broker.login_with_options("work", options).await.unwrap();
        let login = desk.login(path.clone()).await;
        assert_eq!(String::try_from(desk.property(path.as_str(), LOGIN, "Flow").await).unwrap(), "paste");
        let redirect = parameter(&url, "redirect_uri").unwrap();
        let state = parameter(&url, "state").unwrap();
        let good = if more.is_empty() {
            Browser::new().callback_of(&url, true).await
        } else {
            assert_eq!(redirect, "https://app.example.org/signed-in");
            format!("{redirect}?error=access_denied&state={state}&iss={}", desk.provider.issuer())
        };

        for wrong in [
            String::new(),
            "hello".to_owned(),
            redirect.clone(),
            good.replace(&state, "other"),
            good.replacen("http", "ftp", 1),
            format!("http://127.0.0.1:1/callback?code=a&state={state}"),
        ] {
            let error = complete(&desk, &path, &wrong).await.unwrap_err();
            assert_eq!(error, "org.bearerd.Broker1.Error.InvalidArgument", "{wrong}");
        }
        assert_eq!(login.wait(0).await.unwrap(), "pending");
        complete(&desk, &path, &format!(" {good}\n")).await.unwrap();

        let expected = if more.is_empty() { "succeeded" } else { "denied" };
        assert_eq!(login.wait(20_000).await.unwrap(), expected, "{}", desk.log());
        assert!(complete(&desk, &path, &good).await.is_err(), "it is used");
    }
}

/// Design section 3: options of the login; a joined one must have the same.
#[tokio::test]
async fn a_prompt_is_passed_on_and_other_options_do_not_join() {
    let desk = discovered("").await;
    let options = |prompt: &'static str| {
        HashMap::from([("open_browser", Value::from(false)), ("prompt", Value::from(prompt))])
    };
    for bad in ["none", "evil", "login  consent"] {
        let error = desk.broker.login_with_options("work", options(bad)).await.unwrap_err();
        assert_eq!(word(&error), "InvalidOption", "{bad}");
    }
    let (_, url) = desk.broker.login_with_options("work", options("login consent")).await.unwrap();
    assert_eq!(parameter(&url, "prompt").as_deref(), Some("login consent"));

    let (_, joined) = desk.broker.login_with_options("work", options("login consent")).await.unwrap();
    let other = desk.broker.login_with_options("work", options("consent")).await.unwrap_err();

    assert_eq!(joined, url);
    assert_eq!(word(&other), "InvalidOption");
}

/// L14: such an account says how to log in to it.
#[tokio::test]
async fn a_redirect_elsewhere_needs_the_paste_flow_and_says_so() {
    let desk = discovered("redirect_uri = \"https://app.example.org/signed-in\"").await;

    let error = desk.broker.login_with_options("work", HashMap::new()).await.unwrap_err();

    assert_eq!(word(&error), "InvalidOption");
    assert!(error.to_string().ends_with("run: bearerctl login work --paste"), "{error}");
}

async fn discovered(more: &str) -> Desk {
    let mut desk = Desk::bare(Settings::default()).await;
    desk.write_config(&desk.discovered_account("work", &format!("store = \"memory\"\n{more}")));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk
}

fn requests(desk: &Desk, of: &str) -> Vec<Seen> {
    desk.provider.seen().into_iter().filter(|seen| seen.path.contains(of)).collect()
}

async fn refresh(desk: &Desk) -> Result<(), Error> {
    let builder = AccountProxy::builder(&desk.connection).path(account_path("work")).unwrap();
    builder.cache_properties(CacheProperties::No).build().await.unwrap().refresh().await
}

/// `Complete`; the name of the error.
async fn complete(desk: &Desk, path: &OwnedObjectPath, address: &str) -> Result<(), String> {
    match desk.connection.call_method(Some(NAME), path, Some(LOGIN), "Complete", &address).await {
        Ok(_) => Ok(()),
        Err(zbus::Error::MethodError(name, ..)) => Err(name.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
