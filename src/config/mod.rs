//! The configuration: TOML files in, a checked [`Config`] out.
//!
//! **Invariant:** a `Config` that exists is valid; nothing later re-checks it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::account::AccountName;
use crate::secret::ClientSecret;

mod account;
mod file;
mod load;
#[cfg(test)]
mod tests;

pub use file::ConfigError;
pub use load::{AccountLookup, ConfigDirs};

/// The whole configuration, valid by construction.
#[derive(Clone, Default)]
pub struct Config {
    /// The main file, for messages.
    pub(crate) file: String,
    pub default_account: Option<AccountName>,
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
    pub source: Source,
}

/// Where an account's tokens come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    OAuth(Box<OAuthConfig>),
    /// A personal token, set with `bearerctl set-token`.
    Personal,
}

/// How an OAuth account logs in and renews.
#[derive(Clone, PartialEq, Eq)]
pub struct OAuthConfig {
    pub client_id: String,
    pub client_auth: ClientAuth,
    pub client_secret: SecretSource,
    pub scopes: Vec<String>,
    pub redirect: RedirectUri,
    pub authorization_endpoint: Url,
    pub token_endpoint: Url,
    pub logout: LogoutEndpoint,
    /// Asked once per login for the account holder's name.
    pub profile: Option<Profile>,
    pub iss: IssPolicy,
    /// What a response's `iss` must equal; `None` when no issuer is known.
    pub expected_iss: Option<String>,
    pub pkce: bool,
    /// Added to the authorization request; never a reserved name.
    pub extra_params: BTreeMap<String, String>,
    pub keep_alive: KeepAlive,
    pub min_validity: Option<Duration>,
    /// Trusted beside the system's certificates.
    pub ca_file: Option<PathBuf>,
    pub store: StoreKind,
}

/// How the client authenticates at the token endpoint (RFC 6749 section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    Basic,
    Post,
    None,
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
}

/// The loopback redirect URI (RFC 8252 section 7.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectUri {
    /// `127.0.0.1`, or `localhost` by explicit configuration. The listener is on 127.0.0.1 always.
    pub host: String,
    /// `None`: an ephemeral port.
    pub port: Option<u16>,
    /// Starts with `/`.
    pub path: String,
}

impl Default for RedirectUri {
    fn default() -> Self {
        Self { host: "127.0.0.1".into(), port: None, path: "/callback".into() }
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
