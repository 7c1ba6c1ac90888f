//! Access tokens for programs: a small client of the daemon, typed, and without the daemon's dependencies.
//!
//! ```toml
//! bearerd = { version = "0.1", default-features = false, features = ["http"] }    # "http": with reqwest
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use bearerd::client::{Client, Error};
//!
//! let client = Client::connect("work").await?;
//! match client.token().await {
//!     Ok(token) => println!("{}", token.authorization().len()),
//!     // Only a person can do that, and only when they ask for it.
//!     Err(Error::LoginRequired(why)) => eprintln!("{why}"),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(()) }
//! ```
//!
//! The daemon renews; a program asks each time it needs a token, and keeps none. [`Client::send`] does all of it for
//! a request: it asks, and after a 401 reports the token and tries once more with a newer one.

use std::collections::HashMap;
use std::time::Duration;

use zbus::Connection;
use zbus::proxy::CacheProperties;
use zbus::zvariant::Value;
use zeroize::Zeroizing;

mod error;
#[cfg(feature = "http")]
mod http;
pub mod proxy;

pub use error::Error;
#[cfg(feature = "http")]
pub use http::SendError;
use proxy::{BrokerProxy, LoginProxy};

/// The well-known name on the session bus.
pub const NAME: &str = "org.bearerd.Broker1";
/// The root object.
pub const ROOT_PATH: &str = "/org/bearerd/Broker1";
#[cfg(feature = "daemon")]
pub(crate) const ACCOUNT_INTERFACE: &str = "org.bearerd.Broker1.Account";

/// The longest that one `Wait` lasts, in milliseconds.
const WAIT_MS: u32 = 20_000;

/// One account of the user's, as a program uses it. Cheap to clone; every call answers within 15 s.
#[derive(Clone)]
pub struct Client {
    broker: BrokerProxy<'static>,
    account: String,
}

impl Client {
    /// Uses this account ("" is the default one) over the session bus, which starts the daemon at the first call.
    ///
    /// # Errors
    /// [`Error::ZBus`] without a session bus.
    pub async fn connect(account: &str) -> Result<Self, Error> {
        Self::on(&Connection::session().await?, account).await
    }

    /// The same over a connection that is there already.
    ///
    /// # Errors
    /// [`Error::ZBus`] when the connection has ended.
    pub async fn on(connection: &Connection, account: &str) -> Result<Self, Error> {
        let broker = BrokerProxy::builder(connection).cache_properties(CacheProperties::No).build().await?;
        Ok(Self { broker, account: account.to_owned() })
    }

    /// A valid token. Never opens a browser.
    ///
    /// # Errors
    /// By what to do: [`Error::LoginRequired`] and [`Error::StoreLocked`] need the user,
    /// [`Error::ProviderUnreachable`], [`Error::Timeout`] and [`Error::RateLimited`] pass, the rest is configuration.
    /// Each message ends with the next step, for people.
    pub async fn token(&self) -> Result<Token, Error> {
        self.ask(HashMap::new()).await
    }

    /// A token that lives on for at least this long, if the provider grants any that does.
    ///
    /// # Errors
    /// As [`Client::token`].
    pub async fn token_valid_for(&self, min_validity: Duration) -> Result<Token, Error> {
        let seconds = u32::try_from(min_validity.as_secs()).unwrap_or(u32::MAX);
        self.ask(HashMap::from([("min_validity", Value::from(seconds))])).await
    }

    /// Reports that an API answered 401 to this token; whether there is a newer one now. Not for 403.
    ///
    /// # Errors
    /// As [`Client::token`].
    pub async fn reject(&self, token: &Token) -> Result<bool, Error> {
        self.broker.reject_token(&self.account, &token.id).await
    }

    /// Starts a login, or joins the pending one; opens the browser. Only for a user who has asked for it.
    ///
    /// # Errors
    /// [`Error::LoginFailed`], [`Error::NotConfigured`], [`Error::ProviderUnreachable`] and what else keeps it from
    /// starting.
    pub async fn login(&self) -> Result<Login, Error> {
        let (path, url) = self.broker.login_with_options(&self.account, HashMap::new()).await?;
        let builder = LoginProxy::builder(self.broker.inner().connection()).path(path)?;
        Ok(Login { attempt: builder.cache_properties(CacheProperties::No).build().await?, url })
    }

    async fn ask(&self, options: HashMap<&str, Value<'_>>) -> Result<Token, Error> {
        let (value, expires_at, details) = self.broker.get_token_with_options(&self.account, options).await?;
        let text = |name: &str| {
            details.get(name).and_then(|value| value.downcast_ref::<String>().ok()).unwrap_or_default()
        };
        Ok(Token {
            value: Zeroizing::new(value),
            expires_at,
            scheme: text("token_type"),
            id: text("token_id"),
            scope: text("scope"),
            subject: text("subject"),
        })
    }
}

/// An access token; wiped when it is dropped, and never shown by accident.
pub struct Token {
    value: Zeroizing<String>,
    expires_at: u64,
    scheme: String,
    id: String,
    scope: String,
    subject: String,
}

impl Token {
    /// The token itself. It belongs into an `Authorization` header, never into an address, an argument or a log.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// The value of an `Authorization` header.
    #[must_use]
    pub fn authorization(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{} {}", self.scheme, *self.value))
    }

    /// When it ends, in Unix seconds; `None` when the provider did not say.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        (self.expires_at > 0).then_some(self.expires_at)
    }

    /// What it allows, space separated.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Whose it is, for people; empty when that is not known.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

/// A login under way.
pub struct Login {
    attempt: LoginProxy<'static>,
    url: String,
}

impl Login {
    /// The address for the user, where no browser opened.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits for the end, minutes if need be.
    ///
    /// # Errors
    /// [`Error::LoginFailed`] with the reason when it ended in another way than with a session.
    pub async fn finished(&self) -> Result<(), Error> {
        loop {
            match self.attempt.wait(WAIT_MS).await?.as_str() {
                "pending" => {}
                "succeeded" => return Ok(()),
                _ => return Err(Error::LoginFailed(self.attempt.error_message().await?)),
            }
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`Error::ZBus`] when the daemon has gone.
    pub async fn cancel(&self) -> Result<(), Error> {
        self.attempt.cancel().await
    }
}
