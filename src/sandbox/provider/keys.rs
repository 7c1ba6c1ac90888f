//! The provider's signing key: ID tokens and the key set that proves them.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::fault;
use super::sessions::Authorization;
use crate::secret::random_token;

pub(super) struct Keys {
    key: EncodingKey,
    kid: String,
}

/// No key could be made, or used.
pub(super) struct NoKey;

impl Keys {
    pub(super) fn new() -> Result<Self, NoKey> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let key = EncodingKey::from_ec_der(pkcs8.map_err(|_| NoKey)?.as_ref());
        Ok(Self { key, kid: random_token().map_err(|_| NoKey)? })
    }

    /// RFC 7517.
    pub(super) fn set(&self) -> Value {
        let Ok(mut jwk) = Jwk::from_encoding_key(&self.key, Algorithm::ES256) else {
            return json!({ "keys": [] });
        };
        jwk.common.key_id = Some(self.kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        json!({ "keys": [jwk] })
    }

    /// An ID token for these tokens (OpenID Connect Core section 2), with `over` merged into its claims.
    pub(super) fn id_token(
        &self,
        issuer: &str,
        client_id: &str,
        login: &Authorization,
        answer: &Map<String, Value>,
        now: u64,
        over: &Value,
    ) -> Result<String, NoKey> {
        let access_token = answer.get("access_token").and_then(Value::as_str).unwrap_or_default();
        let hash = Sha256::digest(access_token);
        let mut claims = Map::new();
        let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        set("iss", issuer.into());
        set("sub", format!("id-of-{}", login.user).into());
        set("aud", client_id.into());
        set("azp", client_id.into());
        set("iat", now.into());
        set("exp", (now + 300).into());
        set("preferred_username", login.user.as_str().into());
        set("at_hash", URL_SAFE_NO_PAD.encode(hash.get(..16).unwrap_or_default()).into());
        if login.max_age {
            set("auth_time", now.into());
        }
        if !login.nonce.is_empty() {
            set("nonce", login.nonce.as_str().into());
        }
        fault::merge(&mut claims, over);
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(|_| NoKey)
    }
}
