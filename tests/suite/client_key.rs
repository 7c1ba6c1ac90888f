//! A client that signs instead of sending a secret (RFC 7523), on the wire.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::OpenOptionsExt as _;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bearerd::sandbox::provider::{Push, Settings};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::Value as Json;
use zbus::zvariant::Value;

use crate::support::browser::Browser;
use crate::support::desk::Desk;

/// C4: every request of the back channel is signed, each for itself, and carries nothing else; the provider checks
/// the signature, that it alone is the audience, the minute, and that no assertion comes twice.
#[tokio::test]
async fn a_client_with_a_key_signs_each_request() {
    let desk = desk().await;

    desk.log_in("work").await;
    let first = desk.access_token("work").await;
    let renewed = renewed(&desk).await;
    let options = HashMap::from([("open_browser", Value::from(false)), ("flow", Value::from("device"))]);
    let (path, url) = desk.broker.login_with_options("work", options).await.unwrap();
    let device = desk.login(path).await;
    Browser::new().answer_device(&url, true).await;

    assert_eq!(device.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());
    assert!(first != renewed && desk.provider.accepts(&desk.access_token("work").await));
    assert!(desk.broker.logout("work").await.unwrap(), "ended at the provider");
    let posts: Vec<_> = desk.provider.seen().into_iter().filter(|seen| seen.method == "POST").collect();
    let signed: Vec<_> = posts.iter().filter(|seen| !seen.path.ends_with("/consent")).collect();
    for end in ["/par/request", "/token", "/auth/device", "/logout"] {
        assert!(signed.iter().any(|seen| seen.path.ends_with(end)), "{end}");
    }
    let mut assertions = HashSet::new();
    for seen in signed {
        assert!(assertions.insert(seen.parameter("client_assertion").to_owned()), "{}", seen.path);
        assert!(seen.header("authorization").is_empty() && seen.parameter("client_secret").is_empty());
        assert_eq!(seen.parameter("client_id"), "sandbox");
    }
    assert!(assertions.iter().all(|assertion| !desk.log().contains(assertion)));
}

/// C4: a key is changed by changing the file; a missing one is named and ends no session.
#[tokio::test]
async fn the_key_file_is_read_at_each_use() {
    let desk = desk().await;
    desk.log_in("work").await;
    let first = desk.access_token("work").await;

    let new = write_key(&desk);
    desk.provider.configure(|settings| settings.client_key = Some(new));
    let second = renewed(&desk).await;
    std::fs::remove_file(key_file(&desk)).unwrap();
    let third = renewed(&desk).await;

    assert!(first != second && desk.provider.accepts(&second));
    assert_eq!(second, third, "the old token while it lives");
    assert_eq!(desk.state("work").await, "refused");
    let message = desk.account_text("work", "StateMessage").await;
    assert!(message.contains(&format!("client_key_file {} cannot be read", key_file(&desk))), "{message}");
    assert_eq!(desk.provider.live_sessions(), 1);
}

async fn desk() -> Desk {
    let settings = Settings { client_secret: None, push: Push::Required, ..Settings::default() };
    let mut desk = Desk::bare(settings).await;
    let key = write_key(&desk);
    desk.provider.configure(|settings| settings.client_key = Some(key));
    let more = format!(
        "store = \"memory\"\nclient_auth = \"private_key_jwt\"\nclient_key_file = \"{}\"\nclient_key_id = \"k1\"",
        key_file(&desk)
    );
    desk.write_config(&desk.discovered_account("work", &more));
    desk.start_daemon().await;
    desk
}

fn key_file(desk: &Desk) -> String {
    desk.path("config/client.pem").display().to_string()
}

/// Writes a new key, and returns its public half as the provider wants it.
fn write_key(desk: &Desk) -> Json {
    let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new()).unwrap();
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(key.as_ref())
    );
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(key_file(desk)).unwrap();
    std::io::Write::write_all(&mut file, pem.as_bytes()).unwrap();
    let key = EncodingKey::from_ec_der(key.as_ref());
    serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap()).unwrap()
}

async fn renewed(desk: &Desk) -> String {
    let options = HashMap::from([("force_refresh", Value::from(true))]);
    desk.broker.get_token_with_options("work", options).await.unwrap().0
}
