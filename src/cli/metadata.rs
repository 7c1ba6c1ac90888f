//! What a provider says about itself, for `add` and `doctor`: fetched without the daemon, shown to people.

use serde_json::Value;
use url::Url;

use crate::oidc::discovery::{self, Metadata};
use crate::oidc::http::Http;
use crate::oidc::text::clean;

/// A provider's metadata, and the answer that brought it.
pub(super) struct Found {
    pub(super) metadata: Metadata,
    pub(super) location: Url,
    /// The provider's clock, in seconds since the Unix epoch.
    pub(super) date: Option<u64>,
    document: Value,
}

/// Why there is none.
pub(super) enum Missing {
    Unreachable(String),
    /// Something answered, and it is not this issuer's metadata.
    Unusable(String),
}

/// Looks in both places where an issuer's metadata may be.
pub(super) async fn fetch(http: &Http, issuer: &str) -> Result<Found, Missing> {
    let url = Url::parse(issuer).map_err(|why| Missing::Unusable(format!("the issuer is no URL: {why}")))?;
    let mut problem = None;
    for location in discovery::locations(&url) {
        let answer = match http.get(&location, None).await {
            Ok(answer) => answer,
            Err(error) => return Err(Missing::Unreachable(error.to_string())),
        };
        if answer.status != 200 {
            // What the first place said is more to the point than that the second is empty.
            problem.get_or_insert(format!("its metadata is answered with status {}", answer.status));
            continue;
        }
        match discovery::read(&answer.body, issuer) {
            Ok(metadata) => {
                let document = serde_json::from_slice(&answer.body).unwrap_or_default();
                return Ok(Found { metadata, location, date: answer.date, document });
            }
            Err(why) => problem = Some(why),
        }
    }
    Err(Missing::Unusable(problem.unwrap_or_else(|| "it has no metadata".to_owned())))
}

impl Found {
    /// A list of words, `None` when the provider does not say.
    pub(super) fn list(&self, name: &str) -> Option<Vec<String>> {
        let list = self.document.get(name)?.as_array()?;
        Some(list.iter().filter_map(Value::as_str).take(60).map(clean).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.document.get(name).is_some_and(|value| value.is_string() || value.as_bool() == Some(true))
    }

    fn knows(&self, name: &str, word: &str) -> bool {
        self.list(name).is_some_and(|list| list.iter().any(|known| known == word))
    }

    /// What it offers, one line each.
    pub(super) fn offers(&self) -> Vec<String> {
        let mut flows = vec!["browser (code)"];
        if self.has("device_authorization_endpoint") {
            flows.push("device");
        }
        let auth = self.list("token_endpoint_auth_methods_supported");
        let words =
            |list: Option<Vec<String>>| list.map_or_else(|| "not told".to_owned(), |list| list.join(" "));
        let logout = match (self.has("revocation_endpoint"), self.has("end_session_endpoint")) {
            (true, true) => "revocation, end of session",
            (true, false) => "revocation",
            (false, true) => "end of session",
            (false, false) => "none",
        };
        let yes = |yes: bool| if yes { "yes" } else { "not told" };
        vec![
            format!("flows: {}", flows.join(", ")),
            format!("scopes: {}", words(self.list("scopes_supported"))),
            format!("client authentication: {}", words(auth)),
            format!("PKCE: {}", yes(self.knows("code_challenge_methods_supported", "S256"))),
            format!("pushed requests (PAR): {}", yes(self.has("pushed_authorization_request_endpoint"))),
            format!("names itself in responses (iss): {}", yes(self.metadata.sends_iss)),
            format!("DPoP: {}", yes(self.list("dpop_signing_alg_values_supported").is_some())),
            format!("logout: {logout}"),
        ]
    }
}
