//! Proofs of possession (RFC 9449) as a provider and an API check them (section 4.3).

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::ThumbprintHash;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// How far a proof's clock may be off, in seconds.
const SKEW: u64 = 30;

/// What tokens are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dpop {
    /// Nothing; proofs are not looked at.
    No,
    /// A key, which every token request has to prove.
    Required,
    /// As `Required`, and with a nonce in every proof (section 8).
    WithNonce,
}

/// Which request a proof must be for.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) uri: &'a str,
    /// `None`: none comes with it.
    pub(super) access_token: Option<&'a str>,
    pub(super) nonce: Option<&'a str>,
    pub(super) now: u64,
}

/// Why a proof does not count.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Nonce,
    Proof,
}

/// The proofs that were used.
#[derive(Default)]
pub(super) struct Proofs(HashSet<String>);

impl Proofs {
    /// The thumbprint of the key that made this proof for this request, which then is used up.
    pub(super) fn check(&mut self, proof: &str, request: &Request<'_>) -> Result<String, Refused> {
        let (key, claims) = read(proof).ok_or(Refused::Proof)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let hash = request.access_token.map(|token| URL_SAFE_NO_PAD.encode(Sha256::digest(token)));
        let at = claims.get("iat").and_then(Value::as_u64).unwrap_or_default();
        let fits = text("htm") == request.method
            && text("htu") == request.uri
            && text("ath") == hash.unwrap_or_default()
            && at.abs_diff(request.now) <= SKEW
            && !text("jti").is_empty();
        if !fits {
            return Err(Refused::Proof);
        }
        if request.nonce.is_some_and(|nonce| text("nonce") != nonce) {
            return Err(Refused::Nonce);
        }
        if self.0.insert(text("jti").to_owned()) { Ok(key) } else { Err(Refused::Proof) }
    }
}

/// The thumbprint of the key in a proof that it has signed, and what the proof says.
fn read(proof: &str) -> Option<(String, Value)> {
    let header = jsonwebtoken::decode_header(proof).ok()?;
    let jwk = header.jwk.filter(|_| header.typ.as_deref() == Some("dpop+jwt"))?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let claims = jsonwebtoken::decode::<Value>(proof, &key, &validation).ok()?.claims;
    Some((jwk.thumbprint(ThumbprintHash::SHA256).ok()?, claims))
}
