//! Where a provider is: from the configuration, or from its metadata, fetched when needed and kept.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use tokio::sync::Mutex;
use url::Url;

use super::discovery::{self, Metadata};
use super::error::{Class, ProviderError};
use super::http::Http;
use crate::clock::{BootTime, Clock};
use crate::config::{self, ClientAuth, DiscoveredEndpoints, IssPolicy, LogoutEndpoint, OAuthConfig};

/// Metadata is asked for again after this; until it is there, the old one serves.
const METADATA_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Keys are not fetched more often than this, whatever key a token names.
const KEYS_REST: Duration = Duration::from_secs(60);
const KEYCLOAK_TOKEN: &str = "/protocol/openid-connect/token";

/// Everything that a session needs to know of its provider.
#[derive(Clone)]
pub(super) struct Endpoints {
    pub(super) authorization: Url,
    pub(super) token: Url,
    pub(super) logout: LogoutEndpoint,
    pub(super) jwks: Option<Url>,
    pub(super) userinfo: Option<Url>,
    pub(super) device_authorization: Option<Url>,
    /// Where authorization requests are pushed; `None` with `par = false` too.
    pub(super) push: Option<Url>,
    pub(super) requires_push: bool,
    pub(super) client_auth: ClientAuth,
    pub(super) iss: IssPolicy,
}

impl Endpoints {
    /// The origins that get a session's tokens, space separated.
    pub(super) fn servers(&self) -> String {
        let logout = of_logout(&self.logout);
        let mut servers = vec![self.token.origin().ascii_serialization()];
        servers.extend(
            logout.map(|url| url.origin().ascii_serialization()).filter(|other| *other != servers[0]),
        );
        servers.join(" ")
    }
}

pub(super) struct Resolver {
    config: Arc<OAuthConfig>,
    http: Arc<Http>,
    clock: Clock,
    /// One fetch at a time.
    metadata: Mutex<Option<Box<Known>>>,
    keys: Mutex<Option<Keys>>,
}

struct Known {
    metadata: Metadata,
    etag: Option<String>,
    fetched: BootTime,
    doubtful: bool,
}

struct Keys {
    set: Arc<JwkSet>,
    /// When an unknown key made us fetch them again.
    fetched_again: Option<BootTime>,
}

impl Resolver {
    pub(super) fn new(config: Arc<OAuthConfig>, http: Arc<Http>, clock: Clock) -> Self {
        Self { config, http, clock, metadata: Mutex::default(), keys: Mutex::default() }
    }

    /// The endpoints, discovered if they are not configured.
    ///
    /// # Errors
    /// When the metadata is needed and cannot be had.
    pub(super) async fn endpoints(&self) -> Result<Endpoints, ProviderError> {
        match &self.config.endpoints {
            config::Endpoints::Explicit(explicit) => Ok(Endpoints {
                authorization: explicit.authorization.clone(),
                token: explicit.token.clone(),
                logout: explicit.logout.clone(),
                jwks: explicit.jwks.clone(),
                userinfo: explicit.userinfo.clone(),
                device_authorization: explicit.device_authorization.clone(),
                push: explicit.push.clone().filter(|_| self.config.par),
                requires_push: false,
                client_auth: self.config.client_auth.unwrap_or(ClientAuth::Basic),
                iss: self.config.iss.unwrap_or(IssPolicy::IfPresent),
            }),
            config::Endpoints::Discovered(discovered) => {
                let DiscoveredEndpoints {
                    issuer,
                    authorization,
                    token,
                    revocation,
                    end_session,
                    jwks,
                    device_authorization,
                    push,
                } = discovered.as_ref();
                let metadata = self.metadata(issuer, token.is_some()).await?;
                let token = token.clone().unwrap_or(metadata.token_endpoint);
                let keycloak = token.as_str().strip_suffix(KEYCLOAK_TOKEN).is_some();
                // Its revocation ends the client's part of the session only.
                let end_session = end_session.clone().or(metadata.end_session_endpoint.filter(|_| keycloak));
                let logout = match (revocation, end_session, metadata.revocation_endpoint) {
                    (Some(url), ..) => LogoutEndpoint::Revocation(url.clone()),
                    (None, Some(url), _) => LogoutEndpoint::Keycloak(url),
                    (None, None, Some(url)) => LogoutEndpoint::Revocation(url),
                    (None, None, None) => LogoutEndpoint::None,
                };
                let sends_iss = if metadata.sends_iss { IssPolicy::Required } else { IssPolicy::IfPresent };
                Ok(Endpoints {
                    authorization: authorization.clone().unwrap_or(metadata.authorization_endpoint),
                    token,
                    logout,
                    jwks: jwks.clone().or(metadata.jwks_uri),
                    userinfo: metadata.userinfo_endpoint,
                    device_authorization: device_authorization
                        .clone()
                        .or(metadata.device_authorization_endpoint),
                    push: push
                        .clone()
                        .or(metadata.pushed_authorization_request_endpoint)
                        .filter(|_| self.config.par),
                    requires_push: metadata.requires_push,
                    client_auth: self
                        .config
                        .client_auth
                        .or(metadata.client_auth)
                        .unwrap_or(ClientAuth::Basic),
                    iss: self.config.iss.unwrap_or(sends_iss),
                })
            }
        }
    }

    /// Something answered that is no token endpoint: it may have moved, so the metadata is asked for again.
    pub(super) async fn doubt(&self) {
        if let Some(known) = self.metadata.lock().await.as_mut() {
            known.doubtful = true;
        }
    }

    /// The next look is as the first one.
    pub(super) async fn forget(&self) {
        *self.metadata.lock().await = None;
    }

    async fn metadata(&self, issuer: &Url, token_is_pinned: bool) -> Result<Metadata, ProviderError> {
        let mut known = self.metadata.lock().await;
        let now = self.clock.now().boot;
        let serves = |known: &&Known| !known.doubtful && now.since(known.fetched) < METADATA_LIFE;
        if let Some(known) = known.as_deref().filter(serves) {
            return Ok(known.metadata.clone());
        }
        let fetched = self.fetch(issuer, known.as_deref()).await;
        match (fetched, known.as_mut()) {
            (Ok(None), Some(known)) => {
                known.fetched = now;
                known.doubtful = false;
                Ok(known.metadata.clone())
            }
            (Ok(None), None) => Err(ProviderError::new(Class::Malformed, "the provider's metadata is empty")),
            (Ok(Some((new, _))), Some(old)) if stranger(&new, &old.metadata, token_is_pinned).is_some() => {
                tracing::error!(
                    host = stranger(&new, &old.metadata, token_is_pinned).and_then(Url::host_str),
                    "the provider's metadata sends tokens to another server than before; the old endpoints stay in use; \
                     if the provider has moved, restart bearerd"
                );
                old.fetched = now;
                old.doubtful = false;
                Ok(old.metadata.clone())
            }
            (Ok(Some((metadata, etag))), _) => {
                *known =
                    Some(Box::new(Known { metadata: metadata.clone(), etag, fetched: now, doubtful: false }));
                Ok(metadata)
            }
            // A provider that restarts answers nonsense for a while: what was true still is.
            (Err(error), Some(known)) => {
                tracing::warn!(%error, "the provider's metadata could not be read again; the old one serves");
                Ok(known.metadata.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// New metadata, or `None` when the known one still stands.
    async fn fetch(
        &self,
        issuer: &Url,
        known: Option<&Known>,
    ) -> Result<Option<(Metadata, Option<String>)>, ProviderError> {
        let name = self.config.issuer.as_deref().unwrap_or(issuer.as_str());
        let etag = known.and_then(|known| known.etag.as_deref());
        let mut problem = None;
        for location in discovery::locations(issuer) {
            let answer = self.http.get(&location, etag).await.map_err(unspent)?;
            match answer.status {
                304 if etag.is_some() => return Ok(None),
                200 => match discovery::read(&answer.body, name) {
                    Ok(metadata) => return Ok(Some((metadata, answer.etag))),
                    Err(why) => problem = Some(why),
                },
                status => {
                    problem
                        .get_or_insert(format!("the provider's metadata is answered with status {status}"));
                }
            }
        }
        let why = problem.unwrap_or_else(|| "the provider has no metadata".to_owned());
        Err(ProviderError::new(Class::Malformed, format!("{why}; check `issuer`")))
    }

    /// The provider's keys, from memory if they were fetched before.
    pub(super) async fn keys(&self, endpoints: &Endpoints) -> Result<Arc<JwkSet>, ProviderError> {
        let mut keys = self.keys.lock().await;
        if let Some(keys) = keys.as_ref() {
            return Ok(Arc::clone(&keys.set));
        }
        let set = self.fetch_keys(endpoints).await?;
        *keys = Some(Keys { set: Arc::clone(&set), fetched_again: None });
        Ok(set)
    }

    /// The keys fetched again; `None` when that was done a moment ago. The old ones stay when it fails.
    pub(super) async fn newer_keys(
        &self,
        endpoints: &Endpoints,
    ) -> Result<Option<Arc<JwkSet>>, ProviderError> {
        let mut keys = self.keys.lock().await;
        let now = self.clock.now().boot;
        let last = keys.as_ref().and_then(|keys| keys.fetched_again);
        if last.is_some_and(|last| now.since(last) < KEYS_REST) {
            return Ok(None);
        }
        let set = self.fetch_keys(endpoints).await?;
        *keys = Some(Keys { set: Arc::clone(&set), fetched_again: Some(now) });
        Ok(Some(set))
    }

    async fn fetch_keys(&self, endpoints: &Endpoints) -> Result<Arc<JwkSet>, ProviderError> {
        let Some(url) = &endpoints.jwks else {
            return Err(ProviderError::new(Class::Malformed, "the provider names no keys; set `jwks_uri`"));
        };
        let answer = self.http.get(url, None).await.map_err(unspent)?;
        let set = serde_json::from_slice::<JwkSet>(&answer.body).ok().filter(|_| answer.status == 200);
        let set =
            set.ok_or_else(|| ProviderError::new(Class::Malformed, "the provider's keys cannot be read"))?;
        Ok(Arc::new(set))
    }
}

/// A lost answer here has spent nothing.
pub(super) fn unspent(error: ProviderError) -> ProviderError {
    match error.class {
        Class::Ambiguous => ProviderError { class: Class::Unreachable, ..error },
        _ => error,
    }
}

pub(super) fn of_logout(logout: &LogoutEndpoint) -> Option<&Url> {
    match logout {
        LogoutEndpoint::None => None,
        LogoutEndpoint::Keycloak(url) | LogoutEndpoint::Revocation(url) => Some(url),
    }
}

/// A session's tokens go where they came from, also after a restart (RFC 9700 section 4.4): whoever can change
/// the metadata in between must not get them either. Of an old session `servers` says nothing.
pub(super) fn at_home(servers: &str, url: &Url) -> Result<(), ProviderError> {
    let there = url.origin().ascii_serialization();
    if servers.is_empty() || servers.split(' ').any(|known| known == there) {
        return Ok(());
    }
    tracing::error!(there, servers, "the provider's endpoint is not where the session came from");
    let why = format!("it came from {servers}, and the endpoint is now at {there}");
    Err(ProviderError::new(Class::Elsewhere, why))
}

/// An endpoint of the new metadata that would be given tokens or the client's secret, on a server that the old
/// one gave none to (RFC 9700 section 4.4): whoever can change the metadata must not get a running session.
fn stranger<'a>(new: &'a Metadata, old: &Metadata, token_is_pinned: bool) -> Option<&'a Url> {
    let known: Vec<_> = trusted(old).map(Url::origin).collect();
    trusted(new)
        .filter(|url| !(token_is_pinned && **url == new.token_endpoint))
        .find(|url| !known.contains(&url.origin()))
}

fn trusted(metadata: &Metadata) -> impl Iterator<Item = &Url> {
    let more = [
        &metadata.revocation_endpoint,
        &metadata.end_session_endpoint,
        &metadata.userinfo_endpoint,
        &metadata.device_authorization_endpoint,
        &metadata.pushed_authorization_request_endpoint,
    ];
    std::iter::once(&metadata.token_endpoint).chain(more.into_iter().flatten())
}
