//! `bearerctl add` and `bearerctl doctor ACCOUNT`: from nothing to a session, by flags.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::os::unix::fs::PermissionsExt as _;

use bearerd::sandbox::provider::Settings;
use serde_json::json;

use crate::support::browser::Browser;
use crate::support::desk::{Desk, eventually};
use crate::support::keyring::Fake;
use crate::support::trap::Trap;

async fn desk() -> Desk {
    let mut desk = Desk::bare(Settings::default()).await;
    desk.write_config("");
    desk.start_daemon().await;
    desk
}

/// Issue 7: the issuer and a client id are all that has to be given; what is written works as it is.
#[tokio::test]
async fn an_account_is_added_by_flags_and_works() {
    let desk = desk().await;
    desk.provider
        .configure(|settings| settings.metadata = json!({ "scopes_supported": ["openid", "locks"] }));
    let issuer = desk.provider.issuer();

    let done = desk.ctl(&["add", "work", "--issuer", &issuer, "--client-id", "sandbox"], "").await;

    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    for told in [
        "flows: browser (code)",
        "scopes: openid locks",
        "PKCE: yes",
        "logout: revocation, end of session",
        "register at the provider: http://127.0.0.1/callback",
        "next: bearerctl set-secret work, then bearerctl login work",
    ] {
        assert!(said.contains(told), "{told:?} is not in {said}");
    }
    let file = desk.path("config/bearerd/accounts.d/work.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("scopes = [\"openid\"]") && text.contains("#   PKCE: yes"), "{text}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // The daemon knows it already.
    assert_eq!(desk.broker.list_accounts().await.unwrap()[0].0, "work");
    let again = desk.ctl(&["add", "work", "--issuer", &issuer, "--client-id", "other"], "").await;
    assert_eq!(again.status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "never overwritten");
}

/// Issue 7: with `--login` it goes on to the secret and the browser.
#[tokio::test]
async fn an_added_account_can_log_in_at_once() {
    let desk = desk().await;
    let _keyring = Fake::start(&desk.bus).await;
    let issuer = desk.provider.issuer();
    let added = async {
        let flags =
            ["add", "work", "--issuer", &issuer, "--client-id", "sandbox", "--scope", "profile", "--login"];
        // Where there is no browser the code for another device would be chosen.
        let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
        command.args(flags).env("BROWSER", "true");
        desk.run(command, &Settings::default().client_secret.unwrap()).await
    };
    let browser = async {
        let mut url = String::new();
        assert!(
            eventually(async || {
                url = pending_url(&desk).await;
                !url.is_empty()
            })
            .await
        );
        Browser::new().approve(&url).await
    };

    let (done, page) = tokio::join!(added, browser);

    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(page.status, 200);
    assert!(String::from_utf8_lossy(&done.stderr).contains("logged in to \"work\""));
}

/// Issue 7: each error names the next step, and nothing is written.
#[tokio::test]
async fn what_cannot_be_added_is_refused_with_the_next_step() {
    let desk = desk().await;
    let issuer = desk.provider.issuer();
    let slash = format!("{issuer}/");
    for (flags, code, told) in [
        (vec!["work"], 2, "give --provider or --issuer: a preset (auth0, chaster, discord"),
        (vec!["work", "--provider", "gogle"], 2, "did you mean \"google\"?"),
        (vec!["work", "--provider", "okta"], 2, "give --issuer"),
        (vec!["work", "--issuer", &issuer], 2, "give --client-id"),
        (vec!["work", "--issuer", &slash, "--client-id", "x"], 2, "set `issuer` to exactly it"),
        (vec!["work", "--issuer", "http://127.0.0.1:1/", "--client-id", "x"], 5, "cannot be reached"),
        (vec!["work", "--issuer", "http://id.example/", "--client-id", "x"], 2, "must start with https://"),
        (vec!["a b", "--issuer", &issuer, "--client-id", "x"], 2, "account name"),
        (vec!["work", "--issuer", &issuer, "--client-id", "x", "--scope", "a b"], 2, "one scope per string"),
    ] {
        let done = desk.ctl(&[vec!["add"], flags.clone()].concat(), "").await;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(code), "{flags:?}: {said}");
        assert!(said.contains(told), "{flags:?}: {told:?} is not in {said}");
    }
    assert!(!desk.path("config/bearerd/accounts.d/work.toml").exists());
}

/// Issue 7: a preset that has gone stale is seen, and what to write instead is said.
#[tokio::test]
async fn doctor_compares_an_accounts_endpoints_with_the_metadata() {
    let mut desk = Desk::bare(Settings::default()).await;
    desk.write_config(&desk.account("work", &format!("issuer = \"{}\"", desk.provider.issuer())));
    desk.start_daemon().await;

    let fine = desk.ctl(&["doctor", "work"], "").await;
    let said = String::from_utf8_lossy(&fine.stdout).into_owned();
    assert!(fine.status.success(), "{said}");
    for told in
        ["of exactly this issuer", "clock: ", "agrees with the metadata", "Keycloak ignores the port only if"]
    {
        assert!(said.contains(told), "{told:?} is not in {said}");
    }

    let moved = "http://127.0.0.1:1/token";
    desk.provider.configure(|settings| settings.metadata = json!({ "token_endpoint": moved }));
    let stale = desk.ctl(&["doctor", "work"], "").await;
    let said = String::from_utf8_lossy(&stale.stdout).into_owned();
    assert_eq!(stale.status.code(), Some(1));
    assert!(said.contains("set token_endpoint in the account to it") && said.contains(moved), "{said}");
}

/// Endpoints that no metadata can be compared with are asked whether they are there, with nothing secret.
#[tokio::test]
async fn doctor_asks_whether_the_endpoints_of_an_account_without_an_issuer_are_there() {
    let desk = Desk::bare(Settings::default()).await;
    let answering = async |head: &str| {
        Trap::start(0, format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")).await
    };
    let page = answering("302 Found\r\nLocation: /sign-in").await;
    let token = answering("400 Bad Request\r\nDate: Fri, 31 Dec 2100 23:59:59 GMT").await;
    let gone = answering("410 Gone").await;
    let account = |page: &str, token: &str| {
        format!(
            "[accounts.work]\nclient_id = \"app\"\nstore = \"memory\"\nauthorization_endpoint = {page:?}\ntoken_endpoint = {token:?}\n"
        )
    };
    desk.write_config(&account(&page.url("/authorize"), &token.url("/token")));

    let there = desk.ctl(&["doctor", "work"], "").await;

    let said = String::from_utf8_lossy(&there.stdout).into_owned();
    for told in [
        "note  no metadata: ",
        "ok    authorization_endpoint: it is there (status 302)\n",
        "ok    token_endpoint: it is there (status 400)\n",
        "WRONG clock: ",
        "away from the provider's; run: timedatectl set-ntp true\n",
    ] {
        assert!(said.contains(told), "{told:?} is not in {said}");
    }
    let asked = [page.caught().concat(), token.caught().concat()];
    assert!(asked[0].starts_with("GET /authorize?client_id=app&response_type=code "), "{asked:?}");
    assert!(asked[1].starts_with("POST /token ") && asked[1].ends_with("\r\n\r\nclient_id=app"), "{asked:?}");
    assert!(!asked.concat().to_lowercase().contains("authorization:"), "{asked:?}");

    desk.write_config(&account(&gone.url("/authorize"), "http://127.0.0.1:1/token"));
    let stale = desk.ctl(&["doctor", "work"], "").await;
    let said = String::from_utf8_lossy(&stale.stdout).into_owned();
    assert_eq!(stale.status.code(), Some(1), "{said}");
    for told in [
        "/authorize is answered with status 410, so it may be stale",
        "WRONG token_endpoint: http://127.0.0.1:1/token cannot be reached: no connection",
    ] {
        assert!(said.contains(told), "{told:?} is not in {said}");
    }
}

/// The address of the one login that is under way, as the same user may read it.
async fn pending_url(desk: &Desk) -> String {
    use zbus::zvariant::OwnedObjectPath;

    use crate::support::desk::{ACCOUNT, LOGIN, account_path};
    if !desk.path("config/bearerd/accounts.d/work.toml").exists() {
        return String::new();
    }
    let known = desk.broker.list_accounts().await.unwrap();
    if known.is_empty() {
        return String::new();
    }
    let path = desk.property(&account_path("work"), ACCOUNT, "LoginAttempt").await;
    let path = OwnedObjectPath::try_from(path).unwrap();
    if path.as_str() == "/" {
        return String::new();
    }
    String::try_from(desk.property(path.as_str(), LOGIN, "Url").await).unwrap()
}
