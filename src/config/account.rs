//! One account: its own keys over its preset's, checked and put together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::{Host, Url};

use super::file::{ConfigError, Field, Fields};
use super::rules::Narrows;
use super::{
    AccountConfig, AudienceBy, ClientAuth, ConfigDirs, DiscoveredEndpoints, Endpoints, ExplicitEndpoints,
    IssPolicy, KeepAlive, LogoutEndpoint, Loopback, OAuthConfig, Profile, RedirectUri, ResponseMode, Source,
    StoreKind, client,
};
use crate::account::AccountName;

/// Every key of a preset.
pub(super) const PRESET_KEYS: &[&str] = &[
    "issuer",
    "scopes",
    "redirect_uri",
    "authorization_endpoint",
    "token_endpoint",
    "revocation_endpoint",
    "end_session_endpoint",
    "device_authorization_endpoint",
    "pushed_authorization_request_endpoint",
    "jwks_uri",
    "response_mode",
    "profile_url",
    "profile_name",
    "client_auth",
    "pkce",
    "par",
    "dpop",
    "max_age",
    "login_timeout",
    "iss",
    "id_token_audiences",
    "extra_params",
    "scope_on_refresh",
    "keep_alive",
    "audience_by",
    "min_validity",
    "api_origins",
];

/// The keys that only an account has, beside those of a preset.
const ACCOUNT_KEYS: &[&str] = &[
    "provider",
    "source",
    "client_id",
    "client_secret",
    "client_secret_file",
    "client_key_file",
    "client_key_id",
    "ca_file",
    "store",
    "on_change",
    "rules",
    "confirm",
];

/// What a personal account can have: everything else is about logins.
const PERSONAL_KEYS: &[&str] =
    &["provider", "source", "issuer", "api_origins", "on_change", "rules", "confirm"];

/// Parameters of the authorization request that are ours alone (RFC 6749, RFC 7636, RFC 9101).
const RESERVED_PARAMETERS: &[&str] = &[
    "response_type",
    "client_id",
    "client_secret",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "code",
    "grant_type",
    "client_assertion",
    "client_assertion_type",
    "request",
    "request_uri",
    "response_mode",
    "dpop_jkt",
];

const KEYCLOAK_AUTHORIZATION: &str = "/protocol/openid-connect/auth";
const KEYCLOAK_TOKEN: &str = "/protocol/openid-connect/token";
const MAX_MIN_VALIDITY: u64 = 86_400;
/// A login that nobody answers ends after this: a wrong redirect URI never redirects back, so a silent provider is
/// normal (RFC 6749 section 4.1.2.1).
const LOGIN_TIMEOUT: Duration = Duration::from_secs(600);
const MAX_LOGIN_TIMEOUT: u64 = 86_400;
/// A year, in seconds.
const MAX_MAX_AGE: u64 = 365 * 86_400;

/// All keys of an account, for the reference and for suggestions.
pub(super) fn account_keys() -> Vec<&'static str> {
    ACCOUNT_KEYS.iter().chain(PRESET_KEYS).copied().collect()
}

/// An account's fields and its preset's behind them.
pub(super) struct Layers<'a> {
    pub(super) own: Fields<'a>,
    preset: Option<Fields<'a>>,
}

impl<'a> Layers<'a> {
    fn get(&self, key: &'a str) -> Option<Field<'a>> {
        self.own.get(key).or_else(|| self.preset.and_then(|preset| preset.get(key)))
    }

    fn url(&self, key: &'a str) -> Result<Option<Url>, ConfigError> {
        self.get(key).map(|field| url(&field)).transpose()
    }
}

/// Checks one account.
pub(super) fn read<'a>(
    name: AccountName,
    place: &Field<'a>,
    preset: Option<(&'a str, Fields<'a>)>,
    dirs: &ConfigDirs,
    warnings: &mut Vec<String>,
) -> Result<Arc<AccountConfig>, ConfigError> {
    let own = place.table()?;
    let personal = match own.get("source") {
        Some(field) => field.word(&[("oauth", false), ("personal", true)])?,
        None => false,
    };
    if personal {
        let keys = account_keys();
        own.only(&keys)?;
        if let Some((key, _, field)) = own.iter().find(|(key, ..)| !PERSONAL_KEYS.contains(key)) {
            let _ = key;
            return Err(field.error("has no meaning with source = \"personal\"; remove it"));
        }
    } else {
        own.only(&account_keys())?;
    }
    let provider = preset.map(|(name, _)| name.to_owned()).unwrap_or_default();
    let layers = Layers { own, preset: preset.map(|(_, fields)| fields) };
    let issuer = layers.get("issuer").map(|field| url(&field).and(field.string())).transpose()?;
    let api_origins = api_origins(&layers)?;
    let on_change = on_change(&layers)?;
    let narrows = match (personal, layers.get("audience_by")) {
        (true, _) => Narrows::Never,
        (false, None) => Narrows::NotByAudience,
        (false, Some(_)) => Narrows::Any,
    };
    let rules = super::rules::read(&own, narrows)?;
    if personal {
        let issuer = issuer.unwrap_or_default().to_owned();
        let source = Source::Personal;
        return Ok(Arc::new(AccountConfig { name, provider, issuer, api_origins, on_change, rules, source }));
    }
    let oauth = read_oauth(&layers, place, issuer, dirs, warnings)?;
    let issuer = match (&oauth.issuer, &oauth.endpoints) {
        (Some(issuer), _) => issuer.clone(),
        (None, Endpoints::Explicit(explicit)) => explicit.token.origin().ascii_serialization(),
        (None, Endpoints::Discovered(discovered)) => discovered.issuer.to_string(),
    };
    let source = Source::OAuth(Arc::new(oauth));
    Ok(Arc::new(AccountConfig { name, provider, issuer, api_origins, on_change, rules, source }))
}

fn read_oauth<'a>(
    layers: &Layers<'a>,
    place: &Field<'a>,
    issuer: Option<&str>,
    dirs: &ConfigDirs,
    warnings: &mut Vec<String>,
) -> Result<OAuthConfig, ConfigError> {
    let scopes = scopes(layers)?;
    let openid = scopes.iter().any(|scope| scope == "openid");
    let (endpoints, issuer) = endpoints(layers, place, issuer, openid)?;
    let max_age = layers.get("max_age");
    if let (Some(field), false) = (&max_age, openid) {
        return Err(field.error("needs openid in `scopes`: only an ID token tells when the user logged in"));
    }
    let max_age = max_age.map(|field| field.integer(MAX_MAX_AGE)).transpose()?;
    let client_id = layers
        .get("client_id")
        .ok_or_else(|| place.error("needs `client_id`, as registered at the provider"))?;
    let client_id_text = client_id.string()?;
    if client_id_text.is_empty()
        || client_id_text.len() > 1024
        || client_id_text.chars().any(char::is_control)
    {
        return Err(client_id.error("must be 1 to 1024 characters without control characters"));
    }
    let client_auth = layers
        .get("client_auth")
        .map(|field| {
            field.word(&[
                ("basic", ClientAuth::Basic),
                ("basic-raw", ClientAuth::BasicRaw),
                ("post", ClientAuth::Post),
                ("none", ClientAuth::None),
                ("private_key_jwt", ClientAuth::PrivateKeyJwt),
            ])
        })
        .transpose()?;
    let flag = |key, default| layers.get(key).map_or(Ok(default), |field| field.boolean());
    Ok(OAuthConfig {
        client_id: client_id_text.to_owned(),
        client_auth,
        client_secret: client::secret(layers, place, client_auth, dirs, warnings)?,
        scopes,
        redirect: layers
            .get("redirect_uri")
            .map_or_else(|| Ok(RedirectUri::default()), |field| redirect(&field))?,
        endpoints,
        profile: profile(layers)?,
        iss: layers
            .get("iss")
            .map(|field| {
                field.word(&[
                    ("required", IssPolicy::Required),
                    ("if-present", IssPolicy::IfPresent),
                    ("ignore", IssPolicy::Ignore),
                ])
            })
            .transpose()?,
        issuer,
        response_mode: layers.get("response_mode").map_or(Ok(ResponseMode::Query), |field| {
            field.word(&[("query", ResponseMode::Query), ("form_post", ResponseMode::FormPost)])
        })?,
        id_token_audiences: layers
            .get("id_token_audiences")
            .map_or_else(|| Ok(Vec::new()), |field| field.strings())?,
        pkce: flag("pkce", true)?,
        par: flag("par", true)?,
        dpop: flag("dpop", false)?,
        max_age,
        login_timeout: login_timeout(layers)?,
        extra_params: extra_params(layers)?,
        scope_on_refresh: flag("scope_on_refresh", false)?,
        keep_alive: layers.get("keep_alive").map_or(Ok(KeepAlive::Always), |field| {
            field.word(&[("always", KeepAlive::Always), ("when-used", KeepAlive::WhenUsed)])
        })?,
        audience_by: layers
            .get("audience_by")
            .map(|field| field.word(&[("refresh", AudienceBy::Refresh), ("exchange", AudienceBy::Exchange)]))
            .transpose()?,
        min_validity: layers
            .get("min_validity")
            .map(|field| field.integer(MAX_MIN_VALIDITY).map(Duration::from_secs))
            .transpose()?,
        ca_file: ca_file(layers, dirs)?,
        store: layers.get("store").map_or(Ok(StoreKind::SecretService), |field| {
            field.word(&[("secret-service", StoreKind::SecretService), ("memory", StoreKind::Memory)])
        })?,
    })
}

fn login_timeout(layers: &Layers<'_>) -> Result<Duration, ConfigError> {
    let Some(field) = layers.get("login_timeout") else { return Ok(LOGIN_TIMEOUT) };
    match field.integer(MAX_LOGIN_TIMEOUT)? {
        0 => Err(field.error("must be at least 1: nobody can answer at once")),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

/// The endpoints, and the issuer as far as it is known.
fn endpoints<'a>(
    layers: &Layers<'a>,
    place: &Field<'a>,
    issuer: Option<&str>,
    openid: bool,
) -> Result<(Endpoints, Option<String>), ConfigError> {
    let authorization = layers.url("authorization_endpoint")?;
    let token = layers.url("token_endpoint")?;
    let revocation = layers.url("revocation_endpoint")?;
    let end_session = layers.url("end_session_endpoint")?;
    let jwks = layers.url("jwks_uri")?;
    let device_authorization = layers.url("device_authorization_endpoint")?;
    let push = layers.url("pushed_authorization_request_endpoint")?;
    let (authorization, token) = match (authorization, token, issuer) {
        (Some(authorization), Some(token), _) => (authorization, token),
        (authorization, token, Some(issuer)) => {
            let url = Url::parse(issuer)
                .map_err(|why| place.error(&format!("has an issuer that is no URL: {why}")))?;
            let discovered = DiscoveredEndpoints {
                issuer: url,
                authorization,
                token,
                revocation,
                end_session,
                jwks,
                device_authorization,
                push,
            };
            return Ok((Endpoints::Discovered(Box::new(discovered)), Some(issuer.to_owned())));
        }
        (..) if layers.preset.is_some() => {
            return Err(place.error(
                "needs `issuer`, the address of your server: its preset fits many; see docs/providers.md",
            ));
        }
        (..) => {
            return Err(place
                .error("needs `issuer`, or `authorization_endpoint` and `token_endpoint`, or a `provider`"));
        }
    };
    let realm = token.as_str().strip_suffix(KEYCLOAK_TOKEN);
    // Keycloak names itself as browsers see it; the token endpoint may be an inner address.
    let front = authorization.as_str().strip_suffix(KEYCLOAK_AUTHORIZATION);
    let issuer = issuer.or(front.filter(|_| realm.is_some())).map(str::to_owned);
    let of_realm =
        |name| realm.and_then(|realm| Url::parse(&format!("{realm}/protocol/openid-connect/{name}")).ok());
    let jwks = jwks.or_else(|| of_realm("certs"));
    if openid && (jwks.is_none() || issuer.is_none()) {
        return Err(place.error(
            "asks for openid, so it needs `issuer` and `jwks_uri` to check ID tokens (or `issuer` alone, without endpoints)",
        ));
    }
    let logout = match (revocation, end_session.or_else(|| of_realm("logout"))) {
        (Some(url), _) => LogoutEndpoint::Revocation(url),
        (None, Some(url)) => LogoutEndpoint::Keycloak(url),
        (None, None) => LogoutEndpoint::None,
    };
    let userinfo = of_realm("userinfo");
    let device_authorization = device_authorization.or_else(|| of_realm("auth/device"));
    let explicit =
        ExplicitEndpoints { authorization, token, logout, jwks, userinfo, device_authorization, push };
    Ok((Endpoints::Explicit(Box::new(explicit)), issuer))
}

fn scopes(layers: &Layers<'_>) -> Result<Vec<String>, ConfigError> {
    let Some(field) = layers.get("scopes") else { return Ok(Vec::new()) };
    let scopes = field.strings()?;
    // RFC 6749 section 3.3.
    let fits = |c: char| matches!(c, '!' | '#'..='[' | ']'..='~');
    if scopes.iter().any(|scope| scope.is_empty() || !scope.chars().all(fits)) {
        return Err(field.error("must hold one scope per string, without spaces or quotes"));
    }
    Ok(scopes)
}

/// Origins (RFC 6454), as git and others name them: no path, no default port.
fn api_origins(layers: &Layers<'_>) -> Result<Vec<String>, ConfigError> {
    let Some(field) = layers.get("api_origins") else { return Ok(Vec::new()) };
    let origin = |text: &String| {
        let url = Url::parse(text)
            .ok()
            .filter(|url| is_encrypted(url) && is_bare(url) && matches!(url.path(), "" | "/"));
        url.filter(|url| url.query().is_none()).map(|url| url.origin().ascii_serialization())
    };
    field.strings()?.iter().map(origin).collect::<Option<_>>().ok_or_else(|| {
        field.error(
            "must hold addresses without a path, such as \"https://api.example.com\" (http:// only for 127.0.0.1 or [::1])",
        )
    })
}

/// Not through a shell: nothing in it is expanded.
fn on_change(layers: &Layers<'_>) -> Result<Vec<String>, ConfigError> {
    let Some(field) = layers.own.get("on_change") else { return Ok(Vec::new()) };
    let command = field.strings()?;
    if command.first().is_some_and(|program| program.starts_with('/')) {
        Ok(command)
    } else {
        Err(field.error("must be a program's absolute path and its arguments, such as [\"/usr/bin/notify-send\", \"changed\"]"))
    }
}

fn profile(layers: &Layers<'_>) -> Result<Option<Profile>, ConfigError> {
    let name = layers.get("profile_name");
    let Some(url) = layers.url("profile_url")? else {
        return match name {
            Some(field) => Err(field.error("needs `profile_url`")),
            None => Ok(None),
        };
    };
    let Some(field) = name else {
        return Ok(Some(Profile { url, name: "/name".to_owned() }));
    };
    let pointer = field.string()?;
    if !pointer.starts_with('/') {
        return Err(field.error("must be a JSON pointer such as \"/username\""));
    }
    Ok(Some(Profile { url, name: pointer.to_owned() }))
}

/// The preset's, and the account's over them.
fn extra_params(layers: &Layers<'_>) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut parameters = BTreeMap::new();
    let preset = layers.preset.and_then(|preset| preset.get("extra_params"));
    for field in preset.into_iter().chain(layers.own.get("extra_params")) {
        for (name, _, value) in field.table()?.iter() {
            if name == "max_age" {
                return Err(value.error("must be the account's own key `max_age`, which is checked too"));
            }
            if RESERVED_PARAMETERS.contains(&name) {
                return Err(value.error("is a parameter that bearerd sets itself; remove it"));
            }
            parameters.insert(name.to_owned(), value.string()?.to_owned());
        }
    }
    Ok(parameters)
}

fn ca_file(layers: &Layers<'_>, dirs: &ConfigDirs) -> Result<Option<PathBuf>, ConfigError> {
    let Some(field) = layers.own.get("ca_file") else { return Ok(None) };
    let path = path(&field, dirs)?;
    let pem =
        std::fs::read_to_string(&path).map_err(|error| field.error(&format!("cannot be read: {error}")))?;
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(field.error("must name a file with PEM certificates"));
    }
    Ok(Some(path))
}

/// A path with `~/` and `$CREDENTIALS_DIRECTORY` expanded.
pub(super) fn path(field: &Field<'_>, dirs: &ConfigDirs) -> Result<PathBuf, ConfigError> {
    let text = field.string()?;
    if let Some(rest) = text.strip_prefix("$CREDENTIALS_DIRECTORY/") {
        let credentials = dirs.credentials.as_ref().ok_or_else(|| {
            field.error("names $CREDENTIALS_DIRECTORY, which is not set; add LoadCredential= to the unit")
        })?;
        return Ok(credentials.join(rest));
    }
    if let Some(rest) = text.strip_prefix("~/") {
        let home = dirs.home.as_ref().ok_or_else(|| field.error("starts with ~/, and HOME is not set"))?;
        return Ok(home.join(rest));
    }
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(field.error("must be an absolute path, or start with ~/ or $CREDENTIALS_DIRECTORY/"))
    }
}

/// An address of a provider: https, or http on a loopback literal (RFC 6749 section 3.1, RFC 8252 section 8.3).
fn url(field: &Field<'_>) -> Result<Url, ConfigError> {
    let url = Url::parse(field.string()?).map_err(|why| field.error(&format!("is no URL: {why}")))?;
    if !is_encrypted(&url) {
        return Err(field.error("must start with https:// (http:// only for 127.0.0.1 or [::1])"));
    }
    if !is_bare(&url) {
        return Err(field.error("must have no user, password or #fragment"));
    }
    Ok(url)
}

/// Whether what is sent there is encrypted, or stays on this machine.
pub(crate) fn is_encrypted(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        _ => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && loopback)
}

fn is_bare(url: &Url) -> bool {
    url.username().is_empty() && url.password().is_none() && url.fragment().is_none()
}

fn redirect(field: &Field<'_>) -> Result<RedirectUri, ConfigError> {
    let url = Url::parse(field.string()?).map_err(|why| field.error(&format!("is no URL: {why}")))?;
    if matches!(url.host(), Some(Host::Domain(name)) if url.scheme() == "https" && name != "localhost") {
        // A page that shows its address: the user pastes it.
        return self::url(field).map(RedirectUri::Elsewhere);
    }
    let host = match url.host() {
        Some(Host::Ipv4(ip)) if ip == std::net::Ipv4Addr::LOCALHOST => "127.0.0.1",
        Some(Host::Domain("localhost")) => "localhost",
        Some(Host::Ipv6(ip)) if ip.is_loopback() => {
            return Err(field.error("must be on 127.0.0.1: providers accept any port there, not on [::1]"));
        }
        _ => {
            return Err(field.error(
                "must be on this machine, http://127.0.0.1/callback with or without a port, or an https page",
            ));
        }
    };
    if url.scheme() != "http" {
        return Err(field.error("must start with http://: the browser comes back on loopback"));
    }
    if url.query().is_some()
        || url.fragment().is_some()
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return Err(field.error("must be host, port and path only"));
    }
    // `Url` drops a port of 80, which nobody but root could listen on anyway.
    if url.port().is_some_and(|port| port < 1024) {
        return Err(field.error("must have a port from 1024 to 65535, or none"));
    }
    Ok(RedirectUri::Loopback(Loopback {
        host: host.to_owned(),
        port: url.port(),
        path: url.path().to_owned(),
    }))
}
