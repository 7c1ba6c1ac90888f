//! `bearerctl unlock`.

use std::time::Duration;

use super::broker::Broker;
use super::failure::Failure;
use super::output::{self, Spinner};
use super::watch::{Followed, Seen};

const WAITING: &str = "answer the keyring's prompt (Ctrl-C stops waiting)";
const DISMISSED: &str = "unlock-dismissed";
/// How long a person may take for the keyring's prompt.
const PATIENCE: Duration = Duration::from_secs(120);

/// Shows the keyring's prompt and waits for the end.
pub(super) async fn unlock(broker: &Broker) -> Result<(), Failure> {
    // Before the call, so that no change is missed.
    let mut followed = Followed::start(broker).await?;
    if locked(broker).await?.is_empty() {
        output::note("the keyring is not locked");
        return Ok(());
    }
    let mut interrupt = super::interrupts()?;
    broker.root.unlock_store().await?;
    if !super::stderr_is_terminal() {
        output::note(WAITING);
    }
    let spinner = Spinner::start(WAITING);
    let unlocked = tokio::time::timeout(PATIENCE, async {
        while !locked(broker).await?.is_empty() {
            while !matches!(followed.next().await?, Seen::Signal(_)) {}
            // Looked for only after a change: the end of an earlier prompt may still stand there.
            if let Some(text) = dismissed(broker).await? {
                return Err(Failure::store(format!("StoreLocked: {text}")));
            }
        }
        Ok(())
    });
    let unlocked = tokio::select! {
        unlocked = unlocked => Some(unlocked),
        _ = interrupt.recv() => None,
    };
    drop(spinner);
    let Some(unlocked) = unlocked else {
        return Err(Failure::interrupted(
            "the keyring is still locked; its prompt may still be answered, or for another run: bearerctl unlock",
        ));
    };
    match unlocked {
        Ok(result) => {
            result?;
            output::note("the keyring is unlocked");
            Ok(())
        }
        Err(_) => Err(Failure::store(
            "StoreLocked: the keyring is still locked; run bearerctl unlock again and answer its prompt, \
             or unlock it in the desktop's password program",
        )),
    }
}

/// The accounts that wait for the keyring to be unlocked.
pub(super) async fn locked(broker: &Broker) -> Result<Vec<String>, Failure> {
    let waits = |properties: &super::broker::Properties| {
        let (state, reason) =
            (super::broker::text(properties, "State"), super::broker::text(properties, "StateReason"));
        state == "store-locked" || (state == "unsaved" && matches!(reason, "store-locked" | DISMISSED))
    };
    let accounts = broker.all_properties().await?;
    Ok(accounts.into_iter().filter(|(_, properties)| waits(properties)).map(|(name, _)| name).collect())
}

/// What an account says about a prompt that did not unlock anything.
async fn dismissed(broker: &Broker) -> Result<Option<String>, Failure> {
    let accounts = broker.all_properties().await?;
    let text = |(_, properties): (String, super::broker::Properties)| {
        let dismissed = super::broker::text(&properties, "StateReason") == DISMISSED;
        dismissed.then(|| super::broker::text(&properties, "StateMessage").to_owned())
    };
    Ok(accounts.into_iter().find_map(text))
}
