//! The errors of the D-Bus contract, `org.bearerd.Broker1.Error.*`.

use zbus::DBusError;

/// An error as callers receive it. `busctl` shows only the message, so that starts with the word.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org.bearerd.Broker1.Error")]
pub enum Error {
    #[zbus(error)]
    ZBus(zbus::Error),
    NoSuchAccount(String),
    NotConfigured(String),
    InvalidConfiguration(String),
    InvalidArgument(String),
    InvalidOption(String),
    NoSession(String),
    LoginRequired(String),
    LoginFailed(String),
    StoreLocked(String),
    StoreUnavailable(String),
    ProviderUnreachable(String),
    ProviderRefused(String),
    RateLimited(String),
    AccessDenied(String),
    Timeout(String),
}
