//! A client that signs instead of sending a secret: `private_key_jwt` (RFC 7523 section 2.2).

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use zeroize::Zeroizing;

use crate::secret::random_token;

pub(super) const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// It is used at once.
const LIFE: u64 = 60;
/// No key needs more.
const MAX_FILE: u64 = 64 * 1024;

/// Where the client's private key is.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyFile {
    pub path: PathBuf,
    /// As the provider knows the key, where it has to be told (`kid`).
    pub id: Option<String>,
}

/// A private key; it has no text form.
pub struct Key(Pair);

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl Key {
    /// Reads a file that nobody else may read.
    ///
    /// # Errors
    /// What is wrong with the file, as words that follow its name.
    pub fn read(path: &Path) -> Result<Self, String> {
        let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.mode() & 0o077 != 0 {
            return Err(format!("can be read by others; run: chmod 600 {}", path.display()));
        }
        // Room for all of it: what a growing text leaves behind is not wiped.
        let mut pem = Zeroizing::new(String::with_capacity(64 * 1024));
        file.take(MAX_FILE).read_to_string(&mut pem).map_err(unreadable)?;
        Self::parse(&pem).map_err(str::to_owned)
    }

    fn parse(pem: &str) -> Result<Self, &'static str> {
        const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
        const END: &str = "-----END PRIVATE KEY-----";
        let Some((_, rest)) = pem.split_once(BEGIN) else {
            return Err(if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
                "is encrypted; write it without a passphrase: openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW"
            } else if pem.contains(" PRIVATE KEY-----") {
                "is in an older format; convert it: openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW"
            } else {
                "must hold a private key in PEM (PKCS #8), which begins with -----BEGIN PRIVATE KEY-----"
            });
        };
        let text = rest.split_once(END).map(|(text, _)| text).ok_or("is cut off")?;
        let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
        base64.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
        let der = Zeroizing::new(STANDARD.decode(base64.as_bytes()).map_err(|_| "is no valid PEM")?);
        if let Ok(pair) = RsaKeyPair::from_pkcs8(&der) {
            return Ok(Self(Pair::Rsa(pair)));
        }
        EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &der)
            .map(|pair| Self(Pair::Ec(pair)))
            .map_err(|_| "holds neither an RSA key of 2048 bits or more nor one on the curve P-256")
    }

    /// A fresh assertion for one request. `audience` must be the provider alone: whoever else is given it could use
    /// it there.
    pub(super) fn assertion(
        &self,
        id: Option<&str>,
        client_id: &str,
        audience: &str,
        now: u64,
    ) -> Result<Zeroizing<String>, &'static str> {
        let no_randomness = "the operating system has no randomness";
        let alg = match self.0 {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
        };
        let mut header = json!({ "alg": alg, "typ": "JWT" });
        if let (Some(id), Some(header)) = (id, header.as_object_mut()) {
            header.insert("kid".to_owned(), id.into());
        }
        let claims = json!({
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "jti": random_token().map_err(|_| no_randomness)?,
            "iat": now,
            "exp": now + LIFE,
        });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let mut assertion = Zeroizing::new(format!("{header}.{claims}"));
        let random = SystemRandom::new();
        let signature = match &self.0 {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, assertion.as_bytes(), &mut signature)
                    .map(|()| signature)
            }
            Pair::Ec(pair) => {
                pair.sign(&random, assertion.as_bytes()).map(|signature| signature.as_ref().to_vec())
            }
        };
        let signature = signature.map_err(|_| "the client's key cannot sign")?;
        assertion.push('.');
        assertion.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(assertion)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair as GeneratedRsa, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;

    fn pem(der: &[u8]) -> String {
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
    }

    fn ec() -> String {
        let curve = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        pem(EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new()).unwrap().as_ref())
    }

    fn rsa() -> String {
        let pair = GeneratedRsa::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        pem(der.as_ref())
    }

    /// C4.
    #[test]
    fn an_assertion_is_for_one_provider_and_one_minute_and_signed() {
        for (pem, alg) in [(ec(), "ES256"), (rsa(), "RS256")] {
            let key = Key::parse(&pem).ok().unwrap();
            let assertion = key.assertion(Some("k1"), "my app", "https://id.example", 1000).unwrap();
            let [header, claims, signed] = assertion.split('.').collect::<Vec<_>>()[..] else {
                panic!("not three parts")
            };
            let part =
                |part| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap() };
            assert_eq!(part(header), json!({ "alg": alg, "typ": "JWT", "kid": "k1" }));
            let mut claims = part(claims);
            let jti = claims.as_object_mut().unwrap().remove("jti").unwrap();
            assert_eq!(jti.as_str().unwrap().len(), 43);
            assert_eq!(
                claims,
                json!({ "iss": "my app", "sub": "my app", "aud": "https://id.example", "iat": 1000, "exp": 1060 })
            );
            let (message, _) = assertion.rsplit_once('.').unwrap();
            let signed = URL_SAFE_NO_PAD.decode(signed).unwrap();
            let verified = match &key.0 {
                Pair::Rsa(pair) => {
                    let public = pair.public_key().as_ref();
                    UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, public)
                        .verify(message.as_bytes(), &signed)
                }
                Pair::Ec(pair) => {
                    let public = pair.public_key().as_ref();
                    UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, public)
                        .verify(message.as_bytes(), &signed)
                }
            };
            assert!(verified.is_ok(), "{alg}");
            assert_ne!(*key.assertion(Some("k1"), "my app", "https://id.example", 1000).unwrap(), *assertion);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let secret = ec();
        for (text, why) in [
            (secret.replace("BEGIN PRIVATE", "BEGIN EC PRIVATE"), "older format"),
            (secret.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE"), "without a passphrase"),
            (secret.replace("-----END", "-----"), "cut off"),
            (secret.replace('M', "!"), "no valid PEM"),
            (pem(b"no key"), "neither an RSA key"),
            ("hello".to_owned(), "must hold a private key"),
            (String::new(), "must hold a private key"),
        ] {
            let problem = Key::parse(&text).err().unwrap_or_default();
            assert!(problem.contains(why), "{why}: {problem}");
        }
    }

    /// R17.
    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, ec()).unwrap();
        for (mode, refused) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let problem = Key::read(&path).err();
            assert_eq!(problem.is_some(), refused, "{mode:o}: {problem:?}");
            assert!(problem.is_none_or(|text| text.contains("run: chmod 600 ")));
        }
        assert!(Key::read(&folder.path().join("none")).err().unwrap().contains("cannot be read"));
    }
}
