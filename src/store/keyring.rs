//! One open session with the Secret Service: finds, reads and writes our items.
//!
//! **Invariant:** only items that this program can read are ever changed or removed, and no call
//! here unlocks anything. [`Keyring::create`] alone waits for a dialog, if the service has one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secret_service::{Collection, EncryptionType, Item as Entry, SecretService};
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue};
use zbus::{Connection, DBusError as _, fdo};
use zeroize::Zeroizing;

use super::{CALL_TIMEOUT, Item, ItemKind, Loaded, StoreError, UnreadableRecord};
use crate::account::AccountName;

pub(super) const SERVICE: &str = "org.freedesktop.secrets";
pub(super) const SERVICE_PATH: ObjectPath<'static> =
    ObjectPath::from_static_str_unchecked("/org/freedesktop/secrets");
pub(super) const SERVICE_INTERFACE: &str = "org.freedesktop.Secret.Service";
/// The longest wait for a person in front of the keyring's own dialog.
pub(super) const PROMPT_TIMEOUT: Duration = Duration::from_secs(120);
/// How soon a keyring must show that it is alive while its dialog is open.
const ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// What libsecret's programs use; gnome-keyring says so whatever it was given.
const CONTENT_TYPE: &str = "text/plain";
const VERSION: &str = "1";
/// KWallet's own names, of KDE's current and last generation.
const WALLETS: [(&str, &str); 2] =
    [("org.kde.kwalletd6", "/modules/kwalletd6"), ("org.kde.kwalletd5", "/modules/kwalletd5")];

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The session ended with the service; a new one may do.
    Stale(StoreError),
    /// An item or collection went while it was in use; another look may do.
    Gone(StoreError),
    Final(StoreError),
}

impl Fault {
    pub(super) fn into_error(self) -> StoreError {
        let (Self::Stale(error) | Self::Gone(error) | Self::Final(error)) = self;
        error
    }
}

pub(super) struct Keyring {
    connection: Connection,
    service: SecretService<'static>,
    /// A write of this session has been read back: some services acknowledge and drop.
    proven: AtomicBool,
}

/// What collections there are.
struct Survey<'a> {
    /// Where new items go.
    default: Collection<'a>,
    default_locked: bool,
    /// Only these are searched: KeePassXC answers a search in a locked one with its dialog.
    unlocked: Vec<Collection<'a>>,
}

/// An item of ours, and what it holds.
struct Found<'a> {
    entry: Entry<'a>,
    content: Item,
}

impl Keyring {
    /// Opens an encrypted session, or a plain one if the service has no other.
    pub(super) async fn open(connection: &Connection) -> Result<Self, Fault> {
        let dh = SecretService::connect_with_existing(EncryptionType::Dh, connection.clone()).await;
        let service = match dh {
            Err(secret_service::Error::Zbus(error))
                if error_name(&error).as_deref() == Some("org.freedesktop.DBus.Error.NotSupported") =>
            {
                tracing::warn!("the keyring lacks encrypted sessions: secrets cross the bus in clear");
                SecretService::connect_with_existing(EncryptionType::Plain, connection.clone()).await?
            }
            other => other?,
        };
        Ok(Self { connection: connection.clone(), service, proven: AtomicBool::new(false) })
    }

    /// Reads all of the account's items, or none while the default collection is locked.
    pub(super) async fn load(&self, account: &AccountName) -> Result<Loaded, Fault> {
        let survey = self.survey().await?;
        if survey.default_locked {
            return Err(Fault::Final(StoreError::Locked));
        }
        let mut loaded = Loaded::default();
        for kind in ItemKind::ALL {
            let found = find(&survey, account, kind).await?;
            match found.into_iter().next().map(|newest| newest.content) {
                Some(Item::Session(record)) => loaded.session = Some(record),
                Some(Item::ClientSecret(secret)) => loaded.client_secret = Some(secret),
                Some(Item::PersonalToken(token)) => loaded.personal_token = Some(token),
                None => {}
            }
        }
        Ok(loaded)
    }

    /// Writes into the item that exists; `false` when there is none.
    pub(super) async fn update(&self, account: &AccountName, item: &Item) -> Result<bool, Fault> {
        let survey = self.survey().await?;
        let mut found = find(&survey, account, item.kind()).await?.into_iter();
        let Some(newest) = found.next() else {
            return if survey.default_locked { Err(Fault::Final(StoreError::Locked)) } else { Ok(false) };
        };
        let json = item.to_json();
        newest.entry.set_secret(json.as_bytes(), CONTENT_TYPE).await?;
        self.prove(&newest.entry, &json).await?;
        for older in found {
            // What is left behind loses against the newest at each load, so this may fail.
            if !matches!(self.delete(&older.entry.item_path).await, Ok(None)) {
                tracing::warn!(%account, "a duplicate item stays in the keyring");
            }
        }
        Ok(true)
    }

    /// Makes the item, in the default collection. Not with `replace`: that compares attributes
    /// only, so it could overwrite an item we can't read, and KeePassXC asks each time.
    pub(super) async fn create(&self, account: &AccountName, item: &Item) -> Result<(), Fault> {
        let survey = tokio::time::timeout(CALL_TIMEOUT, self.survey()).await.map_err(|_| no_answer())??;
        if survey.default_locked {
            return Err(Fault::Final(StoreError::Locked));
        }
        let json = item.to_json();
        let label = label(account, item.kind());
        let attributes = HashMap::from([
            ("xdg:schema", item.kind().schema()),
            ("account", account.as_str()),
            ("version", VERSION),
        ]);
        let cleared = tokio::time::timeout(CALL_TIMEOUT, self.clear_empty(&survey, &attributes)).await;
        cleared.map_err(|_| no_answer())??;
        let creation = survey.default.create_item(&label, attributes, json.as_bytes(), false, CONTENT_TYPE);
        tokio::pin!(creation);
        let entry = if let Ok(created) = tokio::time::timeout(CALL_TIMEOUT, &mut creation).await {
            created?
        } else {
            // Either a dialog is open or the service hangs: then it answers nothing else either.
            let alive = tokio::time::timeout(ALIVE_TIMEOUT, self.alias("default")).await;
            alive.map_err(|_| no_answer())??;
            tokio::time::timeout(PROMPT_TIMEOUT, creation).await.map_err(|_| refused())??
        };
        let proof = tokio::time::timeout(CALL_TIMEOUT, self.prove(&entry, &json)).await;
        proof.map_err(|_| no_answer())?
    }

    /// Removes all items of that kind that we can read. Returns the prompts to be shown for those
    /// that the service won't remove without one.
    pub(super) async fn erase(
        &self,
        account: &AccountName,
        kind: ItemKind,
    ) -> Result<Vec<OwnedObjectPath>, Fault> {
        let survey = self.survey().await?;
        if survey.default_locked {
            return Err(Fault::Final(StoreError::Locked));
        }
        let mut prompts = Vec::new();
        for found in find(&survey, account, kind).await? {
            prompts.extend(self.delete(&found.entry.item_path).await?);
        }
        Ok(prompts)
    }

    /// What must be unlocked: the default collection or else, since KeePassXC locks them until its
    /// user lets a program in, single items of ours.
    pub(super) async fn locked(&self) -> Result<Vec<OwnedObjectPath>, Fault> {
        let survey = self.survey().await?;
        if survey.default_locked {
            return Ok(vec![survey.default.collection_path]);
        }
        let mut locked = Vec::new();
        for collection in survey.unlocked {
            for kind in ItemKind::ALL {
                for entry in collection.search_items(HashMap::from([("xdg:schema", kind.schema())])).await? {
                    if entry.is_locked().await? {
                        locked.push(entry.item_path.clone());
                    }
                }
            }
        }
        Ok(locked)
    }

    async fn survey(&self) -> Result<Survey<'_>, Fault> {
        // Not the crate's own list: it is cached, and not every service announces its changes.
        let message = self
            .connection
            .call_method(
                Some(SERVICE),
                &SERVICE_PATH,
                Some("org.freedesktop.DBus.Properties"),
                "Get",
                &(SERVICE_INTERFACE, "Collections"),
            )
            .await?;
        let value: OwnedValue = message.body().deserialize()?;
        let mut paths = Vec::<OwnedObjectPath>::try_from(value).map_err(zbus::Error::from)?;
        let default = self.alias("default").await?;
        // gnome-keyring's collection of that name is gone at logout.
        let fleeting = if default.is_none() { self.alias("session").await? } else { None };
        paths.extend(default.clone().filter(|path| !paths.contains(path)));

        let (mut best, mut unlocked) = (None, Vec::new());
        for path in paths {
            let collection = self.service.get_collection_by_path(path.clone()).await?;
            let mut locked = collection.is_locked().await?;
            let usable = default.as_ref().map_or(fleeting.as_ref() != Some(&path), |it| *it == path);
            if locked && usable && Box::pin(self.is_open_wallet(&collection)).await? {
                Box::pin(collection.unlock()).await?;
                locked = collection.is_locked().await?;
            }
            if usable && best.as_ref().is_none_or(|(_, best_locked)| *best_locked && !locked) {
                best = Some((path.clone(), locked));
            }
            if !locked {
                unlocked.push(collection);
            }
        }
        let Some((path, default_locked)) = best else {
            return Err(unavailable(
                "the keyring service has no keyring to save in; open or create one in its own program",
            ));
        };
        let default = self.service.get_collection_by_path(path).await?;
        Ok(Survey { default, default_locked, unlocked })
    }

    /// Whether this is a wallet of KWallet that somebody has opened, as its PAM module does at the desktop's
    /// login. Its collection stays locked until a program asks, and then nobody else is asked.
    async fn is_open_wallet(&self, collection: &Collection<'_>) -> Result<bool, Fault> {
        let bus = fdo::DBusProxy::new(&self.connection).await?;
        for (name, path) in WALLETS {
            let (Ok(wallets), Ok(secrets)) = (
                bus.get_name_owner(name.try_into().map_err(zbus::Error::from)?).await,
                bus.get_name_owner(SERVICE.try_into().map_err(zbus::Error::from)?).await,
            ) else {
                continue;
            };
            if wallets == secrets {
                let label = collection.get_label().await?;
                let interface = Some("org.kde.KWallet");
                let reply =
                    self.connection.call_method(Some(wallets), path, interface, "isOpen", &label).await?;
                return Ok(reply.body().deserialize()?);
            }
        }
        Ok(false)
    }

    async fn alias(&self, name: &str) -> Result<Option<OwnedObjectPath>, Fault> {
        match self.service.get_collection_by_alias(name).await {
            Ok(collection) => Ok(Some(collection.collection_path)),
            Err(secret_service::Error::NoResult) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a session's first write back.
    async fn prove(&self, entry: &Entry<'_>, json: &str) -> Result<(), Fault> {
        if !self.proven.load(Ordering::Relaxed) {
            if *Zeroizing::new(entry.get_secret().await?) != json.as_bytes() {
                return Err(unavailable(
                    "the keyring did not keep what was saved; restart it or use another one",
                ));
            }
            self.proven.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes what KWallet leaves of a creation that it could not decrypt, or had no time to write before its end:
    /// an item without a secret. A new item would be the same entry of the wallet, and gone with this one.
    async fn clear_empty(&self, survey: &Survey<'_>, attributes: &HashMap<&str, &str>) -> Result<(), Fault> {
        for entry in survey.default.search_items(attributes.clone()).await? {
            if Zeroizing::new(entry.get_secret().await?).is_empty() {
                self.delete(&entry.item_path).await?;
            }
        }
        Ok(())
    }

    /// Not the crate's own: that shows the prompt, which is returned here.
    async fn delete(&self, item: &OwnedObjectPath) -> Result<Option<OwnedObjectPath>, Fault> {
        let interface = Some("org.freedesktop.Secret.Item");
        let reply = self.connection.call_method(Some(SERVICE), item, interface, "Delete", &()).await?;
        let prompt: OwnedObjectPath = reply.body().deserialize()?;
        Ok(Some(prompt).filter(|prompt| prompt.as_str() != "/"))
    }
}

/// The account's readable items of one kind, newest first.
async fn find<'a>(
    survey: &'a Survey<'_>,
    account: &AccountName,
    kind: ItemKind,
) -> Result<Vec<Found<'a>>, Fault> {
    let attributes = HashMap::from([("xdg:schema", kind.schema()), ("account", account.as_str())]);
    let mut found = Vec::new();
    for collection in &survey.unlocked {
        for entry in collection.search_items(attributes.clone()).await? {
            let actual = entry.get_attributes().await?;
            let differs = |(name, value): (&&str, &&str)| actual.get(*name).is_some_and(|it| it != value);
            if actual.get("version").is_none_or(|it| it != VERSION) || attributes.iter().any(differs) {
                tracing::warn!(%account, kind = kind.schema(), "left alone an item of another version");
                continue;
            }
            let bytes = Zeroizing::new(entry.get_secret().await?);
            let text = std::str::from_utf8(&bytes).map_err(|_| UnreadableRecord::Broken);
            match text.and_then(|text| Item::from_json(kind, text)) {
                Ok(content) => found.push(Found { entry, content }),
                Err(error) => {
                    tracing::warn!(%account, kind = kind.schema(), %error, "left alone an unreadable item");
                }
            }
        }
    }
    if found.len() > 1 {
        let mut ages = Vec::with_capacity(found.len());
        for one in found {
            let age = match &one.content {
                Item::Session(record) => record.sequence,
                Item::ClientSecret(_) | Item::PersonalToken(_) => one.entry.get_modified().await?,
            };
            ages.push((age, one));
        }
        ages.sort_by_key(|(age, _)| Reverse(*age));
        found = ages.into_iter().map(|(_, one)| one).collect();
    }
    Ok(found)
}

/// What people see in the keyring's own program.
fn label(account: &AccountName, kind: ItemKind) -> String {
    let what = match kind {
        ItemKind::Session => "session",
        ItemKind::ClientSecret => "client secret",
        ItemKind::PersonalToken => "personal token",
    };
    format!("bearerd: {what} of \"{account}\"")
}

pub(super) fn unavailable(text: &str) -> Fault {
    Fault::Final(StoreError::Unavailable(text.to_owned()))
}

pub(super) fn no_answer() -> Fault {
    unavailable("the keyring does not answer; close its open dialogs or restart it")
}

pub(super) fn refused() -> Fault {
    unavailable("the keyring's dialog was dismissed; try again and allow it")
}

impl From<secret_service::Error> for Fault {
    fn from(error: secret_service::Error) -> Self {
        use secret_service::Error;
        match error {
            Error::Zbus(error) => error.into(),
            Error::ZbusFdo(error) => zbus::Error::from(error).into(),
            Error::Zvariant(error) => zbus::Error::from(error).into(),
            Error::Locked => Self::Final(StoreError::Locked),
            Error::Prompt => refused(),
            // The key is another session's: the service restarted and reused the path.
            Error::Crypto(_) => Self::Stale(StoreError::Unavailable(
                "the keyring's answer could not be decrypted; restart the keyring".to_owned(),
            )),
            _ => unavailable("the keyring cannot be reached; see that its service is running"),
        }
    }
}

impl From<zbus::Error> for Fault {
    fn from(error: zbus::Error) -> Self {
        let Some(name) = error_name(&error) else {
            return match error {
                zbus::Error::InputOutput(_) | zbus::Error::Connection(..) => {
                    unavailable("the session bus is gone; log in to the desktop again")
                }
                _ => unavailable("the keyring's answer makes no sense; update or restart it"),
            };
        };
        let short = name.strip_prefix("org.freedesktop.").unwrap_or(&name);
        let stale = |text: &str| Self::Stale(StoreError::Unavailable(text.to_owned()));
        match short {
            "Secret.Error.IsLocked" => Self::Final(StoreError::Locked),
            // KWallet says the last one for what it can't decrypt. One session in 256 is such: it drops the leading
            // zeros of the secret that is agreed on, and so derives another key.
            "Secret.Error.NoSession"
            | "DBus.Error.InvalidArgs"
            | "org.qtproject.QtDBus.Error.InvalidObjectPath" => {
                stale("the keyring refuses our session with it; restart the keyring")
            }
            "Secret.Error.NoSuchObject"
            | "DBus.Error.UnknownObject"
            | "DBus.Error.UnknownMethod"
            | "DBus.Error.UnknownInterface" => Self::Gone(StoreError::Unavailable(
                "the keyring has lost the item or collection; check it in its own program".to_owned(),
            )),
            "DBus.Error.NoReply" | "DBus.Error.Disconnected" => {
                stale("the keyring stopped before it answered; restart it")
            }
            "DBus.Error.ServiceUnknown" | "DBus.Error.NameHasNoOwner" => {
                unavailable("no keyring service is running; start gnome-keyring, KWallet or KeePassXC")
            }
            "DBus.Error.AccessDenied" => {
                unavailable("the keyring refuses access; allow it in the keyring's settings")
            }
            _ if short.starts_with("DBus.Error.Spawn.") || short.starts_with("systemd1.") => {
                unavailable("the keyring service could not be started; see its log with journalctl --user")
            }
            "DBus.Error.Timeout" | "DBus.Error.TimedOut" => no_answer(),
            _ => unavailable(&format!("the keyring failed ({name}); see its log with journalctl --user")),
        }
    }
}

fn error_name(error: &zbus::Error) -> Option<String> {
    match error {
        zbus::Error::MethodError(name, _, _) => Some(name.to_string()),
        zbus::Error::FDO(error) => match error.as_ref() {
            fdo::Error::ZBus(inner) => error_name(inner),
            other => Some(other.name().to_string()),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_their_name_and_say_what_to_do() {
        let text = || "canary".to_owned();
        for (error, expected) in [
            (fdo::Error::ServiceUnknown(text()), "start gnome-keyring"),
            (fdo::Error::NoReply(text()), "restart it"),
            (fdo::Error::SpawnChildExited(text()), "could not be started"),
            (fdo::Error::UnknownObject(text()), "has lost"),
            (fdo::Error::AccessDenied(text()), "refuses access"),
            (fdo::Error::Timeout(text()), "does not answer"),
            (fdo::Error::LimitsExceeded(text()), "org.freedesktop.DBus.Error.LimitsExceeded"),
        ] {
            let fault = Fault::from(secret_service::Error::from(error));
            let StoreError::Unavailable(text) = fault.into_error() else { panic!("{expected}") };
            assert!(text.contains(expected) && !text.contains("canary"), "{text}");
            assert!(text.starts_with(char::is_lowercase) && !text.ends_with('.'), "{text}");
        }
    }
}
