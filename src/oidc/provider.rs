//! An OAuth provider over HTTP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::assertion::{self, Key, KeyFile};
use super::authorization::{AuthorizationRequest, Front, Push};
use super::device::{self, DeviceAuthorization, Polled};
use super::endpoints::{self, Endpoints, Resolver, unspent};
use super::error::{Class, ProviderError};
use super::http::{self, Http};
use super::id_token::{self, Expected, Identity};
use super::push::{self, Pushed};
use super::{CodeExchange, End, EndRequest, Provider, RefreshRequest, text, token};
use crate::clock::Clock;
use crate::config::{ClientAuth, LogoutEndpoint, OAuthConfig, Profile, SecretSource};
use crate::dpop::{Nonce, ProofKey, Target};
use crate::secret::{
    AccessToken, ClientSecret, CodeVerifier, DpopProof, IdToken, RefreshToken, random_token,
};
use crate::tokens::{Granted, TokenResponse};

/// A session that could not be ended at the provider is tried again after this.
const END_RETRY: Duration = Duration::from_secs(60);

/// A provider as an account's configuration and its own metadata describe it.
pub struct OAuthProvider {
    config: Arc<OAuthConfig>,
    http: Arc<Http>,
    clock: Clock,
    resolver: Resolver,
    /// What each origin wants to see in the next proof (RFC 9449 section 8).
    nonces: Mutex<HashMap<String, Nonce>>,
}

impl OAuthProvider {
    #[must_use]
    pub fn new(config: Arc<OAuthConfig>, http: Arc<Http>, clock: Clock) -> Self {
        let resolver = Resolver::new(Arc::clone(&config), Arc::clone(&http), clock.clone());
        Self { config, http, clock, resolver, nonces: Mutex::default() }
    }

    /// Posts with the client's authentication (RFC 6749 section 2.3.1), exactly one, and with a proof if there
    /// is a key (RFC 9449 section 5).
    async fn post(
        &self,
        endpoints: &Endpoints,
        url: &Url,
        form: Vec<(&str, &str)>,
        stored_secret: Option<ClientSecret>,
        key: Option<&ProofKey>,
        timeout: Duration,
    ) -> Result<token::HttpAnswer, ProviderError> {
        let again = key.map(|_| (form.clone(), stored_secret.clone()));
        let answer = self.post_once(endpoints, url, form, stored_secret, key, timeout).await?;
        match again {
            // Once: a provider that is not content with its own nonce never will be.
            Some((form, secret)) if token::wants_nonce(&answer) => {
                self.post_once(endpoints, url, form, secret, key, timeout).await
            }
            _ => Ok(answer),
        }
    }

    async fn post_once(
        &self,
        endpoints: &Endpoints,
        url: &Url,
        mut form: Vec<(&str, &str)>,
        stored_secret: Option<ClientSecret>,
        key: Option<&ProofKey>,
        timeout: Duration,
    ) -> Result<token::HttpAnswer, ProviderError> {
        let auth = endpoints.client_auth;
        let secret = if auth == ClientAuth::None { None } else { self.client_secret(stored_secret).await? };
        let assertion = self.assertion(endpoints).await?;
        let client_id = self.config.client_id.as_str();
        let basic = match (auth, &secret) {
            (ClientAuth::Basic, Some(secret)) => Some(basic(client_id, secret.expose())),
            (ClientAuth::BasicRaw, Some(secret)) => Some(raw_basic(client_id, secret.expose())),
            _ => None,
        };
        if basic.is_none() && form.iter().all(|(name, _)| *name != "client_id") {
            form.push(("client_id", client_id));
        }
        if let (ClientAuth::Post, Some(secret)) = (auth, &secret) {
            form.push(("client_secret", secret.expose()));
        }
        if let Some(assertion) = &assertion {
            form.extend([("client_assertion_type", assertion::TYPE), ("client_assertion", assertion)]);
        }
        let basic = basic.as_ref().map(|basic| basic.as_str());
        let proof = key.map(|key| self.prove(key, "POST", url, None)).transpose()?;
        let answer = self.http.post_form(url, basic, proof.as_ref(), &form, timeout).await?;
        if key.is_some() {
            self.keep_nonce(url, &answer);
        }
        Ok(answer)
    }

    fn prove(
        &self,
        key: &ProofKey,
        method: &str,
        url: &Url,
        token: Option<&AccessToken>,
    ) -> Result<DpopProof, ProviderError> {
        let nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        let nonce = nonces.get(&url.origin().ascii_serialization());
        let proof = key.prove(&Target::of(method, url), token, nonce, self.clock.now().wall.as_secs());
        proof.map_err(|error| ProviderError::new(Class::Unreachable, error.to_string()))
    }

    fn keep_nonce(&self, url: &Url, answer: &token::HttpAnswer) {
        if let Some(nonce) = &answer.dpop_nonce {
            let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
            nonces.insert(url.origin().ascii_serialization(), nonce.clone());
        }
    }

    async fn client_secret(
        &self,
        stored: Option<ClientSecret>,
    ) -> Result<Option<ClientSecret>, ProviderError> {
        match &self.config.client_secret {
            SecretSource::Store => Ok(stored),
            SecretSource::Inline(secret) => Ok(Some(secret.clone())),
            SecretSource::Key(_) => Ok(None),
            SecretSource::File(path) => {
                let refused = |why: String| {
                    ProviderError::new(
                        Class::Refused,
                        format!("client_secret_file {}: {why}", path.display()),
                    )
                };
                let text =
                    tokio::fs::read_to_string(path).await.map_err(|error| refused(error.to_string()))?;
                let text = Zeroizing::new(text);
                ClientSecret::from_pasted(&text).map(Some).map_err(|error| refused(error.to_string()))
            }
        }
    }

    /// What a client that signs sends with this one request.
    async fn assertion(&self, endpoints: &Endpoints) -> Result<Option<Zeroizing<String>>, ProviderError> {
        let SecretSource::Key(KeyFile { path, id }) = &self.config.client_secret else { return Ok(None) };
        // Never an endpoint that metadata names, which may be another provider's: that one would take the
        // assertion for its own.
        let audience = self.config.issuer.as_deref().unwrap_or(endpoints.token.as_str()).to_owned();
        let (file, id, client_id) = (path.clone(), id.clone(), self.config.client_id.clone());
        let now = self.clock.now().wall.as_secs();
        // A file to read and a signature to make: not in the loop that everybody waits for.
        let signed = tokio::task::spawn_blocking(move || {
            let signed = Key::read(&file)?.assertion(id.as_deref(), &client_id, &audience, now);
            signed.map_err(str::to_owned)
        });
        let signed = signed.await.unwrap_or_else(|error| Err(error.to_string()));
        signed.map(Some).map_err(|why| {
            ProviderError::new(Class::Refused, format!("client_key_file {} {why}", path.display()))
        })
    }

    /// Finds out whose the tokens of a login are.
    async fn granted(
        &self,
        endpoints: &Endpoints,
        tokens: TokenResponse,
        nonce: Option<&str>,
        key: Option<ProofKey>,
        date: Option<u64>,
    ) -> Result<Granted, ProviderError> {
        let identity = self.identity(endpoints, &tokens, nonce, date).await?;
        let subject = self.name(endpoints, &tokens.access_token, key.as_ref(), identity.as_ref()).await;
        let sub = identity.map(|identity| identity.sub).unwrap_or_default();
        let tokens = TokenResponse { servers: endpoints.servers(), ..tokens };
        Ok(Granted { tokens, sub, subject, key })
    }

    /// Checks the ID token of a login. Without `openid` there is nothing that it could be held against.
    async fn identity(
        &self,
        endpoints: &Endpoints,
        tokens: &TokenResponse,
        nonce: Option<&str>,
        date: Option<u64>,
    ) -> Result<Option<Identity>, ProviderError> {
        let openid = self.config.scopes.iter().any(|scope| scope == "openid");
        let (true, Some(issuer)) = (openid, &self.config.issuer) else { return Ok(None) };
        let bad = |why: String| ProviderError::new(Class::Malformed, why);
        let Some(id_token) = &tokens.id_token else {
            return Err(bad("the provider sent no ID token, though `scopes` asks for openid".into()));
        };
        let told = date.map(|date| (date, id_token::SKEW));
        let (now, skew) = told.unwrap_or_else(|| (self.clock.now().wall.as_secs(), id_token::WIDE_SKEW));
        let expected = Expected {
            issuer,
            client_id: &self.config.client_id,
            audiences: &self.config.id_token_audiences,
            nonce,
            max_age: self.config.max_age,
            access_token: tokens.access_token.expose(),
            now,
            skew,
        };
        self.verify(endpoints, id_token, &expected).await.map(Some)
    }

    async fn verify(
        &self,
        endpoints: &Endpoints,
        id_token: &IdToken,
        expected: &Expected<'_>,
    ) -> Result<Identity, ProviderError> {
        let bad = |problem: id_token::Problem| ProviderError::new(Class::Malformed, problem.to_string());
        let keys = self.resolver.keys(endpoints).await?;
        match id_token::verify(id_token.expose(), &keys, expected) {
            Err(id_token::Problem::UnknownKey) => match self.resolver.newer_keys(endpoints).await? {
                Some(newer) => id_token::verify(id_token.expose(), &newer, expected).map_err(bad),
                None => Err(bad(id_token::Problem::UnknownKey)),
            },
            verdict => verdict.map_err(bad),
        }
    }

    /// Who it is, for people: the configured profile, else the ID token, else userinfo.
    async fn name(
        &self,
        endpoints: &Endpoints,
        token: &AccessToken,
        key: Option<&ProofKey>,
        identity: Option<&Identity>,
    ) -> String {
        if let Some(profile) = &self.config.profile
            && let Some(document) = self.document(&profile.url, token, key).await
        {
            return name_in(&document, profile);
        }
        let Some(identity) = identity else { return String::new() };
        if identity.named {
            return identity.name.clone();
        }
        let Some(userinfo) = &endpoints.userinfo else { return identity.name.clone() };
        let document = self.document(userinfo, token, key).await.unwrap_or_default();
        // Another user's document is worse than none (OpenID Connect Core section 5.3.2).
        if document.get("sub").and_then(serde_json::Value::as_str) != Some(&identity.sub) {
            tracing::warn!("userinfo names no user or another one than the ID token; not used");
            return identity.name.clone();
        }
        let names = ["preferred_username", "email", "name"];
        let mut names = names.iter().filter_map(|name| document.get(name)?.as_str()).map(text::clean);
        names.find(|name| !name.is_empty()).unwrap_or_else(|| identity.name.clone())
    }

    async fn document(
        &self,
        url: &Url,
        token: &AccessToken,
        key: Option<&ProofKey>,
    ) -> Option<serde_json::Value> {
        let mut answer = self.ask_with_token(url, token, key).await;
        // An API wants a nonce in words of its own (RFC 9449 section 9).
        if key.is_some()
            && matches!(&answer, Ok(answer) if answer.status == 401 && answer.dpop_nonce.is_some())
        {
            answer = self.ask_with_token(url, token, key).await;
        }
        match answer {
            Ok(answer) if answer.status == 200 => serde_json::from_slice(&answer.body).ok(),
            Ok(answer) => {
                tracing::warn!(status = answer.status, "the profile could not be read");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "the profile could not be read");
                None
            }
        }
    }

    async fn ask_with_token(
        &self,
        url: &Url,
        token: &AccessToken,
        key: Option<&ProofKey>,
    ) -> Result<token::HttpAnswer, ProviderError> {
        let Some(key) = key else { return self.http.get_with_token(url, token, None).await };
        let proof = self.prove(key, "GET", url, Some(token))?;
        let answer = self.http.get_with_token(url, token, Some(&proof)).await?;
        self.keep_nonce(url, &answer);
        Ok(answer)
    }
}

impl Provider for OAuthProvider {
    async fn front(&self) -> Result<Front, ProviderError> {
        let endpoints = self.resolver.endpoints().await?;
        let push = match (&endpoints.push, endpoints.requires_push) {
            (None, _) => Push::No,
            (Some(_), false) => Push::Offered,
            (Some(_), true) => Push::Required,
        };
        Ok(Front {
            endpoint: endpoints.authorization.clone(),
            push,
            iss: endpoints.iss,
            token: endpoints.token.clone(),
            issuer: self.config.issuer.clone(),
        })
    }

    async fn push(
        &self,
        request: &AuthorizationRequest,
        stored_secret: Option<ClientSecret>,
    ) -> Result<Pushed, ProviderError> {
        let endpoints = self.resolver.endpoints().await?;
        let Some(url) = &endpoints.push else {
            return Err(ProviderError::new(Class::Refused, "the provider takes no pushed requests any more"));
        };
        let form = request.parameters().collect();
        let answer = self.post(&endpoints, url, form, stored_secret, None, http::CALL_TIMEOUT).await;
        push::read(&answer.map_err(unspent)?)
    }

    async fn authorize_device(
        &self,
        stored_secret: Option<ClientSecret>,
    ) -> Result<Option<DeviceAuthorization>, ProviderError> {
        let endpoints = self.resolver.endpoints().await?;
        let Some(url) = &endpoints.device_authorization else { return Ok(None) };
        let verifier = self.config.pkce.then(random_token).transpose();
        let verifier = verifier.map_err(|error| ProviderError::new(Class::Refused, error.to_string()))?;
        let verifier = verifier.and_then(|verifier| CodeVerifier::parse(verifier).ok());
        let key = self.config.dpop.then(ProofKey::generate).transpose();
        let key = key.map_err(|error| ProviderError::new(Class::Refused, error.to_string()))?;
        let (scope, challenge) =
            (self.config.scopes.join(" "), verifier.as_ref().map(CodeVerifier::challenge));
        let max_age = self.config.max_age.map(|seconds| seconds.to_string());
        let mut form = Vec::new();
        if !scope.is_empty() {
            form.push(("scope", scope.as_str()));
        }
        if let Some(challenge) = &challenge {
            form.extend([("code_challenge", challenge.as_str()), ("code_challenge_method", "S256")]);
        }
        if let Some(max_age) = &max_age {
            form.push(("max_age", max_age));
        }
        form.extend(self.config.extra());
        let answer = self.post(&endpoints, url, form, stored_secret, None, http::CALL_TIMEOUT).await;
        let answer = answer.map_err(unspent)?;
        match device::read(&answer, url.scheme(), verifier, key) {
            Err(error) if device::is_barred(answer.status, &error) => {
                tracing::info!(%error, "the provider has no login on another device for this client");
                Ok(None)
            }
            begun => begun.map(Some),
        }
    }

    async fn poll_device(
        &self,
        authorization: &DeviceAuthorization,
        stored_secret: Option<ClientSecret>,
    ) -> Polled {
        let asked = async {
            let endpoints = self.resolver.endpoints().await?;
            let mut form = vec![
                ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
                ("device_code", authorization.device_code.expose()),
            ];
            if let Some(verifier) = &authorization.verifier {
                form.push(("code_verifier", verifier.expose()));
            }
            let key = authorization.key.as_ref();
            let answer =
                self.post(&endpoints, &endpoints.token, form, stored_secret, key, http::CALL_TIMEOUT);
            Ok((answer.await?, endpoints))
        };
        let (answer, endpoints) = match asked.await {
            Ok(asked) => asked,
            Err(error) => return Polled::by_error(error),
        };
        let tokens = match device::read_poll(&answer, authorization.key.is_some()) {
            Ok(tokens) => tokens,
            Err(Polled::Failed(error)) => return Polled::Failed(self.explain(error)),
            Err(other) => return other,
        };
        self.log_contents(&answer);
        match self.granted(&endpoints, tokens, None, authorization.key.clone(), answer.date).await {
            Ok(granted) => Polled::Granted(Box::new(granted)),
            Err(error) => Polled::Failed(error),
        }
    }

    async fn exchange(
        &self,
        exchange: CodeExchange,
        stored_secret: Option<ClientSecret>,
    ) -> Result<Granted, ProviderError> {
        // Where the login began, whatever the metadata says meanwhile (RFC 9700 section 4.4.2).
        let endpoints =
            Endpoints { token: exchange.token_endpoint.clone(), ..self.resolver.endpoints().await? };
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", exchange.code.expose()),
            ("redirect_uri", exchange.redirect_uri.as_str()),
        ];
        if let Some(verifier) = &exchange.verifier {
            form.push(("code_verifier", verifier.expose()));
        }
        let key = exchange.key.as_ref();
        let answer =
            self.post(&endpoints, &endpoints.token, form, stored_secret, key, http::CALL_TIMEOUT).await?;
        let tokens = token::read_answer(&answer, key.is_some()).map_err(|error| self.explain(error))?;
        self.log_contents(&answer);
        self.granted(&endpoints, tokens, exchange.nonce.as_deref(), exchange.key.clone(), answer.date).await
    }

    async fn refresh(&self, request: RefreshRequest) -> Result<TokenResponse, ProviderError> {
        let RefreshRequest { refresh_token, stored_secret, key, sub, servers, narrow, subject } = request;
        let endpoints = self.resolver.endpoints().await?;
        if let Err(error) = endpoints::at_home(&servers, &endpoints.token) {
            // It may be the true one again the next time.
            self.resolver.forget().await;
            return Err(error);
        }
        let mut form = match &subject {
            None => vec![("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose())],
            Some(subject) => vec![
                ("grant_type", token::EXCHANGE_GRANT),
                ("subject_token", subject.expose()),
                ("subject_token_type", token::ACCESS_TOKEN_TYPE),
                ("requested_token_type", token::ACCESS_TOKEN_TYPE),
            ],
        };
        let scopes = self.config.scopes.join(" ");
        let mut unscoped = None;
        if let Some(narrow) = &narrow {
            let wish = [("scope", narrow.scope.as_str()), ("audience", narrow.audience.as_str())];
            let resources = narrow.resource.split(' ').map(|one| ("resource", one));
            form.extend(wish.into_iter().chain(resources).filter(|(_, value)| !value.is_empty()));
        } else if self.config.scope_on_refresh {
            unscoped = Some((form.clone(), stored_secret.clone()));
            form.push(("scope", &scopes));
        }
        let post = |form, secret| {
            self.post(&endpoints, &endpoints.token, form, secret, key.as_ref(), http::REFRESH_TIMEOUT)
        };
        let mut answer = post(form, stored_secret).await?;
        if let Some((form, secret)) = unscoped
            && token::refuses_scope(&answer)
        {
            // Once, and the session has what it was granted either way (RFC 6749 section 6).
            tracing::warn!("a refresh was refused for its scopes; sent again without (`scope_on_refresh`)");
            answer = post(form, secret).await?;
        }
        if subject.is_some() {
            return token::read_exchanged(&answer, key.is_some());
        }
        let tokens = match token::read_answer(&answer, key.is_some()) {
            Err(error) if error.class == Class::Malformed => {
                self.resolver.doubt().await;
                return Err(error);
            }
            tokens => tokens?,
        };
        if let (Some(id_token), Some(issuer), false) = (&tokens.id_token, &self.config.issuer, sub.is_empty())
        {
            id_token::check_refreshed(
                id_token.expose(),
                issuer,
                &self.config.client_id,
                &self.config.id_token_audiences,
                &sub,
            )
            .map_err(|problem| {
                tracing::error!(%problem, "a refresh brought an ID token that is not this session's");
                let class = match problem {
                    id_token::Problem::OtherUser => Class::SessionOver,
                    // Whatever is wrong with it, the refresh token that came along has replaced ours (M8).
                    id_token::Problem::UnknownKey | id_token::Problem::Invalid(_) => Class::Malformed,
                };
                let salvaged = tokens.refresh_token.clone().filter(|_| class == Class::Malformed);
                ProviderError { salvaged, ..ProviderError::new(class, problem.to_string()) }
            })?;
        }
        Ok(TokenResponse { servers: endpoints.servers(), ..tokens })
    }

    async fn end_session(&self, request: EndRequest) -> End {
        let EndRequest { refresh_token, access_token, stored_secret, servers } = request;
        let refresh_token = refresh_token.as_ref().map(RefreshToken::expose);
        let access_token = access_token.as_ref().map(AccessToken::expose);
        let ended = async {
            let endpoints = self.resolver.endpoints().await?;
            let Some(url) = endpoints::of_logout(&endpoints.logout) else { return Ok(None) };
            endpoints::at_home(&servers, url)?;
            let post =
                |form| self.post(&endpoints, url, form, stored_secret.clone(), None, http::CALL_TIMEOUT);
            if let LogoutEndpoint::Keycloak(_) = &endpoints.logout {
                let Some(token) = refresh_token else { return Ok(None) };
                return post(vec![("refresh_token", token)]).await.map(Some);
            }
            // Not every provider takes access tokens back (RFC 7009 section 2), and then they run out.
            let revoke = |token, hint| post(vec![("token", token), ("token_type_hint", hint)]);
            let lasting = match refresh_token {
                Some(token) => Some(revoke(token, "refresh_token").await?),
                None => None,
            };
            if lasting.as_ref().is_some_and(|answer| is_busy(answer.status)) {
                return Ok(lasting);
            }
            let passing = match access_token {
                Some(token) => Some(revoke(token, "access_token").await),
                None => None,
            };
            match (lasting, passing) {
                (None, Some(answer)) => answer.map(Some),
                (lasting, _) => Ok(lasting),
            }
        };
        match ended.await {
            Ok(None) => End::Impossible,
            // Also for a token that it does not know (RFC 7009 section 2.2).
            Ok(Some(answer)) if (200..300).contains(&answer.status) => End::Done,
            Ok(Some(answer)) => {
                tracing::warn!(status = answer.status, "the provider did not end the session");
                if is_busy(answer.status) {
                    End::Later(answer.retry_after.unwrap_or(END_RETRY))
                } else {
                    End::Impossible
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not tell the provider to end the session");
                match error.class {
                    Class::Refused | Class::Elsewhere => End::Impossible,
                    _ => End::Later(error.retry_after.unwrap_or(END_RETRY)),
                }
            }
        }
    }
}

impl OAuthProvider {
    /// Where `bearerctl doctor ACCOUNT` says that it is: in the words, for journalctl shows no fields.
    fn log_contents(&self, answer: &token::HttpAnswer) {
        let contents = token::contents(answer);
        tracing::info!(client_id = self.config.client_id, "a login's token answer held: {contents}");
    }

    /// What a refused exchange means for the configuration.
    fn explain(&self, mut error: ProviderError) -> ProviderError {
        let offline = self.config.scopes.iter().any(|scope| scope == "offline_access");
        // Keycloak's code for it; the words change with its versions.
        if offline && matches!(error.code.as_deref(), Some("not_allowed" | "invalid_scope")) {
            error.message = format!(
                "{} (offline_access is not granted to you or to this client; remove it from `scopes`)",
                error.message
            );
        }
        error
    }
}

/// To be told again later (RFC 7009 section 2.2.1).
fn is_busy(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

fn name_in(document: &serde_json::Value, profile: &Profile) -> String {
    match document.pointer(&profile.name) {
        Some(serde_json::Value::String(name)) => text::clean(name),
        Some(serde_json::Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// RFC 6749 section 2.3.1: both parts are form-encoded before they are joined and put into base64.
fn basic(client_id: &str, secret: &str) -> Zeroizing<String> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    raw_basic(&encode(client_id), &Zeroizing::new(encode(secret)))
}

/// As RFC 7617 has it.
fn raw_basic(client_id: &str, secret: &str) -> Zeroizing<String> {
    let joined = Zeroizing::new(format!("{client_id}:{secret}"));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(joined.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C3.
    #[test]
    fn basic_credentials_are_form_encoded_first_unless_they_must_not_be() {
        assert_eq!(
            *basic("my app", "a+b%c:d é"),
            format!("Basic {}", STANDARD.encode("my+app:a%2Bb%25c%3Ad+%C3%A9"))
        );
        assert_eq!(
            *raw_basic("my app", "a+b%c:d é"),
            format!("Basic {}", STANDARD.encode("my app:a+b%c:d é"))
        );
    }
}
