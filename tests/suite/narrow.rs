//! Narrower tokens, on the wire: fewer scopes, one audience, one resource.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::{HashMap, HashSet};

use bearerd::bus::Error;
use bearerd::bus::proxy::Token;
use bearerd::sandbox::provider::Fault;
use futures_util::future::join_all;
use zbus::zvariant::Value;

use crate::support::desk::{Desk, word};

const API: &str = "https://api.sandbox.example/";

async fn narrow(desk: &Desk, wish: &[(&'static str, &str)]) -> Result<Token, Error> {
    let options = wish.iter().map(|(key, value)| (*key, Value::from(*value))).collect::<HashMap<_, _>>();
    desk.broker.get_token_with_options("work", options).await
}

async fn desk() -> Desk {
    desk_with("refresh").await
}

async fn desk_with(audience_by: &str) -> Desk {
    Desk::logged_in_with(&format!("audience_by = {audience_by:?}")).await
}

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

fn text(token: &Token, name: &str) -> String {
    String::try_from(token.2[name].clone()).unwrap()
}

/// J1, J2, J3: each of them its own token, one after another through one refresh token, and kept.
#[tokio::test]
async fn callers_get_tokens_for_what_they_asked_for_and_no_others() {
    let desk = desk().await;
    let own = desk.access_token("work").await;
    let wishes: [&[(&str, &str)]; 5] = [
        &[("scope", "profile")],
        &[("scope", "locks")],
        &[("audience", "inventory")],
        &[("resource", API)],
        &[("resource", API), ("scope", "locks")],
    ];

    let tokens = join_all(wishes.iter().map(async |wish| narrow(&desk, wish).await.unwrap())).await;

    let distinct: HashSet<&String> = tokens.iter().map(|token| &token.0).chain([&own]).collect();
    assert_eq!(distinct.len(), 6);
    let grants = tokens.iter().map(|token| desk.provider.grant_of(&token.0).unwrap()).collect::<Vec<_>>();
    let grant = |scope: &str, api: &str| (scope.to_owned(), api.to_owned());
    let all = "profile locks";
    assert_eq!(
        grants,
        [
            grant("profile", ""),
            grant("locks", ""),
            grant(all, "inventory"),
            grant(all, API),
            grant("locks", API)
        ]
    );
    assert!(tokens.iter().zip(&grants).all(|(token, grant)| text(token, "scope") == grant.0));
    let requests = desk.provider.token_requests("refresh_token");
    let spent: HashSet<&str> = requests.iter().map(|request| request.parameter("refresh_token")).collect();
    assert_eq!((requests.len(), spent.len()), (5, 5), "each rotated token once");

    for (wish, token) in wishes.iter().zip(&tokens) {
        assert_eq!(narrow(&desk, wish).await.unwrap().0, token.0);
    }
    assert_eq!(
        narrow(&desk, &[("scope", "locks profile")]).await.unwrap().0,
        own,
        "all of it is the session's own"
    );
    assert_eq!(desk.access_token("work").await, own);
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 5);
}

/// J4: one request that spends nothing, kept for its callers; what is exchanged is fresh, and no login comes of it.
#[tokio::test]
async fn an_audience_is_had_in_exchange_for_the_sessions_own_token() {
    let desk = desk_with("exchange").await;
    let own = desk.access_token("work").await;

    let token = narrow(&desk, &[("audience", "inventory"), ("scope", "locks")]).await.unwrap();

    assert_eq!(desk.provider.grant_of(&token.0), Some(("locks".to_owned(), "inventory".to_owned())));
    let requests = desk.provider.token_requests(EXCHANGE);
    assert_eq!((requests.len(), requests[0].parameter("subject_token")), (1, own.as_str()));
    for name in ["subject_token_type", "requested_token_type"] {
        assert_eq!(requests[0].parameter(name), "urn:ietf:params:oauth:token-type:access_token");
    }
    assert!(requests[0].parameter("refresh_token").is_empty());
    assert_eq!(narrow(&desk, &[("audience", "inventory"), ("scope", "locks")]).await.unwrap().0, token.0);
    assert_eq!(desk.access_token("work").await, own);
    assert!(desk.provider.token_requests("refresh_token").is_empty(), "nothing was spent");

    // A token that an API has refused is renewed before it is exchanged.
    assert!(desk.broker.reject_token("work", &own).await.is_ok());
    let other = narrow(&desk, &[("audience", "inventory")]).await.unwrap();
    assert_ne!(other.0, token.0);
    let last = desk.provider.token_requests(EXCHANGE).pop().unwrap();
    assert_ne!(last.parameter("subject_token"), own);
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 1);
}

/// J4: a no to an exchange is its caller's alone; a resource is still asked for by a refresh.
#[tokio::test]
async fn an_exchange_that_is_refused_leaves_the_session_alone() {
    let desk = desk_with("exchange").await;
    let own = desk.access_token("work").await;

    let error = narrow(&desk, &[("audience", "elsewhere")]).await.unwrap_err();

    assert_eq!(word(&error), "ProviderRefused");
    assert!(error.to_string().contains("invalid_target"), "{error}");
    assert_eq!(desk.access_token("work").await, own);
    narrow(&desk, &[("resource", API)]).await.unwrap();
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 1);
}

/// A11: what is outside of the grant is never asked for.
#[tokio::test]
async fn a_wider_scope_is_refused_here_and_says_what_there_is() {
    let desk = desk().await;
    for (wish, part) in [
        ([("scope", "locks messaging")], "\"profile locks\""),
        ([("scope", "")], "`scope`"),
        ([("resource", "/api")], "`resource`"),
        ([("resource", "https://api.sandbox.example/#x")], "`resource`"),
        ([("audience", "")], "`audience`"),
    ] {
        let error = narrow(&desk, &wish).await.unwrap_err();
        assert_eq!(word(&error), "InvalidOption", "{wish:?}");
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(desk.provider.token_requests("refresh_token").is_empty());
}

/// J1: the provider's no is its caller's, and the session does not notice.
#[tokio::test]
async fn a_target_that_the_provider_does_not_know_is_an_error_of_its_caller_alone() {
    let desk = desk().await;
    let own = desk.access_token("work").await;

    for _ in 0..3 {
        let error = narrow(&desk, &[("resource", "https://elsewhere.example/")]).await.unwrap_err();
        assert_eq!(word(&error), "ProviderRefused");
        assert!(error.to_string().contains("invalid_target"), "{error}");
    }
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 1, "and it is remembered");

    desk.provider.next(Fault::error(400, "invalid_grant", "so it says"));
    let error = narrow(&desk, &[("scope", "locks")]).await.unwrap_err();
    assert_eq!(word(&error), "ProviderRefused", "{error}");
    assert_eq!(desk.state("work").await, "ready");
    assert_ne!(desk.access_token("work").await, own, "the session's own refresh was the proof");
    assert_eq!(desk.provider.live_sessions(), 1);
}

/// A11: a caller's scope is never left out: it would get more than it asked for.
#[tokio::test]
async fn a_refused_narrower_scope_is_not_asked_for_without_it() {
    let desk = Desk::logged_in_with("scope_on_refresh = true").await;
    desk.provider.next(Fault::error(400, "invalid_scope", "Invalid scopes"));

    let error = narrow(&desk, &[("scope", "locks")]).await.unwrap_err();

    assert_eq!(word(&error), "ProviderRefused", "{error}");
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 1);
}

/// E4: the report of a narrower token renews that one.
#[tokio::test]
async fn a_refused_narrower_token_is_renewed_by_its_id() {
    let desk = desk().await;
    let own = desk.access_token("work").await;
    let first = narrow(&desk, &[("scope", "locks")]).await.unwrap();

    assert!(desk.broker.reject_token("work", &text(&first, "token_id")).await.unwrap());

    let second = narrow(&desk, &[("scope", "locks")]).await.unwrap();
    assert_ne!(second.0, first.0);
    assert_eq!(desk.provider.grant_of(&second.0).unwrap().0, "locks");
    assert_eq!(desk.access_token("work").await, own);
}

/// A rotated refresh token that came with a narrower token is the session's (D1, D4): it survives a restart.
#[tokio::test]
async fn the_command_line_narrows_too() {
    let desk = desk().await;

    let done = desk.ctl(&["token", "work", "--scope", "locks", "--resource", API], "").await;

    assert!(done.status.success(), "{done:?}");
    let token = String::from_utf8(done.stdout).unwrap();
    assert_eq!(desk.provider.grant_of(token.trim()).unwrap(), ("locks".to_owned(), API.to_owned()));
    let other = format!("{API}other");
    let done = desk.ctl(&["token", "work", "--resource", &other, "--resource", API], "").await;
    assert!(done.status.success(), "{done:?}");
    let requests = desk.provider.token_requests("refresh_token");
    let asked = requests.last().unwrap().parameters.iter().filter(|(name, _)| name == "resource");
    assert_eq!(asked.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), [API, &other]);
    let done = desk.ctl(&["token", "work", "--scope", "messaging"], "").await;
    assert_eq!(done.status.code(), Some(2), "{done:?}");
}
