//! ID tokens (OpenID Connect Core sections 2, 3.1.3.7 and 12.2). Pure: keys and the time come in.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation};
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::text::clean;

/// How far the provider's clock may be from the time that it told us, in seconds.
pub const SKEW: u32 = 60;
/// And from this machine's clock, which is gone by when it told none (M16).
pub const WIDE_SKEW: u32 = 600;
/// How old or how far ahead `iat` may be, in seconds.
const MAX_AGE: f64 = 600.0;
/// Asymmetric ones only: with a symmetric one the client secret, or a public key taken for one, would sign.
const ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// What a login's ID token is held against.
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub client_id: &'a str,
    /// Whom it may be for beside the client.
    pub audiences: &'a [String],
    /// What the authorization request had; `None` in the device flow, which has none.
    pub nonce: Option<&'a str>,
    /// How long ago the user may have logged in, in seconds, if that was asked for.
    pub max_age: Option<u64>,
    /// For `at_hash`.
    pub access_token: &'a str,
    /// By the provider's own clock if it told, in seconds since the Unix epoch.
    pub now: u64,
    /// How far its clock may be from that.
    pub skew: u32,
}

/// Who is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The issuer's identifier of the user, never reassigned: compared, not shown.
    pub sub: String,
    /// For people, cleaned; the `sub` when the provider tells no name.
    pub name: String,
    /// The provider has told a name.
    pub named: bool,
}

/// Why an ID token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The keys may have been rotated: fetch them again and try once more.
    #[error("the ID token is signed with a key that the provider does not list")]
    UnknownKey,
    #[error("the refreshed ID token is another user's")]
    OtherUser,
    #[error("{0}")]
    Invalid(&'static str),
}

use Problem::Invalid;

#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audience>,
    azp: Option<String>,
    exp: Option<f64>,
    iat: Option<f64>,
    auth_time: Option<f64>,
    nonce: Option<String>,
    at_hash: Option<String>,
    preferred_username: Option<String>,
    email: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Checks the ID token of a code exchange: signature, then every claim.
///
/// # Errors
/// [`Problem::UnknownKey`] when newer keys may help, else what is wrong.
pub fn verify(token: &str, keys: &JwkSet, expected: &Expected<'_>) -> Result<Identity, Problem> {
    check_shape(token)?;
    let header = jsonwebtoken::decode_header(token)
        .map_err(|_| Invalid("the ID token has no header of a signature that is accepted"))?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(Invalid("the ID token is signed with an algorithm that is not accepted"));
    }
    let key = key_for(header.kid.as_deref(), header.alg, keys)?;
    let mut validation = Validation::new(header.alg);
    // The claims are checked below, in one place.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
        .map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::Json(_) => Invalid("the ID token's claims cannot be read"),
            _ => Invalid("the ID token's signature is wrong"),
        })?
        .claims;

    let identity = check_common(&claims, expected.issuer, expected.client_id, expected.audiences)?;
    let skew = f64::from(expected.skew);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let now = expected.now as f64;
    let exp = claims.exp.ok_or(Invalid("the ID token has no exp"))?;
    if exp + skew <= now {
        return Err(Invalid("the ID token has expired; check this machine's clock"));
    }
    let iat = claims.iat.ok_or(Invalid("the ID token has no iat"))?;
    if (now - iat).abs() > MAX_AGE {
        return Err(Invalid("the ID token was issued at another time than now; check this machine's clock"));
    }
    #[expect(clippy::cast_precision_loss, reason = "at most a year")]
    if let Some(max_age) = expected.max_age {
        let auth_time = claims.auth_time.ok_or(Invalid(
            "the ID token does not say when the user logged in (auth_time), though max_age asks for it",
        ))?;
        if now - auth_time > max_age as f64 + skew {
            return Err(Invalid("the login at the provider is older than max_age allows"));
        }
    }
    if expected.nonce.is_some() && claims.nonce.as_deref() != expected.nonce {
        return Err(Invalid("the ID token was made for another login (nonce)"));
    }
    if let Some(at_hash) = &claims.at_hash
        && *at_hash != half_hash(header.alg, expected.access_token)
    {
        return Err(Invalid("the ID token belongs to another access token (at_hash)"));
    }
    Ok(identity)
}

/// Checks the ID token that came with a refresh (section 12.2): same issuer, client and user. It came
/// straight from the token endpoint over TLS, so its signature need not be checked (section 3.1.3.7, 6).
///
/// # Errors
/// What is wrong.
pub fn check_refreshed(
    token: &str,
    issuer: &str,
    client_id: &str,
    audiences: &[String],
    sub: &str,
) -> Result<(), Problem> {
    check_shape(token)?;
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(token)
        .map_err(|_| Invalid("the ID token's claims cannot be read"))?;
    let identity = check_common(&claims, issuer, client_id, audiences)?;
    if identity.sub != sub {
        return Err(Problem::OtherUser);
    }
    Ok(())
}

fn check_shape(token: &str) -> Result<(), Problem> {
    match token.split('.').count() {
        3 => Ok(()),
        5 => Err(Invalid("the ID token is encrypted; turn that off for this client at the provider")),
        _ => Err(Invalid("the ID token is no JWT")),
    }
}

fn check_common(
    claims: &Claims,
    issuer: &str,
    client_id: &str,
    audiences: &[String],
) -> Result<Identity, Problem> {
    if claims.iss.as_deref() != Some(issuer) {
        return Err(Invalid("the ID token is another issuer's"));
    }
    let named: &[String] = match &claims.aud {
        Some(Audience::One(aud)) => std::slice::from_ref(aud),
        Some(Audience::Many(many)) => many,
        None => &[],
    };
    if !named.iter().any(|aud| aud == client_id) {
        return Err(Invalid("the ID token is for another client (aud)"));
    }
    let mut others = named.iter().filter(|aud| *aud != client_id).peekable();
    if others.peek().is_some() && claims.azp.is_none() {
        return Err(Invalid(
            "the ID token is for several clients (aud) and does not say whose login it is (azp)",
        ));
    }
    if !others.all(|other| audiences.contains(other)) {
        return Err(Invalid("the ID token is for others too (aud) that `id_token_audiences` does not name"));
    }
    if claims.azp.as_deref().is_some_and(|azp| azp != client_id) {
        return Err(Invalid("the ID token was issued to another client (azp)"));
    }
    let sub = claims.sub.as_deref().filter(|sub| !sub.is_empty() && sub.len() <= 255);
    let sub = sub.ok_or(Invalid("the ID token names no user (sub)"))?;
    let name = [&claims.preferred_username, &claims.email, &claims.name];
    let name = name.into_iter().flatten().map(|name| clean(name)).find(|name| !name.is_empty());
    Ok(Identity { sub: sub.to_owned(), named: name.is_some(), name: name.unwrap_or_else(|| clean(sub)) })
}

/// Without a `kid` there must be only one key that fits (Core section 10.1).
fn key_for(kid: Option<&str>, algorithm: Algorithm, keys: &JwkSet) -> Result<DecodingKey, Problem> {
    let mut fitting = keys.keys.iter().filter(|key| fits(key, algorithm));
    let key = if let Some(kid) = kid {
        fitting.find(|key| key.common.key_id.as_deref() == Some(kid))
    } else {
        let first = fitting.next();
        if fitting.next().is_some() {
            return Err(Invalid("the ID token does not say which of the provider's keys signed it (kid)"));
        }
        first
    };
    let key = key.ok_or(Problem::UnknownKey)?;
    DecodingKey::from_jwk(key).map_err(|_| Invalid("the provider's key cannot be used"))
}

fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let family = match &key.algorithm {
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa,
        AlgorithmParameters::EllipticCurve(key) => {
            let of_curve = match key.curve {
                EllipticCurve::P256 => Algorithm::ES256,
                EllipticCurve::P384 => Algorithm::ES384,
                _ => return false,
            };
            if of_curve != algorithm {
                return false;
            }
            AlgorithmFamily::Ec
        }
        AlgorithmParameters::OctetKeyPair(_) => AlgorithmFamily::Ed,
        _ => return false,
    };
    let named = key.common.key_algorithm.is_none_or(|named| named.to_string() == format!("{algorithm:?}"));
    let signs = key.common.public_key_use.as_ref().is_none_or(|uses| *uses == PublicKeyUse::Signature);
    named && signs && family.algorithms().contains(&algorithm)
}

/// The left half of the access token's hash, by the hash of the signature's algorithm (section 3.1.3.6).
fn half_hash(algorithm: Algorithm, access_token: &str) -> String {
    let half = |hash: &[u8]| URL_SAFE_NO_PAD.encode(hash.get(..hash.len() / 2).unwrap_or_default());
    match algorithm {
        Algorithm::RS256 | Algorithm::PS256 | Algorithm::ES256 => half(&Sha256::digest(access_token)),
        Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384 => half(&Sha384::digest(access_token)),
        _ => half(&Sha512::digest(access_token)),
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_790_000_000;

    struct Signer {
        key: EncodingKey,
        algorithm: Algorithm,
        kid: &'static str,
    }

    impl Signer {
        fn ec(kid: &'static str) -> Self {
            use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
            let random = aws_lc_rs::rand::SystemRandom::new();
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Self { key: EncodingKey::from_ec_der(pkcs8.as_ref()), algorithm: Algorithm::ES256, kid }
        }

        fn jwk(&self) -> Jwk {
            let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
            jwk.common.key_id = Some(self.kid.to_owned());
            jwk
        }

        fn sign(&self, claims: &Value, kid: Option<&str>) -> String {
            let header = Header { kid: kid.map(str::to_owned), ..Header::new(self.algorithm) };
            jsonwebtoken::encode(&header, claims, &self.key).unwrap()
        }
    }

    fn claims() -> Value {
        json!({
            "iss": "https://id.example", "sub": "u1", "aud": "app", "exp": NOW + 300, "iat": NOW,
            "nonce": "n", "preferred_username": "robin",
        })
    }

    fn expected() -> Expected<'static> {
        Expected {
            issuer: "https://id.example",
            client_id: "app",
            audiences: &[],
            nonce: Some("n"),
            max_age: None,
            access_token: "canary-at",
            now: NOW,
            skew: SKEW,
        }
    }

    fn with(patch: &Value) -> Value {
        let mut claims = claims();
        for (name, value) in patch.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        claims
    }

    /// H2, H3, H4, H6, H7, H8: each claim, as Core section 3.1.3.7 has it.
    #[test]
    fn every_claim_is_held_against_what_was_asked() {
        let signer = Signer::ec("k1");
        let keys = JwkSet { keys: vec![signer.jwk()] };
        let good_hash = half_hash(Algorithm::ES256, "canary-at");
        for (name, patch, accepted) in [
            ("as it should be", json!({}), true),
            ("a wrong issuer", json!({"iss": "https://evil.example"}), false),
            ("an issuer with a slash more", json!({"iss": "https://id.example/"}), false),
            ("no issuer", json!({"iss": null}), false),
            ("a wrong audience", json!({"aud": "other"}), false),
            ("no audience", json!({"aud": null}), false),
            ("an audience of one in a list", json!({"aud": ["app"]}), true),
            ("a second audience", json!({"aud": ["app", "other"], "azp": "app"}), false),
            ("our azp", json!({"azp": "app"}), true),
            ("another azp", json!({"azp": "other"}), false),
            ("no sub", json!({"sub": null}), false),
            ("an empty sub", json!({"sub": ""}), false),
            ("no exp", json!({"exp": null}), false),
            ("expired", json!({"exp": NOW - 61}), false),
            ("expired within the skew", json!({"exp": NOW - 59}), true),
            ("no iat", json!({"iat": null}), false),
            ("an old iat", json!({"iat": NOW - 601}), false),
            ("an iat ahead", json!({"iat": NOW + 601}), false),
            ("a fractional iat", json!({"iat": 1_790_000_000.5}), true),
            ("a clock eight minutes off", json!({"iat": NOW - 480, "exp": NOW + 1}), true),
            ("a wrong nonce", json!({"nonce": "other"}), false),
            ("no nonce", json!({"nonce": null}), false),
            ("the right at_hash", json!({"at_hash": good_hash}), true),
            ("a wrong at_hash", json!({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}), false),
        ] {
            let token = signer.sign(&with(&patch), Some("k1"));
            let verdict = verify(&token, &keys, &expected());
            assert_eq!(verdict.is_ok(), accepted, "{name}: {verdict:?}");
        }
    }

    /// H3, H4: others beside us must be known, and the token must be of our login.
    #[test]
    fn further_audiences_are_accepted_if_they_are_configured_and_the_login_is_ours() {
        let signer = Signer::ec("k1");
        let keys = JwkSet { keys: vec![signer.jwk()] };
        let audiences = ["api".to_owned()];
        for (patch, accepted) in [
            (json!({"aud": "app"}), true),
            (json!({"aud": ["app", "api"], "azp": "app"}), true),
            (json!({"aud": ["app", "api"]}), false),
            (json!({"aud": ["app", "api"], "azp": "api"}), false),
            (json!({"aud": ["app", "api", "other"], "azp": "app"}), false),
            (json!({"aud": ["api"], "azp": "app"}), false),
            (json!({"aud": "api", "azp": "app"}), false),
        ] {
            let token = signer.sign(&with(&patch), Some("k1"));
            let expected = Expected { audiences: &audiences, ..expected() };
            assert_eq!(verify(&token, &keys, &expected).is_ok(), accepted, "{patch}");
            let refreshed = check_refreshed(&token, "https://id.example", "app", &audiences, "u1");
            assert_eq!(refreshed.is_ok(), accepted, "{patch} at a refresh");
        }
    }

    /// M16: without the provider's own time ours may be minutes away from it.
    #[test]
    fn a_provider_that_tells_no_time_is_given_more_of_it() {
        let signer = Signer::ec("k1");
        let keys = JwkSet { keys: vec![signer.jwk()] };
        let token = signer.sign(&with(&json!({"exp": NOW - 300, "iat": NOW - 590})), Some("k1"));
        assert!(verify(&token, &keys, &expected()).is_err());
        assert!(verify(&token, &keys, &Expected { skew: WIDE_SKEW, ..expected() }).is_ok());
    }

    /// H5: whoever has only public things can't sign.
    #[test]
    fn only_the_providers_own_signature_counts() {
        let signer = Signer::ec("k1");
        let keys = JwkSet { keys: vec![signer.jwk()] };
        let token = signer.sign(&claims(), Some("k1"));
        assert!(verify(&token, &keys, &expected()).is_ok());

        let stranger = Signer::ec("k1").sign(&claims(), Some("k1"));
        assert_eq!(verify(&stranger, &keys, &expected()), Err(Invalid("the ID token's signature is wrong")));
        let (_, rest) = token.split_once('.').unwrap();
        let none = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), rest);
        assert!(verify(&none, &keys, &expected()).is_err());
        let unsigned = format!("{}.", none.rsplit_once('.').unwrap().0);
        assert!(verify(&unsigned, &keys, &expected()).is_err());
        // The public key taken for a shared secret.
        let public = serde_json::to_vec(&keys.keys[0]).unwrap();
        let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS256) };
        let forged = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&public)).unwrap();
        assert!(verify(&forged, &keys, &expected()).is_err());
        let tampered = token.replace(&token[token.len() - 4..], "AAAA");
        assert!(verify(&tampered, &keys, &expected()).is_err());
    }

    /// G13, Core section 10.1: which key, and when newer keys are worth a look.
    #[test]
    fn the_key_is_found_by_its_kid_or_by_being_the_only_one() {
        let (old, new) = (Signer::ec("old"), Signer::ec("new"));
        let one = JwkSet { keys: vec![old.jwk()] };
        let two = JwkSet { keys: vec![old.jwk(), new.jwk()] };
        let rotated = new.sign(&claims(), Some("new"));

        assert_eq!(verify(&rotated, &one, &expected()), Err(Problem::UnknownKey));
        assert!(verify(&rotated, &two, &expected()).is_ok());
        assert!(verify(&old.sign(&claims(), None), &one, &expected()).is_ok());
        let undecided = verify(&old.sign(&claims(), None), &two, &expected());
        assert!(matches!(undecided, Err(Invalid(why)) if why.contains("kid")), "{undecided:?}");
        let mut encryption = old.jwk();
        encryption.common.public_key_use = Some(PublicKeyUse::Encryption);
        let not_for_signing = JwkSet { keys: vec![encryption] };
        assert_eq!(
            verify(&old.sign(&claims(), Some("old")), &not_for_signing, &expected()),
            Err(Problem::UnknownKey)
        );
    }

    /// FAPI 2.0 section 5.4.3: some providers number their keys by kind.
    #[test]
    fn keys_that_share_a_kid_are_told_apart() {
        let signer = Signer::ec("k1");
        let mut others = vec![signer.jwk(); 3];
        others[0].common.public_key_use = Some(PublicKeyUse::Encryption);
        if let AlgorithmParameters::EllipticCurve(key) = &mut others[1].algorithm {
            key.curve = EllipticCurve::P384;
        }
        others[1].common.key_algorithm = None;
        others[2].common.key_algorithm = Some(jsonwebtoken::jwk::KeyAlgorithm::RS256);
        let token = signer.sign(&claims(), Some("k1"));
        assert_eq!(verify(&token, &JwkSet { keys: others.clone() }, &expected()), Err(Problem::UnknownKey));

        others.push(signer.jwk());

        assert!(verify(&token, &JwkSet { keys: others }, &expected()).is_ok());
    }

    /// H12.
    #[test]
    fn an_encrypted_token_and_none_at_all_are_named() {
        let keys = JwkSet { keys: Vec::new() };
        let problem = |token: &str| verify(token, &keys, &expected()).unwrap_err().to_string();
        assert!(problem("a.b.c.d.e").contains("encrypted"));
        for bad in ["", "a", "a.b", "a.b.c", "..", "é.é.é"] {
            assert!(!problem(bad).is_empty(), "{bad}");
        }
    }

    /// H10.
    #[test]
    fn a_refreshed_token_must_be_the_same_users() {
        let signer = Signer::ec("k1");
        let check = |patch: Value| {
            check_refreshed(&signer.sign(&with(&patch), None), "https://id.example", "app", &[], "u1")
        };
        assert_eq!(check(json!({"nonce": null, "exp": NOW - 9999})), Ok(()));
        for patch in [json!({"sub": "u2"}), json!({"iss": "x"}), json!({"aud": "x"}), json!({"azp": "x"})] {
            assert!(check(patch.clone()).is_err(), "{patch}");
        }
    }

    /// Who it is: the name that people know before the one that machines do.
    #[test]
    fn the_name_is_the_first_that_the_provider_tells() {
        let signer = Signer::ec("k1");
        let keys = JwkSet { keys: vec![signer.jwk()] };
        for (patch, name, named) in [
            (json!({}), "robin", true),
            (json!({"preferred_username": null, "email": "r@example.org"}), "r@example.org", true),
            (json!({"preferred_username": null}), "u1", false),
            (json!({"preferred_username": "a\u{7}b"}), "a b", true),
        ] {
            let identity = verify(&signer.sign(&with(&patch), Some("k1")), &keys, &expected()).unwrap();
            assert_eq!((identity.name.as_str(), identity.named, identity.sub.as_str()), (name, named, "u1"));
        }
    }
}
