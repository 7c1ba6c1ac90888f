//! The configured accounts and their sessions, and what a reload makes of them.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::account::AccountName;
use crate::clock::Clock;
use crate::config::{
    AccountConfig, ClientAuth, Config, ConfigDirs, KeepAlive, SecretSource, Source, StoreKind,
};
use crate::oidc::OAuthProvider;
use crate::oidc::http::Http;
use crate::power::Busy;
use crate::recovery::{Records, Recovery};
use crate::session::{self, AccountState, Budget, Heirloom, Interruption, Parts, Policy, SessionHandle};
use crate::store::Store as _;
use crate::store::memory::MemoryStore;
use crate::store::secret_service::SecretServiceStore;

/// One configured account.
pub struct Account {
    pub config: Arc<AccountConfig>,
    pub session: SessionHandle,
    pub store_name: &'static str,
}

impl Account {
    #[must_use]
    pub fn is_personal(&self) -> bool {
        matches!(self.config.source, Source::Personal)
    }

    /// Whether its tokens are bound to a key.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        matches!(&self.config.source, Source::OAuth(oauth) if oauth.dpop)
    }

    /// Whether `bearerctl set-secret` has a use.
    #[must_use]
    pub fn takes_client_secret(&self) -> bool {
        match &self.config.source {
            Source::OAuth(oauth) => stored_secret(oauth.client_auth, &oauth.client_secret),
            Source::Personal => false,
        }
    }
}

fn stored_secret(auth: Option<ClientAuth>, source: &SecretSource) -> bool {
    auth != Some(ClientAuth::None) && matches!(source, SecretSource::Store)
}

/// Why an account cannot be had. The texts end with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupError {
    NoSuchAccount(String),
    InvalidConfiguration(String),
}

/// All accounts.
pub struct Accounts {
    dirs: ConfigDirs,
    clock: Clock,
    secret_service: Arc<SecretServiceStore>,
    memory: Arc<MemoryStore>,
    records: Arc<Records>,
    busy: Busy,
    boot_id: String,
    machine: String,
    current: RwLock<Current>,
    pause_on_lock: watch::Sender<bool>,
    /// tokio's mutex, held while sessions end: a stop waits for those that a reload has told to.
    ending: tokio::sync::Mutex<()>,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Current {
    config: Config,
    accounts: BTreeMap<AccountName, Arc<Account>>,
    /// The configuration at the start was bad, and nothing good has been read since.
    broken: Option<String>,
    /// By `ca_file`: a client keeps the system's certificates, so it is shared.
    http: HashMap<Option<PathBuf>, Arc<Http>>,
    /// By issuer.
    budgets: HashMap<String, Arc<Budget>>,
}

impl Accounts {
    /// Reads the configuration; a bad one is kept as the answer to every call.
    #[must_use]
    pub fn load(
        dirs: ConfigDirs,
        clock: Clock,
        secret_service: SecretServiceStore,
        records: Records,
    ) -> Self {
        let accounts = Self {
            dirs,
            clock,
            secret_service: Arc::new(secret_service),
            memory: Arc::default(),
            records: Arc::new(records),
            busy: Busy::default(),
            boot_id: read_line("/proc/sys/kernel/random/boot_id"),
            machine: machine(),
            current: RwLock::default(),
            pause_on_lock: watch::Sender::new(false),
            ending: tokio::sync::Mutex::default(),
            stopping: AtomicBool::new(false),
        };
        match Config::load(&accounts.dirs) {
            Ok(config) => accounts.take(config, HashMap::new()),
            Err(error) => {
                let text = broken(&error);
                tracing::warn!(error = text, "the configuration is bad");
                accounts.write().broken = Some(text);
            }
        }
        accounts
    }

    /// Reads the configuration again; how many accounts were added, changed or removed.
    ///
    /// # Errors
    /// The text of a bad configuration; then nothing has changed.
    pub async fn reload(&self) -> Result<usize, String> {
        let _ending = self.ending.lock().await;
        let config = Config::load(&self.dirs).map_err(|error| broken(&error))?;
        let stays = |account: &Arc<Account>| {
            config.accounts.get(&account.config.name).is_some_and(|new| *new == account.config)
        };
        let (staying, leaving): (Vec<_>, Vec<_>) = self.list().into_iter().partition(stays);
        let added = config.accounts.keys().filter(|name| !self.read().accounts.contains_key(*name)).count();
        let changed = added + leaving.len();
        // Never two tasks with one refresh token: the old one ends before the new one starts.
        let ends = leaving.iter().map(|account| async {
            account.session.stop().await.map(|heirloom| (account.config.name.clone(), heirloom))
        });
        let heirlooms = futures_util::future::join_all(ends).await.into_iter().flatten().collect();
        if self.stopping.load(Ordering::Relaxed) {
            // It is the next process that will read it.
            return Ok(0);
        }
        self.take(config, heirlooms);
        for account in staying {
            account.session.interrupt(Interruption::Reloaded).await;
        }
        Ok(changed)
    }

    fn take(&self, config: Config, mut heirlooms: HashMap<AccountName, Heirloom>) {
        for warning in &config.warnings {
            tracing::warn!(warning, "configuration");
        }
        let mut current = self.write();
        let mut old = std::mem::take(&mut current.accounts);
        for (name, wanted) in &config.accounts {
            let account = match old.remove(name) {
                Some(account) if account.config == *wanted => account,
                _ => Arc::new(self.start(Arc::clone(wanted), heirlooms.remove(name), &mut current)),
            };
            current.accounts.insert(name.clone(), account);
        }
        self.pause_on_lock
            .send_if_modified(|on| std::mem::replace(on, config.pause_on_lock) != config.pause_on_lock);
        current.config = config;
        current.broken = None;
    }

    fn start(
        &self,
        config: Arc<AccountConfig>,
        heirloom: Option<Heirloom>,
        current: &mut Current,
    ) -> Account {
        let oauth = match &config.source {
            Source::OAuth(oauth) => Some(Arc::clone(oauth)),
            Source::Personal => None,
        };
        let policy = Policy {
            account: config.name.to_string(),
            personal: oauth.is_none(),
            stored_secret: oauth
                .as_ref()
                .is_some_and(|oauth| stored_secret(oauth.client_auth, &oauth.client_secret)),
            issuer: config.issuer.clone(),
            client_id: oauth.as_ref().map(|oauth| oauth.client_id.clone()).unwrap_or_default(),
            scope: oauth.as_ref().map(|oauth| oauth.scopes.join(" ")).unwrap_or_default(),
            keep_alive: oauth.as_ref().map_or(KeepAlive::Always, |oauth| oauth.keep_alive),
            audience_by: oauth.as_ref().and_then(|oauth| oauth.audience_by),
            min_validity: oauth.as_ref().and_then(|oauth| oauth.min_validity),
            dpop: oauth.as_ref().is_some_and(|oauth| oauth.dpop),
            boot_id: self.boot_id.clone(),
            machine: self.machine.clone(),
            phase: session::system_dice(),
        };
        let kind = oauth.as_ref().map_or(StoreKind::SecretService, |oauth| oauth.store);
        let provider = oauth.map(|oauth| {
            let ca_file = oauth.ca_file.clone();
            let http = current.http.entry(ca_file.clone()).or_insert_with(|| Arc::new(Http::new(ca_file)));
            let provider =
                Arc::new(OAuthProvider::new(Arc::clone(&oauth), Arc::clone(http), self.clock.clone()));
            (oauth, provider)
        });
        let account = config.name.clone();
        let (clock, busy) = (self.clock.clone(), self.busy.clone());
        let dice: Arc<dyn Fn() -> f64 + Send + Sync> = Arc::new(session::system_dice);
        let budget = Arc::clone(current.budgets.entry(config.issuer.clone()).or_default());
        // A session that goes on has its own memory of all that.
        let recalled = Some(self.records.recall(&account)).filter(|_| heirloom.is_none()).unwrap_or_default();
        let recovery: Arc<dyn Recovery> = Arc::clone(&self.records) as _;
        let (session, store_name) = match kind {
            StoreKind::SecretService => {
                let store = Arc::clone(&self.secret_service);
                let name = store.name();
                (
                    session::spawn(Parts {
                        account,
                        policy,
                        oauth: provider,
                        store,
                        clock,
                        dice,
                        heirloom,
                        recovery,
                        recalled,
                        budget,
                        busy,
                    }),
                    name,
                )
            }
            StoreKind::Memory => {
                let store = Arc::clone(&self.memory);
                let name = store.name();
                (
                    session::spawn(Parts {
                        account,
                        policy,
                        oauth: provider,
                        store,
                        clock,
                        dice,
                        heirloom,
                        recovery,
                        recalled,
                        budget,
                        busy,
                    }),
                    name,
                )
            }
        };
        Account { config, session, store_name }
    }

    /// The account of that name; "" is the default one.
    ///
    /// # Errors
    /// When there is none, or the configuration is bad.
    pub fn account(&self, name: &str) -> Result<Arc<Account>, LookupError> {
        self.check()?;
        let current = self.read();
        if let Some(account) = current.accounts.get(name) {
            return Ok(Arc::clone(account));
        }
        let config =
            current.config.account(name).map_err(|why| LookupError::NoSuchAccount(why.to_string()))?;
        let account = current.accounts.get(&config.name).cloned();
        account.ok_or_else(|| {
            LookupError::NoSuchAccount(format!("account {name:?} is being reloaded; try again"))
        })
    }

    /// Whether the configuration is good.
    ///
    /// # Errors
    /// `InvalidConfiguration` with file and line when it is not.
    pub fn check(&self) -> Result<(), LookupError> {
        match &self.read().broken {
            Some(text) => Err(LookupError::InvalidConfiguration(text.clone())),
            None => Ok(()),
        }
    }

    #[must_use]
    pub fn list(&self) -> Vec<Arc<Account>> {
        self.read().accounts.values().cloned().collect()
    }

    /// The account that "" names.
    #[must_use]
    pub fn default_account(&self) -> Option<AccountName> {
        self.read().config.account("").ok().map(|config| config.name.clone())
    }

    /// Shows the keyring's prompt, without waiting for its end.
    pub fn unlock_store(&self) {
        let store = Arc::clone(&self.secret_service);
        let accounts = self.list();
        tokio::spawn(async move {
            for account in &accounts {
                account.session.unlocking(None).await;
            }
            let unlocked = store.unlock().await;
            if let Err(error) = &unlocked {
                tracing::info!(%error, "the keyring was not unlocked");
            }
            for account in &accounts {
                account.session.unlocking(Some(unlocked.is_ok())).await;
            }
        });
    }

    /// A line for `systemctl status`.
    #[must_use]
    pub fn summary(&self) -> String {
        let current = self.read();
        if let Some(text) = &current.broken {
            return format!("configuration is bad: {text}");
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for account in current.accounts.values() {
            *counts.entry(account.session.view().state.as_str()).or_default() += 1;
        }
        let attention: Vec<&str> = current
            .accounts
            .values()
            .filter(|account| {
                account.session.view().state != AccountState::Ready && account.session.view().needs_attention
            })
            .map(|account| account.config.name.as_str())
            .take(5)
            .collect();
        let mut line = match current.accounts.len() {
            0 => "no accounts configured".to_owned(),
            1 => "1 account".to_owned(),
            count => format!("{count} accounts"),
        };
        for (index, (state, count)) in counts.iter().enumerate() {
            line += if index == 0 { ": " } else { ", " };
            line += &count.to_string();
            line += " ";
            line += state;
        }
        if !attention.is_empty() {
            line += "; need attention: ";
            line += &attention.join(", ");
        }
        line
    }

    /// Whether every session's task turns.
    pub async fn are_alive(&self) -> bool {
        if self.ending.try_lock().is_err() {
            // Those that end take no calls any more, and are given their time.
            return true;
        }
        for account in self.list() {
            if !account.session.ping().await {
                return false;
            }
        }
        true
    }

    /// Lets refreshes on their way end and be saved, also those of sessions that a reload is about to replace.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let ((), _ending) = tokio::join!(self.stop_sessions(), self.ending.lock());
        // Those that the reload has begun meanwhile.
        self.stop_sessions().await;
    }

    async fn stop_sessions(&self) {
        let accounts = self.list();
        futures_util::future::join_all(accounts.iter().map(|account| account.session.stop())).await;
    }

    /// Tells every session what happens to the machine.
    pub(crate) async fn interrupt(&self, interruption: Interruption) {
        for account in self.list() {
            account.session.interrupt(interruption).await;
        }
    }

    /// Whether nothing is handed out while the screen is locked, as configured.
    pub(crate) fn pause_on_lock(&self) -> watch::Receiver<bool> {
        self.pause_on_lock.subscribe()
    }

    pub(crate) fn busy(&self) -> &Busy {
        &self.busy
    }

    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Current> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn broken(error: &crate::config::ConfigError) -> String {
    format!("{error}; correct it and run: bearerctl reload")
}

/// Names this machine in stored sessions without giving its id away.
fn machine() -> String {
    let id = read_line("/etc/machine-id");
    let hash = Sha256::digest(format!("org.bearerd.Session {id}"));
    URL_SAFE_NO_PAD.encode(&hash[..12])
}

fn read_line(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}
