//! The files of the configuration: found, read in order, merged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::account::{self, PRESET_KEYS};
use super::file::{ConfigError, Document, Field, Fields, nearest};
use super::{AccountConfig, Config};
use crate::account::AccountName;

/// The built-in presets.
pub(super) const PRESETS: &[(&str, &str)] = &[
    ("auth0", include_str!("../../presets/auth0.toml")),
    ("chaster", include_str!("../../presets/chaster.toml")),
    ("discord", include_str!("../../presets/discord.toml")),
    ("github", include_str!("../../presets/github.toml")),
    ("github-app", include_str!("../../presets/github-app.toml")),
    ("gitlab", include_str!("../../presets/gitlab.toml")),
    ("google", include_str!("../../presets/google.toml")),
    ("keycloak", include_str!("../../presets/keycloak.toml")),
    ("microsoft", include_str!("../../presets/microsoft.toml")),
    ("okta", include_str!("../../presets/okta.toml")),
    ("spotify", include_str!("../../presets/spotify.toml")),
];
const TOP_LEVEL_KEYS: &[&str] = &["default_account", "pause_on_lock", "accounts"];
const MAX_ACCOUNTS: usize = 10_000;

/// Where the configuration is.
#[derive(Debug, Clone)]
pub struct ConfigDirs {
    /// `$XDG_CONFIG_HOME/bearerd`.
    pub user: PathBuf,
    /// `/usr/share/bearerd`.
    pub vendor: PathBuf,
    /// `$XDG_STATE_HOME/bearerd`: notes of refreshes under way.
    pub state: PathBuf,
    /// `$XDG_RUNTIME_DIR/bearerd`: the direct socket.
    pub runtime: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`.
    pub credentials: Option<PathBuf>,
    pub home: Option<PathBuf>,
}

impl ConfigDirs {
    /// As the environment has them.
    #[must_use]
    pub fn from_env() -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = variable("HOME");
        let state =
            variable("XDG_STATE_HOME").or_else(|| home.as_ref().map(|home| home.join(".local/state")));
        let config = variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        Self {
            user: config.unwrap_or_else(|| PathBuf::from("/nonexistent")).join("bearerd"),
            vendor: PathBuf::from("/usr/share/bearerd"),
            state: state.unwrap_or_else(|| PathBuf::from("/nonexistent")).join("bearerd"),
            runtime: variable("XDG_RUNTIME_DIR").map(|folder| folder.join("bearerd")),
            credentials: variable("CREDENTIALS_DIRECTORY"),
            home,
        }
    }
}

/// Why an account name finds nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountLookup {
    #[error("no account is configured; write one into {0}, then run: bearerctl reload")]
    NoneConfigured(String),
    #[error("no account {name:?}{}; run: bearerctl status", suggestion(.nearest.as_deref()))]
    NoSuchAccount { name: String, nearest: Option<String> },
    #[error("no account was named, and there are several without a default_account: {0}; name one of them")]
    Ambiguous(String),
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean {nearest:?}?")).unwrap_or_default()
}

impl Config {
    /// Reads all files.
    ///
    /// # Errors
    /// The first thing that is wrong, with file, line and key.
    pub fn load(dirs: &ConfigDirs) -> Result<Self, ConfigError> {
        let mut config =
            Self { file: dirs.user.join("config.toml").display().to_string(), ..Self::default() };
        let presets = presets(dirs)?;
        let mut places = BTreeMap::new();
        let main = dirs.user.join("config.toml");
        let mut default_account = None;
        match Document::read(&main)? {
            None => config
                .warnings
                .push(format!("{} does not exist; no account is configured there", main.display())),
            Some(document) => {
                let table = document.table()?;
                let fields = Fields::new(&document, table.get_ref());
                fields.only(TOP_LEVEL_KEYS)?;
                config.take_accounts(&fields, &presets, dirs, &mut places)?;
                if let Some(field) = fields.get("pause_on_lock") {
                    config.pause_on_lock = field.boolean()?;
                }
                if let Some(field) = fields.get("default_account") {
                    default_account =
                        Some((field.string()?.to_owned(), field.error("names no configured account")));
                }
            }
        }
        for path in toml_files(&dirs.user.join("accounts.d"))? {
            let Some(document) = Document::read(&path)? else { continue };
            let table = document.table()?;
            let fields = Fields::new(&document, table.get_ref());
            fields.only(&["accounts"])?;
            config.take_accounts(&fields, &presets, dirs, &mut places)?;
        }
        if let Some((name, error)) = default_account {
            let known = config.accounts.get_key_value(name.as_str()).map(|(name, _)| name.clone());
            config.default_account = Some(known.ok_or(error)?);
        }
        Ok(config)
    }

    fn take_accounts(
        &mut self,
        fields: &Fields<'_>,
        presets: &BTreeMap<String, Document>,
        dirs: &ConfigDirs,
        places: &mut BTreeMap<AccountName, String>,
    ) -> Result<(), ConfigError> {
        let Some(accounts) = fields.get("accounts") else { return Ok(()) };
        for (key, span, place) in accounts.table()?.iter() {
            let document = place.document;
            let name = AccountName::parse(key)
                .map_err(|why| document.error(&span, format!("bad account name: {why}")))?;
            let here = format!("{}:{}", document.path.display(), document.line(&span));
            if let Some(there) = places.insert(name.clone(), here) {
                return Err(document.error(&span, format!("account {key:?} is defined already at {there}")));
            }
            if places.len() > MAX_ACCOUNTS {
                return Err(document.error(&span, format!("more than {MAX_ACCOUNTS} accounts")));
            }
            let account = read_account(name.clone(), &place, presets, dirs, &mut self.warnings)?;
            self.accounts.insert(name, account);
        }
        Ok(())
    }

    /// Reads a text as the only file of `accounts.d`, before it is one.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read_draft(dirs: &ConfigDirs, path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let presets = presets(dirs)?;
        let document = Document::draft(path, text);
        let table = document.table()?;
        let fields = Fields::new(&document, table.get_ref());
        fields.only(&["accounts"])?;
        config.take_accounts(&fields, &presets, dirs, &mut BTreeMap::new())?;
        Ok(config)
    }

    /// The names of all presets.
    ///
    /// # Errors
    /// When one of them is wrong, with file, line and key.
    pub fn preset_names(dirs: &ConfigDirs) -> Result<Vec<String>, ConfigError> {
        Ok(presets(dirs)?.into_keys().collect())
    }

    /// The account of that name; "" is the default account, else the only one.
    ///
    /// # Errors
    /// When there is none such; the text says what to do.
    pub fn account(&self, name: &str) -> Result<Arc<AccountConfig>, AccountLookup> {
        if self.accounts.is_empty() {
            return Err(AccountLookup::NoneConfigured(self.file.clone()));
        }
        if let Some(account) = self.accounts.get(name) {
            return Ok(Arc::clone(account));
        }
        if !name.is_empty() {
            let known: Vec<&str> = self.accounts.keys().map(AccountName::as_str).collect();
            let name = crate::oidc::text::clean(name);
            let nearest = nearest(&name, &known).map(str::to_owned);
            return Err(AccountLookup::NoSuchAccount { name, nearest });
        }
        let default = self.default_account.as_ref().and_then(|name| self.accounts.get(name));
        let mut all = self.accounts.values();
        match (default, all.next(), all.next()) {
            (Some(account), ..) | (None, Some(account), None) => Ok(Arc::clone(account)),
            _ => {
                let names: Vec<&str> = self.accounts.keys().take(20).map(AccountName::as_str).collect();
                Err(AccountLookup::Ambiguous(names.join(", ")))
            }
        }
    }
}

fn read_account(
    name: AccountName,
    place: &Field<'_>,
    presets: &BTreeMap<String, Document>,
    dirs: &ConfigDirs,
    warnings: &mut Vec<String>,
) -> Result<Arc<AccountConfig>, ConfigError> {
    let Some(provider) = place.table()?.get("provider") else {
        return account::read(name, place, None, dirs, warnings);
    };
    let preset = provider.string()?;
    let known: Vec<&str> = presets.keys().map(String::as_str).collect();
    let Some(document) = presets.get(preset) else {
        let hint =
            nearest(preset, &known).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        return Err(provider.error(&format!("names no preset; known: {}{hint}", known.join(", "))));
    };
    let table = document.table()?;
    let fields = Fields::new(document, table.get_ref());
    account::read(name, place, Some((preset, fields)), dirs, warnings)
}

/// All presets by name: built in, then the vendor's, then the user's; a later one replaces.
fn presets(dirs: &ConfigDirs) -> Result<BTreeMap<String, Document>, ConfigError> {
    let mut presets: BTreeMap<String, Document> = PRESETS
        .iter()
        .map(|(name, text)| {
            ((*name).to_owned(), Document::built_in(&format!("providers.d/{name}.toml"), text))
        })
        .collect();
    for dir in [&dirs.vendor, &dirs.user] {
        for path in toml_files(&dir.join("providers.d"))? {
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            let Some(document) = Document::read(&path)? else { continue };
            Fields::new(&document, document.table()?.get_ref()).only(PRESET_KEYS)?;
            presets.insert(name, document);
        }
    }
    Ok(presets)
}

/// The `*.toml` files of a folder, sorted by name; none when it does not exist.
fn toml_files(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let fail = |error: std::io::Error| ConfigError {
        file: dir.to_owned(),
        line: None,
        message: format!("it cannot be read: {error}"),
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
