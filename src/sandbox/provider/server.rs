//! The provider's HTTP side.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, PoisonError};

use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::{Url, form_urlencoded};

use super::client::authenticated;
use super::dpop::{Dpop, Refused, Request as Proved};
use super::sessions::{Authorization, Narrow, Refusal};
use super::{Fault, Push, REALM, Seen, Shared, fault, page};
use crate::oidc::token;

/// What the proofs of token requests must hold.
const NONCE: &str = "canary-nonce";
const MAX_BODY: usize = 1024 * 1024;

type Body = BoxBody<Bytes, Infallible>;
/// An error ends the connection without an answer.
type Answer = io::Result<Response<Body>>;

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| answer(&shared, request));
            // A peer that hangs up is none of our business.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(io::Error::other)?.to_bytes();
    let posted = head.method == Method::POST;
    let encoded = if posted { body.to_vec() } else { head.uri.query().unwrap_or_default().into() };
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        parameters: form_urlencoded::parse(&encoded).into_owned().collect(),
        headers: head.headers.iter().map(header).collect(),
    };
    shared.state().seen.push(seen.clone());
    shared.arrivals.send_modify(|count| *count += 1);
    let path = seen.path.strip_prefix(REALM).unwrap_or(&seen.path);
    match (posted, path) {
        (false, "/protocol/openid-connect/auth") => authorize(shared, &seen),
        (true, "/protocol/openid-connect/ext/par/request") => push(shared, &seen),
        (true, "/protocol/openid-connect/auth/device") => authorize_device(shared, &seen),
        (false, "/device") => Ok(device(shared, &seen)),
        (true, "/login-actions/consent") => consent(shared, &seen),
        (true, "/protocol/openid-connect/token") => token(shared, &seen).await,
        (true, "/protocol/openid-connect/logout") => Ok(end_session(shared, &seen, "refresh_token")),
        (true, "/protocol/openid-connect/revoke") => Ok(end_session(shared, &seen, "token")),
        (false, "/protocol/openid-connect/certs") => Ok(keys(shared)),
        (false, "/protocol/openid-connect/userinfo") => Ok(userinfo(shared, &seen)),
        (false, "/.well-known/openid-configuration") => Ok(metadata(shared)),
        (false, "/auth/profile") => Ok(profile(shared, &seen)),
        _ => Ok(html(StatusCode::NOT_FOUND, page::error("Page not found"))),
    }
}

/// RFC 6749 section 4.1.1; what is wrong with the client or the redirect URI is shown, not redirected.
fn authorize(shared: &Shared, seen: &Seen) -> Answer {
    let mut state = shared.state();
    let reference = seen.parameter("request_uri");
    let pushed = state.sessions.take_pushed(reference);
    let seen = match (&pushed, state.settings.push) {
        (Some(pushed), _) if pushed.parameter("client_id") == seen.parameter("client_id") => pushed,
        (None, Push::No | Push::Offered) if reference.is_empty() => seen,
        // Used, expired, never pushed, or another client's (RFC 9126 section 4).
        _ => {
            return Ok(html(
                StatusCode::BAD_REQUEST,
                page::error("PAR not found. Not issued or used twice."),
            ));
        }
    };
    let redirect_uri = seen.parameter("redirect_uri");
    let loopback = Url::parse(redirect_uri)
        .is_ok_and(|url| url.scheme() == "http" && matches!(url.host_str(), Some("127.0.0.1" | "localhost")));
    if seen.parameter("client_id") != state.settings.client_id {
        return Ok(html(StatusCode::BAD_REQUEST, page::error("Client not found.")));
    }
    if !loopback {
        return Ok(html(StatusCode::BAD_REQUEST, page::error("Invalid parameter: redirect_uri")));
    }
    let authorization = Authorization {
        redirect_uri: redirect_uri.to_owned(),
        state: seen.parameter("state").to_owned(),
        scope: seen.parameter("scope").to_owned(),
        code_challenge: seen.parameter("code_challenge").to_owned(),
        nonce: seen.parameter("nonce").to_owned(),
        user: state.settings.user.clone(),
        form_post: seen.parameter("response_mode") == "form_post",
        device_code: String::new(),
        max_age: !seen.parameter("max_age").is_empty(),
        key: seen.parameter("dpop_jkt").to_owned(),
    };
    let pkce = seen.parameter("code_challenge_method") == "S256" || authorization.code_challenge.is_empty();
    if seen.parameter("response_type") != "code" || !pkce {
        return back(shared, &authorization, &[("error", "invalid_request")]);
    }
    let (user, scope) = (state.settings.user.clone(), authorization.scope.clone());
    match state.sessions.ask(authorization) {
        Ok(pending) => {
            let action = format!("{REALM}/login-actions/consent");
            Ok(html(StatusCode::OK, page::consent(&action, &pending, &user, &scope)))
        }
        Err((_, why)) => Ok(html(StatusCode::INTERNAL_SERVER_ERROR, page::error(why))),
    }
}

/// RFC 9126 section 2.
fn push(shared: &Shared, seen: &Seen) -> Answer {
    let mut state = shared.state();
    if let Some(Fault::Answer { status, headers, body }) = state.front_faults.pop_front() {
        return canned(status, &headers, body);
    }
    if !authenticated(shared, &mut state, seen) {
        return Ok(json_answer(refused(
            StatusCode::UNAUTHORIZED,
            ("invalid_client", "Authentication failed."),
        )));
    }
    // Only of resources there may be several (RFC 8707 section 2).
    let twice = |(name, _): &(String, String)| {
        name != "resource" && seen.parameters.iter().filter(|(n, _)| n == name).count() > 1
    };
    if !seen.parameter("request_uri").is_empty() || seen.parameters.iter().any(twice) {
        return Ok(json_answer(refused(StatusCode::BAD_REQUEST, ("invalid_request", "Not to be pushed"))));
    }
    let pushed = match state.sessions.push(seen.clone()) {
        Ok(reference) => json!({ "request_uri": reference, "expires_in": state.settings.push_lifetime }),
        Err(refusal) => return Ok(json_answer(refused(StatusCode::INTERNAL_SERVER_ERROR, refusal))),
    };
    Ok(response(StatusCode::CREATED, "application/json", pushed.to_string().into()))
}

/// RFC 8628 section 3.1.
fn authorize_device(shared: &Shared, seen: &Seen) -> Answer {
    let now = shared.clock.now();
    let mut state = shared.state();
    if let Some(Fault::Answer { status, headers, body }) = state.front_faults.pop_front() {
        return canned(status, &headers, body);
    }
    let settings = state.settings.clone();
    if !authenticated(shared, &mut state, seen) {
        return Ok(json_answer(refused(
            StatusCode::UNAUTHORIZED,
            ("invalid_client", "Authentication failed."),
        )));
    }
    let authorization = Authorization {
        scope: seen.parameter("scope").to_owned(),
        code_challenge: seen.parameter("code_challenge").to_owned(),
        user: settings.user.clone(),
        max_age: !seen.parameter("max_age").is_empty(),
        ..Authorization::default()
    };
    let (device_code, user_code) = match state.sessions.ask_device(authorization, &settings, &now) {
        Ok(codes) => codes,
        Err(refusal) => return Ok(json_answer(refused(StatusCode::INTERNAL_SERVER_ERROR, refusal))),
    };
    let page = format!("{}/device", shared.issuer());
    let body = json!({
        "device_code": device_code,
        "user_code": user_code,
        "verification_uri": page,
        "verification_uri_complete": format!("{page}?user_code={user_code}"),
        "expires_in": settings.device_lifetime.as_secs(),
        "interval": settings.device_interval,
    });
    Ok(response(StatusCode::OK, "application/json", body.to_string().into()))
}

/// The verification page, for an address that has the code in it.
fn device(shared: &Shared, seen: &Seen) -> Response<Body> {
    let mut state = shared.state();
    let Some(authorization) = state.sessions.by_user_code(seen.parameter("user_code")) else {
        return html(StatusCode::BAD_REQUEST, page::error("No device waits for this code."));
    };
    let (user, scope) = (authorization.user.clone(), authorization.scope.clone());
    match state.sessions.ask(authorization) {
        Ok(pending) => {
            let action = format!("{REALM}/login-actions/consent");
            html(StatusCode::OK, page::consent(&action, &pending, &user, &scope))
        }
        Err((_, why)) => html(StatusCode::INTERNAL_SERVER_ERROR, page::error(why)),
    }
}

fn consent(shared: &Shared, seen: &Seen) -> Answer {
    let mut state = shared.state();
    let Some(authorization) = state.sessions.answered(seen.parameter("pending")) else {
        return Ok(html(StatusCode::BAD_REQUEST, page::error("This page has expired")));
    };
    if !authorization.device_code.is_empty() {
        let granted = !seen.parameter("accept").is_empty();
        state.sessions.answer_device(&authorization.device_code, granted);
        return Ok(html(StatusCode::OK, page::device_answered()));
    }
    if seen.parameter("accept").is_empty() {
        return back(shared, &authorization, &[("error", "access_denied")]);
    }
    match state.sessions.code_for(authorization.clone()) {
        Ok(code) => back(shared, &authorization, &[("session_state", "sandbox"), ("code", &code)]),
        Err((code, _)) => back(shared, &authorization, &[("error", code)]),
    }
}

/// Sends the browser back, with `state` and with `iss` (RFC 9207).
fn back(shared: &Shared, authorization: &Authorization, more: &[(&str, &str)]) -> Answer {
    if authorization.form_post {
        let issuer = shared.issuer();
        let mut parameters = vec![("state", authorization.state.as_str()), ("iss", issuer.as_str())];
        parameters.extend_from_slice(more);
        return Ok(html(StatusCode::OK, page::form_post(&authorization.redirect_uri, &parameters)));
    }
    let mut url = Url::parse(&authorization.redirect_uri).map_err(io::Error::other)?;
    url.query_pairs_mut()
        .append_pair("state", &authorization.state)
        .append_pair("iss", &shared.issuer())
        .extend_pairs(more);
    let mut answer = response(StatusCode::FOUND, "text/plain", Bytes::new());
    answer.headers_mut().insert(LOCATION, HeaderValue::from_str(url.as_str()).map_err(io::Error::other)?);
    Ok(answer)
}

async fn token(shared: &Shared, seen: &Seen) -> Answer {
    let mut released = shared.releases.subscribe();
    released.mark_unchanged();
    let fault = {
        let mut state = shared.state();
        state.faults.pop_front().or_else(|| state.standing_fault.clone())
    };
    let mut patch = Value::Null;
    let mut lose = false;
    match fault {
        None => {}
        Some(Fault::Answer { status, headers, body }) => return canned(status, &headers, body),
        Some(Fault::HangUp) => return Err(io::Error::other("hanging up")),
        Some(Fault::LoseAnswer) => lose = true,
        Some(Fault::Hold) => {
            let _ = released.changed().await;
        }
        Some(Fault::Patch(with)) => patch = with,
        Some(Fault::Stall) => {
            let begun = [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{\"acc")))];
            let stalled = stream::iter(begun).chain(stream::pending());
            let mut answer = Response::new(BodyExt::boxed(StreamBody::new(stalled)));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            return Ok(answer);
        }
    }
    let served = serve_token(shared, seen);
    if lose {
        return Err(io::Error::other("losing the answer"));
    }
    let (status, mut body) = served;
    fault::merge(&mut body, &patch);
    let mut answer = response(status, "application/json", Value::Object(body).to_string().into());
    if shared.state().settings.dpop == Dpop::WithNonce {
        answer.headers_mut().insert("dpop-nonce", HeaderValue::from_static(NONCE));
    }
    Ok(answer)
}

fn serve_token(shared: &Shared, seen: &Seen) -> (StatusCode, Map<String, Value>) {
    let now = shared.clock.now();
    let mut state = shared.state();
    let settings = state.settings.clone();
    if !authenticated(shared, &mut state, seen) {
        let refusal = ("unauthorized_client", "Invalid client or Invalid client credentials");
        return refused(StatusCode::UNAUTHORIZED, refusal);
    }
    let proof = Proved {
        method: "POST",
        uri: &format!("{}{}", shared.base, seen.path),
        access_token: None,
        nonce: (settings.dpop == Dpop::WithNonce).then_some(NONCE),
        now: now.wall.as_secs(),
    };
    let key = match settings.dpop {
        Dpop::No => Ok(String::new()),
        Dpop::Required | Dpop::WithNonce => state.proofs.check(seen.header("dpop"), &proof),
    };
    let key = match key {
        Ok(key) => key,
        Err(Refused::Nonce) => {
            return refused(
                StatusCode::BAD_REQUEST,
                ("use_dpop_nonce", "Authorization server requires nonce"),
            );
        }
        Err(Refused::Proof) => {
            return refused(StatusCode::BAD_REQUEST, ("invalid_dpop_proof", "DPoP proof is not valid"));
        }
    };
    let issued = match seen.parameter("grant_type") {
        "authorization_code" => {
            let (code, verifier) = (seen.parameter("code"), seen.parameter("code_verifier"));
            state.sessions.exchange(code, seen.parameter("redirect_uri"), (verifier, &key), &settings, &now)
        }
        "urn:ietf:params:oauth:grant-type:device_code" => {
            let (code, verifier) = (seen.parameter("device_code"), seen.parameter("code_verifier"));
            state.sessions.poll_device(code, (verifier, &key), &settings, &now)
        }
        "refresh_token" => {
            let apis = ["audience", "resource"].map(|name| seen.parameter(name));
            let api = apis.into_iter().find(|api| !api.is_empty()).unwrap_or_default();
            let narrow = Narrow { scope: seen.parameter("scope"), api };
            state.sessions.refresh(seen.parameter("refresh_token"), &narrow, &key, &settings, &now)
        }
        token::EXCHANGE_GRANT => {
            let narrow = Narrow { scope: seen.parameter("scope"), api: seen.parameter("audience") };
            state.sessions.exchange_token(seen.parameter("subject_token"), &narrow, &key, &settings, &now)
        }
        _ => Err(("unsupported_grant_type", "Unsupported grant_type")),
    };
    let mut body = match issued {
        Ok(body) => body,
        Err(refusal) => return refused(StatusCode::BAD_REQUEST, refusal),
    };
    if let Some(login) = state.sessions.openid_login(&body) {
        let keys = shared.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let (issuer, client, at) = (shared.issuer(), &settings.client_id, now.wall.as_secs());
        match keys.id_token(&issuer, client, login, &body, at, &settings.id_token) {
            Ok(id_token) => body.insert("id_token".to_owned(), id_token.into()),
            Err(_) => return refused(StatusCode::INTERNAL_SERVER_ERROR, ("server_error", "no key")),
        };
    }
    (StatusCode::OK, body)
}

fn refused(status: StatusCode, (code, description): Refusal) -> (StatusCode, Map<String, Value>) {
    let body = json!({ "error": code, "error_description": description });
    (status, body.as_object().cloned().unwrap_or_default())
}

fn end_session(shared: &Shared, seen: &Seen, parameter: &str) -> Response<Body> {
    let mut state = shared.state();
    if !authenticated(shared, &mut state, seen) {
        return response(
            StatusCode::UNAUTHORIZED,
            "application/json",
            "{\"error\":\"invalid_client\"}".into(),
        );
    }
    if let (left @ 1.., seconds) = state.busy_ends {
        state.busy_ends.0 = left - 1;
        let mut answer = response(StatusCode::SERVICE_UNAVAILABLE, "text/plain", Bytes::new());
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
        return answer;
    }
    state.sessions.end(seen.parameter(parameter));
    shared.arrivals.send_modify(|count| *count += 1);
    response(StatusCode::NO_CONTENT, "text/plain", Bytes::new())
}

/// OpenID Connect Discovery 1.0 section 3.
fn metadata(shared: &Shared) -> Response<Body> {
    let issuer = shared.issuer();
    let endpoint = |name: &str| format!("{issuer}/protocol/openid-connect/{name}");
    let document = json!({
        "issuer": issuer,
        "authorization_endpoint": endpoint("auth"),
        "token_endpoint": endpoint("token"),
        "end_session_endpoint": endpoint("logout"),
        "revocation_endpoint": endpoint("revoke"),
        "userinfo_endpoint": endpoint("userinfo"),
        "jwks_uri": endpoint("certs"),
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "form_post"],
        "authorization_response_iss_parameter_supported": true,
    });
    let mut document = document.as_object().cloned().unwrap_or_default();
    document.insert("device_authorization_endpoint".to_owned(), endpoint("auth/device").into());
    let push = shared.state().settings.push;
    if push != Push::No {
        let endpoint = endpoint("ext/par/request").into();
        document.insert("pushed_authorization_request_endpoint".to_owned(), endpoint);
        document.insert("require_pushed_authorization_requests".to_owned(), (push == Push::Required).into());
    }
    fault::merge(&mut document, &shared.state().settings.metadata);
    response(StatusCode::OK, "application/json", Value::Object(document).to_string().into())
}

fn keys(shared: &Shared) -> Response<Body> {
    let keys = shared.keys.lock().unwrap_or_else(PoisonError::into_inner).set();
    response(StatusCode::OK, "application/json", keys.to_string().into())
}

/// OpenID Connect Core section 5.3.
fn userinfo(shared: &Shared, seen: &Seen) -> Response<Body> {
    let (status, body) = match user(shared, seen) {
        Some(user) => (StatusCode::OK, json!({ "sub": format!("id-of-{user}"), "preferred_username": user })),
        None => (StatusCode::UNAUTHORIZED, json!({ "error": "invalid_token" })),
    };
    response(status, "application/json", body.to_string().into())
}

fn profile(shared: &Shared, seen: &Seen) -> Response<Body> {
    let (status, body) = match user(shared, seen) {
        Some(user) => {
            (StatusCode::OK, json!({ "username": user, "name": user, "login": user, "display_name": user }))
        }
        None => (StatusCode::UNAUTHORIZED, json!({ "error": "invalid_token" })),
    };
    response(status, "application/json", body.to_string().into())
}

/// Who calls an API: a token that is bound to a key counts with a proof only (RFC 9449 section 7).
fn user(shared: &Shared, seen: &Seen) -> Option<String> {
    let now = shared.clock.now();
    let (scheme, token) = seen.header(AUTHORIZATION.as_str()).split_once(' ')?;
    let mut state = shared.state();
    let bound = state.sessions.key_of(token)?.to_owned();
    if bound.is_empty() != (scheme == "Bearer") {
        return None;
    }
    if !bound.is_empty() {
        let uri = format!("{}{}", shared.base, seen.path);
        let request = Proved {
            method: &seen.method,
            uri: &uri,
            access_token: Some(token),
            nonce: None,
            now: now.wall.as_secs(),
        };
        let made_by = state.proofs.check(seen.header("dpop"), &request).ok()?;
        if scheme != "DPoP" || made_by != bound {
            return None;
        }
    }
    state.sessions.user_of(token, &now).map(str::to_owned)
}

fn canned(status: u16, headers: &[(String, String)], body: Vec<u8>) -> Answer {
    let mut answer = Response::new(BodyExt::boxed(Full::new(Bytes::from(body))));
    *answer.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
    for (name, value) in headers {
        let name = HeaderName::try_from(name.as_str()).map_err(io::Error::other)?;
        answer.headers_mut().append(name, HeaderValue::from_str(value).map_err(io::Error::other)?);
    }
    Ok(answer)
}

fn json_answer((status, body): (StatusCode, Map<String, Value>)) -> Response<Body> {
    response(status, "application/json", Value::Object(body).to_string().into())
}

fn html(status: StatusCode, body: String) -> Response<Body> {
    response(status, "text/html; charset=utf-8", body.into())
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut answer = Response::new(BodyExt::boxed(Full::new(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
