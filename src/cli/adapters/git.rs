//! `bearerctl git-credential`: a credential helper of git (gitcredentials(7), git-credential(1)).
//!
//! A token is the password of any user name; to a git that knows other schemes (2.46) and a server that asks
//! for Bearer alone it is given as that.

use std::io::Read as _;

use zeroize::Zeroizing;

use super::{ANY_USER, account_for, origin, usable_as_bearer};
use crate::cli::broker::{Broker, text};
use crate::cli::failure::Failure;
use crate::cli::output;

/// Far more than git ever says.
const MAX_INPUT: u64 = 128 * 1024;

/// What git wants of its helper.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Operation {
    Get,
    Store,
    Erase,
}

/// Answers one request of git's on stdin.
pub(in crate::cli) async fn credential(
    broker: &Broker,
    account: Option<&str>,
    operation: Operation,
) -> Result<(), Failure> {
    let mut input = Zeroizing::new(String::new());
    let read = std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut input);
    read.map_err(|error| Failure::usage(format!("git's request on stdin cannot be read: {error}")))?;
    let request = Request(&input);
    let url = match (request.get("protocol"), request.get("host")) {
        (Some(protocol @ ("https" | "http")), Some(host)) => format!("{protocol}://{host}"),
        // Mail, say, or a file: not ours.
        _ => return Ok(()),
    };
    let Some(origin) = origin(&url) else { return Ok(()) };
    // What git wants to keep is kept already.
    if operation == Operation::Store {
        return Ok(());
    }
    let Some(account) = account_for(broker, account, &origin).await? else { return Ok(()) };
    if operation == Operation::Erase {
        if let Some(refused) = request.get("credential").or(request.get("password")) {
            broker.root.reject_token(&account, refused).await?;
        }
        return Ok(());
    }
    let (token, expires_at, details) =
        broker.root.get_token_with_options(&account, std::collections::HashMap::new()).await?;
    let token = Zeroizing::new(token);
    usable_as_bearer(&details)?;
    let answer = answer(&request, &token, text(&details, "token_type"), expires_at);
    output::data(&answer)
}

fn answer(request: &Request<'_>, token: &str, token_type: &str, expires_at: u64) -> Zeroizing<String> {
    let expiry = if expires_at > 0 { format!("password_expiry_utc={expires_at}\n") } else { String::new() };
    Zeroizing::new(if request.wants_other_scheme() {
        format!("capability[]=authtype\nauthtype={token_type}\ncredential={token}\nephemeral=1\n{expiry}")
    } else {
        let user = request.get("username").unwrap_or(ANY_USER);
        format!("username={user}\npassword={token}\n{expiry}")
    })
}

/// Lines of `key=value`, up to an empty one.
struct Request<'a>(&'a str);

impl<'a> Request<'a> {
    fn all(&self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.0.lines().take_while(|line| !line.is_empty());
        lines.filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
    }

    fn get(&self, key: &'a str) -> Option<&'a str> {
        self.all(key).last().filter(|value| !value.is_empty())
    }

    /// The server asks for something else than a password, and git can give it.
    fn wants_other_scheme(&self) -> bool {
        let scheme = |challenge: &str| challenge.split(' ').next().unwrap_or_default().to_ascii_lowercase();
        let schemes: Vec<String> = self.all("wwwauth[]").map(scheme).collect();
        self.all("capability[]").any(|name| name == "authtype")
            && !schemes.is_empty()
            && schemes.iter().all(|scheme| scheme != "basic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(request: &str) -> String {
        answer(&Request(request), "abc", "Bearer", 1_790_000_000).to_string()
    }

    #[test]
    fn a_token_is_a_password_with_an_end() {
        assert_eq!(
            answered("protocol=https\nhost=git.example\n"),
            "username=oauth2\npassword=abc\npassword_expiry_utc=1790000000\n"
        );
        assert!(
            answered("protocol=https\nhost=git.example\nusername=robin\n").starts_with("username=robin\n")
        );
    }

    #[test]
    fn a_server_that_asks_for_bearer_alone_gets_it_from_a_git_that_knows() {
        let bearer = "wwwauth[]=Bearer realm=\"git\"\n";
        let knows = "capability[]=authtype\n";
        assert_eq!(
            answered(&format!("{knows}{bearer}")),
            "capability[]=authtype\nauthtype=Bearer\ncredential=abc\nephemeral=1\npassword_expiry_utc=1790000000\n"
        );
        for basic in
            [bearer.to_owned(), format!("{knows}wwwauth[]=Basic realm=x\n{bearer}"), knows.to_owned()]
        {
            assert!(answered(&basic).starts_with("username="), "{basic}");
        }
    }

    #[test]
    fn what_follows_an_empty_line_is_not_read() {
        assert_eq!(Request("host=a\n\nhost=b\n").get("host"), Some("a"));
    }
}
