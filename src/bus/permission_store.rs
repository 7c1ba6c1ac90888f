//! The desktop's own memory of permissions (xdg-desktop-portal's), which Flatpak's tools show and change:
//! table `bearerd`, an entry for each account, and in it "yes" or "no" by application id.
//!
//! Without one, answers are kept as all others are.

use std::collections::HashMap;
use std::time::Duration;

use zbus::Connection;
use zbus::proxy::CacheProperties;
use zbus::zvariant::OwnedValue;

use crate::access::caller::{Caller, Kind};
use crate::account::AccountName;
use crate::clock::Clock;

const TABLE: &str = "bearerd";
const YES: &str = "yes";
const NO: &str = "no";
/// One that takes longer is none.
const TIMEOUT: Duration = Duration::from_secs(2);

#[zbus::proxy(
    interface = "org.freedesktop.impl.portal.PermissionStore",
    default_service = "org.freedesktop.impl.portal.PermissionStore",
    default_path = "/org/freedesktop/impl/portal/PermissionStore",
    gen_blocking = false
)]
trait Store {
    fn list(&self, table: &str) -> zbus::Result<Vec<String>>;

    fn lookup(&self, table: &str, id: &str) -> zbus::Result<(HashMap<String, Vec<String>>, OwnedValue)>;

    fn set_permission(
        &self,
        table: &str,
        create: bool,
        id: &str,
        app: &str,
        permissions: &[&str],
    ) -> zbus::Result<()>;

    fn delete_permission(&self, table: &str, id: &str, app: &str) -> zbus::Result<()>;
}

pub(super) struct PermissionStore {
    proxy: StoreProxy<'static>,
    clock: Clock,
}

impl PermissionStore {
    pub(super) async fn new(connection: &Connection, clock: Clock) -> zbus::Result<Self> {
        let proxy = StoreProxy::builder(connection).cache_properties(CacheProperties::No).build().await?;
        Ok(Self { proxy, clock })
    }

    /// Whether the application may use the account, if that is settled; `None` also for what is no Flatpak.
    pub(super) async fn look(&self, account: &AccountName, caller: &Caller) -> Option<bool> {
        let Kind::Flatpak(app) = &caller.kind else { return None };
        let (permissions, _) = self.ask(self.proxy.lookup(TABLE, account.as_str())).await?;
        verdict(permissions.get(app)?)
    }

    /// Keeps a yes for good; whether that worked.
    pub(super) async fn allow(&self, account: &AccountName, caller: &Caller) -> bool {
        let Kind::Flatpak(app) = &caller.kind else { return false };
        self.ask(self.proxy.set_permission(TABLE, true, account.as_str(), app, &[YES])).await.is_some()
    }

    /// Whoever was allowed for good: account and application.
    pub(super) async fn allowed(&self) -> Vec<(String, String)> {
        let mut allowed = Vec::new();
        for account in self.ask(self.proxy.list(TABLE)).await.unwrap_or_default() {
            let Some((permissions, _)) = self.ask(self.proxy.lookup(TABLE, &account)).await else { continue };
            let yes = permissions.into_iter().filter(|(_, words)| verdict(words) == Some(true));
            allowed.extend(yes.map(|(app, _)| (account.clone(), app)));
        }
        allowed.sort();
        allowed
    }

    /// Whether there was something to forget.
    pub(super) async fn forget(&self, account: &str, app: &str) -> bool {
        let known = self.ask(self.proxy.lookup(TABLE, account)).await;
        known.is_some_and(|(permissions, _)| permissions.contains_key(app))
            && self.ask(self.proxy.delete_permission(TABLE, account, app)).await.is_some()
    }

    /// `None` also when there is no such entry.
    async fn ask<T>(&self, call: impl Future<Output = zbus::Result<T>>) -> Option<T> {
        let answer = self.clock.within(TIMEOUT, call).await?;
        answer.inspect_err(|error| tracing::debug!(%error, "the permission store")).ok()
    }
}

fn verdict(words: &[String]) -> Option<bool> {
    let has = |wanted: &str| words.iter().any(|word| word == wanted);
    if has(NO) { Some(false) } else { has(YES).then_some(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_outdoes_a_yes_and_other_words_say_nothing() {
        let verdict =
            |words: &[&str]| verdict(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(verdict(&["yes"]), Some(true));
        assert_eq!(verdict(&["yes", "no"]), Some(false));
        assert_eq!((verdict(&[]), verdict(&["ask"])), (None, None));
    }
}
