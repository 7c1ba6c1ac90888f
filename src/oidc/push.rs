//! Pushed authorization requests (RFC 9126): what the endpoint's answer means. Pure.

use std::time::Duration;

use serde_json::Value;

use super::error::{Class, ProviderError};
use super::token::{self, HttpAnswer};
use crate::tokens::Lifetime;

/// A provider that does not say how long a request waits for its browser keeps it about this long.
const USUAL_LIFE: Duration = Duration::from_secs(60);
/// No reference needs more.
const MAX_REQUEST_URI: usize = 2048;

/// An authorization request that the provider has taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    pub request_uri: String,
    /// How long the browser may take to come.
    pub life: Duration,
}

/// Reads an answer of the endpoint (sections 2.2 and 2.3).
///
/// # Errors
/// Every answer that takes nothing in.
pub fn read(answer: &HttpAnswer) -> Result<Pushed, ProviderError> {
    let members = token::members(answer, "pushed authorization request endpoint")?;
    let request_uri = members.get("request_uri").and_then(Value::as_str).unwrap_or_default();
    if request_uri.is_empty() || request_uri.len() > MAX_REQUEST_URI {
        let why = "the pushed authorization request endpoint's answer has no usable request_uri";
        return Err(ProviderError::new(Class::Malformed, why));
    }
    let life = match members.get("expires_in").map_or(Lifetime::Unknown, token::lifetime) {
        Lifetime::For(life) => life,
        Lifetime::Unknown | Lifetime::Over => USUAL_LIFE,
    };
    Ok(Pushed { request_uri: request_uri.to_owned(), life })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G10.
    #[test]
    fn answers_are_read_and_errors_sorted() {
        let taken = |body| {
            read(&HttpAnswer::json(201, body)).map(|pushed| (pushed.request_uri, pushed.life.as_secs()))
        };
        assert_eq!(
            taken(r#"{"request_uri":"urn:x:1","expires_in":90}"#).ok(),
            Some(("urn:x:1".to_owned(), 90))
        );
        for odd in [r#"{"request_uri":"urn:x:1"}"#, r#"{"request_uri":"urn:x:1","expires_in":-5}"#] {
            assert_eq!(taken(odd).ok(), Some(("urn:x:1".to_owned(), 60)), "{odd}");
        }
        let long = format!(r#"{{"request_uri":"{}","expires_in":90}}"#, "x".repeat(MAX_REQUEST_URI + 1));
        for (status, body, class) in [
            (201, "{}", Class::Malformed),
            (201, long.as_str(), Class::Malformed),
            (400, r#"{"error":"invalid_request"}"#, Class::Refused),
            (401, r#"{"error":"invalid_client"}"#, Class::Refused),
            (503, "<html>", Class::Unreachable),
            (404, "<html>", Class::Malformed),
        ] {
            assert_eq!(
                read(&HttpAnswer::json(status, body)).map_err(|error| error.class),
                Err(class),
                "{status} {body}"
            );
        }
    }
}
