//! Ways in which a token endpoint can fail.

use serde_json::{Map, Value};

/// What happens to a token request.
#[derive(Clone)]
pub enum Fault {
    /// This answer, without a look at the request.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// The connection ends before the request is looked at: nothing is spent.
    HangUp,
    /// The request is served, and its answer lost: a refresh token is spent.
    LoseAnswer,
    /// The request waits, unserved, until it is released.
    Hold,
    /// The request is served, and its answer is changed by a JSON merge patch (RFC 7396).
    Patch(Value),
    /// The answer begins and never ends.
    Stall,
}

impl Fault {
    /// An error answer as RFC 6749 section 5.2 has it.
    #[must_use]
    pub fn error(status: u16, code: &str, description: &str) -> Self {
        let body = serde_json::json!({ "error": code, "error_description": description });
        Self::json(status, &body.to_string())
    }

    /// An answer that says it is JSON.
    #[must_use]
    pub fn json(status: u16, body: &str) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self::Answer { status, headers, body: body.as_bytes().to_vec() }
    }

    /// A web page where JSON should be, as captive portals and gateways send it.
    #[must_use]
    pub fn html(status: u16) -> Self {
        let headers = vec![("content-type".to_owned(), "text/html".to_owned())];
        Self::Answer { status, headers, body: b"<html><title>Sign in</title></html>".to_vec() }
    }

    /// The same answer with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

/// RFC 7396, for an object.
pub(super) fn merge(target: &mut Map<String, Value>, patch: &Value) {
    for (name, value) in patch.as_object().into_iter().flatten() {
        if value.is_null() {
            target.remove(name);
        } else {
            target.insert(name.clone(), value.clone());
        }
    }
}
