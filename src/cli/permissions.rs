//! `bearerctl permissions`.

use serde_json::{Value as Json, json};

use super::broker::Broker;
use super::failure::Failure;
use super::output;

/// What was allowed for good.
pub(super) async fn print(broker: &Broker, json: bool) -> Result<(), Failure> {
    let permissions = broker.access().await?.list_permissions().await?;
    if json {
        let object = |(account, caller, since): &(String, String, u64)| json!({ "account": account, "caller": caller, "since": since });
        return output::data(&permissions.iter().map(object).collect::<Json>().to_string());
    }
    if permissions.is_empty() {
        output::note("nothing was allowed for good; what rules allow is in the configuration");
    }
    permissions.iter().try_for_each(|(account, caller, _)| output::lines(&format!("{account}  {caller}")))
}

/// Takes an answer back: the caller's id, and the account.
pub(super) async fn forget(broker: &Broker, answer: &[String]) -> Result<(), Failure> {
    let [caller, account] = answer else { return Err(Failure::usage("name a caller and an account")) };
    if broker.access().await?.forget(account, caller).await? {
        output::note(&format!("forgotten; you are asked again when {caller} wants to use {account:?}"));
        return Ok(());
    }
    Err(Failure::failed(format!(
        "there is no answer about {caller} and {account:?}; see: bearerctl permissions"
    )))
}
