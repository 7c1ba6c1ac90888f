//! `bearerctl token` and `bearerctl reject`.

use std::collections::HashMap;
use std::io::Read as _;
use std::time::Duration;

use zbus::zvariant::Value;
use zeroize::Zeroizing;

use super::adapters::Format;
use super::broker::{Broker, number, text};
use super::failure::Failure;
use super::output;
use crate::secret::MAX_SECRET_BYTES;

/// Prints a token.
pub(super) async fn print(
    broker: &Broker,
    account: &str,
    min_validity: Option<Duration>,
    format: Format,
    user: Option<&str>,
) -> Result<(), Failure> {
    let mut options = HashMap::new();
    if let Some(min_validity) = min_validity {
        let seconds = u32::try_from(min_validity.as_secs()).unwrap_or(u32::MAX);
        options.insert("min_validity", Value::from(seconds));
    }
    let token = broker.root.get_token_with_options(account, options).await?;
    let text = format.write(token, user)?;
    if output::data(&text) { Ok(()) } else { Err(Failure::failed("stdout is closed")) }
}

/// Reports the token on stdin as refused.
pub(super) async fn reject(broker: &Broker, account: &str) -> Result<(), Failure> {
    let mut token = Zeroizing::new(String::new());
    let limit = u64::try_from(MAX_SECRET_BYTES).unwrap_or(u64::MAX);
    let read = std::io::stdin().lock().take(limit).read_to_string(&mut token);
    read.map_err(|error| Failure::usage(format!("the token on stdin cannot be read: {error}")))?;
    if token.trim().is_empty() {
        return Err(Failure::usage("give the refused token, or its token_id, on stdin"));
    }
    let account = broker.resolve(account).await?;
    if broker.root.reject_token(&account, token.trim()).await? {
        output::note("there is a newer token: bearerctl token prints it");
        return Ok(());
    }
    let properties = broker.properties(&account).await?;
    let hint = match text(&properties, "StateMessage") {
        "" if number(&properties, "AccessExpires") > 0 => {
            "it was renewed too often already, or is not the current one".to_owned()
        }
        "" => format!("see: bearerctl status {account}"),
        message => message.to_owned(),
    };
    Err(Failure::failed(format!("there is no newer token for {account:?}: {hint}")))
}
