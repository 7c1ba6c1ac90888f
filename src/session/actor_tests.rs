//! The task around the state machine, under paused time: no socket, no store but memory, no waiting.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};

use super::error::Error;
use super::view::AccountState;
use super::{Asked, Parts, Policy, SessionHandle, TokenOptions, spawn};
use crate::account::AccountName;
use crate::clock::{Clock, VirtualTime};
use crate::config::{
    Endpoints, ExplicitEndpoints, KeepAlive, LogoutEndpoint, OAuthConfig, ResponseMode, SecretSource,
};
use crate::oidc::authorization::{AuthorizationRequest, Front};
use crate::oidc::device::{DeviceAuthorization, Polled};
use crate::oidc::error::{Class, ProviderError};
use crate::oidc::push::Pushed;
use crate::oidc::{CodeExchange, End, EndRequest, Provider, RefreshRequest};
use crate::power::Busy;
use crate::recovery::{Note, Noting, Recalled, Recovery, Unsaved};
use crate::secret::{AccessToken, ClientSecret, RefreshToken};
use crate::store::memory::MemoryStore;
use crate::store::{Item, ItemKind, Loaded, Store, StoreError};
use crate::tokens::{Granted, Lifetime, TokenResponse};

/// D3: single flight, through the inbox.
#[tokio::test(start_paused = true)]
async fn a_hundred_callers_cause_one_refresh() {
    let rig = Rig::idle().await;
    rig.provider.script([Behaviour::Hang]);
    let callers = (0..100).map(|_| rig.session.token(TokenOptions::default()));
    let release = async {
        rig.provider.called(1).await;
        rig.provider.release.notify_one();
    };

    let (answers, ()) = tokio::join!(futures_util::future::join_all(callers), release);

    let tokens: Vec<String> =
        answers.into_iter().map(|answer| answer.unwrap().token.expose().to_owned()).collect();
    assert!(tokens.iter().all(|token| token == "canary-a4"));
    assert_eq!(rig.provider.refreshes(), 1);
}

/// Design section 10: a caller after another does not wake the task; what needs the machine goes to it.
#[tokio::test(start_paused = true)]
async fn a_warm_token_needs_no_task_until_something_happens() {
    let rig = Rig::logged_in().await;
    let plain = || rig.session.token(TokenOptions::default());
    let first = plain().await.unwrap();

    let next = plain().now_or_never().unwrap().unwrap();
    assert!(next.token == first.token && next.expires_at == first.expires_at);
    assert!(plain().now_or_never().is_some(), "and the next");
    let long = TokenOptions { min_validity: Some(secs(301)), ..TokenOptions::default() };
    assert!(rig.session.token(long).now_or_never().is_none(), "it may not live so long");

    plain().await.unwrap();
    rig.time.suspend(secs(10));
    assert!(plain().now_or_never().is_none(), "the machine hears of callers, and of the suspend");
    let second = plain().await.unwrap();
    assert!(plain().now_or_never().is_some());
    rig.session.reject(second.token_id.clone()).await.unwrap();
    assert!(plain().await.unwrap().token != second.token, "a rejected one is gone");

    rig.session.logout().await.unwrap();
    assert!(plain().await.is_err());
    rig.session.stop().await;
    assert!(matches!(plain().now_or_never(), Some(Err(Error::NoSession(_)))));
}

/// N3; promise 2: the timer alone keeps a session alive, at half of its life.
#[tokio::test(start_paused = true)]
async fn an_idle_session_is_renewed_by_its_timer() {
    let rig = Rig::logged_in().await;
    let began = rig.clock.now().boot;

    // The renewals of the ten minutes after a login come first.
    rig.clock.sleep(secs(4 * 3600)).await;

    assert!((14..=24).contains(&rig.provider.refreshes()), "{}", rig.provider.refreshes());
    assert_eq!(rig.session.view().state, AccountState::Ready);
    assert_eq!(rig.clock.now().boot.since(began), secs(4 * 3600));
}

/// N9, N10, N12: time asleep counts, the provider is asked once, and the account says what happened.
#[tokio::test(start_paused = true)]
async fn a_laptop_that_slept_too_long_asks_once_and_tells() {
    let rig = Rig::logged_in().await;
    rig.provider.script([Behaviour::Refuse(Class::SessionOver)]);

    rig.time.suspend(secs(3600));
    let answer = rig.session.token(TokenOptions::default()).await;

    assert!(matches!(answer, Err(Error::LoginRequired(_))));
    assert_eq!(rig.provider.refreshes(), 1);
    assert_eq!((rig.session.view().state, rig.session.view().reason), (AccountState::Expired, "asleep"));
    rig.clock.sleep(secs(7200)).await;
    assert_eq!(rig.provider.refreshes(), 1, "said once, and nothing is sent after it");
}

/// D5, section 10: a caller's time runs out, the refresh's does not, and its token is saved.
#[tokio::test(start_paused = true)]
async fn a_hanging_provider_costs_a_caller_fifteen_seconds_and_no_token() {
    let rig = Rig::idle().await;
    rig.provider.script([Behaviour::Hang]);
    let asked = rig.clock.now().boot;

    let answer = rig.session.token(TokenOptions::default()).await;

    assert!(matches!(answer, Err(Error::Timeout(_))));
    assert_eq!(rig.clock.now().boot.since(asked).as_secs(), 15);
    rig.provider.release.notify_one();
    let token = rig.session.token(TokenOptions::default()).await.unwrap();
    assert_eq!((token.token.expose(), rig.provider.refreshes()), ("canary-a4", 1));
    assert_eq!(rig.stored().await.as_deref(), Some("canary-r4"));
}

/// One refresh: it belongs to the task, and no caller that goes away takes it along.
#[tokio::test(start_paused = true)]
async fn a_caller_that_vanishes_takes_no_refresh_with_it() {
    let rig = Rig::idle().await;
    rig.provider.script([Behaviour::Hang]);
    let session = rig.session.clone();
    let caller = tokio::spawn(async move { session.token(TokenOptions::default()).await.is_ok() });
    rig.provider.called(1).await;

    caller.abort();
    let _ = caller.await;
    rig.provider.release.notify_one();

    let token = rig.session.token(TokenOptions::default()).await.unwrap();
    assert_eq!((token.token.expose(), rig.provider.refreshes()), ("canary-a4", 1));
}

/// D5: a stop waits for the answer that holds the only valid refresh token, and for its save.
#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_refresh_and_its_save() {
    let rig = Rig::idle().await;
    rig.provider.script([Behaviour::Hang]);
    let session = rig.session.clone();
    let caller = tokio::spawn(async move { session.token(TokenOptions::default()).await.is_ok() });
    rig.provider.called(1).await;

    let release = async {
        rig.clock.sleep(secs(30)).await;
        rig.provider.release.notify_one();
    };
    let (heirloom, ()) = tokio::join!(rig.session.stop(), release);

    assert!(heirloom.is_some());
    assert_eq!(rig.stored().await.as_deref(), Some("canary-r4"));
    caller.abort();
}

/// A changed configuration while the provider hangs: the old session waits for its refresh, its callers do not.
#[tokio::test(start_paused = true)]
async fn a_stop_keeps_no_caller_waiting_for_longer_than_fifteen_seconds() {
    let rig = Rig::idle().await;
    rig.provider.script([Behaviour::Hang]);
    let asked = rig.clock.now().boot;
    let caller = async {
        let answer = rig.session.token(TokenOptions::default()).await;
        (answer.is_err(), rig.clock.now().boot.since(asked))
    };
    let stop = async {
        rig.provider.called(1).await;
        rig.session.stop().await
    };
    let release = async {
        rig.clock.sleep(secs(40)).await;
        rig.provider.release.notify_one();
    };

    let (answer, heirloom, ()) = tokio::join!(caller, stop, release);

    assert_eq!(answer, (true, secs(15)));
    assert!(heirloom.is_some());
    assert_eq!((rig.stored().await.as_deref(), rig.provider.refreshes()), (Some("canary-r4"), 1));
}

/// O, N16: failures are retried by themselves, and callers are served as soon as it is over.
#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_out_and_ends_by_itself() {
    let rig = Rig::idle().await;
    rig.provider.script(std::iter::repeat_n(Behaviour::Refuse(Class::Unreachable), 4));
    let asked = rig.clock.now().boot;

    let token = rig.session.token(TokenOptions::default()).await.unwrap();

    assert_eq!(token.token.expose(), "canary-a4");
    assert_eq!(rig.provider.refreshes(), 5);
    assert!(rig.clock.now().boot.since(asked) < secs(15));
}

/// Design section 3: a keyring that asks and gets no answer costs the caller fifteen seconds.
#[tokio::test(start_paused = true)]
async fn a_secret_that_the_keyring_does_not_take_is_answered_in_time() {
    let rig = Rig::with(Arc::new(Hanging));
    let asked = rig.clock.now().boot;

    let set = rig.session.set_client_secret(ClientSecret::parse("canary-secret").ok()).await;

    assert!(matches!(set, Err(Error::Timeout(_))));
    assert_eq!(rig.clock.now().boot.since(asked), secs(15));
    assert!(rig.session.ping().await);
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct Rig<S = MemoryStore> {
    session: SessionHandle,
    provider: Arc<Scripted>,
    store: Arc<S>,
    clock: Clock,
    time: Arc<VirtualTime>,
}

impl<S: Store> Rig<S> {
    fn with(store: Arc<S>) -> Self {
        let (clock, time) = Clock::simulated(secs(1_790_000_000));
        let provider = Arc::new(Scripted::default());
        let session = spawn(Parts {
            account: account(),
            policy: policy(),
            oauth: Some((Arc::new(config()), Arc::clone(&provider))),
            store: Arc::clone(&store),
            clock: clock.clone(),
            dice: Arc::new(|| 0.5),
            heirloom: None,
            recovery: Arc::new(Forgetful),
            recalled: Recalled::default(),
            budget: Arc::default(),
            busy: Busy::default(),
        });
        Self { session, provider, store, clock, time }
    }
}

impl Rig {
    async fn logged_in() -> Self {
        let rig = Self::with(Arc::new(MemoryStore::default()));
        let granted =
            Granted { tokens: rig.provider.issue(), sub: String::new(), subject: "ayu".into(), key: None };
        assert!(rig.session.logged_in(granted, Asked::at(&rig.clock.now())).await.unwrap(), "saved");
        rig
    }

    /// Twenty minutes after the login: renewed twice ahead of time, then left alone until the access token
    /// has expired. The next renewal by itself is a while away; the next tokens are the fourth.
    async fn idle() -> Self {
        let rig = Self::logged_in().await;
        rig.clock.sleep(secs(1200)).await;
        assert_eq!(rig.provider.refreshes(), 2);
        rig
    }

    /// The stored refresh token.
    async fn stored(&self) -> Option<String> {
        let session = self.store.load(&account()).await.unwrap().session;
        session.map(|record| record.refresh_token.expose().to_owned())
    }
}

#[derive(Clone, Copy)]
enum Behaviour {
    /// Answers when it is released.
    Hang,
    Refuse(Class),
}

/// A provider that rotates, and fails as it is told to.
#[derive(Default)]
struct Scripted {
    script: Mutex<VecDeque<Behaviour>>,
    release: Notify,
    calls: Notify,
    refreshes: AtomicU32,
    issued: AtomicU32,
}

impl Scripted {
    fn script(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.script.lock().unwrap().extend(behaviours);
        self.refreshes.store(0, Ordering::Relaxed);
    }

    fn refreshes(&self) -> u32 {
        self.refreshes.load(Ordering::Relaxed)
    }

    async fn called(&self, times: u32) {
        while self.refreshes() < times {
            self.calls.notified().await;
        }
    }

    fn issue(&self) -> TokenResponse {
        let number = self.issued.fetch_add(1, Ordering::Relaxed) + 1;
        TokenResponse {
            access_token: AccessToken::parse(format!("canary-a{number}")).unwrap(),
            expires_in: Lifetime::For(secs(300)),
            refresh_token: RefreshToken::parse(format!("canary-r{number}")).ok(),
            refresh_expires_in: Lifetime::For(secs(1800)),
            scope: None,
            id_token: None,
            servers: String::new(),
        }
    }
}

impl Provider for Scripted {
    async fn front(&self) -> Result<Front, ProviderError> {
        Err(ProviderError::new(Class::Unreachable, "no login here"))
    }

    async fn push(&self, _: &AuthorizationRequest, _: Option<ClientSecret>) -> Result<Pushed, ProviderError> {
        Err(ProviderError::new(Class::Unreachable, "no login here"))
    }

    async fn authorize_device(
        &self,
        _: Option<ClientSecret>,
    ) -> Result<Option<DeviceAuthorization>, ProviderError> {
        Ok(None)
    }

    async fn poll_device(&self, _: &DeviceAuthorization, _: Option<ClientSecret>) -> Polled {
        Polled::Over
    }

    async fn exchange(
        &self,
        _exchange: CodeExchange,
        _secret: Option<ClientSecret>,
    ) -> Result<Granted, ProviderError> {
        Err(ProviderError::new(Class::Unreachable, "no login here"))
    }

    async fn refresh(&self, _request: RefreshRequest) -> Result<TokenResponse, ProviderError> {
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        self.calls.notify_one();
        let behaviour = self.script.lock().unwrap().pop_front();
        match behaviour {
            Some(Behaviour::Refuse(class)) => return Err(ProviderError::new(class, "no luck")),
            Some(Behaviour::Hang) => self.release.notified().await,
            None => {}
        }
        Ok(self.issue())
    }

    async fn end_session(&self, _: EndRequest) -> End {
        End::Done
    }
}

/// A keyring whose dialog nobody answers.
struct Hanging;

impl Store for Hanging {
    async fn load(&self, _: &AccountName) -> Result<Loaded, StoreError> {
        Ok(Loaded::default())
    }

    async fn save(&self, _: &AccountName, _: Item) -> Result<(), StoreError> {
        std::future::pending().await
    }

    async fn erase(&self, _: &AccountName, _: ItemKind) -> Result<(), StoreError> {
        std::future::pending().await
    }

    async fn unlock(&self) -> Result<(), StoreError> {
        std::future::pending().await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }

    fn name(&self) -> &'static str {
        "hanging"
    }
}

/// There is no next process.
struct Forgetful;

impl Recovery for Forgetful {
    fn note<'a>(&'a self, _: &'a AccountName, _: u64, _: &'a Note) -> Noting<'a> {
        Box::pin(async {})
    }

    fn hold(&self, _: &AccountName, _: Unsaved) {}

    fn release(&self, _: &AccountName, _: u64) {}
}

fn account() -> AccountName {
    AccountName::parse("chaster").unwrap()
}

fn policy() -> Policy {
    Policy {
        account: "chaster".into(),
        personal: false,
        stored_secret: false,
        issuer: "https://id.example".into(),
        client_id: "app".into(),
        scope: String::new(),
        keep_alive: KeepAlive::Always,
        audience_by: None,
        min_validity: None,
        dpop: false,
        boot_id: "b".into(),
        machine: "m".into(),
        phase: 0.5,
    }
}

fn config() -> OAuthConfig {
    let url = |path: &str| url::Url::parse(&format!("https://id.example/{path}")).unwrap();
    let endpoints = ExplicitEndpoints {
        authorization: url("auth"),
        token: url("token"),
        logout: LogoutEndpoint::None,
        jwks: None,
        userinfo: None,
        device_authorization: None,
        push: None,
    };
    OAuthConfig {
        client_id: "app".into(),
        client_auth: None,
        client_secret: SecretSource::Store,
        scopes: Vec::new(),
        redirect: crate::config::RedirectUri::default(),
        endpoints: Endpoints::Explicit(Box::new(endpoints)),
        profile: None,
        iss: None,
        issuer: None,
        id_token_audiences: Vec::new(),
        response_mode: ResponseMode::Query,
        pkce: true,
        par: true,
        dpop: false,
        max_age: None,
        login_timeout: Duration::from_secs(600),
        extra_params: std::collections::BTreeMap::new(),
        scope_on_refresh: false,
        keep_alive: KeepAlive::Always,
        audience_by: None,
        min_validity: None,
        ca_file: None,
        store: crate::config::StoreKind::Memory,
    }
}
