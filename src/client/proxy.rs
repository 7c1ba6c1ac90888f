//! The contract as it is, for what the [`Client`](super::Client) does not cover.

use std::collections::HashMap;

use zbus::zvariant::{Fd, OwnedObjectPath, OwnedValue, Value};

use super::Error;

/// Values by name.
pub type Properties = HashMap<String, OwnedValue>;

/// An access token, when it expires (Unix seconds, 0: unknown), and its details.
pub type Token = (String, u64, Properties);

#[zbus::proxy(
    interface = "org.bearerd.Broker1",
    default_service = "org.bearerd.Broker1",
    default_path = "/org/bearerd/Broker1",
    gen_blocking = false
)]
pub trait Broker {
    fn get_token_with_options(
        &self,
        account: &str,
        options: HashMap<&str, Value<'_>>,
    ) -> Result<Token, Error>;

    fn create_dpop_proof(
        &self,
        account: &str,
        http_method: &str,
        http_uri: &str,
        options: HashMap<&str, Value<'_>>,
    ) -> Result<String, Error>;

    fn reject_token(&self, account: &str, token_or_id: &str) -> Result<bool, Error>;

    fn login_with_options(
        &self,
        account: &str,
        options: HashMap<&str, Value<'_>>,
    ) -> Result<(OwnedObjectPath, String), Error>;

    fn logout(&self, account: &str) -> Result<bool, Error>;

    fn set_personal_token(&self, account: &str, fd: Fd<'_>) -> Result<(), Error>;

    fn set_client_secret(&self, account: &str, fd: Fd<'_>) -> Result<(), Error>;

    fn unlock_store(&self) -> Result<(), Error>;

    fn list_accounts(&self) -> Result<Vec<(String, OwnedObjectPath, String)>, Error>;

    fn reload(&self) -> Result<(), Error>;

    #[zbus(property)]
    fn default_account(&self) -> zbus::Result<String>;
}

#[zbus::proxy(
    interface = "org.bearerd.Broker1.Access",
    default_service = "org.bearerd.Broker1",
    default_path = "/org/bearerd/Broker1",
    gen_blocking = false
)]
pub trait Access {
    fn read_log(&self, after: u64, timeout_ms: u32) -> Result<(u64, Vec<Properties>), Error>;

    fn last_used(&self) -> Result<HashMap<String, (u64, String)>, Error>;

    fn pause(&self) -> Result<(), Error>;

    fn resume(&self) -> Result<(), Error>;

    fn list_permissions(&self) -> Result<Vec<(String, String, u64)>, Error>;

    fn forget(&self, account: &str, caller: &str) -> Result<bool, Error>;

    #[zbus(property)]
    fn paused(&self) -> zbus::Result<bool>;
}

#[zbus::proxy(
    interface = "org.bearerd.Broker1.Account",
    default_service = "org.bearerd.Broker1",
    gen_blocking = false
)]
pub trait Account {
    fn refresh(&self) -> Result<(), Error>;
}

#[zbus::proxy(
    interface = "org.bearerd.Broker1.Login",
    default_service = "org.bearerd.Broker1",
    gen_blocking = false
)]
pub trait Login {
    fn wait(&self, timeout_ms: u32) -> Result<String, Error>;

    fn complete(&self, redirect_url: &str) -> Result<(), Error>;

    fn cancel(&self) -> Result<(), Error>;

    #[zbus(property)]
    fn flow(&self) -> zbus::Result<String>;

    #[zbus(property)]
    fn user_code(&self) -> zbus::Result<String>;

    #[zbus(property)]
    fn verification_uri(&self) -> zbus::Result<String>;

    #[zbus(property)]
    fn verification_uri_complete(&self) -> zbus::Result<String>;

    #[zbus(property)]
    fn error_message(&self) -> zbus::Result<String>;

    #[zbus(property)]
    fn expires(&self) -> zbus::Result<u64>;
}
