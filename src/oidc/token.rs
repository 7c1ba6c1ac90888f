//! The token endpoint's answers, read and sorted. Pure.

use std::time::Duration;

use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

use super::error::{Class, ProviderError};
use super::hint;
use super::text::clean;
use crate::dpop::Nonce;
use crate::secret::{AccessToken, IdToken, RefreshToken};
use crate::tokens::{Lifetime, TokenResponse};

/// Lifetimes are cut to this: timers need no more.
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// An answer has about ten.
const MOST_MEMBERS: usize = 40;

/// An HTTP answer, body read to its end.
pub struct HttpAnswer {
    pub status: u16,
    pub content_type: Option<String>,
    pub retry_after: Option<Duration>,
    /// The provider's own clock (RFC 9110 section 6.6.1), in seconds since the Unix epoch.
    pub date: Option<u64>,
    pub etag: Option<String>,
    /// For the next proof (RFC 9449 section 8).
    pub dpop_nonce: Option<Nonce>,
    pub body: Zeroizing<Vec<u8>>,
}

#[cfg(test)]
impl HttpAnswer {
    pub(super) fn json(status: u16, body: &str) -> Self {
        Self {
            status,
            content_type: Some("application/json".into()),
            retry_after: None,
            date: None,
            etag: None,
            dpop_nonce: None,
            body: body.as_bytes().to_vec().into(),
        }
    }
}

/// RFC 8693 section 2.1.
pub const EXCHANGE_GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// RFC 8693 section 3.
pub const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The same, said of one that is a JWT.
const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Reads an answer to a token exchange (RFC 8693 section 2.2). Its tokens are no login: a refresh token among
/// them is dropped.
///
/// # Errors
/// As [`read_answer`], and for tokens that are no access tokens.
pub fn read_exchanged(answer: &HttpAnswer, bound: bool) -> Result<TokenResponse, ProviderError> {
    let members = members(answer, "token endpoint")?;
    let tokens = read(answer, &members, bound, true);
    let tokens = tokens.map_err(|error| ProviderError { salvaged: None, ..error })?;
    match members.get("issued_token_type").and_then(Value::as_str) {
        Some(ACCESS_TOKEN_TYPE | JWT_TYPE) => {}
        Some(other) => {
            let message =
                format!("the provider exchanged the token for a {:?}, no access token", clean(other));
            return Err(failure(answer, Class::Refused, message));
        }
        None => tracing::warn!("the token endpoint did not say what it has issued; taken as an access token"),
    }
    Ok(TokenResponse { refresh_token: None, refresh_expires_in: Lifetime::Unknown, id_token: None, ..tokens })
}

/// Reads an answer to a token request (RFC 6749 sections 5.1 and 5.2). The JSON decides, not the
/// status alone: some providers send errors with 200.
///
/// Of members that appear twice the last one counts. `bound`: a token bound to our key was asked for
/// (RFC 9449 section 5), and no other is taken.
///
/// # Errors
/// Every answer that is no usable token, sorted by [`classify`].
pub fn read_answer(answer: &HttpAnswer, bound: bool) -> Result<TokenResponse, ProviderError> {
    read(answer, &members(answer, "token endpoint")?, bound, false)
}

fn read(
    answer: &HttpAnswer,
    members: &Members,
    bound: bool,
    exchanged: bool,
) -> Result<TokenResponse, ProviderError> {
    let string = |key: &str| members.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let refresh_token = string("refresh_token").and_then(|text| RefreshToken::parse(text).ok());
    let unusable = |class, message: &str| ProviderError {
        salvaged: refresh_token.clone(),
        ..failure(answer, class, message.to_owned())
    };
    if answer.content_type.as_deref().is_some_and(|kind| !is_json(kind)) {
        return Err(unusable(Class::Malformed, "the token endpoint's answer is not declared as JSON"));
    }
    match string("token_type") {
        Some(kind) if bound && kind.eq_ignore_ascii_case("dpop") => {}
        kind if bound => {
            let kind = kind.map_or_else(|| "no type".to_owned(), |kind| format!("type {:?}", clean(kind)));
            return Err(unusable(
                Class::Refused,
                &format!(
                    "the provider issued a token of {kind}, bound to no key; switch DPoP on for this client there, \
                     or remove `dpop = true`"
                ),
            ));
        }
        None => tracing::warn!("the token endpoint named no token_type; taken as bearer"),
        Some(kind) if kind.eq_ignore_ascii_case("bearer") => {}
        // What some say of every exchanged token (RFC 8693 section 2.2.1).
        Some(kind) if exchanged && kind.eq_ignore_ascii_case("n_a") => {}
        Some(kind) => {
            return Err(unusable(
                Class::Refused,
                &format!("the provider issued a token of type {:?}, which is not supported", clean(kind)),
            ));
        }
    }
    let Some(access_token) = string("access_token").and_then(|text| AccessToken::parse(text).ok()) else {
        return Err(unusable(Class::Malformed, "the token endpoint's answer has no usable access_token"));
    };
    let refresh_expires_in =
        members.get("refresh_expires_in").or_else(|| members.get("refresh_token_expires_in"));
    Ok(TokenResponse {
        access_token,
        expires_in: members.get("expires_in").map_or(Lifetime::Unknown, lifetime),
        refresh_token,
        // Keycloak says 0 for a refresh token without a stated limit.
        refresh_expires_in: match refresh_expires_in.map_or(Lifetime::Unknown, lifetime) {
            Lifetime::Over if refresh_expires_in.is_some_and(is_zero) => Lifetime::Unknown,
            other => other,
        },
        scope: scope(members.get("scope")),
        id_token: string("id_token").and_then(|text| IdToken::parse(text).ok()),
        servers: String::new(),
    })
}

/// Whether the same request is wanted again with the nonce that came along (RFC 9449 section 8); nothing
/// was spent then.
#[must_use]
pub fn wants_nonce(answer: &HttpAnswer) -> bool {
    matches!(answer.status, 400 | 401) && answer.dpop_nonce.is_some() && has_code(answer, "use_dpop_nonce")
}

/// Whether the scopes alone were refused; the request was not acted on then (RFC 6749 section 5.2).
#[must_use]
pub fn refuses_scope(answer: &HttpAnswer) -> bool {
    let code = "invalid_scope";
    classify(Some(code), answer.status) == Class::Refused && has_code(answer, code)
}

fn has_code(answer: &HttpAnswer, code: &str) -> bool {
    Members::read(&answer.body).is_some_and(|all| all.get("error").and_then(Value::as_str) == Some(code))
}

/// What an answer holds, without any of it: the names of its members, and the numbers of those that are
/// lifetimes. For diagnosis.
#[must_use]
pub fn contents(answer: &HttpAnswer) -> String {
    let Some(members) = Members::read(&answer.body) else {
        return "no JSON object".to_owned();
    };
    let described = members.0.iter().take(MOST_MEMBERS).map(|(name, value)| match lifetime(value) {
        Lifetime::For(time) if name.ends_with("_in") => format!("{}={} s", clean(name), time.as_secs()),
        Lifetime::Over if name.ends_with("_in") => format!("{}=0 or less", clean(name)),
        _ => clean(name),
    });
    described.collect::<Vec<_>>().join(", ")
}

/// The members of an endpoint's successful answer.
///
/// # Errors
/// Everything that is no JSON object or an error (RFC 6749 section 5.2), sorted by [`classify`].
pub(super) fn members(answer: &HttpAnswer, endpoint: &str) -> Result<Members, ProviderError> {
    let fail = |class, message| failure(answer, class, message);
    let status = answer.status;
    let success = matches!(status, 200 | 201);
    let Some(members) = Members::read(&answer.body) else {
        let class = match by_status(status) {
            // The provider meant to answer and may have acted: the refresh token may be spent.
            None if success && looks_like_json(&answer.body) => Class::Ambiguous,
            Some(Class::Unreachable) => Class::Unreachable,
            _ => Class::Malformed,
        };
        let hint = hint::in_brackets(hint::of_no_json(status, &answer.body));
        let message = format!("the {endpoint} answered with status {status} and no JSON object{hint}");
        return Err(fail(class, message));
    };

    if let Some(error) = members.get("error") {
        let code = error.as_str().map(clean);
        let text = |key| members.get(key).and_then(Value::as_str).map(clean).filter(|text| !text.is_empty());
        let mut message = code.clone().unwrap_or_else(|| format!("status {status}"));
        let (description, numbers) = (text("error_description"), members.get("error_codes"));
        if let Some(description) = &description {
            message = format!("{message}: {description}");
        }
        if let Some(hint) = hint::of(description.as_deref().unwrap_or_default(), numbers) {
            message = format!("{message}; {hint}");
        }
        let more = diagnosis(&members);
        if !more.is_empty() {
            tracing::info!(more, "what the provider says besides of an error");
        }
        return Err(ProviderError {
            class: if hint::passes(numbers) { Class::Unreachable } else { classify(error.as_str(), status) },
            message,
            code,
            retry_after: answer.retry_after,
            salvaged: None,
        });
    }
    if !success {
        let class = by_status(status).unwrap_or(Class::Malformed);
        return Err(fail(class, format!("the {endpoint} answered with status {status}")));
    }

    Ok(members)
}

/// What helps whoever looks into an error at the provider, bounded like all of its texts (C16).
fn diagnosis(members: &Members) -> String {
    let kept = ["suberror", "error_uri", "error_codes", "trace_id", "correlation_id", "request_id"];
    let told = kept.iter().filter_map(|key| match members.get(key)? {
        Value::String(text) => Some(format!("{key}={}", clean(text))),
        Value::Array(numbers) => {
            let numbers: Vec<_> = numbers.iter().filter_map(Value::as_u64).take(MOST_MEMBERS).collect();
            Some(format!("{key}={numbers:?}"))
        }
        _ => None,
    });
    told.collect::<Vec<_>>().join(", ")
}

fn failure(answer: &HttpAnswer, class: Class, message: String) -> ProviderError {
    ProviderError { class, message, code: None, retry_after: answer.retry_after, salvaged: None }
}

/// The answer's members, wiped at the end: three of them are tokens.
pub(super) struct Members(serde_json::Map<String, Value>);

impl Members {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => Some(Self(members)),
            _ => None,
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for member in self.0.values_mut() {
            if let Value::String(text) = member {
                text.zeroize();
            }
        }
    }
}

/// What a failed token request means, from the OAuth `error` code and the status; never from the
/// description, whose words change with the provider's version.
#[must_use]
pub fn classify(code: Option<&str>, status: u16) -> Class {
    match (code, by_status(status)) {
        // The last two are GitHub's names for a code and a refresh token that are no longer good.
        (
            Some(
                "invalid_grant"
                | "interaction_required"
                | "login_required"
                | "consent_required"
                | "bad_verification_code"
                | "bad_refresh_token",
            ),
            _,
        ) => Class::SessionOver,
        (_, Some(class)) => class,
        // The last one is about a proof that came a moment too late: the next has a newer nonce.
        (Some("temporarily_unavailable" | "server_error" | "slow_down" | "use_dpop_nonce"), None) => {
            Class::Unreachable
        }
        (Some(_), None) => Class::Refused,
        (None, None) if (400..500).contains(&status) => Class::Refused,
        (None, None) => Class::Malformed,
    }
}

/// The class that a status alone settles.
fn by_status(status: u16) -> Option<Class> {
    match status {
        408 | 425 | 429 | 500..=599 => {
            Some(if status == 511 { Class::Malformed } else { Class::Unreachable })
        }
        // Keycloak under concurrency: the request may have been acted on.
        409 => Some(Class::Ambiguous),
        404 | 405 | 407 | 451 => Some(Class::Malformed),
        200 | 201 | 400..=499 => None,
        _ => Some(Class::Malformed),
    }
}

/// A number of seconds as providers write it: an integer, an integral float, either as a string.
pub(super) fn lifetime(value: &Value) -> Lifetime {
    let seconds = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse::<i64>().ok().map(to_f64),
        _ => None,
    };
    match seconds {
        Some(seconds) if seconds.fract() != 0.0 || !seconds.is_finite() => Lifetime::Unknown,
        Some(seconds) if seconds <= 0.0 => Lifetime::Over,
        Some(seconds) => Lifetime::For(Duration::from_secs_f64(seconds.min(MAX_LIFETIME.as_secs_f64()))),
        None => Lifetime::Unknown,
    }
}

#[expect(clippy::cast_precision_loss, reason = "lifetimes that large are cut to a year anyway")]
fn to_f64(seconds: i64) -> f64 {
    seconds as f64
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0) || value.as_str().is_some_and(|text| text.trim() == "0")
}

fn scope(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(clean_scope(text)),
        Value::Array(parts) => {
            Some(clean_scope(&parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")))
        }
        _ => None,
    }
}

/// RFC 6749 section 3.3: printable ASCII without quotes; bounded for the bus.
fn clean_scope(text: &str) -> String {
    text.chars().filter(|c| matches!(c, ' '..='~')).take(4096).collect()
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json") || kind.to_ascii_lowercase().ends_with("+json")
}

fn looks_like_json(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'{')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(status: u16, body: &str) -> HttpAnswer {
        HttpAnswer::json(status, body)
    }

    fn typed(status: u16, content_type: &str, body: &[u8]) -> HttpAnswer {
        HttpAnswer {
            content_type: Some(content_type.to_owned()),
            body: body.to_vec().into(),
            ..HttpAnswer::json(status, "")
        }
    }

    fn class_of(answer: &HttpAnswer) -> Option<Class> {
        read_answer(answer, false).err().map(|error| error.class)
    }

    /// J4: URNs to the letter, no login of it, and no type of token that an API does not take.
    #[test]
    fn an_exchanged_token_is_an_access_token_and_no_login() {
        let read = |issued: &str, kind: &str| {
            let issued = format!("urn:ietf:params:oauth:token-type:{issued}");
            let body = format!(
                r#"{{"access_token":"canary-at","issued_token_type":"{issued}","token_type":"{kind}","refresh_token":"canary-rt"}}"#
            );
            read_exchanged(&json(200, &body), false)
        };
        for (issued, kind) in [("access_token", "Bearer"), ("jwt", "N_A")] {
            let tokens = read(issued, kind).ok().unwrap();
            assert!(tokens.refresh_token.is_none() && tokens.access_token.expose() == "canary-at");
        }
        for (issued, kind) in [("refresh_token", "N_A"), ("saml2", "N_A"), ("access_token", "mac")] {
            let error = read(issued, kind).err().unwrap();
            assert!(error.class == Class::Refused && error.salvaged.is_none(), "{issued} {kind}");
        }
    }

    /// L4, C16: Microsoft's numbers say what passes, and what it says besides is kept within bounds.
    #[test]
    fn what_is_said_besides_an_error_is_heeded_and_kept() {
        let body = |number: u32| {
            format!(
                r#"{{"error":"invalid_grant","error_description":"AADSTS{number}: words","error_codes":[{number}],"suberror":"bad\u0000token","trace_id":"{}","error_uri":"https://login.example/e?code={number}"}}"#,
                "t ".repeat(100_000)
            )
        };
        let error = |number| read_answer(&json(400, &body(number)), false).err().unwrap();
        assert_eq!(error(90_033).class, Class::Unreachable);
        assert_eq!(error(65_001).class, Class::SessionOver);
        assert!(error(65_001).message.ends_with("words; nobody has consented to what the client asks for"));

        let kept = diagnosis(&Members::read(body(65_001).as_bytes()).unwrap());
        assert!(kept.starts_with("suberror=bad token, error_uri=https://login.example/e?code=65001, error_codes=[65001], trace_id=t"));
        assert!(kept.len() < 1000, "{}", kept.len());
        assert_eq!(diagnosis(&Members::read(br#"{"error":"x","trace_id":7}"#).unwrap()), "");
    }

    /// O: every row of the classification table.
    #[test]
    fn every_kind_of_answer_has_its_class() {
        let error = |code: &str| format!(r#"{{"error":"{code}","error_description":"whatever words"}}"#);
        let rows: &[(u16, String, Class)] = &[
            (400, error("invalid_grant"), Class::SessionOver),
            (401, error("invalid_grant"), Class::SessionOver),
            (200, error("invalid_grant"), Class::SessionOver),
            // L5.
            (200, error("bad_refresh_token"), Class::SessionOver),
            (200, error("bad_verification_code"), Class::SessionOver),
            (200, error("incorrect_client_credentials"), Class::Refused),
            (400, error("interaction_required"), Class::SessionOver),
            (400, error("login_required"), Class::SessionOver),
            (400, error("consent_required"), Class::SessionOver),
            // K14: four spellings of wrong client credentials.
            (400, error("invalid_client"), Class::Refused),
            (401, error("invalid_client"), Class::Refused),
            (400, error("unauthorized_client"), Class::Refused),
            (401, error("unauthorized_client"), Class::Refused),
            (400, error("invalid_scope"), Class::Refused),
            (400, error("invalid_request"), Class::Refused),
            // K27: the realm wants https.
            (403, error("invalid_request"), Class::Refused),
            (400, error("unsupported_grant_type"), Class::Refused),
            (400, error("not_allowed"), Class::Refused),
            (400, error("INVALID_GRANT"), Class::Refused),
            (400, error("something_new"), Class::Refused),
            (400, r#"{"error":{"code":7}}"#.into(), Class::Refused),
            (400, error("temporarily_unavailable"), Class::Unreachable),
            (200, error("server_error"), Class::Unreachable),
            (408, "{}".into(), Class::Unreachable),
            (425, "{}".into(), Class::Unreachable),
            (429, error("slow_down"), Class::Unreachable),
            (500, error("unknown_error"), Class::Unreachable),
            (503, "busy".into(), Class::Unreachable),
            (599, "{}".into(), Class::Unreachable),
            (409, error("unknown_error"), Class::Ambiguous),
            (404, "{}".into(), Class::Malformed),
            (405, "{}".into(), Class::Malformed),
            (407, "{}".into(), Class::Malformed),
            (451, "{}".into(), Class::Malformed),
            (511, "<html>log in to the hotel</html>".into(), Class::Malformed),
            (302, String::new(), Class::Malformed),
            (204, String::new(), Class::Malformed),
            (206, r#"{"access_token":"a"}"#.into(), Class::Malformed),
            // M1: a captive portal, whatever its status.
            (200, "<html>hello</html>".into(), Class::Malformed),
            (400, "<html>blocked</html>".into(), Class::Malformed),
            (403, "<html>blocked</html>".into(), Class::Malformed),
            // M2: after a sent refresh a broken answer may hide a rotation.
            (200, r#"{"access_token":"canary-a","#.into(), Class::Ambiguous),
            (200, "[]".into(), Class::Malformed),
            (200, "null".into(), Class::Malformed),
            (200, "17".into(), Class::Malformed),
            (200, "\u{feff}{}".into(), Class::Malformed),
            // M8.
            (200, r#"{"token_type":"Bearer"}"#.into(), Class::Malformed),
            (200, r#"{"access_token":"","token_type":"Bearer"}"#.into(), Class::Malformed),
            (200, r#"{"access_token":{},"token_type":"Bearer"}"#.into(), Class::Malformed),
            // C15: it would split a header of a caller.
            (200, r#"{"access_token":"a\r\nb","token_type":"Bearer"}"#.into(), Class::Malformed),
            // C9, J6.
            (200, r#"{"access_token":"a","token_type":"DPoP"}"#.into(), Class::Refused),
            (400, r#"{"error":"use_dpop_nonce"}"#.into(), Class::Unreachable),
            (400, r#"{"error":"invalid_dpop_proof"}"#.into(), Class::Refused),
            (200, r#"{"access_token":"a","token_type":"mac"}"#.into(), Class::Refused),
        ];
        for (status, body, class) in rows {
            assert_eq!(class_of(&json(*status, body)), Some(*class), "{status} {body}");
        }
    }

    /// K12: the description changes nothing.
    #[test]
    fn the_description_never_decides() {
        for text in ["Token is not active", "invalid_client", "", "Session not active"] {
            let body = serde_json::json!({"error": "invalid_grant", "error_description": text}).to_string();
            assert_eq!(class_of(&json(400, &body)), Some(Class::SessionOver));
        }
    }

    fn expires(raw: &str) -> Lifetime {
        let body = format!(r#"{{"access_token":"a","token_type":"bearer","expires_in":{raw}}}"#);
        read_answer(&json(200, &body), false).unwrap().expires_in
    }

    /// C10, M3, M4, M5, K7.
    #[test]
    fn expires_in_is_read_in_all_its_spellings() {
        let seconds = |n| Lifetime::For(Duration::from_secs(n));
        for (raw, lifetime) in [
            ("300", seconds(300)),
            ("\"300\"", seconds(300)),
            ("\"3600 \"", seconds(3600)),
            ("300.0", seconds(300)),
            ("1e3", seconds(1000)),
            ("0", Lifetime::Over),
            ("-15933", Lifetime::Over),
            ("-1586880441", Lifetime::Over),
            ("99999999999999999999999999", Lifetime::For(MAX_LIFETIME)),
            ("9223372036854775807", Lifetime::For(MAX_LIFETIME)),
            ("0.5", Lifetime::Unknown),
            ("\"soon\"", Lifetime::Unknown),
            ("null", Lifetime::Unknown),
            ("[]", Lifetime::Unknown),
        ] {
            assert_eq!(expires(raw), lifetime, "{raw}");
        }
        let missing = read_answer(&json(200, r#"{"access_token":"a","expires_at":1}"#), false).unwrap();
        assert_eq!(missing.expires_in, Lifetime::Unknown);
    }

    /// K6, K7, L5.
    #[test]
    fn the_refresh_tokens_lifetime_zero_is_unknown_and_negative_is_over() {
        for (member, lifetime) in [
            (r#""refresh_expires_in":1800"#, Lifetime::For(Duration::from_secs(1800))),
            (r#""refresh_token_expires_in":"1800""#, Lifetime::For(Duration::from_secs(1800))),
            (r#""refresh_expires_in":0"#, Lifetime::Unknown),
            (r#""refresh_expires_in":"0""#, Lifetime::Unknown),
            (r#""refresh_expires_in":-3"#, Lifetime::Over),
            (r#""x":1"#, Lifetime::Unknown),
        ] {
            let body = format!(r#"{{"access_token":"a","token_type":"Bearer",{member}}}"#);
            assert_eq!(
                read_answer(&json(200, &body), false).unwrap().refresh_expires_in,
                lifetime,
                "{member}"
            );
        }
    }

    /// C9, C11, C12, D1, M7.
    #[test]
    fn members_come_in_many_shapes() {
        let read = |body: &str| read_answer(&json(200, body), false).unwrap();
        assert!(
            read(r#"{"access_token":"a","token_type":"BEARER","refresh_token":""}"#).refresh_token.is_none()
        );
        assert!(
            read(r#"{"access_token":"a","refresh_token":null,"extra":[1,{"x":2}]}"#).refresh_token.is_none()
        );
        assert_eq!(read(r#"{"access_token":"a","scope":["b","c"]}"#).scope.as_deref(), Some("b c"));
        assert_eq!(read(r#"{"access_token":"a","scope":"b"}"#).scope.as_deref(), Some("b"));
        assert_eq!(read(r#"{"access_token":"a"}"#).scope, None);
        assert_eq!(read(r#"{"access_token":"a","access_token":"b"}"#).access_token.expose(), "b");
    }

    /// O: what may have been acted on is no refusal of the scopes.
    #[test]
    fn refused_scopes_are_told_from_everything_else() {
        for (status, body, refused) in [
            (400, r#"{"error":"invalid_scope"}"#, true),
            (200, r#"{"error":"invalid_scope"}"#, true),
            (409, r#"{"error":"invalid_scope"}"#, false),
            (500, r#"{"error":"invalid_scope"}"#, false),
            (400, r#"{"error":"invalid_request","error_description":"invalid_scope"}"#, false),
            (400, r#"{"error":"invalid_grant"}"#, false),
            (400, "invalid_scope", false),
            (200, r#"{"access_token":"canary-a"}"#, false),
        ] {
            assert_eq!(refuses_scope(&json(status, body)), refused, "{status} {body}");
        }
    }

    /// Only names and lifetimes are told, whatever the members hold.
    #[test]
    fn an_answers_contents_are_told_without_its_values() {
        let body = r#"{"access_token":"canary-a","expires_in":"300","refresh_expires_in":0,
            "refresh_token":"canary-r","note_in":"canary-n","scope":"profile"}"#;
        assert_eq!(
            contents(&json(200, body)),
            "access_token, expires_in=300 s, note_in, refresh_expires_in=0 or less, refresh_token, scope"
        );
        assert_eq!(contents(&json(200, "<html>canary</html>")), "no JSON object");
    }

    /// M8: what can still be saved is saved.
    #[test]
    fn a_rotated_refresh_token_is_salvaged_from_an_unusable_answer() {
        let error = read_answer(&json(200, r#"{"access_token":"","refresh_token":"canary-r"}"#), false)
            .err()
            .unwrap();
        assert_eq!(error.salvaged.as_ref().map(RefreshToken::expose), Some("canary-r"));
    }

    /// M11.
    #[test]
    fn json_under_another_type_is_believed_for_errors_only() {
        let error = typed(400, "text/html", br#"{"error":"invalid_grant"}"#);
        assert_eq!(class_of(&error), Some(Class::SessionOver));
        let success = typed(200, "text/html; charset=utf-8", br#"{"access_token":"a"}"#);
        assert_eq!(class_of(&success), Some(Class::Malformed));
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_parser_panic(status in 100_u16..700, body in any::<Vec<u8>>()) {
            let _ = read_answer(&typed(status, "application/json", &body), false);
        }

        #[test]
        fn no_json_makes_the_parser_panic_or_repeats_a_token(
            status in 100_u16..700,
            error in ".{0,30}", text in ".{0,300}", expires in any::<f64>(), scope in ".{0,50}",
        ) {
            let token = "canary-0123456789-0123456789-0123456789-0123456789-x";
            let body = serde_json::json!({
                "error": error, "error_description": format!("{text} {token}"), "expires_in": expires,
                "access_token": token, "refresh_token": token, "scope": scope,
            }).to_string();
            if let Err(error) = read_answer(&json(status, &body), false) {
                prop_assert!(!error.message.contains("canary-"));
            }
        }
    }
}
