//! What speaks other programs' languages: git, kubectl, mail clients, and whatever reads a file or asks a helper.
//!
//! **Invariant:** a token goes to the account's `api_origins` only, where the other program says where it
//! will send it (E5).

mod askpass;
mod exec;
mod format;
mod git;

pub(super) use askpass::{PROGRAM as ASKPASS, answer as askpass};
pub(super) use exec::run as exec;
pub(super) use format::Format;
pub(super) use git::{Operation as GitOperation, credential as git_credential};

use url::Url;

use super::broker::{Broker, Properties, text, texts};
use super::failure::Failure;

/// What password fields of HTTP's Basic scheme want for a user where only the token counts.
const ANY_USER: &str = "oauth2";

/// The account whose token may be sent there: the named one, or the only one of this origin, else the default.
/// `None`: no account has to do with it.
async fn account_for(broker: &Broker, named: Option<&str>, origin: &str) -> Result<Option<String>, Failure> {
    let has = |properties: &_| texts(properties, "ApiOrigins").iter().any(|known| known == origin);
    if let Some(named) = named {
        let account = broker.resolve(named).await?;
        if has(&broker.properties(&account).await?) {
            return Ok(Some(account));
        }
        return Err(Failure::usage(format!(
            "the token of {account:?} is not for {origin}; if it should be, add api_origins = [\"{origin}\"] to the \
             account, then: bearerctl reload"
        )));
    }
    let accounts = broker.all_properties().await?;
    let mut fitting: Vec<String> =
        accounts.into_iter().filter(|(_, properties)| has(properties)).map(|(name, _)| name).collect();
    if fitting.len() > 1 {
        let default = broker.root.default_account().await?;
        if !fitting.contains(&default) {
            return Err(Failure::usage(format!(
                "{} are all for {origin}; name one with --account or BEARERD_ACCOUNT, or set default_account in the \
                 configuration",
                fitting.join(", ")
            )));
        }
        fitting = vec![default];
    }
    Ok(fitting.pop())
}

/// For whatever hands the token on to be sent as Bearer.
///
/// # Errors
/// When it is bound to a key (RFC 9449): without that key's proof every API refuses it.
fn usable_as_bearer(details: &Properties) -> Result<(), Failure> {
    if text(details, "token_type") != "DPoP" {
        return Ok(());
    }
    let account = text(details, "account");
    Err(Failure::usage(format!(
        "the tokens of {account:?} are bound to a key (dpop = true), and no API takes one as Bearer; for one request \
         run: bearerctl token {account} --format dpop METHOD URL"
    )))
}

/// As `api_origins` has them: no path, no default port. `None` also for what other programs may read otherwise
/// than we do: to some a backslash ends the host, and some drop line breaks.
fn origin(url: &str) -> Option<String> {
    if url.contains(|c: char| c == '\\' || c.is_whitespace() || c.is_control()) {
        return None;
    }
    let url = Url::parse(url).ok()?;
    url.has_host().then(|| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::origin;

    /// E5.
    #[test]
    fn an_address_that_others_may_read_otherwise_has_no_origin() {
        assert_eq!(origin("https://robin@Git.example:443/a").as_deref(), Some("https://git.example"));
        assert_eq!(origin("http://git.example").as_deref(), Some("http://git.example"));
        assert_eq!(origin("https://git.example@evil.example").as_deref(), Some("https://evil.example"));
        for bad in [r"https://git.example\@evil.example", "https://git.\nexample", "https://", "git.example"]
        {
            assert_eq!(origin(bad), None, "{bad:?}");
        }
    }
}
