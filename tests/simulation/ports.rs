//! The session's ports in a world of faults. Each await in here is a place where a process may die.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bearerd::account::AccountName;
use bearerd::oidc::authorization::{AuthorizationRequest, Front};
use bearerd::oidc::device::{DeviceAuthorization, Polled};
use bearerd::oidc::error::{Class, ProviderError};
use bearerd::oidc::push::Pushed;
use bearerd::oidc::{CodeExchange, End, EndRequest, Provider, RefreshRequest};
use bearerd::recovery::{Note, Noting, Recovery, Unsaved};
use bearerd::secret::{ClientSecret, RefreshToken};
use bearerd::store::{Item, ItemKind, Loaded, Store, StoreError};
use bearerd::tokens::{Granted, TokenResponse};
use tokio::sync::{oneshot, watch};

use crate::world::{StoreMood, Weather, World};

/// How long the HTTP client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One account's way to the world, for one process's life.
pub(crate) struct Port {
    pub(crate) world: Arc<World>,
    pub(crate) account: usize,
    pub(crate) process: u64,
}

impl Port {
    /// A place where the process may die; a dead one stays here.
    async fn step(&self) {
        self.world.step(self.process).await;
    }
}

/// One request at a time, from one process.
struct Flight<'a>(&'a Port);

impl<'a> Flight<'a> {
    fn begin(port: &'a Port) -> Self {
        let before = port.world.accounts[port.account].in_flight.fetch_add(1, Ordering::Relaxed);
        if before > 0 {
            port.world.violation(format!("account {}: two refreshes in flight", port.account));
        }
        Self(port)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.world.accounts[self.0.account].in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Provider for Port {
    async fn front(&self) -> Result<Front, ProviderError> {
        Err(ProviderError::new(Class::Unreachable, "nobody logs in this way here"))
    }

    async fn push(&self, _: &AuthorizationRequest, _: Option<ClientSecret>) -> Result<Pushed, ProviderError> {
        Err(ProviderError::new(Class::Unreachable, "nobody logs in this way here"))
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

    async fn exchange(&self, _: CodeExchange, _: Option<ClientSecret>) -> Result<Granted, ProviderError> {
        Err(ProviderError::new(Class::Unreachable, "nobody logs in this way here"))
    }

    async fn refresh(&self, request: RefreshRequest) -> Result<TokenResponse, ProviderError> {
        let refresh_token = request.refresh_token;
        let wish = request.narrow.map_or(String::new(), |narrow| narrow.resource.clone());
        let _flight = Flight::begin(self);
        self.step().await;
        let world = &self.world;
        let weather = world.weather_now();
        world.count_request(self.account);
        world.trace(|| format!("account {} sends {} in {weather:?}", self.account, refresh_token.expose()));
        if let Weather::Unreachable = weather {
            tokio::time::sleep(world.millis(1, 200)).await;
            return Err(ProviderError::new(Class::Unreachable, "no connection"));
        }
        // The provider acts whether or not the process lives to hear of it.
        let (answer, answered) = oneshot::channel();
        tokio::spawn(serve(Arc::clone(world), self.account, refresh_token, wish, weather, answer));
        let suspends = world.suspends();
        let answered = tokio::select! {
            biased;
            answered = answered => answered.ok(),
            () = tokio::time::sleep(PATIENCE) => None,
        };
        if world.suspends() != suspends && world.chance(0.7) {
            // The connection did not survive it, and nobody says so.
            tokio::time::sleep(PATIENCE).await;
            return Err(ProviderError::new(Class::Ambiguous, "no answer in time"));
        }
        self.step().await;
        let result =
            answered.unwrap_or_else(|| Err(ProviderError::new(Class::Ambiguous, "the connection broke")));
        world.trace(|| {
            let end = match &result {
                Ok(response) => {
                    response.refresh_token.as_ref().map_or("tokens", |token| token.expose()).to_owned()
                }
                Err(error) => format!("{:?}", error.class),
            };
            format!("account {} gets {end}", self.account)
        });
        match &result {
            Ok(_) => world.arrived(self.account),
            Err(error) => world.told(self.account, error.retry_after),
        }
        result
    }

    async fn end_session(&self, request: EndRequest) -> End {
        let Some(refresh_token) = request.refresh_token else { return End::Impossible };
        self.step().await;
        self.world.leaves(self.account, refresh_token.expose());
        let weather = self.world.weather_now();
        tokio::time::sleep(self.world.millis(5, 250)).await;
        if matches!(weather, Weather::Fine | Weather::Slow | Weather::Deaf) {
            self.world.end_session(self.account, refresh_token.expose());
        }
        match weather {
            Weather::Fine => {}
            Weather::Slow => tokio::time::sleep(self.world.millis(2_000, 10_000)).await,
            // The client's patience with what is asked in passing.
            Weather::Silent | Weather::Deaf => {
                tokio::time::sleep(Duration::from_secs(10)).await;
                return End::Later(Duration::from_secs(60));
            }
            Weather::Busy(wait) => return End::Later(Duration::from_secs(wait.unwrap_or(60))),
            Weather::Portal => return End::Impossible,
            Weather::Unreachable | Weather::Cut => return End::Later(Duration::from_secs(60)),
        }
        self.step().await;
        End::Done
    }
}

async fn serve(
    world: Arc<World>,
    account: usize,
    token: RefreshToken,
    wish: String,
    weather: Weather,
    answer: oneshot::Sender<Result<TokenResponse, ProviderError>>,
) {
    tokio::time::sleep(world.millis(5, 150)).await;
    let busy = |wait: Option<u64>| ProviderError {
        retry_after: wait.map(Duration::from_secs),
        ..ProviderError::new(Class::Unreachable, "busy")
    };
    let act = || world.model().refresh(account, token.expose(), &wish, world.now().boot);
    let result = match weather {
        // Closed without a word, before anything was done.
        Weather::Cut => return,
        Weather::Silent => std::future::pending().await,
        Weather::Busy(wait) => Err(busy(wait)),
        Weather::Portal => Err(ProviderError::new(Class::Malformed, "a page")),
        Weather::Deaf => {
            // Done, and the answer lost: at once, or in silence.
            let _ = act();
            if world.chance(0.5) {
                std::future::pending::<()>().await;
            }
            return;
        }
        Weather::Slow => {
            let early = world.chance(0.5).then(act);
            tokio::time::sleep(world.millis(2_000, 50_000)).await;
            if early.is_none() && answer.is_closed() {
                let _ = act();
                world.arrived_late(account);
                return;
            }
            early.unwrap_or_else(act)
        }
        Weather::Fine | Weather::Unreachable => act(),
    };
    tokio::time::sleep(world.millis(1, 100)).await;
    let _ = answer.send(result);
}

impl Store for Port {
    async fn load(&self, _: &AccountName) -> Result<Loaded, StoreError> {
        self.step().await;
        tokio::time::sleep(self.world.millis(1, 30)).await;
        self.mood().await?;
        let session = self.world.accounts[self.account].shelf().kept.clone();
        self.step().await;
        Ok(Loaded { session, ..Loaded::default() })
    }

    async fn save(&self, _: &AccountName, item: Item) -> Result<(), StoreError> {
        let Item::Session(record) = item else { return Ok(()) };
        self.step().await;
        tokio::time::sleep(self.world.millis(1, 30)).await;
        self.mood().await?;
        self.world.accounts[self.account].put(Some(record), self.world.store_mood() == StoreMood::Lies);
        self.step().await;
        Ok(())
    }

    async fn erase(&self, _: &AccountName, _: ItemKind) -> Result<(), StoreError> {
        self.step().await;
        self.mood().await?;
        self.world.accounts[self.account].put(None, false);
        self.step().await;
        Ok(())
    }

    async fn unlock(&self) -> Result<(), StoreError> {
        Err(StoreError::Locked)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.world.accounts[self.account].changes.subscribe()
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}

impl Port {
    async fn mood(&self) -> Result<(), StoreError> {
        match self.world.store_mood() {
            StoreMood::Well | StoreMood::Lies => Ok(()),
            StoreMood::Locked => Err(StoreError::Locked),
            StoreMood::Absent => Err(StoreError::Unavailable("no keyring".into())),
            StoreMood::Blocked => {
                tokio::time::sleep(Duration::from_secs(10)).await;
                self.step().await;
                Err(StoreError::Unavailable("no answer".into()))
            }
        }
    }
}

impl Recovery for Port {
    fn note<'a>(&'a self, _: &'a AccountName, sequence: u64, note: &'a Note) -> Noting<'a> {
        Box::pin(async move {
            self.step().await;
            self.world.accounts[self.account].leave_note(self.process, sequence, note);
            self.step().await;
        })
    }

    fn hold(&self, _: &AccountName, unsaved: Unsaved) {
        if self.world.has_service_manager && self.world.lives(self.process) {
            *self.world.accounts[self.account].held() = Some(unsaved);
        }
    }

    fn release(&self, _: &AccountName, sequence: u64) {
        if self.world.lives(self.process) {
            let mut held = self.world.accounts[self.account].held();
            if held.as_ref().is_some_and(|held| held.sequence <= sequence) {
                *held = None;
            }
        }
    }
}
