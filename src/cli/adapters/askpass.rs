//! `bearerctl askpass`: answers programs that ask for a password with a helper, such as git's `GIT_ASKPASS`.
//!
//! Such programs can't give it arguments of their own: it also goes by a name of its own, and the account is
//! in `BEARERD_ACCOUNT`.

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::{ANY_USER, account_for, origin};
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
        (Some(origin), named) => account_for(broker, named.as_deref(), &origin)
            .await?
            .ok_or_else(|| Failure::usage(format!("no account has {origin} in its api_origins")))?,
        // It does not say where the answer goes; then the user has to have said whose it is.
        (None, Some(named)) => named,
        (None, None) => {
            return Err(Failure::usage("the prompt names no address; set BEARERD_ACCOUNT to the account"));
        }
    };
    let (token, ..) = broker.root.get_token_with_options(&account, HashMap::new()).await?;
    print(&Zeroizing::new(token))
}

fn print(text: &str) -> Result<(), Failure> {
    output::data(text)
}

/// The origin of the address in a prompt like `Password for 'https://robin@git.example':`.
fn destination(prompt: &str) -> Option<String> {
    let word =
        prompt.split(|c: char| c.is_whitespace() || "'\"".contains(c)).find(|word| word.contains("://"))?;
    origin(word.trim_end_matches(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_says_where_its_answer_goes() {
        for (prompt, expected) in [
            ("Password for 'https://robin@git.example': ", Some("https://git.example")),
            ("Password for 'https://git.example:8443/team/repo': ", Some("https://git.example:8443")),
            ("Password for https://git.example:", Some("https://git.example")),
            ("Password:", None),
        ] {
            assert_eq!(destination(prompt).as_deref(), expected, "{prompt}");
        }
    }
}
