//! Logging in on another device (RFC 8628): what the provider's answers mean. Pure.

use std::time::Duration;

use serde_json::Value;
use url::Url;

use super::error::{Class, ProviderError};
use super::text::clean;
use super::token::{self, HttpAnswer};
use crate::dpop::ProofKey;
use crate::secret::{CodeVerifier, DeviceCode};
use crate::tokens::{Granted, Lifetime, TokenResponse};

/// How long to wait between polls where the provider does not say (section 3.2).
const USUAL_INTERVAL: Duration = Duration::from_secs(5);
/// More than any screen shows.
const MAX_USER_CODE: usize = 64;

/// What a login on another device began with (section 3.2).
pub struct DeviceAuthorization {
    pub device_code: DeviceCode,
    pub user_code: String,
    pub verification_uri: Url,
    /// The same with the code in it.
    pub verification_uri_complete: Option<Url>,
    pub expires_in: Duration,
    pub interval: Duration,
    /// `None` with `pkce = false`.
    pub verifier: Option<CodeVerifier>,
    /// What the tokens shall be bound to.
    pub key: Option<ProofKey>,
}

/// What became of a poll (section 3.5).
pub enum Polled {
    Granted(Box<Granted>),
    /// The user has not answered yet.
    Pending,
    /// Nor this, and the polls come too often; some providers say which pause they want.
    SlowDown(Option<Duration>),
    /// No verdict: the request or its answer was lost, or the provider is in trouble.
    Lost(ProviderError),
    Denied,
    /// The code is too old, or unknown.
    Over,
    /// Any other refusal, and tokens that cannot be taken.
    Failed(ProviderError),
}

impl Polled {
    /// What an error without an OAuth answer means.
    pub(super) fn by_error(error: ProviderError) -> Self {
        match error.class {
            Class::Unreachable | Class::Ambiguous | Class::Malformed => Self::Lost(error),
            Class::SessionOver | Class::Refused | Class::Elsewhere => Self::Failed(error),
        }
    }
}

/// Reads the answer to a device authorization request. Addresses are as safe as the endpoint's own.
///
/// # Errors
/// Every answer that the user could do nothing with.
pub fn read(
    answer: &HttpAnswer,
    scheme: &str,
    verifier: Option<CodeVerifier>,
    key: Option<ProofKey>,
) -> Result<DeviceAuthorization, ProviderError> {
    let members = token::members(answer, "device authorization endpoint")?;
    let without = |what: &str| {
        let why = format!("the device authorization endpoint's answer has no usable {what}");
        ProviderError::new(Class::Malformed, why)
    };
    let string = |name: &str| members.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let url = |name: &str| {
        let url = Url::parse(string(name)?).ok()?;
        (url.scheme() == "https" || url.scheme() == scheme).then_some(url)
    };
    let device_code = string("device_code").and_then(|code| DeviceCode::parse(code).ok());
    let user_code = string("user_code").map(clean).filter(|code| code.len() <= MAX_USER_CODE);
    // Google's name for it is older than the standard's.
    let verification_uri = url("verification_uri").or_else(|| url("verification_url"));
    let expires_in = match members.get("expires_in").map_or(Lifetime::Unknown, token::lifetime) {
        Lifetime::For(life) => life,
        Lifetime::Unknown | Lifetime::Over => return Err(without("expires_in")),
    };
    Ok(DeviceAuthorization {
        device_code: device_code.ok_or_else(|| without("device_code"))?,
        user_code: user_code.ok_or_else(|| without("user_code"))?,
        verification_uri: verification_uri.ok_or_else(|| without("verification_uri"))?,
        verification_uri_complete: url("verification_uri_complete"),
        expires_in,
        interval: interval(&members).unwrap_or(USUAL_INTERVAL),
        verifier,
        key,
    })
}

/// Whether there is such a login, and not for this client (RFC 6749 section 5.2; Keycloak has a switch for each).
/// With a 401 the same code says that the client's secret is wrong.
#[must_use]
pub fn is_barred(status: u16, error: &ProviderError) -> bool {
    let code = error.code.as_deref();
    status != 401 && error.class == Class::Refused && code == Some("unauthorized_client")
}

/// Reads the token endpoint's answer to a poll: by its code, whatever its status, which differs.
///
/// # Errors
/// Everything that is no tokens.
pub fn read_poll(answer: &HttpAnswer, bound: bool) -> Result<TokenResponse, Polled> {
    token::read_answer(answer, bound).map_err(|error| match error.code.as_deref() {
        Some("authorization_pending") => Polled::Pending,
        Some("slow_down") => {
            let members = token::Members::read(&answer.body);
            Polled::SlowDown(members.as_ref().and_then(interval))
        }
        // Microsoft has its own words for two of them.
        Some("access_denied" | "authorization_declined") => Polled::Denied,
        Some("expired_token" | "bad_verification_code" | "invalid_grant") => Polled::Over,
        Some("temporarily_unavailable" | "server_error") => Polled::Lost(error),
        Some(_) => Polled::Failed(error),
        None => Polled::by_error(error),
    })
}

fn interval(members: &token::Members) -> Option<Duration> {
    members.get("interval").and_then(|value| token::lifetime(value).known()).filter(|pause| !pause.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began(change: &str) -> Result<DeviceAuthorization, ProviderError> {
        let mut body = serde_json::json!({
            "device_code": "canary-dc",
            "user_code": "WDJB-MJHT",
            "verification_uri": "https://id.example/device",
            "expires_in": 1800,
        });
        for (name, value) in serde_json::from_str::<serde_json::Map<String, Value>>(change).unwrap() {
            body[name] = value;
        }
        read(&HttpAnswer::json(200, &body.to_string()), "https", None, None)
    }

    /// I1, I2: what is missing has its default, and what nobody could use is refused.
    #[test]
    fn the_beginning_is_read_and_bounded() {
        let plain = began("{}").ok().unwrap();
        assert_eq!((plain.interval.as_secs(), plain.expires_in.as_secs()), (5, 1800));
        assert_eq!(plain.verification_uri_complete, None);
        assert_eq!(began(r#"{"interval":0}"#).ok().unwrap().interval.as_secs(), 5);
        assert_eq!(began(r#"{"interval":9}"#).ok().unwrap().interval.as_secs(), 9);
        let google = r#"{"verification_uri":null,"verification_url":"https://google.example/device"}"#;
        assert_eq!(began(google).ok().unwrap().verification_uri.host_str(), Some("google.example"));
        for bad in [
            r#"{"device_code":""}"#,
            r#"{"user_code":null}"#,
            r#"{"verification_uri":"javascript:alert(1)"}"#,
            r#"{"verification_uri":"http://id.example/device"}"#,
            r#"{"expires_in":0}"#,
            r#"{"error":"unauthorized_client"}"#,
        ] {
            assert!(began(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_client_without_this_login_is_told_from_a_wrong_secret() {
        for (status, code, barred) in [
            (400, "unauthorized_client", true),
            (403, "unauthorized_client", true),
            (401, "unauthorized_client", false),
            (503, "unauthorized_client", false),
            (401, "invalid_client", false),
            (400, "invalid_client", false),
            (400, "invalid_scope", false),
        ] {
            let answer = HttpAnswer::json(status, &format!(r#"{{"error":"{code}"}}"#));
            let error = read(&answer, "https", None, None).err().unwrap();
            assert_eq!(is_barred(status, &error), barred, "{status} {code}");
        }
    }

    /// I3, I4, I7: the code decides, not the status.
    #[test]
    fn polls_are_sorted_by_their_code() {
        let word = |status, body: &str| match read_poll(&HttpAnswer::json(status, body), false) {
            Ok(_) => "granted".to_owned(),
            Err(Polled::Pending) => "pending".to_owned(),
            Err(Polled::SlowDown(pause)) => format!("slow down {:?}", pause.map(|pause| pause.as_secs())),
            Err(Polled::Lost(_)) => "lost".to_owned(),
            Err(Polled::Denied) => "denied".to_owned(),
            Err(Polled::Over) => "over".to_owned(),
            Err(Polled::Failed(_) | Polled::Granted(_)) => "failed".to_owned(),
        };
        for (status, code, expected) in [
            (400, "authorization_pending", "pending"),
            (428, "authorization_pending", "pending"),
            (200, "authorization_pending", "pending"),
            (400, "slow_down", "slow down None"),
            (403, "slow_down", "slow down None"),
            (429, "slow_down", "slow down None"),
            (400, "access_denied", "denied"),
            (403, "access_denied", "denied"),
            (400, "authorization_declined", "denied"),
            (400, "expired_token", "over"),
            (400, "bad_verification_code", "over"),
            (400, "invalid_grant", "over"),
            (401, "invalid_client", "failed"),
            (400, "something_new", "failed"),
            (503, "temporarily_unavailable", "lost"),
        ] {
            assert_eq!(word(status, &format!(r#"{{"error":"{code}"}}"#)), expected, "{status} {code}");
        }
        assert_eq!(word(200, r#"{"error":"slow_down","interval":15}"#), "slow down Some(15)");
        assert_eq!(word(200, r#"{"access_token":"canary-a","token_type":"bearer"}"#), "granted");
        for (status, body) in [(502, "<html>"), (200, "<html>"), (429, ""), (404, "<html>"), (500, "{}")] {
            assert_eq!(word(status, body), "lost", "{status} {body}");
        }
        assert_eq!(word(200, r#"{"access_token":"canary-a","token_type":"mac"}"#), "failed");
    }
}
