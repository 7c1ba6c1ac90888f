//! A provider's metadata (OpenID Connect Discovery 1.0, RFC 8414). Pure: bytes in, endpoints out.

use std::net::Ipv4Addr;

use serde::Deserialize;
use url::{Host, Url};

use super::text::clean;
use crate::config::ClientAuth;

/// What a provider says about itself, as far as it concerns us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    pub authorization_endpoint: Url,
    pub token_endpoint: Url,
    pub revocation_endpoint: Option<Url>,
    pub end_session_endpoint: Option<Url>,
    pub userinfo_endpoint: Option<Url>,
    pub jwks_uri: Option<Url>,
    /// RFC 8628 section 4.
    pub device_authorization_endpoint: Option<Url>,
    /// RFC 9126 section 5.
    pub pushed_authorization_request_endpoint: Option<Url>,
    /// Requests that were not pushed are refused.
    pub requires_push: bool,
    /// The best way to authenticate that both sides know; `None` when there is none.
    pub client_auth: Option<ClientAuth>,
    /// Responses carry `iss` (RFC 9207 section 3).
    pub sends_iss: bool,
}

#[derive(Deserialize)]
struct Wire {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    userinfo_endpoint: Option<String>,
    jwks_uri: Option<String>,
    device_authorization_endpoint: Option<String>,
    pushed_authorization_request_endpoint: Option<String>,
    #[serde(default)]
    require_pushed_authorization_requests: bool,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// Where an issuer's metadata may be: appended to its path as OpenID Connect has it, and inserted
/// before its path as RFC 8414 section 3 does.
#[must_use]
pub fn locations(issuer: &Url) -> [Url; 2] {
    let path = issuer.path().trim_end_matches('/').to_owned();
    let with_path = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    [
        with_path(format!("{path}/.well-known/openid-configuration")),
        with_path(format!("/.well-known/oauth-authorization-server{path}")),
    ]
}

/// What a captive portal or a proxy answers with, or a server that has its metadata elsewhere.
const WEB_PAGE: &str =
    "a web page came in place of the provider's metadata, as where a network wants a login first";

/// Reads a metadata document of this issuer.
///
/// # Errors
/// Why nothing of it may be used, as a sentence.
pub fn read(document: &[u8], issuer: &str) -> Result<Metadata, String> {
    let unreadable = |_| match document.trim_ascii_start().first() {
        Some(b'<') => WEB_PAGE.to_owned(),
        _ => "the provider's metadata cannot be read".to_owned(),
    };
    let wire: Wire = serde_json::from_slice(document).map_err(unreadable)?;
    // Compared as strings: a slash more is another issuer (RFC 8414 section 3.3).
    if wire.issuer != issuer {
        return Err(format!(
            "the metadata is of another issuer, {:?}; if that is the right one, set `issuer` to exactly it",
            clean(&wire.issuer)
        ));
    }
    let loopback = Url::parse(issuer).is_ok_and(|url| is_loopback(&url));
    let url = |name: &str, value: Option<&String>| -> Result<Option<Url>, String> {
        let Some(value) = value else { return Ok(None) };
        let url = Url::parse(value).map_err(|_| format!("the metadata's {name} is no URL"))?;
        // Metadata must not send us to services of this machine.
        let allowed = match url.scheme() {
            "https" => loopback || !is_loopback(&url),
            "http" => loopback && is_loopback(&url),
            _ => false,
        };
        if allowed { Ok(Some(url)) } else { Err(format!("the metadata's {name} is not an https address")) }
    };
    let required = |name: &str, value: Option<&String>| {
        url(name, value)?.ok_or_else(|| format!("the provider's metadata names no {name}"))
    };
    Ok(Metadata {
        authorization_endpoint: required("authorization_endpoint", wire.authorization_endpoint.as_ref())?,
        token_endpoint: required("token_endpoint", wire.token_endpoint.as_ref())?,
        revocation_endpoint: url("revocation_endpoint", wire.revocation_endpoint.as_ref())?,
        end_session_endpoint: url("end_session_endpoint", wire.end_session_endpoint.as_ref())?,
        userinfo_endpoint: url("userinfo_endpoint", wire.userinfo_endpoint.as_ref())?,
        jwks_uri: url("jwks_uri", wire.jwks_uri.as_ref())?,
        device_authorization_endpoint: url(
            "device_authorization_endpoint",
            wire.device_authorization_endpoint.as_ref(),
        )?,
        pushed_authorization_request_endpoint: url(
            "pushed_authorization_request_endpoint",
            wire.pushed_authorization_request_endpoint.as_ref(),
        )?,
        requires_push: wire.require_pushed_authorization_requests,
        client_auth: client_auth(wire.token_endpoint_auth_methods_supported.as_deref()),
        sends_iss: wire.authorization_response_iss_parameter_supported,
    })
}

/// Absent means `client_secret_basic` (RFC 8414 section 2).
fn client_auth(methods: Option<&[String]>) -> Option<ClientAuth> {
    let Some(methods) = methods else { return Some(ClientAuth::Basic) };
    let known = [
        ("client_secret_basic", ClientAuth::Basic),
        ("client_secret_post", ClientAuth::Post),
        ("none", ClientAuth::None),
    ];
    known.into_iter().find(|(name, _)| methods.iter().any(|method| method == name)).map(|(_, auth)| auth)
}

/// Whether this leads to services of this machine, whatever it is called. The unspecified address does too on Linux.
fn is_loopback(url: &Url) -> bool {
    let v4 = |ip: Ipv4Addr| ip.is_loopback() || ip.is_unspecified();
    match url.host() {
        Some(Host::Ipv4(ip)) => v4(ip),
        Some(Host::Ipv6(ip)) => {
            ip.is_loopback() || ip.is_unspecified() || ip.to_ipv4_mapped().is_some_and(v4)
        }
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://id.example/realms/staff";

    fn document() -> Value {
        json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://id.example/auth",
            "token_endpoint": "https://id.example/token",
            "jwks_uri": "https://id.example/keys",
        })
    }

    fn read_with(name: &str, value: Value) -> Result<Metadata, String> {
        let mut document = document();
        document[name] = value;
        read(document.to_string().as_bytes(), ISSUER)
    }

    /// G2: issuers with a path differ in the two.
    #[test]
    fn both_shapes_of_the_address_are_known() {
        let locations = |issuer: &str| locations(&Url::parse(issuer).unwrap()).map(String::from);
        assert_eq!(
            locations(ISSUER),
            [
                "https://id.example/realms/staff/.well-known/openid-configuration",
                "https://id.example/.well-known/oauth-authorization-server/realms/staff",
            ]
        );
        assert_eq!(
            locations("https://id.example"),
            [
                "https://id.example/.well-known/openid-configuration",
                "https://id.example/.well-known/oauth-authorization-server",
            ]
        );
    }

    /// G1.
    #[test]
    fn only_the_issuers_own_document_counts_letter_by_letter() {
        assert!(read(document().to_string().as_bytes(), ISSUER).is_ok());
        for other in
            ["https://id.example/realms/staff/", "https://ID.example/realms/staff", "https://evil.example"]
        {
            let error = read_with("issuer", json!(other)).unwrap_err();
            assert!(error.contains("another issuer"), "{error}");
        }
        for broken in ["", "[]", "{}", "{\"issuer\":7}", "<html>"] {
            assert!(read(broken.as_bytes(), ISSUER).is_err(), "{broken}");
        }
    }

    /// G4, R20: metadata leads to https only, and to this machine only if the issuer is on it.
    #[test]
    fn endpoints_are_https_and_not_on_this_machine() {
        for bad in [
            "http://id.example/token",
            "https://127.0.0.1/token",
            "http://127.0.0.1:6379/",
            "https://localhost/token",
            "https://[::1]/token",
            "https://0.0.0.0/token",
            "https://[::]/token",
            "https://[::ffff:127.0.0.1]/token",
            "https://2130706433/token",
            "https://localhost./token",
            "https://x.localhost/token",
            "file:///etc/passwd",
            "token",
        ] {
            for name in [
                "token_endpoint",
                "authorization_endpoint",
                "revocation_endpoint",
                "jwks_uri",
                "device_authorization_endpoint",
                "pushed_authorization_request_endpoint",
            ] {
                assert!(read_with(name, json!(bad)).unwrap_err().contains(name), "{name} {bad}");
            }
        }
        let local = "http://127.0.0.1:8080/realms/app";
        let document = json!({
            "issuer": local,
            "authorization_endpoint": "http://127.0.0.1:8080/auth",
            "token_endpoint": "http://127.0.0.1:8080/token",
        });
        assert!(read(document.to_string().as_bytes(), local).is_ok());
    }

    /// G6, C2: what is absent has its default.
    #[test]
    fn a_minimal_document_works() {
        let metadata = read(document().to_string().as_bytes(), ISSUER).unwrap();
        assert_eq!((metadata.client_auth, metadata.sends_iss), (Some(ClientAuth::Basic), false));
        for (methods, auth) in [
            (json!(["client_secret_post"]), Some(ClientAuth::Post)),
            (json!(["none", "client_secret_basic"]), Some(ClientAuth::Basic)),
            (json!(["none"]), Some(ClientAuth::None)),
            (json!(["private_key_jwt"]), None),
        ] {
            let metadata = read_with("token_endpoint_auth_methods_supported", methods).unwrap();
            assert_eq!(metadata.client_auth, auth);
        }
        for needed in ["authorization_endpoint", "token_endpoint"] {
            assert!(read_with(needed, Value::Null).unwrap_err().contains(needed));
        }
    }
}
