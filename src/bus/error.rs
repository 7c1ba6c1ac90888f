//! The errors of the contract, as the daemon makes them.

use crate::accounts;
pub(super) use crate::client::Error;
use crate::session;

macro_rules! worded {
    ($($function:ident $variant:ident),* $(,)?) => {
        impl Error {
            $(pub(super) fn $function(text: impl std::fmt::Display) -> Self {
                Self::$variant(format!(concat!(stringify!($variant), ": {}"), text))
            })*
        }
    };
}

impl Error {
    /// An error as it comes over a connection that zbus does not serve; `None` if it is none of ours.
    pub(crate) fn received(name: &str, text: String) -> Option<Self> {
        let make = match name.strip_prefix("org.bearerd.Broker1.Error.")? {
            "NoSuchAccount" => Self::NoSuchAccount,
            "NotConfigured" => Self::NotConfigured,
            "InvalidConfiguration" => Self::InvalidConfiguration,
            "InvalidArgument" => Self::InvalidArgument,
            "InvalidOption" => Self::InvalidOption,
            "NoSession" => Self::NoSession,
            "LoginRequired" => Self::LoginRequired,
            "LoginFailed" => Self::LoginFailed,
            "StoreLocked" => Self::StoreLocked,
            "StoreUnavailable" => Self::StoreUnavailable,
            "ProviderUnreachable" => Self::ProviderUnreachable,
            "ProviderRefused" => Self::ProviderRefused,
            "RateLimited" => Self::RateLimited,
            "AccessDenied" => Self::AccessDenied,
            "Timeout" => Self::Timeout,
            _ => return None,
        };
        Some(make(text))
    }
}

worded! {
    no_such_account NoSuchAccount,
    invalid_configuration InvalidConfiguration,
    invalid_argument InvalidArgument,
    invalid_option InvalidOption,
    rate_limited RateLimited,
    access_denied AccessDenied,
    timeout Timeout,
}

impl Error {
    /// The last part of its name.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::ZBus(_) => "Failed",
            Self::NoSuchAccount(_) => "NoSuchAccount",
            Self::NotConfigured(_) => "NotConfigured",
            Self::InvalidConfiguration(_) => "InvalidConfiguration",
            Self::InvalidArgument(_) => "InvalidArgument",
            Self::InvalidOption(_) => "InvalidOption",
            Self::NoSession(_) => "NoSession",
            Self::LoginRequired(_) => "LoginRequired",
            Self::LoginFailed(_) => "LoginFailed",
            Self::StoreLocked(_) => "StoreLocked",
            Self::StoreUnavailable(_) => "StoreUnavailable",
            Self::ProviderUnreachable(_) => "ProviderUnreachable",
            Self::ProviderRefused(_) => "ProviderRefused",
            Self::RateLimited(_) => "RateLimited",
            Self::AccessDenied(_) => "AccessDenied",
            Self::Timeout(_) => "Timeout",
        }
    }

    /// What it says, for people.
    pub(super) fn sentence(&self) -> &str {
        let text = zbus::DBusError::description(self).unwrap_or_default();
        text.strip_prefix(self.word()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text)
    }
}

impl From<session::error::Error> for Error {
    fn from(error: session::error::Error) -> Self {
        use session::error::Error as E;
        match error {
            E::NotConfigured(text) => Self::NotConfigured(format!("NotConfigured: {text}")),
            E::NoSession(text) => Self::NoSession(format!("NoSession: {text}")),
            E::LoginRequired(text) => Self::LoginRequired(format!("LoginRequired: {text}")),
            E::LoginFailed(text) => Self::LoginFailed(format!("LoginFailed: {text}")),
            E::StoreLocked(text) => Self::StoreLocked(format!("StoreLocked: {text}")),
            E::StoreUnavailable(text) => Self::StoreUnavailable(format!("StoreUnavailable: {text}")),
            E::ProviderUnreachable(text) => Self::ProviderUnreachable(format!("ProviderUnreachable: {text}")),
            E::ProviderRefused(text) => Self::ProviderRefused(format!("ProviderRefused: {text}")),
            E::RateLimited(text) => Self::RateLimited(format!("RateLimited: {text}")),
            E::Timeout(text) => Self::Timeout(format!("Timeout: {text}")),
            E::InvalidOption(text) => Self::InvalidOption(format!("InvalidOption: {text}")),
            E::InvalidArgument(text) => Self::InvalidArgument(format!("InvalidArgument: {text}")),
        }
    }
}

impl From<accounts::LookupError> for Error {
    fn from(error: accounts::LookupError) -> Self {
        match error {
            accounts::LookupError::NoSuchAccount(text) => Self::no_such_account(text),
            accounts::LookupError::InvalidConfiguration(text) => Self::invalid_configuration(text),
        }
    }
}
