//! Tokens that are bound to a key (RFC 9449), on the wire.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bearerd::bus::Error;
use bearerd::sandbox::provider::{Dpop, Fault, Push, Settings};
use serde_json::json;
use zbus::zvariant::Value;

use crate::support::browser::Browser;
use crate::support::desk::{Desk, word};
use crate::support::keyring::Fake;

const MORE: &str = "dpop = true\nstore = \"memory\"";

async fn desk(dpop: Dpop, more: &str) -> Desk {
    let mut desk = Desk::bare(Settings { dpop, ..Settings::default() }).await;
    desk.write_config(&desk.account("work", more));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk
}

async fn proof(
    desk: &Desk,
    method: &str,
    url: &str,
    options: &[(&'static str, &str)],
) -> Result<String, Error> {
    let options = options.iter().map(|(key, value)| (*key, Value::from(*value))).collect::<HashMap<_, _>>();
    desk.broker.create_dpop_proof("work", method, url, options).await
}

/// The status of a request to the API with this token and proof.
async fn call(desk: &Desk, token: &str, proof: &str) -> u16 {
    let request = reqwest::Client::new().get(desk.provider.profile_url());
    let request = request.header("authorization", format!("DPoP {token}")).header("dpop", proof);
    request.send().await.unwrap().status().as_u16()
}

/// J5: the provider checks every proof; each is another one, and the key that was named ahead made them.
#[tokio::test]
async fn a_session_and_its_refreshes_are_bound_to_one_key() {
    let desk = desk(Dpop::Required, MORE).await;
    desk.log_in("work").await;

    let first = desk.token("work").await.unwrap();
    let second = desk.forced_token("work").await.unwrap();

    assert_eq!(String::try_from(second.2["token_type"].clone()).unwrap(), "DPoP");
    assert_ne!(first.0, second.0);
    assert_eq!(desk.account_text("work", "Subject").await, "robin", "the profile was read with a proof");
    let seen = desk.provider.seen();
    let asked = seen.iter().find(|seen| seen.path.ends_with("/auth")).unwrap();
    assert_eq!(asked.parameter("dpop_jkt").len(), 43);
    let proofs: HashSet<&str> =
        seen.iter().map(|seen| seen.header("dpop")).filter(|proof| !proof.is_empty()).collect();
    assert_eq!(proofs.len(), 3, "exchange, profile and refresh");
    let log = desk.log();
    assert!(!log.contains("canary-") && !proofs.iter().any(|proof| log.contains(proof)), "{log}");
}

/// J5, I1: a login by device code is bound like any other; each poll has a proof of the key that is kept.
#[tokio::test]
async fn a_device_login_and_its_refreshes_are_bound_to_one_key() {
    for kind in [Dpop::Required, Dpop::WithNonce] {
        let mut desk = Desk::bare(Settings { dpop: kind, ..Settings::default() }).await;
        desk.write_config(&desk.discovered_account("work", MORE));
        desk.start_daemon().await;
        desk.set_secret("work").await;
        let options = HashMap::from([("open_browser", Value::from(false)), ("flow", Value::from("device"))]);
        let (path, url) = desk.broker.login_with_options("work", options).await.unwrap();
        assert_eq!(Browser::new().answer_device(&url, true).await, 200);
        assert_eq!(desk.login(path).await.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());

        let first = desk.token("work").await.unwrap();
        let second = desk.forced_token("work").await.unwrap();

        assert_ne!(first.0, second.0);
        for token in [&first, &second] {
            assert_eq!(String::try_from(token.2["token_type"].clone()).unwrap(), "DPoP");
        }
        let api = desk.provider.profile_url();
        let bound = proof(&desk, "GET", &api, &[]).await.unwrap();
        let bearer = reqwest::Client::new().get(&api).bearer_auth(&second.0).send().await.unwrap();
        assert_eq!((bearer.status().as_u16(), call(&desk, &second.0, &bound).await), (401, 200));
        let grants = ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"];
        let requests: Vec<_> = grants.iter().flat_map(|grant| desk.provider.token_requests(grant)).collect();
        let keys: HashSet<String> = requests.iter().map(|seen| key_of(seen.header("dpop"))).collect();
        assert!(requests.len() >= 2 && keys == HashSet::from([key_of(&bound)]), "{keys:?}");
    }
}

/// The public key that a proof names.
fn key_of(proof: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(proof.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&header).unwrap()["jwk"].to_string()
}

/// J5: for one request to an API, with the current token or with the one that is given.
#[tokio::test]
async fn an_api_takes_a_proof_of_ours_once_and_for_that_request_alone() {
    let desk = desk(Dpop::Required, MORE).await;
    desk.log_in("work").await;
    let (token, url) = (desk.access_token("work").await, desk.provider.profile_url());

    let plain = proof(&desk, "GET", &format!("{url}?a=b#c"), &[]).await.unwrap();
    let given = proof(&desk, "GET", &url, &[("access_token", &token)]).await.unwrap();
    let post = proof(&desk, "POST", &url, &[]).await.unwrap();
    let elsewhere = proof(&desk, "GET", "https://api.example/", &[]).await.unwrap();
    let other = proof(&desk, "GET", &url, &[("access_token", "canary-other")]).await.unwrap();

    assert_eq!((call(&desk, &token, &plain).await, call(&desk, &token, &given).await), (200, 200));
    assert_eq!(call(&desk, &token, &plain).await, 401, "twice");
    for bad in [&post, &elsewhere, &other, &String::new()] {
        assert_eq!(call(&desk, &token, bad).await, 401, "{bad}");
    }
    for (method, address, options, error) in [
        ("GET", "http://api.example/", [].as_slice(), "InvalidArgument"),
        ("GE T", url.as_str(), [].as_slice(), "InvalidArgument"),
        ("GET", url.as_str(), [("nonce", "a b")].as_slice(), "InvalidOption"),
        ("GET", url.as_str(), [("access_token", "")].as_slice(), "InvalidOption"),
    ] {
        let refused = proof(&desk, method, address, options).await.unwrap_err();
        assert_eq!(word(&refused), error, "{method} {address}: {refused}");
    }
}

/// J5: both headers, for curl.
#[tokio::test]
async fn the_command_line_prints_both_headers() {
    let desk = desk(Dpop::Required, MORE).await;
    desk.log_in("work").await;
    let url = desk.provider.profile_url();

    for arguments in [vec!["work", "GET", url.as_str()], vec!["GET", url.as_str()]] {
        let done = desk.ctl(&[["token", "--format", "dpop"].as_slice(), &arguments].concat(), "").await;
        assert!(done.status.success(), "{done:?}");
        let text = String::from_utf8(done.stdout).unwrap();
        let (authorization, proof) = text.trim_end().split_once('\n').unwrap();
        let token = authorization.strip_prefix("Authorization: DPoP ").unwrap();
        assert_eq!(call(&desk, token, proof.strip_prefix("DPoP: ").unwrap()).await, 200);
    }
    for arguments in [["token", "work", "--format=dpop"].as_slice(), &["token", "work", "GET", &url]] {
        assert_eq!(desk.ctl(arguments, "").await.status.code(), Some(2), "{arguments:?}");
    }
}

/// J5: what other programs would send as Bearer is an error that says what to do.
#[tokio::test]
async fn programs_that_know_bearer_tokens_alone_are_told_so() {
    let desk = desk(Dpop::Required, &format!("{MORE}\napi_origins = [\"https://git.example\"]")).await;
    desk.log_in("work").await;

    for (arguments, stdin) in [
        (["token", "--format=header"].as_slice(), ""),
        (["exec", "--", "true"].as_slice(), ""),
        (["git-credential", "get"].as_slice(), "protocol=https\nhost=git.example\n"),
        (["askpass", "Password for 'https://git.example': "].as_slice(), ""),
    ] {
        let done = desk.ctl(arguments, stdin).await;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!((done.status.code(), done.stdout.is_empty()), (Some(2), true), "{arguments:?}: {said}");
        assert!(said.ends_with("run: bearerctl token work --format dpop METHOD URL\n"), "{said}");
    }
}

/// J5: the nonce is kept, and asked for once more only; nothing is spent on it.
#[tokio::test]
async fn a_nonce_that_is_demanded_is_sent_and_a_provider_that_is_never_content_is_left() {
    let desk = desk(Dpop::WithNonce, MORE).await;
    desk.log_in("work").await;
    assert_eq!(desk.provider.token_requests("authorization_code").len(), 2);
    desk.forced_token("work").await.unwrap();
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 1, "the nonce is known");

    desk.provider.next(Fault::error(400, "use_dpop_nonce", "").with_header("dpop-nonce", "one"));
    desk.provider.next(Fault::error(400, "use_dpop_nonce", "").with_header("dpop-nonce", "two"));
    let kept = desk.forced_token("work").await.unwrap();

    assert!(desk.provider.accepts(&kept.0));
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 3);
    assert_eq!(desk.provider.live_sessions(), 1);
}

/// J5, J6: a refusal is an error with the provider's words, and so is a token of the other kind.
#[tokio::test]
async fn refused_proofs_and_tokens_of_the_other_kind_are_errors() {
    let login = async |desk: &Desk| {
        let (login, url) = desk.start_login("work").await;
        Browser::new().approve(&url).await;
        assert_eq!(login.wait(20_000).await.unwrap(), "failed");
        login.error_message().await.unwrap()
    };
    let bound = desk(Dpop::Required, MORE).await;
    bound.provider.next(Fault::error(400, "invalid_dpop_proof", "no"));
    let refused = login(&bound).await;
    assert!(refused.contains("invalid_dpop_proof"), "{refused}");

    bound.provider.next(Fault::Patch(json!({ "token_type": "Bearer" })));
    let unbound = login(&bound).await;
    assert!(unbound.contains("\"Bearer\"") && unbound.contains("dpop"), "{unbound}");

    let plain = desk(Dpop::No, "store = \"memory\"").await;
    plain.provider.next(Fault::Patch(json!({ "token_type": "DPoP" })));
    let unasked = login(&plain).await;
    assert!(unasked.contains("\"DPoP\""), "{unasked}");
    let error = proof(&plain, "GET", "https://api.example/", &[]).await.unwrap_err();
    assert_eq!(word(&error), "InvalidArgument", "{error}");
}

/// J5: the key is stored with the session, and the session is not used without it.
#[tokio::test]
async fn the_key_outlives_the_process_and_a_session_without_one_is_not_taken() {
    let mut desk =
        Desk::bare(Settings { dpop: Dpop::Required, push: Push::Offered, ..Settings::default() }).await;
    let _keyring = Fake::start(&desk.bus).await;
    desk.write_config(&desk.discovered_account("work", "dpop = true"));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    desk.log_in("work").await;
    assert_eq!(desk.provider.pushed().unwrap().parameter("dpop_jkt").len(), 43);

    desk.kill_daemon().await;
    desk.start_daemon().await;
    assert!(desk.provider.accepts(&desk.access_token("work").await));

    desk.write_config(&desk.discovered_account("work", ""));
    desk.broker.reload().await.unwrap();
    let error = desk.token("work").await.unwrap_err();
    assert_eq!(word(&error), "LoginRequired", "{error}");
    assert!(error.to_string().contains("dpop"), "{error}");
}
