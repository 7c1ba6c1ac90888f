//! `bearerctl token` and `bearerctl reject`.

use std::collections::HashMap;
use std::io::Read as _;
use std::time::Duration;

use serde_json::json;
use zbus::zvariant::Value;
use zeroize::Zeroizing;

use super::broker::{Broker, number, text};
use super::failure::Failure;
use super::output;
use crate::secret::MAX_SECRET_BYTES;

/// How a token is printed.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
pub(super) enum Format {
    /// The token alone.
    #[default]
    Token,
    /// An object with the token, its expiry and its details.
    Json,
    /// An Authorization header.
    Header,
    /// BEARER_TOKEN=…, for eval or an environment file.
    Env,
}

pub(super) async fn print(
    broker: &Broker,
    account: &str,
    min_validity: Option<Duration>,
    format: Format,
) -> Result<(), Failure> {
    let mut options = HashMap::new();
    if let Some(min_validity) = min_validity {
        let seconds = u32::try_from(min_validity.as_secs()).unwrap_or(u32::MAX);
        options.insert("min_validity", Value::from(seconds));
    }
    let (token, expires_at, details) = broker.root.get_token_with_options(account, options).await?;
    let token = Zeroizing::new(token);
    let text = match format {
        Format::Token => token,
        Format::Json => Zeroizing::new(
            json!({
                "access_token": *token,
                "token_type": text(&details, "token_type"),
                "expires_at": expires_at,
                "expires_in": details.get("expires_in").and_then(|value| value.downcast_ref::<u32>().ok()),
                "scope": text(&details, "scope"),
                "account": text(&details, "account"),
                "source": text(&details, "source"),
                "subject": text(&details, "subject"),
                "token_id": text(&details, "token_id"),
            })
            .to_string(),
        ),
        Format::Header => {
            Zeroizing::new(format!("Authorization: {} {}", text(&details, "token_type"), *token))
        }
        Format::Env => Zeroizing::new(format!("BEARER_TOKEN={}", shell_word(&token))),
    };
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

/// A token as one word of a shell: most need no quotes.
fn shell_word(token: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~+/=:@%,".contains(c);
    if token.chars().all(plain) { token.to_owned() } else { format!("'{}'", token.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_quoted_for_shells_where_they_must_be() {
        assert_eq!(shell_word("eyJh.b-c_d"), "eyJh.b-c_d");
        assert_eq!(shell_word("a$b'c"), r"'a$b'\''c'");
    }
}
