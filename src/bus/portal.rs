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

/// Asks the portal to open the address.
///
/// # Errors
/// Without a portal, or when it refuses.
pub(crate) async fn open_uri(
    connection: &Connection,
    url: &str,
    activation_token: Option<&str>,
) -> zbus::Result<()> {
    let mut options = HashMap::new();
    if let Some(token) = activation_token {
        options.insert("activation_token", Value::from(token));
    }
    let builder = OpenUriProxy::builder(connection).cache_properties(zbus::proxy::CacheProperties::No);
    builder.build().await?.open_uri("", url, options).await?;
    Ok(())
}

/// Whether a portal runs.
pub(crate) async fn is_there(connection: &Connection) -> bool {
    let Ok(bus) = zbus::fdo::DBusProxy::new(connection).await else { return false };
    let Ok(name) = zbus::names::BusName::try_from("org.freedesktop.portal.Desktop") else { return false };
    bus.name_has_owner(name).await.unwrap_or(false)
}
