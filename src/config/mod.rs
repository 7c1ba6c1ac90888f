//! The configuration: TOML files in, a checked [`Config`] out.
//!
//! **Invariant:** a `Config` that exists is valid; nothing later re-checks it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::access::policy::Rules;
use crate::account::AccountName;
use crate::oidc::assertion::KeyFile;
use crate::secret::ClientSecret;

mod account;
mod client;
mod file;
mod load;
mod rules;
#[cfg(test)]
mod tests;

pub(crate) use account::is_encrypted;
pub use file::ConfigError;
pub use load::{AccountLookup, ConfigDirs};

/// The whole configuration, valid by construction.
#[derive(Clone, Default)]
pub struct Config {
    /// The main file, for messages.
    pub(crate) file: String,
    pub default_account: Option<AccountName>,
    /// Nothing is handed out while the screen is locked.
    pub pause_on_lock: bool,
    pub accounts: BTreeMap<AccountName, Arc<AccountConfig>>,
    /// What a user should know and can go on without, each naming its file and line.
    pub warnings: Vec<String>,
}

/// One account. Equal configurations keep their session through a reload.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountConfig {
    pub name: AccountName,
    /// The preset's name; empty without one.
    pub provider: String,
    /// The issuer identifier; for explicit endpoints without one, the token endpoint's origin.
    pub issuer: String,
    /// Where our own helpers may send the token; other programs know that themselves.
    pub api_origins: Vec<String>,
    /// A program and its arguments, run when the account's state changes; empty for none.
    pub on_change: Vec<String>,
    /// Who may use it.
    pub rules: Rules,
    pub source: Source,
}

/// Where an account's tokens come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    OAuth(Arc<OAuthConfig>),
    /// A personal token, set with `bearerctl set-token`.
    Personal,
}

/// How an OAuth account logs in and renews.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are switches of the user's, each on its own")]
pub struct OAuthConfig {
    pub client_id: String,
    /// `None`: as the provider's metadata says, else `Basic`.
    pub client_auth: Option<ClientAuth>,
    pub client_secret: SecretSource,
    pub scopes: Vec<String>,
    pub redirect: RedirectUri,
    pub endpoints: Endpoints,
    /// Asked once per login for the account holder's name.
    pub profile: Option<Profile>,
    /// `None`: required if the provider's metadata says that it sends it, else checked if present.
    pub iss: Option<IssPolicy>,
    /// What a response's `iss` and an ID token's must equal; `None` when no issuer is known.
    pub issuer: Option<String>,
    /// Whom an ID token may be for beside this client (OpenID Connect Core section 3.1.3.7, 3).
    pub id_token_audiences: Vec<String>,
    pub response_mode: ResponseMode,
    pub pkce: bool,
    /// Push authorization requests (RFC 9126) where the provider offers it.
    pub par: bool,
    /// Tokens are bound to a key of ours (RFC 9449).
    pub dpop: bool,
    /// How long ago the user may have logged in at the provider, in seconds (OpenID Connect Core section 3.1.2.1).
    pub max_age: Option<u64>,
    /// A login in the browser that nobody answers ends after this.
    pub login_timeout: Duration,
    /// Added to the authorization request; never a reserved name.
    pub extra_params: BTreeMap<String, String>,
    /// A refresh repeats the scopes (RFC 6749 section 6 lets it leave them out, some providers do not).
    pub scope_on_refresh: bool,
    pub keep_alive: KeepAlive,
    /// `None`: callers cannot ask for an audience.
    pub audience_by: Option<AudienceBy>,
    pub min_validity: Option<Duration>,
    /// Trusted beside the system's certificates.
    pub ca_file: Option<PathBuf>,
    pub store: StoreKind,
}

impl OAuthConfig {
    /// What is added to the request of a login. Several resources are a parameter each (RFC 8707 section 2).
    pub fn extra(&self) -> impl Iterator<Item = (&str, &str)> {
        self.extra_params.iter().flat_map(|(name, value)| {
            let parts = if name == "resource" { usize::MAX } else { 1 };
            let values = value.splitn(parts, ' ').filter(move |value| parts == 1 || !value.is_empty());
            values.map(move |value| (name.as_str(), value))
        })
    }
}

/// Where the provider is: in the configuration, or in its metadata.
#[derive(Clone, PartialEq, Eq)]
pub enum Endpoints {
    /// Nothing is asked for; the configuration is enough.
    Explicit(Box<ExplicitEndpoints>),
    /// Discovered from the issuer (RFC 8414, OpenID Connect Discovery 1.0); what is configured wins.
    Discovered(Box<DiscoveredEndpoints>),
}

/// An issuer, and the endpoints that are pinned nevertheless.
#[derive(Clone, PartialEq, Eq)]
pub struct DiscoveredEndpoints {
    pub issuer: Url,
    pub authorization: Option<Url>,
    pub token: Option<Url>,
    pub revocation: Option<Url>,
    pub end_session: Option<Url>,
    pub jwks: Option<Url>,
    pub device_authorization: Option<Url>,
    pub push: Option<Url>,
}

/// Endpoints from the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct ExplicitEndpoints {
    pub authorization: Url,
    pub token: Url,
    pub logout: LogoutEndpoint,
    /// The provider's keys, for ID tokens.
    pub jwks: Option<Url>,
    pub userinfo: Option<Url>,
    /// RFC 8628 section 3.1.
    pub device_authorization: Option<Url>,
    /// RFC 9126 section 2.
    pub push: Option<Url>,
}

/// How the response comes back through the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseMode {
    Query,
    /// OAuth 2.0 Form Post Response Mode.
    FormPost,
}

/// How the client authenticates at the token endpoint (RFC 6749 section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    Basic,
    /// Without the form-encoding below the base64, which some servers do not take off again.
    BasicRaw,
    Post,
    None,
    /// With a signature (RFC 7523): only where it is configured.
    PrivateKeyJwt,
}

/// Where the client secret is.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In the store, set with `bearerctl set-secret`.
    Store,
    /// In a file, read at each use.
    File(PathBuf),
    /// In the configuration file itself.
    Inline(ClientSecret),
    /// None: the client signs with this key, which is read at each use.
    Key(KeyFile),
}

/// Where the browser comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectUri {
    Loopback(Loopback),
    /// A page of somebody else's: the user pastes its address.
    Elsewhere(Url),
}

/// A loopback redirect URI (RFC 8252 section 7.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loopback {
    /// `127.0.0.1`, or `localhost` by explicit configuration. The listener is on 127.0.0.1 always.
    pub host: String,
    /// `None`: an ephemeral port.
    pub port: Option<u16>,
    /// Starts with `/`.
    pub path: String,
}

impl Default for Loopback {
    fn default() -> Self {
        Self { host: "127.0.0.1".into(), port: None, path: "/callback".into() }
    }
}

impl Default for RedirectUri {
    fn default() -> Self {
        Self::Loopback(Loopback::default())
    }
}

/// How a session is ended at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogoutEndpoint {
    /// Not known: only local secrets go.
    None,
    /// Keycloak's back-channel logout: `POST` with the refresh token.
    Keycloak(Url),
    /// RFC 7009.
    Revocation(Url),
}

/// Who is logged in: a JSON document behind the access token and a pointer (RFC 6901) into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub url: Url,
    pub name: String,
}

/// What to do about the `iss` parameter of an authorization response (RFC 9207).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssPolicy {
    Required,
    IfPresent,
    Ignore,
}

/// How a token for one audience is got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudienceBy {
    /// With the parameter `audience` of a refresh.
    Refresh,
    /// In exchange for the session's own access token (RFC 8693).
    Exchange,
}

/// Whether a session is renewed while nobody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    Always,
    WhenUsed,
}

/// Which store an account uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    SecretService,
    Memory,
}
