//! `bearerctl token` and `bearerctl reject`.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Read as _};
use std::time::Duration;

use zbus::zvariant::Value;
use zeroize::Zeroizing;

use super::adapters::Format;
use super::broker::{Broker, number, text};
use super::failure::Failure;
use super::{direct, output};
use crate::bus::proxy::Token;
use crate::secret::MAX_SECRET_BYTES;

/// Which token is wanted.
#[derive(Default, clap::Args)]
pub(super) struct Wanted {
    /// By default the default account, or the only one.
    #[arg(value_parser = super::account_name)]
    account: Option<String>,
    /// The request, for --format dpop.
    #[arg(num_args = 0..=2, value_names = ["METHOD", "URL"])]
    request: Vec<String>,
    /// What the API's header DPoP-Nonce said, for --format dpop.
    #[arg(long, allow_hyphen_values = true)]
    nonce: Option<String>,
    /// How long the token must live on, such as 90s or 5m.
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    min_validity: Option<Duration>,
    /// Some of the granted scopes only.
    #[arg(long)]
    scope: Option<String>,
    /// For this audience only.
    #[arg(long)]
    audience: Option<String>,
    /// For this API only, by its URI (RFC 8707); may be given more than once.
    #[arg(long, value_name = "URI")]
    resource: Vec<String>,
}

impl Wanted {
    /// An account's own token.
    pub(super) fn of(account: &str) -> Self {
        Self { account: Some(account.to_owned()), ..Self::default() }
    }

    fn account(&self) -> &str {
        // A method and an address alone are of the default account.
        self.account.as_deref().filter(|_| self.request.len() != 1).unwrap_or_default()
    }

    /// Method and address of the request that a proof is wanted for.
    fn target(&self, format: Format) -> Result<Option<(&str, &str)>, Failure> {
        match (format, self.account.as_deref(), self.request.as_slice()) {
            (Format::Dpop, Some(method), [url]) => Ok(Some((method, url))),
            (Format::Dpop, _, [method, url]) => Ok(Some((method, url))),
            (Format::Dpop, ..) => {
                Err(Failure::usage("--format dpop is for one request; add its METHOD and URL"))
            }
            (_, _, []) if self.nonce.is_none() => Ok(None),
            _ => Err(Failure::usage("METHOD, URL and --nonce are for --format dpop")),
        }
    }

    fn options(&self) -> HashMap<&'static str, Value<'_>> {
        let seconds = self.min_validity.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        let narrow = [("scope", &self.scope), ("audience", &self.audience)];
        let narrow = narrow.into_iter().filter_map(|(key, text)| Some((key, Value::from(text.as_deref()?))));
        let resources = (!self.resource.is_empty()).then(|| Value::from(self.resource.join(" ")));
        narrow
            .chain(resources.map(|resources| ("resource", resources)))
            .chain(seconds.map(|seconds| ("min_validity", Value::from(seconds))))
            .collect()
    }
}

/// Prints a token that the direct socket gave; `None`: the bus has to be asked.
pub(super) fn print_directly(
    wanted: &Wanted,
    format: Format,
    user: Option<&str>,
) -> Option<Result<(), Failure>> {
    if format == Format::Dpop || !wanted.request.is_empty() || wanted.nonce.is_some() {
        return None;
    }
    let call = (wanted.account(), wanted.options());
    let answer = direct::call::<_, Token>("GetTokenWithOptions", &call)?;
    Some(answer.map_err(Failure::from).and_then(|token| write(token, format, user, None)))
}

/// Prints a token.
pub(super) async fn print(
    broker: &Broker,
    wanted: &Wanted,
    format: Format,
    user: Option<&str>,
) -> Result<(), Failure> {
    let target = wanted.target(format)?;
    let token = broker.root.get_token_with_options(wanted.account(), wanted.options()).await?;
    let proof = match target {
        None => None,
        Some((method, url)) => {
            let mut options = HashMap::from([("access_token", Value::from(token.0.as_str()))]);
            options.extend(wanted.nonce.as_deref().map(|nonce| ("nonce", Value::from(nonce))));
            Some(broker.root.create_dpop_proof(wanted.account(), method, url, options).await?)
        }
    };
    write(token, format, user, proof.as_deref())
}

fn write(token: Token, format: Format, user: Option<&str>, proof: Option<&str>) -> Result<(), Failure> {
    let text = format.write(token, user, proof)?;
    output::data(&text)
}

/// Reports the token on stdin as refused.
pub(super) async fn reject(broker: &Broker, account: &str) -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        output::note("paste the refused token, or its token_id, and end with Ctrl-D:");
    }
    let mut token = Zeroizing::new(String::new());
    let limit = u64::try_from(MAX_SECRET_BYTES).unwrap_or(u64::MAX);
    let read = std::io::stdin().lock().take(limit).read_to_string(&mut token);
    read.map_err(|error| Failure::usage(format!("the token on stdin cannot be read: {error}")))?;
    if token.trim().is_empty() {
        return Err(Failure::usage(
            "give the refused token, or its token_id, on stdin: bearerctl token | bearerctl reject",
        ));
    }
    let renewed = match direct::call("RejectToken", &(account, token.trim())) {
        Some(renewed) => renewed?,
        None => broker.root.reject_token(account, token.trim()).await?,
    };
    if renewed {
        output::note("there is a newer token: bearerctl token prints it");
        return Ok(());
    }
    let account = broker.resolve(account).await?;
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
