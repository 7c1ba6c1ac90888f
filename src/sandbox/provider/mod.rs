//! An embedded OAuth provider on loopback, with Keycloak's paths and habits, that can be made to fail.
//!
//! It keeps no promise to anybody but its own user: everything that it issues is in memory, starts
//! with `canary-` so that it can be searched for in what must not hold it, and ends with it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use sessions::Sessions;

mod client;
mod dpop;
mod fault;
mod keys;
mod page;
mod server;
mod sessions;

pub use dpop::Dpop;
pub use fault::Fault;

/// The realm's path, as the first provider has it.
const REALM: &str = "/auth/realms/app";

/// What can be set while it runs.
#[derive(Clone)]
pub struct Settings {
    pub client_id: String,
    /// `None`: a public client.
    pub client_secret: Option<String>,
    /// The public key of a client that signs instead, as a JWK with its `alg` (RFC 7517).
    pub client_key: Option<serde_json::Value>,
    /// Who says yes at the consent page.
    pub user: String,
    pub access_lifetime: Duration,
    /// Of an idle session, and so of a refresh token.
    pub session_lifetime: Duration,
    /// Each refresh token can be used once.
    pub rotation: bool,
    /// Members over those of the ID token (RFC 7396): for tokens that must be refused.
    pub id_token: serde_json::Value,
    /// Members over those of the metadata.
    pub metadata: serde_json::Value,
    /// What is granted, whatever is asked for; `None`: what is asked for.
    pub granted_scope: Option<String>,
    /// The APIs that there are tokens for: values of `audience` and `resource` (RFC 8707).
    pub apis: Vec<String>,
    /// Offers and takes pushed authorization requests, and refuses others if they must be pushed.
    pub push: Push,
    /// Whether tokens are bound to a key of the client's (RFC 9449).
    pub dpop: Dpop,
    /// Seconds between the polls of a device code.
    pub device_interval: u64,
    /// Seconds that a pushed request waits for its browser.
    pub push_lifetime: u64,
    pub device_lifetime: Duration,
}

/// RFC 9126.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    No,
    Offered,
    Required,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            client_id: "sandbox".to_owned(),
            client_secret: Some("canary-client+secret%".to_owned()),
            client_key: None,
            user: "robin".to_owned(),
            access_lifetime: Duration::from_secs(300),
            session_lifetime: Duration::from_secs(1800),
            rotation: true,
            id_token: serde_json::Value::Null,
            metadata: serde_json::Value::Null,
            granted_scope: None,
            apis: vec!["inventory".to_owned(), "https://api.sandbox.example/".to_owned()],
            push: Push::No,
            dpop: Dpop::No,
            device_interval: 1,
            push_lifetime: 60,
            device_lifetime: Duration::from_secs(600),
        }
    }
}

/// One request that came in.
#[derive(Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// The query of a GET, the form of a POST.
    pub parameters: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Seen {
    /// A parameter's value, empty when it is not there.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        value_of(&self.parameters, name)
    }

    /// A header's value, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        value_of(&self.headers, name)
    }
}

/// The first value under this name, empty when there is none.
fn value_of<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// A provider at work; it stops when this is dropped.
pub struct Provider {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: Mutex<Option<JoinHandle<()>>>,
}

/// What the server's tasks share with the handle.
struct Shared {
    base: String,
    clock: Clock,
    keys: Mutex<keys::Keys>,
    state: Mutex<State>,
    /// How many requests have come in; also moves when something is released.
    arrivals: watch::Sender<usize>,
    /// Moves when held requests may go on.
    releases: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    settings: Settings,
    sessions: Sessions,
    /// The names of the assertions that were used.
    assertions: std::collections::HashSet<String>,
    proofs: dpop::Proofs,
    seen: Vec<Seen>,
    /// For the next token requests, in order.
    faults: std::collections::VecDeque<Fault>,
    /// For the next requests that begin a login: pushed ones, and those for a device code.
    front_faults: std::collections::VecDeque<Fault>,
    standing_fault: Option<Fault>,
    /// How many requests to end a session are still put off, and for how many seconds.
    busy_ends: (u32, u32),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When there is no port or no clock.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = State { settings, ..State::default() };
        let shared = Arc::new(Shared {
            base: format!("http://{address}"),
            clock: Clock::system()?,
            keys: Mutex::new(keys::Keys::new().map_err(|_| io::Error::other("no key can be made"))?),
            state: Mutex::new(state),
            arrivals: watch::Sender::new(0),
            releases: watch::Sender::new(0),
        });
        let server = tokio::spawn(server::serve(listener, Arc::clone(&shared)));
        Ok(Self { shared, address, server: Mutex::new(Some(server)) })
    }

    /// Changes settings; sessions and tokens keep what they were issued with.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.shared.state().settings);
    }

    /// The next token request meets this; several queue up.
    pub fn next(&self, fault: Fault) {
        self.shared.state().faults.push_back(fault);
    }

    /// The next pushed request, or request for a device code, gets this answer.
    pub fn next_front(&self, fault: Fault) {
        self.shared.state().front_faults.push_back(fault);
    }

    /// Every token request meets this, until it is taken back with `None`.
    pub fn always(&self, fault: Option<Fault>) {
        self.shared.state().standing_fault = fault;
    }

    /// The next requests to end a session are answered with 503 and this `Retry-After`, in seconds.
    pub fn put_off_ends(&self, count: u32, seconds: u32) {
        self.shared.state().busy_ends = (count, seconds);
    }

    /// Lets all held requests go on.
    pub fn release(&self) {
        self.shared.releases.send_modify(|count| *count += 1);
    }

    /// Refuses connections, and cuts those that are open.
    pub fn go_down(&self) {
        if let Some(server) = self.server.lock().unwrap_or_else(PoisonError::into_inner).take() {
            server.abort();
        }
    }

    /// Accepts connections again, on the same port, with the sessions as they were.
    ///
    /// # Errors
    /// When somebody else has taken the port.
    pub async fn come_up(&self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        let server = tokio::spawn(server::serve(listener, Arc::clone(&self.shared)));
        let old = self.server.lock().unwrap_or_else(PoisonError::into_inner).replace(server);
        if let Some(old) = old {
            old.abort();
        }
        Ok(())
    }

    /// Signs with another key from now on; the old one is listed no more.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn rotate_keys(&self) -> io::Result<()> {
        let keys = keys::Keys::new().map_err(|_| io::Error::other("no key can be made"))?;
        *self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// Ends every session, as an administrator does.
    pub fn end_sessions(&self) {
        self.shared.state().sessions.end_all();
    }

    /// Makes APIs refuse this access token from now on.
    pub fn revoke_access_token(&self, access_token: &str) {
        self.shared.state().sessions.forget_access_token(access_token);
    }

    /// How many sessions are alive.
    #[must_use]
    pub fn live_sessions(&self) -> usize {
        let now = self.shared.clock.now();
        self.shared.state().sessions.count(&now)
    }

    /// Whether an API would accept this access token now.
    #[must_use]
    pub fn accepts(&self, access_token: &str) -> bool {
        let now = self.shared.clock.now();
        self.shared.state().sessions.user_of(access_token, &now).is_some()
    }

    /// The scopes of an access token that lives, and the API that it is for, empty if that is any.
    #[must_use]
    pub fn grant_of(&self, access_token: &str) -> Option<(String, String)> {
        let now = self.shared.clock.now();
        self.shared.state().sessions.grant_of(access_token, &now)
    }

    /// All requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// The token requests of this grant type so far.
    #[must_use]
    pub fn token_requests(&self, grant_type: &str) -> Vec<Seen> {
        let of_grant =
            |seen: &Seen| seen.path.ends_with("/token") && seen.parameter("grant_type") == grant_type;
        self.shared.state().seen.iter().filter(|seen| of_grant(seen)).cloned().collect()
    }

    /// Waits until no session is alive.
    pub async fn wait_for_the_end(&self) {
        let mut arrivals = self.shared.arrivals.subscribe();
        while self.live_sessions() > 0 {
            // The sender lives as long as we do.
            let _ = arrivals.changed().await;
            // The request has arrived and is served at once after that.
            tokio::task::yield_now().await;
        }
    }

    /// Waits until that many token requests of this grant type have come in.
    pub async fn wait_for(&self, grant_type: &str, count: usize) {
        let mut arrivals = self.shared.arrivals.subscribe();
        // The sender lives as long as we do.
        let _ = arrivals.wait_for(|_| self.token_requests(grant_type).len() >= count).await;
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.shared.base
    }

    #[must_use]
    pub fn issuer(&self) -> String {
        self.shared.issuer()
    }

    #[must_use]
    pub fn authorization_endpoint(&self) -> String {
        format!("{}/protocol/openid-connect/auth", self.issuer())
    }

    /// What the last pushed request asked for.
    #[must_use]
    pub fn pushed(&self) -> Option<Seen> {
        let pushed = |seen: &&Seen| seen.path.ends_with("/ext/par/request");
        self.shared.state().seen.iter().rev().find(pushed).cloned()
    }

    #[must_use]
    pub fn token_endpoint(&self) -> String {
        format!("{}/protocol/openid-connect/token", self.issuer())
    }

    /// Who an access token belongs to, as the first provider's API tells it.
    #[must_use]
    pub fn profile_url(&self) -> String {
        format!("{}/auth/profile", self.shared.base)
    }
}

impl Shared {
    fn issuer(&self) -> String {
        format!("{}{REALM}", self.base)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.go_down();
    }
}
