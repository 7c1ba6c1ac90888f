//! The connection to the daemon.

use std::collections::HashMap;
use std::time::Duration;

use zbus::proxy::CacheProperties;
use zbus::zvariant::OwnedObjectPath;

use super::failure::Failure;
pub(super) use crate::bus::proxy::Properties;
use crate::bus::proxy::{AccessProxy, AccountProxy, BrokerProxy, LoginProxy};
use crate::bus::{ACCOUNT_INTERFACE, NAME, ROOT_PATH};

/// More than any call lasts (20 s), with a start of the daemon before it.
const CALL_TIMEOUT: Duration = Duration::from_secs(45);

pub(super) struct Broker {
    pub(super) root: BrokerProxy<'static>,
}

impl Broker {
    pub(super) async fn connect() -> Result<Self, Failure> {
        let connected = async {
            let builder = zbus::connection::Builder::session()?.method_timeout(CALL_TIMEOUT);
            let connection = builder.build().await?;
            BrokerProxy::builder(&connection).cache_properties(CacheProperties::No).build().await
        };
        let root = connected.await.map_err(|error| {
            Failure::failed(format!(
                "no session bus: {error}; run it inside a desktop session or a login with a user bus \
                 (DBUS_SESSION_BUS_ADDRESS)"
            ))
        })?;
        Ok(Self { root })
    }

    /// The name of the account; "" is the default one.
    pub(super) async fn resolve(&self, account: &str) -> Result<String, Failure> {
        let (name, _) = self.find(account).await?;
        Ok(name)
    }

    pub(super) async fn account(&self, name: &str) -> Result<AccountProxy<'static>, Failure> {
        let (_, path) = self.find(name).await?;
        let builder = AccountProxy::builder(self.root.inner().connection()).path(path)?;
        Ok(builder.cache_properties(CacheProperties::No).build().await?)
    }

    pub(super) async fn access(&self) -> Result<AccessProxy<'static>, Failure> {
        let builder = AccessProxy::builder(self.root.inner().connection());
        Ok(builder.cache_properties(CacheProperties::No).build().await?)
    }

    pub(super) async fn login(&self, path: OwnedObjectPath) -> Result<LoginProxy<'static>, Failure> {
        let builder = LoginProxy::builder(self.root.inner().connection()).path(path)?;
        Ok(builder.cache_properties(CacheProperties::No).build().await?)
    }

    pub(super) async fn properties(&self, account: &str) -> Result<Properties, Failure> {
        let (_, path) = self.find(account).await?;
        let mut objects = self.objects().await?;
        objects.remove(&path).ok_or_else(|| gone(account))
    }

    /// Every account's properties, in the order of their names.
    pub(super) async fn all_properties(&self) -> Result<Vec<(String, Properties)>, Failure> {
        // ListAccounts goes first: it tells what is wrong with the configuration.
        let accounts = self.root.list_accounts().await?;
        let mut objects = self.objects().await?;
        Ok(accounts.into_iter().filter_map(|(name, path, _)| Some((name, objects.remove(&path)?))).collect())
    }

    async fn objects(&self) -> Result<HashMap<OwnedObjectPath, Properties>, Failure> {
        let connection = self.root.inner().connection();
        let manager = zbus::fdo::ObjectManagerProxy::builder(connection)
            .destination(NAME)?
            .path(ROOT_PATH)?
            .build()
            .await?;
        let objects = manager.get_managed_objects().await.map_err(zbus::Error::from)?;
        let account = |interfaces: HashMap<_, Properties>| {
            interfaces.into_iter().find_map(|(name, properties): (zbus::names::OwnedInterfaceName, _)| {
                (name.as_str() == ACCOUNT_INTERFACE).then_some(properties)
            })
        };
        Ok(objects.into_iter().filter_map(|(path, interfaces)| Some((path, account(interfaces)?))).collect())
    }

    async fn find(&self, account: &str) -> Result<(String, OwnedObjectPath), Failure> {
        let accounts = self.root.list_accounts().await?;
        let default = if account.is_empty() { self.root.default_account().await? } else { String::new() };
        let wanted = if account.is_empty() { default.as_str() } else { account };
        if let Some((name, path, _)) = accounts.into_iter().find(|(name, ..)| name == wanted) {
            return Ok((name, path));
        }
        // The daemon's own words for it.
        match self.root.get_token_with_options(account, HashMap::new()).await {
            Err(error @ crate::bus::Error::NoSuchAccount(_)) => Err(error.into()),
            _ => Err(gone(account)),
        }
    }
}

fn gone(account: &str) -> Failure {
    Failure::usage(format!("the account {account:?} is gone; see: bearerctl status"))
}

/// A property's text; empty when it is not there.
pub(super) fn text<'a>(properties: &'a Properties, name: &str) -> &'a str {
    properties.get(name).and_then(|value| value.downcast_ref::<&str>().ok()).unwrap_or_default()
}

/// A property's texts; none when it is not there.
pub(super) fn texts(properties: &Properties, name: &str) -> Vec<String> {
    let value = properties.get(name).and_then(|value| value.try_clone().ok());
    value.and_then(|value| Vec::try_from(value).ok()).unwrap_or_default()
}

/// A property's number; 0 when it is not there.
pub(super) fn number(properties: &Properties, name: &str) -> u64 {
    properties.get(name).and_then(|value| value.downcast_ref::<u64>().ok()).unwrap_or_default()
}
