//! How the client proves who it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::AUTHORIZATION;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::{Seen, Shared, State, value_of};

/// RFC 6749 section 2.3.1, RFC 7523 section 2.2; two ways at once are refused.
pub(super) fn authenticated(shared: &Shared, state: &mut State, seen: &Seen) -> bool {
    let posted = !seen.parameter("client_secret").is_empty();
    let basic = seen.header(AUTHORIZATION.as_str()).strip_prefix("Basic ");
    if let Some(key) = state.settings.client_key.clone() {
        return !posted && basic.is_none() && asserted(&shared.issuer(), state, key, seen);
    }
    let (id, secret) = match (basic, posted) {
        (Some(_), true) => return false,
        (Some(basic), false) => {
            let decoded = STANDARD.decode(basic).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let Some((id, secret)) = decoded.as_deref().and_then(|pair| pair.split_once(':')) else {
                return false;
            };
            (decode(id), Some(decode(secret)))
        }
        (None, true) => {
            (seen.parameter("client_id").to_owned(), Some(seen.parameter("client_secret").to_owned()))
        }
        (None, false) => (seen.parameter("client_id").to_owned(), None),
    };
    id == state.settings.client_id && secret == state.settings.client_secret
}

/// RFC 7523 section 3, and stricter: for this issuer alone, for a minute at most, and once.
fn asserted(issuer: &str, state: &mut State, key: Value, seen: &Seen) -> bool {
    let Ok(jwk) = serde_json::from_value::<Jwk>(key) else { return false };
    let algorithm = jwk.common.key_algorithm.and_then(|algorithm| Algorithm::try_from(algorithm).ok());
    let (Some(algorithm), Ok(key)) = (algorithm, DecodingKey::from_jwk(&jwk)) else { return false };
    let client = &state.settings.client_id;
    let mut rules = Validation::new(algorithm);
    rules.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    rules.set_audience(&[issuer]);
    rules.set_issuer(&[client]);
    rules.sub = Some(client.clone());
    let assertion = seen.parameter("client_assertion");
    let Ok(read) = jsonwebtoken::decode::<Map<String, Value>>(assertion, &key, &rules) else { return false };
    let number = |name| read.claims.get(name).and_then(Value::as_u64).unwrap_or_default();
    let id = read.claims.get("jti").and_then(Value::as_str).unwrap_or_default().to_owned();
    seen.parameter("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        && read.claims.get("aud").is_some_and(Value::is_string)
        && number("exp").saturating_sub(number("iat")) <= 60
        && !id.is_empty()
        && state.assertions.insert(id)
}

fn decode(encoded: &str) -> String {
    let pair = format!("value={encoded}");
    let pairs: Vec<(String, String)> = form_urlencoded::parse(pair.as_bytes()).into_owned().collect();
    value_of(&pairs, "value").to_owned()
}
