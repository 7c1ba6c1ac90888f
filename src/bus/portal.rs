//! Opens a browser through the desktop portal: no browser inherits the daemon's sandbox.

use std::collections::HashMap;

use zbus::Connection;
use zbus::zvariant::{OwnedObjectPath, Value};

#[zbus::proxy(
    interface = "org.freedesktop.portal.OpenURI",
    default_service = "org.freedesktop.portal.Desktop",
    default_path = "/org/freedesktop/portal/desktop",
    gen_blocking = false
)]
trait OpenUri {
    #[zbus(name = "OpenURI")]
    fn open_uri(
        &self,
        parent_window: &str,
        uri: &str,
        options: HashMap<&str, Value<'_>>,
    ) -> zbus::Result<OwnedObjectPath>;
}

/// Asks the portal to open the address. Without a portal the caller of `Login` has the address.
pub(super) async fn open_uri(connection: &Connection, url: &str, activation_token: Option<&str>) {
    let mut options = HashMap::new();
    if let Some(token) = activation_token {
        options.insert("activation_token", Value::from(token));
    }
    let opened = async {
        let builder = OpenUriProxy::builder(connection).cache_properties(zbus::proxy::CacheProperties::No);
        builder.build().await?.open_uri("", url, options).await
    };
    match opened.await {
        Ok(_) => tracing::info!("the portal was asked to open a browser"),
        Err(error) => tracing::info!(%error, "no portal opened a browser; the caller has the address"),
    }
}
