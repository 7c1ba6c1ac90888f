//! Secret values: access, refresh and personal tokens, client secrets, codes and verifiers.
//!
//! **Invariant:** no type here implements `Debug`, `Display` or `Serialize`, so no log line, error
//! or property can hold one by accident. The bytes are wiped when the last clone goes. What serde,
//! reqwest, zbus and the kernel copy on the way is not wiped; see the README's limits.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The longest secret accepted, in bytes.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Why a text is no usable secret. Never holds any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than 64 KiB")]
    TooLong,
    #[error("it holds a character that cannot be part of it")]
    BadCharacter,
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(Arc<Zeroizing<String>>);

        impl $name {
            /// Checks length and characters.
            ///
            /// # Errors
            /// Says what is wrong, without repeating the text.
            pub fn parse(text: impl Into<String>) -> Result<Self, InvalidSecret> {
                let text = Zeroizing::new(text.into());
                check(&text, $allowed)?;
                Ok(Self(Arc::new(text)))
            }

            /// The value itself: for a request body, a reply or the store's record only.
            #[must_use]
            pub fn expose(&self) -> &str {
                &self.0
            }
        }
    };
}

secret!(
    /// An access token (RFC 6749 section 1.4), opaque to us (RFC 9068 section 6).
    AccessToken,
    is_vschar
);
secret!(
    /// A refresh token (RFC 6749 section 1.5). It leaves the daemon only to the provider and the store.
    RefreshToken,
    is_vschar
);
secret!(
    /// An ID token (OpenID Connect Core section 2): who the user is, and no credential; not for others all the same.
    IdToken,
    is_vschar
);
secret!(
    /// A personal (developer) token, pasted by the user and used like an access token.
    PersonalToken,
    is_vschar
);
secret!(
    /// A client secret (RFC 6749 section 2.3.1).
    ClientSecret,
    |c: char| !c.is_control()
);
secret!(
    /// An authorization code (RFC 6749 section 4.1.2).
    AuthorizationCode,
    is_vschar
);
secret!(
    /// A device code (RFC 8628 section 3.2): whoever has it gets the tokens.
    DeviceCode,
    is_vschar
);
secret!(
    /// A PKCE code verifier (RFC 7636 section 4.1).
    CodeVerifier,
    is_vschar
);

secret!(
    /// A proof of possession (RFC 9449 section 4), for one request with a token.
    DpopProof,
    is_vschar
);

impl AccessToken {
    /// A name for this token that does not give it away: 128 bits of its SHA-256, base64url.
    #[must_use]
    pub fn id(&self) -> String {
        URL_SAFE_NO_PAD.encode(&Sha256::digest(self.expose())[..16])
    }
}

impl CodeVerifier {
    /// What is sent ahead of it: S256 (RFC 7636 section 4.2).
    #[must_use]
    pub fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.expose()))
    }
}

impl PersonalToken {
    /// Reads what a user pasted: surrounding white space and a `Bearer ` prefix are dropped.
    ///
    /// # Errors
    /// As [`PersonalToken::parse`].
    pub fn from_pasted(text: &str) -> Result<Self, InvalidSecret> {
        let text = text.trim();
        let bare = match text.split_once(' ') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
            _ => text,
        };
        Self::parse(bare)
    }

    /// The token as callers receive it: a personal token is used exactly like an access token.
    #[must_use]
    pub fn as_access_token(&self) -> AccessToken {
        AccessToken(Arc::clone(&self.0))
    }
}

impl ClientSecret {
    /// Reads a secret from a file or a prompt: one trailing line end is dropped.
    ///
    /// # Errors
    /// As [`ClientSecret::parse`].
    pub fn from_pasted(text: &str) -> Result<Self, InvalidSecret> {
        Self::parse(text.trim_end_matches(['\r', '\n']))
    }
}

/// 256 random bits from the operating system, base64url: 43 characters (RFC 7636 section 4.1).
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn random_token() -> Result<String, getrandom::Error> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    getrandom::fill(bytes.as_mut_slice())?;
    Ok(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
}

fn check(text: &str, allowed: impl Fn(char) -> bool) -> Result<(), InvalidSecret> {
    if text.is_empty() {
        return Err(InvalidSecret::Empty);
    }
    if text.len() > MAX_SECRET_BYTES {
        return Err(InvalidSecret::TooLong);
    }
    if !text.chars().all(allowed) {
        return Err(InvalidSecret::BadCharacter);
    }
    Ok(())
}

/// RFC 6749 appendix A: printable ASCII, which also keeps CR and LF out of callers' headers.
fn is_vschar(c: char) -> bool {
    matches!(c, ' '..='~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_personal_tokens_lose_white_space_and_prefix() {
        for pasted in ["tok", " tok\n", "Bearer tok", "bearer   tok \r\n"] {
            assert_eq!(
                PersonalToken::from_pasted(pasted).ok().as_ref().map(PersonalToken::expose),
                Some("tok")
            );
        }
    }

    #[test]
    fn tokens_refuse_what_could_split_a_header() {
        for bad in ["a\r\nb", "a\nb", "a\0b", "é", ""] {
            assert!(AccessToken::parse(bad).is_err());
        }
        assert!(AccessToken::parse("x".repeat(MAX_SECRET_BYTES + 1)).is_err());
    }

    #[test]
    fn client_secrets_keep_odd_characters() {
        let secret = ClientSecret::from_pasted("a+b%c:d é \n").map(|s| s.expose().to_owned());
        assert_eq!(secret, Ok("a+b%c:d é ".to_owned()));
    }

    #[test]
    fn ten_thousand_random_tokens_are_distinct_and_well_formed() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            let token = random_token().unwrap_or_default();
            assert_eq!(token.len(), 43);
            assert!(token.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
            assert!(seen.insert(token));
        }
    }
}
