//! The client in our library, as a Rust program uses it.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::time::Duration;

use bearerd::client::{Client, Error, SendError};
use bearerd::sandbox::provider::Settings;

use crate::support::browser::Browser;
use crate::support::desk::Desk;

/// A token with what is known of it; its expiry is absolute and as long as was asked for.
#[tokio::test]
async fn a_program_gets_a_token_and_what_is_known_of_it() {
    let desk = Desk::logged_in().await;
    let client = Client::on(&desk.connection, "work").await.unwrap();

    let token = client.token_valid_for(Duration::from_secs(60)).await.ok().unwrap();

    assert_eq!(token.expose(), desk.access_token("work").await);
    assert_eq!(token.authorization().as_str(), format!("Bearer {}", token.expose()));
    assert_eq!((token.scope(), token.subject()), ("profile locks", "robin"));
    assert!(token.expires_at().unwrap() > 1_700_000_000);
}

/// E4: a 401 costs one report and one more try; what comes then is the answer.
#[tokio::test]
async fn a_request_that_is_refused_is_sent_once_more_with_a_newer_token() {
    let desk = Desk::logged_in().await;
    let client = Client::on(&desk.connection, "work").await.unwrap();
    let http = reqwest::Client::new();
    let first = desk.access_token("work").await;
    desk.provider.revoke_access_token(&first);

    let response = client.send(http.get(desk.provider.profile_url())).await.unwrap();

    assert_eq!(response.status(), 200);
    assert_ne!(desk.access_token("work").await, first);
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 1);
}

/// The reason arrives as a type, and a login that the user asked for mends it.
#[tokio::test]
async fn a_missing_login_is_an_error_of_its_own_and_a_login_mends_it() {
    let desk = Desk::with(Settings::default()).await;
    let client = Client::on(&desk.connection, "").await.unwrap();
    let request = reqwest::Client::new().get(desk.provider.profile_url());
    let refused = client.send(request).await;
    assert!(matches!(refused, Err(SendError::Token(Error::LoginRequired(_)))));

    let login = client.login().await.ok().unwrap();
    Browser::new().approve(login.url()).await;

    login.finished().await.unwrap();
    assert!(client.token().await.is_ok());
}
