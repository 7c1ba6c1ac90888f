//! Proofs of possession (RFC 9449): the key of a session, and what it signs.
//!
//! **Invariants:** a private key leaves this module for the store's record alone. Time comes from outside, and
//! nothing here talks to anybody.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use url::Url;
use zeroize::Zeroizing;

use crate::config::is_encrypted;
use crate::secret::{AccessToken, DpopProof, random_token};

/// Longer than any method that there is.
const MAX_METHOD: usize = 32;
const MAX_NONCE: usize = 1024;

/// No key could be made, or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key for DPoP could not be made or used")]
pub struct NoKey;

/// A session's private key for ES256. No `Debug`, `Display` or `Serialize`; wiped with its last clone.
#[derive(Clone)]
pub struct ProofKey(Arc<Inner>);

struct Inner {
    pair: EcdsaKeyPair,
    /// PKCS #8 in base64url.
    stored: Zeroizing<String>,
}

impl ProofKey {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn generate() -> Result<Self, NoKey> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let pkcs8 = pkcs8.map_err(|_| NoKey)?;
        Self::from_stored(Zeroizing::new(URL_SAFE_NO_PAD.encode(pkcs8.as_ref())))
    }

    /// Reads what [`ProofKey::stored`] gave.
    ///
    /// # Errors
    /// When it is no key.
    pub fn from_stored(stored: Zeroizing<String>) -> Result<Self, NoKey> {
        let pkcs8 = Zeroizing::new(URL_SAFE_NO_PAD.decode(stored.as_bytes()).map_err(|_| NoKey)?);
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).map_err(|_| NoKey)?;
        Ok(Self(Arc::new(Inner { pair, stored })))
    }

    /// The key itself: for the store's record only.
    #[must_use]
    pub fn stored(&self) -> &str {
        &self.0.stored
    }

    /// Its public half's name (RFC 7638), for `dpop_jkt`.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let [x, y] = self.public();
        // The members that count, in their order, without white space.
        URL_SAFE_NO_PAD.encode(Sha256::digest(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)))
    }

    /// A proof for one request (RFC 9449 section 4.2), made at this time in seconds since the Unix epoch; with
    /// an access token for an API, without one for the provider.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn prove(
        &self,
        target: &Target,
        access_token: Option<&AccessToken>,
        nonce: Option<&Nonce>,
        at: u64,
    ) -> Result<DpopProof, NoKey> {
        let [x, y] = self.public();
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": jwk });
        let mut claims = json!({
            "jti": random_token().map_err(|_| NoKey)?,
            "htm": target.method,
            "htu": target.uri.as_str(),
            "iat": at,
        });
        if let Some(token) = access_token {
            claims["ath"] = URL_SAFE_NO_PAD.encode(Sha256::digest(token.expose())).into();
        }
        if let Some(Nonce(nonce)) = nonce {
            claims["nonce"] = nonce.as_str().into();
        }
        let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.0.pair.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| NoKey)?;
        let proof = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        DpopProof::parse(proof).map_err(|_| NoKey)
    }

    /// The coordinates of the public point, out of its uncompressed form.
    fn public(&self) -> [String; 2] {
        let point = self.0.pair.public_key().as_ref();
        [1..33, 33..65].map(|range| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default()))
    }
}

/// The request that a proof is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    method: String,
    /// Without query and fragment (section 4.2).
    uri: Url,
}

impl Target {
    /// A request to an address that was checked before.
    #[must_use]
    pub fn of(method: &str, uri: &Url) -> Self {
        let mut uri = uri.clone();
        uri.set_query(None);
        uri.set_fragment(None);
        Self { method: method.to_owned(), uri }
    }

    /// Checks what a caller wants to send.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub fn parse(method: &str, uri: &str) -> Result<Self, &'static str> {
        // RFC 9110 section 5.6.2.
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if method.is_empty() || method.len() > MAX_METHOD || !method.chars().all(is_token) {
            return Err("the method must be one of HTTP's, such as GET");
        }
        match Url::parse(uri) {
            Ok(uri) if !uri.username().is_empty() || uri.password().is_some() => {
                Err("the address must have no user and no password")
            }
            Ok(uri) if is_encrypted(&uri) => Ok(Self::of(method, &uri)),
            _ => Err("the address must start with https:// (http:// only for 127.0.0.1 or [::1])"),
        }
    }
}

/// What a server wants to see in the next proof (section 8).
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// `None`: it is none (section 8.1).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |c: char| matches!(c, '!' | '#'..='[' | ']'..='~');
        let good = !text.is_empty() && text.len() <= MAX_NONCE && text.chars().all(fits);
        good.then(|| Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use serde_json::Value;

    use super::*;

    fn read(proof: &DpopProof) -> (Jwk, Value) {
        let header = jsonwebtoken::decode_header(proof.expose()).unwrap();
        assert_eq!(header.typ.as_deref(), Some("dpop+jwt"));
        let jwk = header.jwk.unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        let key = DecodingKey::from_jwk(&jwk).unwrap();
        let claims = jsonwebtoken::decode::<Value>(proof.expose(), &key, &validation).unwrap().claims;
        (jwk, claims)
    }

    /// J5: signed by the key whose name was sent ahead, for one request, and another each time.
    #[test]
    fn a_proof_says_what_it_is_for_and_who_made_it() {
        let key = ProofKey::generate().unwrap();
        let target = Target::parse("GET", "https://api.example/a?b=c#d").unwrap();
        let token = AccessToken::parse("canary-at").unwrap();

        let proof = key.prove(&target, Some(&token), Nonce::parse("n-1").as_ref(), 1_790_000_000).unwrap();
        let (jwk, claims) = read(&proof);

        assert_eq!(jwk.thumbprint(ThumbprintHash::SHA256).unwrap(), key.thumbprint());
        assert_eq!((&claims["htm"], &claims["htu"]), (&"GET".into(), &"https://api.example/a".into()));
        assert_eq!((&claims["iat"], &claims["nonce"]), (&1_790_000_000.into(), &"n-1".into()));
        assert_eq!(claims["ath"], URL_SAFE_NO_PAD.encode(Sha256::digest("canary-at")));
        let (_, other) = read(&key.prove(&target, None, None, 1_790_000_000).unwrap());
        assert_ne!(other["jti"], claims["jti"]);
        assert!(other.get("ath").is_none() && other.get("nonce").is_none());
    }

    #[test]
    fn a_stored_key_is_the_same_key_and_what_is_none_is_refused() {
        let key = ProofKey::generate().unwrap();
        let again = ProofKey::from_stored(key.stored().to_owned().into()).unwrap();
        assert_eq!(again.thumbprint(), key.thumbprint());
        assert_ne!(ProofKey::generate().unwrap().thumbprint(), key.thumbprint());
        for bad in ["", "!", "AAAA", key.stored().get(..100).unwrap()] {
            assert!(ProofKey::from_stored(bad.to_owned().into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_requests_that_may_carry_a_token_are_proved() {
        for (method, uri) in [("GET", "https://api.example"), ("M-SEARCH", "http://127.0.0.1:8080/x?y")] {
            assert!(Target::parse(method, uri).is_ok(), "{method} {uri}");
        }
        for (method, uri) in [
            ("", "https://api.example/"),
            ("GET ", "https://api.example/"),
            ("GET\r\n", "https://api.example/"),
            ("GET", "http://api.example/"),
            ("GET", "https://me@api.example/"),
            ("GET", "/path"),
            ("GET", "file:///etc/passwd"),
            ("GET", ""),
        ] {
            assert!(Target::parse(method, uri).is_err(), "{method:?} {uri}");
        }
        assert!(Nonce::parse("eyJ7S_zG.eyJH0-Z").is_some());
        for bad in ["", "a b", "a\"b", "a\\b", "a\nb", "é"] {
            assert!(Nonce::parse(bad).is_none(), "{bad:?}");
        }
    }
}
