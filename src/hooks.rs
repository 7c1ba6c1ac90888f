//! Commands of the user that run when an account's state changes: never with a token, one at a time, bounded.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;

use crate::accounts::Account;
use crate::clock::Clock;
use crate::session::AccountState;

/// A hook is ended after this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the account's command at each change of its state, until its session ends. While one runs, changes
/// add up: the next run tells from where to where all of them led. The first change is one from `before`.
pub(crate) async fn follow(account: Arc<Account>, mut before: AccountState, clock: Clock) {
    let Some((program, arguments)) = account.config.on_change.split_first() else { return };
    let mut watch = account.session.watch();
    watch.mark_changed();
    while watch.changed().await.is_ok() {
        let view = watch.borrow_and_update().view.clone();
        if view.state == before {
            continue;
        }
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command.env("BEARERD_ACCOUNT", account.config.name.as_str());
        command.env("BEARERD_STATE", view.state.as_str()).env("BEARERD_STATE_BEFORE", before.as_str());
        command.env("BEARERD_STATE_REASON", view.reason).env("BEARERD_STATE_MESSAGE", &view.message);
        before = view.state;
        // Its notifications are ours: a hook must not be able to say that the daemon is ready, or has ended.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        let name = &account.config.name;
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                tracing::warn!(account = %name, %error, "on_change cannot be started; check its path");
                continue;
            }
        };
        tokio::select! {
            status = child.wait() => match status {
                Ok(status) if status.success() => {}
                Ok(status) => tracing::warn!(account = %name, %status, "on_change failed"),
                Err(error) => tracing::warn!(account = %name, %error, "on_change was lost"),
            },
            () = clock.sleep(PATIENCE) => {
                tracing::warn!(account = %name, seconds = PATIENCE.as_secs(), "on_change took too long and was ended");
                // It ends with the handle otherwise.
                let _ = child.kill().await;
            }
        }
    }
}
