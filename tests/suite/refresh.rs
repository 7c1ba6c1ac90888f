//! Renewing, on the wire: what a token endpoint can do to a session, and what callers notice of it.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::{Read as _, Write as _};
use std::time::Duration;

use bearerd::bus::proxy::AccountProxy;
use bearerd::bus::{Error, NAME, ROOT_PATH};
use bearerd::sandbox::provider::{Fault, Settings};
use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;
use zbus::proxy::CacheProperties;
use zbus::zvariant::OwnedFd;

use crate::support::browser::Browser;
use crate::support::desk::{Desk, account_path, word};
use crate::support::keyring::DEADLINE;

/// D3, Q7: whoever comes while a refresh is on its way waits for that one.
#[tokio::test]
async fn a_hundred_callers_share_one_refresh() {
    let desk = Desk::logged_in().await;
    let refused = desk.access_token("work").await;
    desk.provider.next(Fault::Hold);
    let reject = desk.broker.reject_token("work", &refused);
    let callers = async {
        desk.provider.wait_for("refresh_token", 1).await;
        let mut callers = Vec::new();
        for _ in 0..100 {
            callers.push(desk.bus.connect().await);
        }
        let calls = callers.iter().map(async |caller| {
            let reply = caller.call_method(Some(NAME), ROOT_PATH, Some(NAME), "GetToken", &"work").await?;
            reply.body().deserialize::<(String, u64, bearerd::bus::proxy::Properties)>()
        });
        let release = async {
            // The bus keeps the order: this is answered after all the calls have arrived.
            desk.token("nobody").await.unwrap_err();
            desk.provider.release();
        };
        tokio::join!(join_all(calls), release).0
    };

    let (renewed, answers) = tokio::join!(reject, callers);

    assert!(renewed.unwrap());
    let tokens: std::collections::HashSet<String> =
        answers.into_iter().map(|answer| answer.unwrap().0).collect();
    assert_eq!(tokens.len(), 1);
    assert!(!tokens.contains(&refused) && desk.provider.accepts(tokens.iter().next().unwrap()));
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 1);
}

/// D1, D2: each refresh token is used once, and the newest one next.
#[tokio::test]
async fn rotated_refresh_tokens_are_used_once_each() {
    let desk = Desk::logged_in().await;

    for _ in 0..3 {
        let token = desk.forced_token("work").await.unwrap().0;
        assert!(desk.provider.accepts(&token));
    }

    let used: Vec<String> = desk
        .provider
        .token_requests("refresh_token")
        .iter()
        .map(|request| request.parameter("refresh_token").to_owned())
        .collect();
    assert_eq!(used.len(), 3);
    assert_eq!(used.iter().collect::<std::collections::HashSet<_>>().len(), 3);
    assert_eq!(desk.state("work").await, "ready");
}

/// D10: a provider without rotation sends no new refresh token, and the old one stays.
#[tokio::test]
async fn a_provider_without_rotation_keeps_its_refresh_token() {
    let desk = Desk::with(Settings { rotation: false, ..Settings::default() }).await;
    desk.log_in("work").await;
    desk.provider.always(Some(Fault::Patch(json!({ "refresh_token": null }))));

    for _ in 0..2 {
        desk.forced_token("work").await.unwrap();
    }

    let requests = desk.provider.token_requests("refresh_token");
    assert_eq!(requests[0].parameter("refresh_token"), requests[1].parameter("refresh_token"));
}

/// C5, C7, C8, O: nothing that a broken middle says ends a session; it is offline, serves, and heals by itself.
#[tokio::test]
async fn answers_that_are_none_of_the_providers_keep_the_session() {
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b' '; 64 * 1024 * 1024]).unwrap();
    let bomb = Fault::Answer { status: 200, headers: Vec::new(), body: bomb.finish().unwrap() };
    let faults = [
        ("a sign-in page", Fault::html(200)),
        ("a gateway's page", Fault::html(502)),
        ("a page that isn't there", Fault::html(404)),
        ("half an answer", Fault::json(200, "{\"access_token\":\"canary-half")),
        ("nothing", Fault::json(200, "")),
        ("no object", Fault::json(200, "[]")),
        ("no token", Fault::json(200, "{}")),
        ("an error of the server", Fault::error(500, "server_error", "sorry")),
        ("too many requests", Fault::error(429, "slow_down", "sorry")),
        (
            "a bomb",
            bomb.with_header("content-type", "application/json").with_header("content-encoding", "gzip"),
        ),
        ("a token with a line end", Fault::Patch(json!({ "access_token": "canary\r\nX-Evil: 1" }))),
        ("an empty token", Fault::Patch(json!({ "access_token": "" }))),
        ("a closed connection", Fault::HangUp),
    ];
    join_all(faults.map(async |(name, fault)| {
        let desk = Desk::logged_in().await;
        let before = desk.access_token("work").await;
        desk.provider.next(fault);

        let served = desk.forced_token("work").await;

        // A repeat may have been quick enough already.
        assert!(desk.provider.accepts(&served.unwrap().0), "{name}");
        desk.until_state("work", "ready").await;
        assert!(desk.provider.token_requests("refresh_token").len() >= 2, "{name}");
        assert_ne!(desk.access_token("work").await, before, "{name}");
        assert_eq!(desk.provider.live_sessions(), 1, "{name}");
    }))
    .await;
}

/// M1, O: a network in the middle is named where the user looks, and not only while logging in.
#[tokio::test]
async fn a_web_page_in_place_of_an_answer_is_named() {
    let desk = Desk::logged_in().await;
    desk.provider.always(Some(Fault::html(200)));

    let error = refresh(&desk).await.unwrap_err();

    assert_eq!(word(&error), "ProviderUnreachable");
    let text =
        "status 200 and no JSON object (a web page came instead, as where a network wants a login of its own";
    assert!(error.to_string().contains(text), "{error}");
}

/// C5: a redirect would carry the refresh token and the client secret elsewhere.
#[tokio::test]
async fn a_redirect_of_the_token_request_is_not_followed() {
    let desk = Desk::logged_in().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/token", elsewhere.local_addr().unwrap());
    desk.provider.next(Fault::html(307).with_header("location", &address));
    desk.forced_token("work").await.unwrap();
    desk.until_state("work", "ready").await;

    // Whatever was sent there would be waiting in its queue now.
    let visit = timeout(Duration::ZERO, elsewhere.accept()).await;

    assert!(visit.is_err(), "somebody came");
}

/// N16, O: a time to come back is kept to, whoever asks, and nobody is kept waiting for it.
#[tokio::test]
async fn retry_after_is_kept_to_and_said() {
    let desk = Desk::logged_in().await;
    let before = desk.access_token("work").await;
    desk.provider.always(Some(
        Fault::error(503, "temporarily_unavailable", "later").with_header("retry-after", "600"),
    ));
    assert_eq!(word(&refresh(&desk).await.unwrap_err()), "ProviderUnreachable");
    desk.until_state("work", "offline").await;

    assert_eq!(word(&refresh(&desk).await.unwrap_err()), "ProviderUnreachable");
    assert_eq!(desk.forced_token("work").await.unwrap().0, before);
    assert_eq!(desk.access_token("work").await, before);

    assert_eq!(desk.provider.token_requests("refresh_token").len(), 1);
}

/// N7, N18: a good token doesn't wait for the next one.
#[tokio::test]
async fn a_good_token_is_served_while_a_refresh_hangs() {
    let desk = Desk::logged_in().await;
    let before = desk.access_token("work").await;
    desk.provider.next(Fault::Hold);
    let forced = desk.forced_token("work");
    let meanwhile = async {
        desk.provider.wait_for("refresh_token", 1).await;
        assert_eq!(desk.access_token("work").await, before);
        desk.provider.release();
    };

    let (forced, ()) = tokio::join!(forced, meanwhile);

    assert_ne!(forced.unwrap().0, before);
}

/// D8: the answer got lost with the rotated token in it; Keycloak has no grace, so it ends in a login, without a storm.
#[tokio::test]
async fn a_lost_answer_is_retried_once_and_then_believed() {
    let desk = Desk::logged_in().await;
    desk.provider.next(Fault::LoseAnswer);

    let answer = refresh(&desk).await;

    assert_eq!(word(&answer.unwrap_err()), "ProviderUnreachable");
    desk.until_state("work", "expired").await;
    assert!(desk.provider.token_requests("refresh_token").len() <= 3);
    desk.log_in("work").await;
    assert_eq!(desk.state("work").await, "ready");
}

/// D15, K10, N12: the provider's word is final, said once, and nothing is sent after it.
#[tokio::test]
async fn a_session_that_the_provider_ended_asks_for_a_login() {
    let desk = Desk::logged_in().await;
    desk.provider.end_sessions();

    let error = refresh(&desk).await.unwrap_err();

    assert_eq!(word(&error), "LoginRequired");
    assert!(error.to_string().ends_with("run: bearerctl login work"), "{error}");
    assert_eq!(desk.state("work").await, "expired");
    let sent = desk.provider.token_requests("refresh_token").len();
    assert_eq!(word(&refresh(&desk).await.unwrap_err()), "LoginRequired");
    assert_eq!(desk.provider.token_requests("refresh_token").len(), sent);
}

/// K14, O: a refused client is the configuration's fault; the session outlives it.
#[tokio::test]
async fn a_refused_client_keeps_its_session_until_the_secret_is_right_again() {
    let desk = Desk::logged_in().await;
    desk.provider.configure(|settings| settings.client_secret = Some("canary-other".to_owned()));

    let error = refresh(&desk).await.unwrap_err();

    assert_eq!(word(&error), "ProviderRefused");
    assert_eq!(desk.state("work").await, "refused");
    desk.provider.configure(|settings| *settings = Settings::default());
    desk.set_secret("work").await;
    desk.until_state("work", "ready").await;
    assert!(desk.provider.accepts(&desk.forced_token("work").await.unwrap().0));
    assert_eq!(desk.provider.live_sessions(), 1);
}

/// O: scopes that a provider wants repeated, and then does not want, cost one more request, and no refresh token.
#[tokio::test]
async fn a_refresh_that_is_refused_for_its_scopes_is_sent_once_more_without() {
    let desk = Desk::logged_in_with("scope_on_refresh = true").await;
    let no = || Fault::error(400, "invalid_scope", "Invalid scopes");
    desk.provider.next(no());

    refresh(&desk).await.unwrap();

    let requests = desk.provider.token_requests("refresh_token");
    let scopes: Vec<&str> = requests.iter().map(|request| request.parameter("scope")).collect();
    assert_eq!(scopes, ["profile locks", ""]);
    assert_eq!(requests[0].parameter("refresh_token"), requests[1].parameter("refresh_token"));
    assert_eq!((desk.state("work").await.as_str(), desk.provider.live_sessions()), ("ready", 1));

    // A no to both is the configuration's fault.
    desk.provider.always(Some(no()));
    let error = refresh(&desk).await.unwrap_err();
    assert_eq!(word(&error), "ProviderRefused", "{error}");
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 4);
    assert_eq!((desk.state("work").await.as_str(), desk.provider.live_sessions()), ("refused", 1));
}

/// O: where no scopes were sent there is nothing to leave out.
#[tokio::test]
async fn a_refresh_without_scopes_is_not_sent_twice_for_them() {
    let desk = Desk::logged_in().await;
    desk.provider.next(Fault::error(400, "invalid_scope", "Invalid scopes"));
    assert_eq!(word(&refresh(&desk).await.unwrap_err()), "ProviderRefused");
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 1);
}

/// R, design section 3: a late report of a replaced token costs nothing; the bucket holds five.
#[tokio::test]
async fn rejected_tokens_are_renewed_within_a_bucket_of_five() {
    let desk = Desk::logged_in().await;
    let first = desk.token("work").await.unwrap();
    let first_id = String::try_from(first.2["token_id"].clone()).unwrap();
    assert!(desk.broker.reject_token("work", &first_id).await.unwrap(), "by its id, which is no secret");
    assert!(desk.broker.reject_token("work", &first.0).await.unwrap(), "a second report of the same");
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 1);

    for _ in 0..4 {
        let current = desk.access_token("work").await;
        assert!(desk.broker.reject_token("work", &current).await.unwrap());
    }
    let current = desk.access_token("work").await;

    assert!(!desk.broker.reject_token("work", &current).await.unwrap(), "the bucket is empty");
    assert_eq!(desk.provider.token_requests("refresh_token").len(), 5);
    assert_eq!(desk.forced_token("work").await.unwrap().0, current, "and shared with force_refresh");
    assert!(!desk.broker.reject_token("work", "something-else").await.unwrap());
    assert_eq!(word(&desk.broker.reject_token("work", "").await.unwrap_err()), "InvalidArgument");
}

/// C10, M: lifetimes as providers really send them, and as none should.
#[tokio::test]
async fn lifetimes_are_read_in_every_form() {
    join_all(
        [
            json!("300"),
            json!(300.0),
            json!(300),
            json!(1e18),
            json!(null),
            json!("soon"),
            json!([]),
            json!(-5),
        ]
        .map(async |form| {
            let desk = Desk::logged_in().await;
            desk.provider.next(Fault::Patch(json!({ "expires_in": form })));

            let token = desk.forced_token("work").await.unwrap();

            assert!(desk.provider.accepts(&token.0), "{form}");
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
            match form.as_f64().or_else(|| form.as_str()?.parse().ok()) {
                Some(seconds) if (300.0..301.0).contains(&seconds) => {
                    assert!((now + 290..=now + 301).contains(&token.1), "{form}: {} at {now}", token.1);
                }
                Some(seconds) if seconds > 0.0 => assert!(token.1 > now, "{form}: {}", token.1),
                _ => {}
            }
        }),
    )
    .await;
}

/// C9: the type is compared without case; one that we can't use is not handed out as a bearer.
#[tokio::test]
async fn token_types_other_than_bearer_are_refused() {
    for (form, accepted) in
        [(json!("bearer"), true), (json!("BEARER"), true), (json!(null), true), (json!("mac"), false)]
    {
        let desk = Desk::start().await;
        desk.provider.next(Fault::Patch(json!({ "token_type": form })));
        let (login, url) = desk.start_login("work").await;
        Browser::new().approve(&url).await;
        let state = login.wait(20_000).await.unwrap();
        assert_eq!(state, if accepted { "succeeded" } else { "failed" }, "{form}");
    }
}

/// C11: what was granted shows, and not what was asked for.
#[tokio::test]
async fn a_narrower_grant_is_reported() {
    let desk =
        Desk::with(Settings { granted_scope: Some("profile".to_owned()), ..Settings::default() }).await;
    desk.log_in("work").await;

    let details = desk.token("work").await.unwrap().2;

    assert_eq!(String::try_from(details["scope"].clone()).unwrap(), "profile");
    assert_eq!(desk.account_text("work", "Scope").await, "profile");
}

/// C2, C3: both ways carry a secret intact, and never together.
#[tokio::test]
async fn odd_secrets_arrive_intact_in_the_header_and_in_the_form() {
    for auth in ["basic", "post"] {
        let secret = "canary a+b%c:d&e=é";
        let settings = Settings { client_secret: Some(secret.to_owned()), ..Settings::default() };
        let mut desk = Desk::bare(settings).await;
        let account = desk.account("work", "store = \"memory\"");
        desk.write_config(&account.replace("\"post\"", &format!("{auth:?}")));
        desk.start_daemon().await;
        let done = desk.ctl(&["set-secret", "work"], &format!("{secret}\n")).await;
        assert!(done.status.success(), "{done:?}");

        desk.log_in("work").await;
        desk.forced_token("work").await.unwrap();

        assert!(desk.provider.accepts(&desk.access_token("work").await), "{auth}");
    }
}

/// N3, D9; promise 2: nobody asks, and the session lives on.
#[tokio::test]
async fn a_session_is_renewed_with_nobody_asking() {
    let settings = Settings { session_lifetime: Duration::from_secs(20), ..Settings::default() };
    let desk = Desk::with(settings).await;
    desk.log_in("work").await;

    timeout(DEADLINE, desk.provider.wait_for("refresh_token", 1)).await.unwrap();

    desk.until_state("work", "ready").await;
    assert!(desk.account_number("work", "LastRefresh").await > 0);
}

/// K8; promise 4: a provider that is away is said to be that, and comes back without anybody's help.
#[tokio::test]
async fn a_provider_that_is_away_is_offline_and_ready_again_when_it_is_back() {
    let desk = Desk::logged_in().await;
    desk.provider.go_down();
    let error = refresh(&desk).await.unwrap_err();
    assert_eq!(word(&error), "ProviderUnreachable");
    desk.until_state("work", "offline").await;
    assert!(desk.token("work").await.is_ok(), "what lives is served");

    desk.provider.come_up().await.unwrap();

    desk.until_state("work", "ready").await;
    assert!(desk.provider.accepts(&desk.access_token("work").await));
}

/// Design section 3: the token in a file that nobody can change, out of what a monitor of the bus sees.
#[tokio::test]
async fn a_token_comes_in_a_sealed_descriptor() {
    let desk = Desk::logged_in().await;
    let token = desk.access_token("work").await;
    let options = bearerd::bus::proxy::Properties::new();

    let body = ("work", options);
    let reply =
        desk.connection.call_method(Some(NAME), ROOT_PATH, Some(NAME), "GetTokenFd", &body).await.unwrap();

    let (fd, expires_at, _): (OwnedFd, u64, bearerd::bus::proxy::Properties) =
        reply.body().deserialize().unwrap();
    let mut file = std::fs::File::from(std::os::fd::OwnedFd::from(fd));
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, token);
    assert!(expires_at > 0);
    assert!(file.write_all(b"x").is_err() && file.set_len(0).is_err());
    let names = serde_json::json!(reply.to_string()).to_string();
    assert!(!names.contains(&token));
}

/// F1, F4: both ends of the session go; without the provider ours goes all the same.
#[tokio::test]
async fn a_logout_ends_the_session_here_and_at_the_provider() {
    let desk = Desk::logged_in().await;
    assert!(desk.broker.logout("work").await.unwrap());
    assert_eq!((desk.provider.live_sessions(), desk.state("work").await.as_str()), (0, "logged-out"));

    desk.log_in("work").await;
    desk.provider.go_down();
    assert!(!desk.broker.logout("work").await.unwrap());
    assert_eq!(desk.state("work").await, "logged-out");
    assert_eq!(word(&desk.token("work").await.unwrap_err()), "LoginRequired");
}

/// F2: both tokens are given back, the one that lasts first; and one that has no refresh token beside it too.
#[tokio::test]
async fn a_logout_revokes_the_refresh_token_and_then_the_access_token() {
    let mut desk = Desk::bare(Settings::default()).await;
    let url = desk.provider.token_endpoint().replace("/token", "/revoke");
    desk.write_config(&desk.account("work", &format!("store = \"memory\"\nrevocation_endpoint = \"{url}\"")));
    desk.start_daemon().await;
    desk.set_secret("work").await;
    let revoked = |desk: &Desk| -> Vec<(String, String)> {
        let seen = desk.provider.seen().into_iter().filter(|seen| seen.path.ends_with("/revoke"));
        seen.map(|seen| (seen.parameter("token_type_hint").into(), seen.parameter("token").into())).collect()
    };
    desk.log_in("work").await;
    let access_token = desk.access_token("work").await;

    assert!(desk.broker.logout("work").await.unwrap());

    let [(first, _), second] = &revoked(&desk)[..] else { panic!("not two") };
    assert_eq!((first.as_str(), second), ("refresh_token", &("access_token".to_owned(), access_token)));
    assert_eq!(desk.provider.live_sessions(), 0);

    desk.provider.next(Fault::Patch(json!({ "refresh_token": null })));
    desk.log_in("work").await;
    let alone = desk.access_token("work").await;
    assert!(desk.broker.logout("work").await.unwrap());
    assert_eq!(revoked(&desk)[2..], [("access_token".to_owned(), alone)]);
}

/// F2, F3: a provider that is busy is told again; the local session is gone at once.
#[tokio::test]
async fn a_logout_is_told_again_to_a_provider_that_was_busy() {
    let desk = Desk::logged_in().await;
    desk.provider.put_off_ends(1, 1);

    assert!(!desk.broker.logout("work").await.unwrap(), "not yet");
    assert_eq!((desk.state("work").await.as_str(), desk.provider.live_sessions()), ("logged-out", 1));

    timeout(DEADLINE, desk.provider.wait_for_the_end()).await.unwrap();
}

async fn refresh(desk: &Desk) -> Result<(), Error> {
    let builder = AccountProxy::builder(&desk.connection).path(account_path("work")).unwrap();
    builder.cache_properties(CacheProperties::No).build().await.unwrap().refresh().await
}

/// One failure budget per issuer: twenty accounts with a caller each don't hammer a sick provider, none of
/// them before its `Retry-After`, and all of them learn of its return.
#[tokio::test]
async fn twenty_accounts_share_the_tries_of_a_sick_provider() {
    let desk = Desk::start().await;
    let names: Vec<String> = (0..20).map(|number| format!("a{number}")).collect();
    let tables: String = names.iter().map(|name| desk.account(name, "store = \"memory\"")).collect();
    desk.write_config(&tables);
    desk.broker.reload().await.unwrap();
    for name in &names {
        desk.set_secret(name).await;
        desk.log_in(name).await;
    }
    desk.provider.configure(|settings| settings.access_lifetime = Duration::from_secs(1));
    join_all(names.iter().map(|name| desk.forced_token(name))).await;
    let before = desk.provider.token_requests("refresh_token").len();
    desk.provider.always(Some(Fault::Answer { status: 503, headers: Vec::new(), body: b"busy".to_vec() }));

    let answers = join_all(names.iter().map(|name| desk.token(name))).await;

    let sent = desk.provider.token_requests("refresh_token").len() - before;
    assert!(answers.iter().all(|answer| word(answer.as_ref().unwrap_err()) == "ProviderUnreachable"));
    // One each before it was known to be sick, then one each two seconds.
    assert!((3..=36).contains(&sent), "{sent} requests of 20 accounts in 15 s");
    desk.provider.configure(|settings| settings.access_lifetime = Duration::from_secs(300));
    desk.provider.always(None);
    let answers = join_all(names.iter().map(|name| desk.token(name))).await;
    for answer in answers {
        assert!(desk.provider.accepts(&answer.unwrap().0));
    }
}
