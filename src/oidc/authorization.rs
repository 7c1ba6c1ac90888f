//! The authorization request and its response (RFC 6749 section 4.1, RFC 7636, RFC 9207). Pure, but
//! for the random numbers.

use url::{Url, form_urlencoded};

use super::text::clean;
use crate::config::{IssPolicy, OAuthConfig, ResponseMode};
use crate::dpop::ProofKey;
use crate::secret::{AuthorizationCode, CodeVerifier, random_token};

/// One login's request: everything that its response is checked against is in here.
pub struct AuthorizationRequest {
    endpoint: Url,
    parameters: Vec<(&'static str, String)>,
    /// Configured by the user, whose names are not known here.
    extra: Vec<(String, String)>,
    pub redirect_uri: String,
    /// With the endpoint and the issuer what one provider is told from another by (RFC 9700 section 4.4.2).
    pub token_endpoint: Url,
    /// `None` with `pkce = false`.
    pub verifier: Option<CodeVerifier>,
    /// With `openid` only: the ID token must repeat it.
    pub nonce: Option<String>,
    /// What the tokens shall be bound to, told ahead (RFC 9449 section 10).
    pub key: Option<ProofKey>,
    state: String,
    iss: IssPolicy,
    issuer: Option<String>,
}

/// Where a login goes, and what its response is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    pub endpoint: Url,
    pub token: Url,
    pub push: Push,
    pub iss: IssPolicy,
    pub issuer: Option<String>,
}

/// Whether the request goes to the provider over the back channel first (RFC 9126).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// Not offered, or switched off.
    No,
    Offered,
    Required,
}

/// What a request at the redirect URI means for the login.
pub enum Response {
    Code(AuthorizationCode),
    /// The user said no (`access_denied`).
    Denied,
    /// The user took longer than the provider's login page lives; to be asked for again, once (Keycloak).
    Expired,
    /// The provider ended the login: code and description, cleaned.
    Failed {
        code: String,
        message: String,
    },
    /// Nothing of this login: it goes on. The text says why, for a log.
    Stray(&'static str),
}

impl AuthorizationRequest {
    /// A request with fresh `state`, verifier and, for `openid`, `nonce`: 256 bits each.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn new(
        config: &OAuthConfig,
        front: Front,
        redirect_uri: String,
        prompt: Option<&str>,
        key: Option<ProofKey>,
    ) -> Result<Self, getrandom::Error> {
        let state = random_token()?;
        let verifier = if config.pkce { CodeVerifier::parse(random_token()?).ok() } else { None };
        let openid = config.scopes.iter().any(|scope| scope == "openid");
        let nonce = if openid { Some(random_token()?) } else { None };
        let mut parameters = vec![
            ("response_type", "code".to_owned()),
            ("client_id", config.client_id.clone()),
            ("redirect_uri", redirect_uri.clone()),
            ("state", state.clone()),
        ];
        if !config.scopes.is_empty() {
            parameters.push(("scope", config.scopes.join(" ")));
        }
        if let Some(verifier) = &verifier {
            parameters.extend([
                ("code_challenge", verifier.challenge()),
                ("code_challenge_method", "S256".to_owned()),
            ]);
        }
        if let Some(nonce) = &nonce {
            parameters.push(("nonce", nonce.clone()));
        }
        if let Some(key) = &key {
            parameters.push(("dpop_jkt", key.thumbprint()));
        }
        if config.response_mode == ResponseMode::FormPost {
            parameters.push(("response_mode", "form_post".to_owned()));
        }
        if let Some(max_age) = config.max_age {
            parameters.push(("max_age", max_age.to_string()));
        }
        if let Some(prompt) = prompt {
            parameters.push(("prompt", prompt.to_owned()));
        }
        let ours = |name: &str| name == "prompt" && prompt.is_some();
        let extra = config.extra().filter(|(name, _)| !ours(name));
        let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let Front { endpoint, token: token_endpoint, iss, issuer, .. } = front;
        Ok(Self {
            endpoint,
            parameters,
            extra,
            redirect_uri,
            token_endpoint,
            verifier,
            nonce,
            key,
            state,
            iss,
            issuer,
        })
    }

    /// Everything that is asked for.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let extra = self.extra.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        self.parameters.iter().map(|(name, value)| (*name, value.as_str())).chain(extra)
    }

    /// The address for the browser with everything in it.
    #[must_use]
    pub fn url(&self) -> Url {
        let mut url = self.endpoint.clone();
        url.query_pairs_mut().extend_pairs(self.parameters());
        url
    }

    /// The address for the browser once the request was pushed (RFC 9126 section 4).
    #[must_use]
    pub fn pushed_url(&self, request_uri: &str) -> Url {
        let mut url = self.endpoint.clone();
        let client_id = self.parameters().filter(|(name, _)| *name == "client_id");
        url.query_pairs_mut().extend_pairs(client_id).append_pair("request_uri", request_uri);
        url
    }

    /// Reads the query of a request to the redirect URI. Unknown parameters are ignored; nothing
    /// counts without the right `state`, so that nobody else can end a login.
    #[must_use]
    pub fn read_response(&self, query: &str) -> Response {
        let mut parameters =
            [("state", None), ("code", None), ("error", None), ("error_description", None), ("iss", None)];
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if let Some((_, slot)) = parameters.iter_mut().find(|(known, _)| *known == name)
                && slot.replace(value.into_owned()).is_some()
            {
                return Response::Stray("a parameter appears twice");
            }
        }
        let [(_, state), (_, code), (_, error), (_, description), (_, iss)] = parameters;
        if !state.is_some_and(|state| constant_time_eq(&state, &self.state)) {
            return Response::Stray("the state is not this login's");
        }
        if let Some(problem) = self.iss_problem(iss.as_deref()) {
            return Response::Failed { code: "invalid_issuer".into(), message: problem.into() };
        }
        match (code, error) {
            (_, Some(error)) if error == "access_denied" => Response::Denied,
            (_, Some(error))
                if error == "temporarily_unavailable"
                    && description.as_deref() == Some("authentication_expired") =>
            {
                Response::Expired
            }
            (_, Some(error)) => {
                let code = clean(&error);
                let message = description.map(|text| clean(&text)).filter(|text| !text.is_empty());
                Response::Failed { message: message.unwrap_or_else(|| code.clone()), code }
            }
            (Some(code), None) => match AuthorizationCode::parse(code) {
                Ok(code) => Response::Code(code),
                Err(_) => Response::Stray("the code has characters that no code has"),
            },
            (None, None) => Response::Stray("there is neither a code nor an error"),
        }
    }

    /// RFC 9207 section 2.4.
    fn iss_problem(&self, iss: Option<&str>) -> Option<&'static str> {
        match (self.iss, iss, &self.issuer) {
            (IssPolicy::Ignore, ..) | (IssPolicy::IfPresent, None, _) => None,
            // With no issuer configured it must at least be where the user was sent: an evil provider sends
            // the user on to an honest one, whose code would come back here (RFC 9700 section 4.4.1).
            (IssPolicy::IfPresent, Some(iss), None) => {
                let sent_to = self.endpoint.origin();
                let is_there = Url::parse(iss).is_ok_and(|iss| iss.origin() == sent_to);
                (!is_there).then_some(
                    "the response comes from another issuer than where the login was sent; if that is the right one, set `issuer` to it",
                )
            }
            (IssPolicy::Required, None, _) => {
                Some("the response names no issuer (iss), and this account requires it")
            }
            (IssPolicy::Required, Some(_), None) => {
                Some("no issuer is configured to compare the response's iss with")
            }
            (_, Some(iss), Some(expected)) if iss == expected => None,
            (_, Some(_), Some(_)) => Some("the response comes from another issuer than the configured one"),
        }
    }
}

fn constant_time_eq(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::config::{DiscoveredEndpoints, Endpoints, KeepAlive, RedirectUri, SecretSource, StoreKind};

    const ISSUER: &str = "https://sso.example/auth/realms/app";

    fn config(scopes: &[&str]) -> OAuthConfig {
        OAuthConfig {
            client_id: "my app".into(),
            client_auth: None,
            client_secret: SecretSource::Store,
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            redirect: RedirectUri::default(),
            endpoints: Endpoints::Discovered(Box::new(DiscoveredEndpoints {
                issuer: Url::parse(ISSUER).unwrap(),
                authorization: None,
                token: None,
                revocation: None,
                end_session: None,
                jwks: None,
                device_authorization: None,
                push: None,
            })),
            profile: None,
            iss: Some(IssPolicy::IfPresent),
            issuer: Some(ISSUER.into()),
            id_token_audiences: Vec::new(),
            response_mode: ResponseMode::Query,
            pkce: true,
            par: true,
            dpop: false,
            max_age: None,
            login_timeout: std::time::Duration::from_secs(600),
            extra_params: BTreeMap::from([("prompt".to_owned(), "consent".to_owned())]),
            scope_on_refresh: false,
            keep_alive: KeepAlive::Always,
            audience_by: None,
            min_validity: None,
            ca_file: None,
            store: StoreKind::Memory,
        }
    }

    fn request(config: &OAuthConfig) -> AuthorizationRequest {
        let front = Front {
            endpoint: Url::parse("https://sso.example/auth?kept=1").unwrap(),
            token: Url::parse("https://sso.example/token").unwrap(),
            push: Push::No,
            iss: config.iss.unwrap(),
            issuer: config.issuer.clone(),
        };
        AuthorizationRequest::new(config, front, "http://127.0.0.1:8765/callback".into(), None, None).unwrap()
    }

    fn query(request: &AuthorizationRequest) -> HashMap<String, String> {
        request.url().query_pairs().into_owned().collect()
    }

    /// A1, A2, A6, A8, A13.
    #[test]
    fn the_request_has_code_pkce_state_and_what_was_configured() {
        let request = request(&config(&["profile", "locks"]));
        let query = query(&request);
        assert_eq!(query["response_type"], "code");
        assert_eq!(query["client_id"], "my app");
        assert_eq!(query["scope"], "profile locks");
        assert_eq!(query["redirect_uri"], "http://127.0.0.1:8765/callback");
        assert_eq!(query["code_challenge_method"], "S256");
        let verifier = request.verifier.as_ref().unwrap();
        assert_eq!(query["code_challenge"], URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose())));
        assert_eq!(query["kept"], "1");
        assert_eq!(query["prompt"], "consent");
        assert!(!query.contains_key("nonce"));
    }

    /// A3, A5, A6: three independent values, new for each login.
    #[test]
    fn state_nonce_and_verifier_differ_from_each_other_and_between_logins() {
        let config = config(&["openid"]);
        let (first, second) = (request(&config), request(&config));
        let (a, b) = (query(&first), query(&second));
        let mut values = vec![a["state"].clone(), a["nonce"].clone(), b["state"].clone(), b["nonce"].clone()];
        values.extend([first, second].iter().map(|r| r.verifier.as_ref().unwrap().expose().to_owned()));
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 6);
    }

    /// A4: the switch drops both parameters.
    #[test]
    fn without_pkce_neither_parameter_is_sent() {
        let request = request(&OAuthConfig { pkce: false, ..config(&[]) });
        let query = query(&request);
        assert!(request.verifier.is_none());
        assert!(!query.contains_key("code_challenge") && !query.contains_key("code_challenge_method"));
    }

    fn outcome(request: &AuthorizationRequest, query: &str) -> String {
        match request.read_response(&query.replace("STATE", &request.state)) {
            Response::Code(code) => format!("code {}", code.expose()),
            Response::Denied => "denied".into(),
            Response::Expired => "expired".into(),
            Response::Failed { code, message } => format!("failed {code}: {message}"),
            Response::Stray(why) => format!("stray: {why}"),
        }
    }

    /// A12, B5, B6, B9, B10, G7, K4, K5.
    #[test]
    fn responses_are_sorted() {
        let request = request(&config(&[]));
        for (query, expected) in [
            ("code=abc&state=STATE", "code abc"),
            (
                "code=abc&state=STATE&session_state=x&iss=https%3A%2F%2Fsso.example%2Fauth%2Frealms%2Fapp&authuser=0",
                "code abc",
            ),
            (
                "code=abc&state=STATE&iss=https%3A%2F%2Fevil.example",
                "failed invalid_issuer: the response comes from another issuer than the configured one",
            ),
            (
                "error=access_denied&state=STATE&iss=https%3A%2F%2Fevil.example",
                "failed invalid_issuer: the response comes from another issuer than the configured one",
            ),
            ("error=access_denied&state=STATE", "denied"),
            (
                "error=server_error&error_description=%3Cscript%3E%00boom&state=STATE",
                "failed server_error: <script> boom",
            ),
            ("error=temporarily_unavailable&error_description=authentication_expired&state=STATE", "expired"),
            (
                "error=temporarily_unavailable&error_description=busy&state=STATE",
                "failed temporarily_unavailable: busy",
            ),
            (
                "error=temporarily_unavailable&error_description=authentication_expired",
                "stray: the state is not this login's",
            ),
            ("error=access_denied", "stray: the state is not this login's"),
            ("code=abc&state=wrong", "stray: the state is not this login's"),
            ("code=abc", "stray: the state is not this login's"),
            ("code=a&code=b&state=STATE", "stray: a parameter appears twice"),
            ("code=a&state=STATE&state=STATE", "stray: a parameter appears twice"),
            ("state=STATE", "stray: there is neither a code nor an error"),
            ("code=&state=STATE", "stray: the code has characters that no code has"),
            ("", "stray: the state is not this login's"),
        ] {
            assert_eq!(outcome(&request, query), expected, "{query}");
        }
    }

    /// R12: what can be compared without a configured issuer.
    #[test]
    fn an_unknown_issuer_must_be_where_the_user_was_sent() {
        let request = request(&OAuthConfig { issuer: None, ..config(&[]) });
        for (iss, accepted) in [
            ("https%3A%2F%2Fsso.example", true),
            ("https%3A%2F%2Fsso.example%2Frealms%2Fapp", true),
            ("https%3A%2F%2Fsso.example%3A8443", false),
            ("http%3A%2F%2Fsso.example", false),
            ("https%3A%2F%2Fevil.example", false),
            ("sso.example", false),
            ("", false),
        ] {
            let outcome = outcome(&request, &format!("code=a&state=STATE&iss={iss}"));
            assert_eq!(outcome == "code a", accepted, "{iss}: {outcome}");
        }
        assert_eq!(outcome(&request, "code=a&state=STATE"), "code a");
    }

    /// G8.
    #[test]
    fn a_required_issuer_must_be_there() {
        let request = request(&OAuthConfig { iss: Some(IssPolicy::Required), ..config(&[]) });
        assert!(outcome(&request, "code=a&state=STATE").starts_with("failed invalid_issuer"));
    }

    proptest::proptest! {
        #[test]
        fn no_query_makes_it_panic_or_counts_without_the_state(query in ".{0,200}") {
            let request = request(&config(&[]));
            proptest::prop_assert!(matches!(request.read_response(&query), Response::Stray(_)));
        }
    }
}
