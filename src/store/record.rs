//! The serialised form of what is stored: a single line of JSON, for each kind of item.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Item, ItemKind};
use crate::dpop::ProofKey;
use crate::secret::{ClientSecret, PersonalToken, RefreshToken};

/// The only version that exists. An item that says another one is left untouched.
const VERSION: u32 = 1;

/// What outlives the process: the refresh token, whose it is, and its deadlines.
#[derive(Clone)]
pub struct SessionRecord {
    pub refresh_token: RefreshToken,
    /// With `client_id`: where the refresh token may be sent. Another pair never gets it.
    pub issuer: String,
    pub client_id: String,
    /// The origins that it came from, space separated; empty in records from before there was this.
    pub servers: String,
    pub scope: String,
    /// Who is logged in, for people; empty when the provider did not say.
    pub subject: String,
    /// The issuer's identifier of that user; empty without an ID token.
    pub sub: String,
    /// What the tokens are bound to (RFC 9449).
    pub key: Option<ProofKey>,
    /// When the tokens were asked for, in seconds since the Unix epoch.
    pub obtained_at: u64,
    /// The same moment in seconds since the boot named by `boot_id`.
    pub obtained_boot: u64,
    pub boot_id: String,
    /// The refresh token's stated lifetime in seconds; 0 when unknown.
    pub refresh_lifetime: u64,
    /// The host that spends this refresh token (`/etc/machine-id`, hashed).
    pub machine: String,
    /// Counts the writes: of two items the higher one is newer.
    pub sequence: u64,
}

/// The text is no record of this version; it must not be changed or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableRecord {
    #[error("it is a record of version {0}, newer than this program; install a newer bearerd to use it")]
    Version(u32),
    #[error("it is no record of this program")]
    Broken,
}

impl Item {
    /// One line, as [`SessionRecord::to_json`] says why.
    #[must_use]
    pub(super) fn to_json(&self) -> Zeroizing<String> {
        match self {
            Self::Session(record) => record.to_json(),
            Self::ClientSecret(secret) => secret_to_json(secret.expose()),
            Self::PersonalToken(token) => secret_to_json(token.expose()),
        }
    }

    /// Reads what [`Item::to_json`] wrote.
    pub(super) fn from_json(kind: ItemKind, text: &str) -> Result<Self, UnreadableRecord> {
        match kind {
            ItemKind::Session => SessionRecord::from_json(text).map(Self::Session),
            ItemKind::ClientSecret => {
                let secret = ClientSecret::parse(secret_from_json(text)?);
                secret.map(Self::ClientSecret).map_err(|_| UnreadableRecord::Broken)
            }
            ItemKind::PersonalToken => {
                let token = PersonalToken::parse(secret_from_json(text)?);
                token.map(Self::PersonalToken).map_err(|_| UnreadableRecord::Broken)
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct SecretWire<'a> {
    v: u32,
    secret: std::borrow::Cow<'a, str>,
}

fn secret_to_json(secret: &str) -> Zeroizing<String> {
    one_line(&SecretWire { v: VERSION, secret: secret.into() }, secret.len())
}

/// Writes without growing, which would leave parts behind; `length` is that of all texts of any length.
fn one_line(wire: &impl Serialize, length: usize) -> Zeroizing<String> {
    let mut line = Vec::with_capacity(6 * length + 1024);
    // Strings and integers always serialise, and as UTF-8.
    let _ = serde_json::to_writer(&mut line, wire);
    Zeroizing::new(String::from_utf8(line).unwrap_or_default())
}

fn secret_from_json(text: &str) -> Result<String, UnreadableRecord> {
    check_version(text)?;
    let wire: SecretWire<'_> = serde_json::from_str(text).map_err(|_| UnreadableRecord::Broken)?;
    Ok(wire.secret.into_owned())
}

fn check_version(text: &str) -> Result<(), UnreadableRecord> {
    let version: VersionOnly = serde_json::from_str(text).map_err(|_| UnreadableRecord::Broken)?;
    if version.v == VERSION { Ok(()) } else { Err(UnreadableRecord::Version(version.v)) }
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    v: u32,
    refresh_token: std::borrow::Cow<'a, str>,
    issuer: std::borrow::Cow<'a, str>,
    client_id: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    servers: std::borrow::Cow<'a, str>,
    #[serde(default)]
    scope: std::borrow::Cow<'a, str>,
    #[serde(default)]
    subject: std::borrow::Cow<'a, str>,
    #[serde(default)]
    sub: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    dpop_key: std::borrow::Cow<'a, str>,
    obtained_at: u64,
    #[serde(default)]
    obtained_boot: u64,
    #[serde(default)]
    boot_id: std::borrow::Cow<'a, str>,
    #[serde(default)]
    refresh_lifetime: u64,
    #[serde(default)]
    machine: std::borrow::Cow<'a, str>,
    #[serde(default)]
    sequence: u64,
}

#[derive(Deserialize)]
struct VersionOnly {
    v: u32,
}

impl SessionRecord {
    /// One line: a raw newline in a secret can destroy a whole gnome-keyring collection.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<String> {
        let wire = Wire {
            v: VERSION,
            refresh_token: self.refresh_token.expose().into(),
            issuer: self.issuer.as_str().into(),
            client_id: self.client_id.as_str().into(),
            servers: self.servers.as_str().into(),
            scope: self.scope.as_str().into(),
            subject: self.subject.as_str().into(),
            sub: self.sub.as_str().into(),
            dpop_key: self.key.as_ref().map_or("", ProofKey::stored).into(),
            obtained_at: self.obtained_at,
            obtained_boot: self.obtained_boot,
            boot_id: self.boot_id.as_str().into(),
            refresh_lifetime: self.refresh_lifetime,
            machine: self.machine.as_str().into(),
            sequence: self.sequence,
        };
        let texts = [
            &wire.refresh_token,
            &wire.issuer,
            &wire.client_id,
            &wire.servers,
            &wire.scope,
            &wire.subject,
            &wire.sub,
            &wire.dpop_key,
        ];
        one_line(&wire, texts.iter().map(|text| text.len()).sum())
    }

    /// Reads what [`SessionRecord::to_json`] wrote.
    ///
    /// # Errors
    /// When it is another version's or no record at all.
    pub fn from_json(text: &str) -> Result<Self, UnreadableRecord> {
        check_version(text)?;
        let wire: Wire<'_> = serde_json::from_str(text).map_err(|_| UnreadableRecord::Broken)?;
        let refresh_token =
            RefreshToken::parse(wire.refresh_token.into_owned()).map_err(|_| UnreadableRecord::Broken)?;
        let key = match Zeroizing::new(wire.dpop_key.into_owned()) {
            none if none.is_empty() => None,
            stored => Some(ProofKey::from_stored(stored).map_err(|_| UnreadableRecord::Broken)?),
        };
        Ok(Self {
            refresh_token,
            issuer: wire.issuer.into_owned(),
            client_id: wire.client_id.into_owned(),
            servers: wire.servers.into_owned(),
            scope: wire.scope.into_owned(),
            subject: wire.subject.into_owned(),
            sub: wire.sub.into_owned(),
            key,
            obtained_at: wire.obtained_at,
            obtained_boot: wire.obtained_boot,
            boot_id: wire.boot_id.into_owned(),
            refresh_lifetime: wire.refresh_lifetime,
            machine: wire.machine.into_owned(),
            sequence: wire.sequence,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(subject: &str, scope: &str) -> SessionRecord {
        SessionRecord {
            refresh_token: RefreshToken::parse("canary-refresh").unwrap(),
            issuer: "https://id.example".into(),
            client_id: "app".into(),
            servers: "https://id.example".into(),
            scope: scope.into(),
            subject: subject.into(),
            sub: "u1".into(),
            key: None,
            obtained_at: 1_790_000_000,
            obtained_boot: 77,
            boot_id: "b".into(),
            refresh_lifetime: 1800,
            machine: "m".into(),
            sequence: 3,
        }
    }

    proptest! {
        #[test]
        fn a_record_is_one_line_whatever_the_provider_said(subject in any::<String>(), scope in any::<String>()) {
            let json = record(&subject, &scope).to_json();
            prop_assert!(!json.contains('\n') && !json.contains('\r'));

            let read = SessionRecord::from_json(&json).unwrap();
            prop_assert_eq!(read.subject, subject);
            prop_assert_eq!(read.scope, scope);
        }

        #[test]
        fn reading_never_panics(text in any::<String>()) {
            for kind in ItemKind::ALL {
                let _ = Item::from_json(kind, &text);
            }
        }

        #[test]
        fn a_client_secret_is_one_line_and_comes_back(text in "[^\\p{Cc}]{1,200}") {
            let json = Item::ClientSecret(ClientSecret::parse(text.clone()).unwrap()).to_json();
            prop_assert!(!json.contains(['\n', '\r']));

            let Ok(Item::ClientSecret(read)) = Item::from_json(ItemKind::ClientSecret, &json) else {
                panic!("unreadable");
            };
            prop_assert_eq!(read.expose(), text);
        }
    }

    /// J5: one without a key is what every record was before.
    #[test]
    fn a_record_keeps_its_key_and_one_without_says_nothing_of_it() {
        let key = ProofKey::generate().unwrap();
        let bound = SessionRecord { key: Some(key.clone()), ..record("", "") };
        let read = SessionRecord::from_json(&bound.to_json()).unwrap();
        assert_eq!(read.key.map(|key| key.thumbprint()), Some(key.thumbprint()));

        let plain = record("", "").to_json();
        assert!(!plain.contains("dpop_key"));
        assert!(SessionRecord::from_json(&plain).unwrap().key.is_none());
        let broken = plain.replace("\"sub\"", "\"dpop_key\":\"AAAA\",\"sub\"");
        assert_eq!(SessionRecord::from_json(&broken).err(), Some(UnreadableRecord::Broken));
    }

    /// G4: one from before this was remembered is as good as ever.
    #[test]
    fn a_record_remembers_its_servers_and_an_old_one_has_none() {
        let line = record("", "").to_json();
        assert_eq!(SessionRecord::from_json(&line).unwrap().servers, "https://id.example");
        let old = line.replace("\"servers\":\"https://id.example\",", "");
        assert!(!old.contains("servers") && SessionRecord::from_json(&old).unwrap().servers.is_empty());
    }

    #[test]
    fn a_future_version_is_named_and_not_read() {
        let read = SessionRecord::from_json(r#"{"v":2,"anything":true}"#);
        assert_eq!(read.err(), Some(UnreadableRecord::Version(2)));
        let read = Item::from_json(ItemKind::ClientSecret, r#"{"v":9,"secret":"canary-x"}"#);
        assert_eq!(read.err(), Some(UnreadableRecord::Version(9)));
    }
}
