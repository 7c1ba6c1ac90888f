//! The built-in presets at a provider that imitates theirs: the files as they are, but for the addresses.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use bearerd::sandbox::provider::{Fault, Settings};
use serde_json::{Value, json};

use crate::support::browser::{Browser, parameter};
use crate::support::desk::Desk;

/// A desk whose account `work` uses the preset, with the provider's addresses in place of the real ones.
async fn desk(preset: &str, text: &str, account: &str) -> Desk {
    let public = text.lines().any(|line| line == "client_auth = \"none\"");
    let secret = if public { None } else { Settings::default().client_secret };
    let mut desk = Desk::bare(Settings { client_secret: secret, ..Settings::default() }).await;
    let issuer = desk.provider.issuer();
    let here = [
        ("issuer", issuer.clone()),
        ("authorization_endpoint", desk.provider.authorization_endpoint()),
        ("token_endpoint", desk.provider.token_endpoint()),
        ("revocation_endpoint", format!("{issuer}/protocol/openid-connect/revoke")),
        ("profile_url", desk.provider.profile_url()),
        // A port of its own each time, instead of the one to be registered.
        ("redirect_uri", "http://127.0.0.1/callback".to_owned()),
    ];
    let moved = |line: &str| {
        let key = line.split(" = ").next().unwrap_or_default();
        let address = here.iter().find(|(name, _)| *name == key);
        address.map_or_else(|| line.to_owned(), |(_, address)| format!("{key} = \"{address}\""))
    };
    let moved = text.lines().map(moved).collect::<Vec<_>>().join("\n");
    std::fs::create_dir_all(desk.path("config/bearerd/providers.d")).unwrap();
    std::fs::write(desk.path(&format!("config/bearerd/providers.d/{preset}.toml")), &moved).unwrap();
    let discovered =
        if moved.contains("_endpoint = ") { String::new() } else { format!("issuer = \"{issuer}\"\n") };
    desk.write_config(&format!(
        "[accounts.work]\nprovider = \"{preset}\"\nclient_id = \"sandbox\"\nstore = \"memory\"\n{discovered}{account}"
    ));
    desk.start_daemon().await;
    if !public {
        desk.set_secret("work").await;
    }
    desk
}

macro_rules! preset {
    ($name:literal) => {
        ($name, include_str!(concat!("../../presets/", $name, ".toml")))
    };
}

/// L: each preset logs in, tells who it is, renews, and logs out.
#[tokio::test]
async fn each_preset_logs_in_and_renews() {
    for (preset, text, answer) in [
        preset!("auth0"),
        preset!("chaster"),
        preset!("discord"),
        preset!("gitlab"),
        preset!("keycloak"),
        preset!("okta"),
        preset!("spotify"),
    ]
    .map(|(preset, text)| match preset {
        // L6, L12: what their answers have more, or less.
        "gitlab" => (preset, text, json!({ "created_at": 1_700_000_000 })),
        "spotify" => (preset, text, json!({ "refresh_expires_in": null })),
        _ => (preset, text, Value::Null),
    }) {
        let desk = desk(preset, text, "").await;
        desk.provider.always(Some(Fault::Patch(answer)));

        desk.log_in("work").await;

        assert_eq!(desk.account_text("work", "Subject").await, "robin", "{preset}");
        let renewed = desk.forced_token("work").await.unwrap().0;
        assert!(desk.provider.accepts(&renewed), "{preset}");
        let refresh = &desk.provider.token_requests("refresh_token")[0];
        assert_eq!(refresh.parameter("scope"), "", "{preset}: D2");
        desk.broker.logout("work").await.unwrap();
    }
}

/// L1, L2: offline access is asked for each time; a refresh brings no new refresh token.
#[tokio::test]
async fn google_is_asked_for_offline_access_with_consent() {
    let (preset, text) = preset!("google");
    let desk = desk(preset, text, "extra_params = { hd = \"example.org\" }\n").await;
    desk.provider.configure(|settings| settings.rotation = false);
    let (login, url) = desk.start_login("work").await;
    for (name, value) in [("access_type", "offline"), ("prompt", "consent"), ("hd", "example.org")] {
        assert_eq!(parameter(&url, name).as_deref(), Some(value));
    }
    Browser::new().approve(&url).await;
    assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", desk.log());

    for _ in 0..2 {
        desk.provider.next(Fault::Patch(json!({ "refresh_token": null })));
        desk.forced_token("work").await.unwrap();
    }

    assert!(desk.provider.accepts(&desk.access_token("work").await));
}

/// L1: a login without a refresh token serves while its token lives, and nothing is sent meanwhile.
#[tokio::test]
async fn without_a_refresh_token_the_token_serves_while_it_lives() {
    let (preset, text) = preset!("google");
    let desk = desk(preset, text, "").await;
    desk.provider.next(Fault::Patch(json!({ "refresh_token": null, "expires_in": 3599 })));

    desk.log_in("work").await;

    assert!(desk.provider.accepts(&desk.access_token("work").await));
    desk.forced_token("work").await.unwrap();
    assert!(desk.provider.token_requests("refresh_token").is_empty(), "there is nothing to send");
}

/// L3, D2: the scopes are repeated in each refresh, and numbers may be strings.
#[tokio::test]
async fn microsoft_is_told_the_scopes_again_at_each_refresh() {
    let (preset, text) = preset!("microsoft");
    let desk = desk(preset, text, "scopes = [\"openid\", \"offline_access\", \"User.Read\"]\n").await;
    let answer = json!({ "expires_in": "3599", "ext_expires_in": "3599", "refresh_expires_in": null });
    desk.provider.always(Some(Fault::Patch(answer)));

    desk.log_in("work").await;
    let (_, expires, _) = desk.forced_token("work").await.unwrap();

    assert!(expires > 0);
    let refresh = &desk.provider.token_requests("refresh_token")[0];
    assert_eq!(refresh.parameter("scope"), "openid offline_access User.Read");
}

/// L5: a token without an end and without a refresh token; the answer is JSON because JSON was asked for.
#[tokio::test]
async fn githubs_tokens_have_no_end() {
    let (preset, text) = preset!("github");
    let desk = desk(preset, text, "scopes = [\"repo\", \"gist\"]\n").await;
    desk.provider.always(Some(Fault::Patch(json!({
        "expires_in": null, "refresh_token": null, "refresh_expires_in": null,
        "scope": "repo,gist", "token_type": "bearer",
    }))));

    desk.log_in("work").await;

    let (token, expires, _) = desk.token("work").await.unwrap();
    assert!(desk.provider.accepts(&token) && expires == 0);
    assert_eq!(desk.account_text("work", "Subject").await, "robin");
    assert_eq!(desk.provider.token_requests("authorization_code")[0].header("accept"), "application/json");
}

/// L5, C8: a wrong code, a wrong secret and a spent refresh token are errors with status 200.
#[tokio::test]
async fn githubs_errors_come_with_status_200() {
    let (preset, text) = preset!("github-app");
    let desk = desk(preset, text, "").await;
    desk.provider.next(Fault::error(
        200,
        "bad_verification_code",
        "The code passed is incorrect or expired.",
    ));
    let (login, url) = desk.start_login("work").await;
    Browser::new().approve(&url).await;
    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    assert_eq!(
        desk.state("work").await,
        "logged-out",
        "a code that is no good says nothing about the client"
    );
    desk.provider.next(Fault::Patch(json!({
        "expires_in": 28_800, "refresh_expires_in": null, "refresh_token_expires_in": 15_897_600,
    })));
    desk.log_in("work").await;
    let half_a_year = desk.account_number("work", "SessionExpires").await
        - desk.account_number("work", "AccessExpires").await;
    assert!((15_868_700..15_868_900).contains(&half_a_year), "{half_a_year}");

    desk.provider.next(Fault::error(200, "bad_refresh_token", "The refresh token is incorrect or expired."));

    // What is still valid is handed out, and the state says that it is the last.
    desk.forced_token("work").await.unwrap();
    assert_eq!(desk.state("work").await, "expired");
}
