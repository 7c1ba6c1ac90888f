//! `bearerctl askpass`: answers programs that ask for a password with a helper, such as git's `GIT_ASKPASS`.
//!
//! Such programs can't give it arguments of their own: it also goes by a name of its own, and the account is
//! in `BEARERD_ACCOUNT`.

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::{ANY_USER, account_for, origin, usable_as_bearer};
use crate::cli::broker::Broker;
use crate::cli::failure::Failure;
use crate::cli::output;

/// A link to `bearerctl` of this name is the helper.
pub(in crate::cli) const PROGRAM: &str = "bearerctl-askpass";

/// Prints what the prompt asks for.
pub(in crate::cli) async fn answer(broker: &Broker, prompt: &str) -> Result<(), Failure> {
    if prompt.trim_start().to_ascii_lowercase().starts_with("username") {
        return print(ANY_USER);
    }
    let named = std::env::var("BEARERD_ACCOUNT").ok().filter(|name| !name.is_empty());
    let account = match (destination(prompt), named) {
        (Destination::Origin(origin), named) => {
            account_for(broker, named.as_deref(), &origin).await?.ok_or_else(|| {
                Failure::usage(format!(
                    "no account has {origin} in its api_origins; add api_origins = [\"{origin}\"] to one, then: \
                     bearerctl reload"
                ))
            })?
        }
        // It does not say where the answer goes; then the user has to have said whose it is.
        (Destination::Unsaid, Some(named)) => named,
        (Destination::Unsaid, None) => {
            return Err(Failure::usage("the prompt names no address; set BEARERD_ACCOUNT to the account"));
        }
        (Destination::Unclear, _) => {
            return Err(Failure::usage(
                "the prompt asks for no password, or does not clearly say of which address; a token is no answer to it",
            ));
        }
    };
    let (token, _, details) = broker.root.get_token_with_options(&account, HashMap::new()).await?;
    let token = Zeroizing::new(token);
    usable_as_bearer(&details)?;
    print(&token)
}

fn print(text: &str) -> Result<(), Failure> {
    output::data(text)
}

/// Where the answer to a prompt goes.
#[derive(Debug, PartialEq, Eq)]
enum Destination {
    /// Of the address in a prompt like `Password for 'https://robin@git.example':`.
    Origin(String),
    /// To whoever asks, for a password.
    Unsaid,
    /// A passphrase, a question, or an address that can be read in two ways.
    Unclear,
}

/// The address goes up to the prompt's end: what another server's name or user name holds, such as a space and
/// a whole address of its own, must not be taken for it.
fn destination(prompt: &str) -> Destination {
    let prompt = prompt.trim();
    let Some((before, after)) = prompt.split_once("://") else {
        let wants_password = prompt.to_ascii_lowercase().starts_with("password");
        return if wants_password { Destination::Unsaid } else { Destination::Unclear };
    };
    let separates = |c: char| c.is_whitespace() || "'\"".contains(c);
    let scheme = before.rsplit(separates).next().unwrap_or_default();
    let rest = after.trim_end_matches(|c: char| c == ':' || separates(c));
    if rest.contains(separates) {
        return Destination::Unclear;
    }
    origin(&format!("{scheme}://{rest}")).map_or(Destination::Unclear, Destination::Origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_says_where_its_answer_goes() {
        for (prompt, expected) in [
            ("Password for 'https://robin@git.example': ", "https://git.example"),
            ("Password for 'https://git.example:8443/team/repo': ", "https://git.example:8443"),
            ("Password for \"https://git.example/notes\"", "https://git.example"),
            ("Password for https://git.example:", "https://git.example"),
            ("Password for 'https://git.example@evil.example': ", "https://evil.example"),
            ("Password for 'http://git.example': ", "http://git.example"),
        ] {
            assert_eq!(destination(prompt), Destination::Origin(expected.to_owned()), "{prompt}");
        }
        assert_eq!(destination("Password: "), Destination::Unsaid);
    }

    /// E5: none of these gets a token, whatever `BEARERD_ACCOUNT` says. A git before 2.48 shows a user name as it is.
    #[test]
    fn a_prompt_that_is_unclear_or_wants_no_password_is_not_answered() {
        for prompt in [
            "Password for 'https://git.example/x @evil.example': ",
            "Password for 'https://git.example' @evil.example': ",
            "Password for 'https://git.example\n@evil.example': ",
            "Password for 'https://git.example\\@evil.example': ",
            "Password for 'https://': ",
            "Enter passphrase for key '/home/robin/.ssh/id_ed25519': ",
            "[sudo] password for robin: ",
            "robin@git.example's password: ",
            "Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
            "",
        ] {
            assert_eq!(destination(prompt), Destination::Unclear, "{prompt:?}");
        }
    }
}
