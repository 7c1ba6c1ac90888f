//! Commands of the user that run when an account's state changes: never with a token, one at a time, bounded.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::account::AccountName;
use crate::accounts::Account;
use crate::clock::Clock;
use crate::session::{AccountState, Published};

/// A hook is ended after this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the account's command at each change of its state, until its session ends. While one runs, changes
/// add up: the next run tells from where to where all of them led. The first change is one from `before`.
pub(crate) async fn follow(account: Arc<Account>, before: AccountState, clock: Clock) {
    let mut watch = account.session.watch();
    watch.mark_changed();
    run_at_changes(&account.config.name, &account.config.on_change, watch, before, &clock).await;
}

async fn run_at_changes(
    name: &AccountName,
    on_change: &[String],
    mut watch: watch::Receiver<Published>,
    mut before: AccountState,
    clock: &Clock,
) {
    let Some((program, arguments)) = on_change.split_first() else { return };
    while watch.changed().await.is_ok() {
        let view = watch.borrow_and_update().view.clone();
        if view.state == before {
            continue;
        }
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("BEARERD_ACCOUNT", name.as_str());
        command.env("BEARERD_STATE", view.state.as_str()).env("BEARERD_STATE_BEFORE", before.as_str());
        command.env("BEARERD_STATE_REASON", view.reason).env("BEARERD_STATE_MESSAGE", &view.message);
        before = view.state;
        // Its notifications are ours: a hook must not be able to say that the daemon is ready, or has ended.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        let mut running = match Running::start(&mut command) {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(account = %name, %error, "on_change cannot be started; check its path");
                continue;
            }
        };
        tokio::select! {
            status = running.end() => match status {
                Ok(status) if status.success() => {}
                Ok(status) => tracing::warn!(account = %name, %status, "on_change failed"),
                Err(error) => tracing::warn!(account = %name, %error, "on_change was lost"),
            },
            () = clock.sleep(PATIENCE) => {
                tracing::warn!(account = %name, seconds = PATIENCE.as_secs(), "on_change took too long and was ended");
                running.kill();
                // It ends with the handle otherwise.
                let _ = running.end().await;
            }
        }
    }
}

/// A command in a process group of its own. What it started ends with it when it is killed or dropped: a shell leaves
/// its children behind otherwise.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> io::Result<Self> {
        command.process_group(0).spawn().map(Self)
    }

    async fn end(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }

    fn kill(&self) {
        // There is none after its end, when the number may be another's.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
    use tokio::net::unix::pipe;
    use tokio::time::timeout;

    use super::*;
    use crate::session::View;

    /// Says its change to the pipe of its new state; in the state `expired` it and a child of its never end.
    const HOOK: &str = "exec >\"$0/$BEARERD_STATE\"; \
        if [ \"$BEARERD_STATE\" = expired ]; then sleep 1000 & fi; echo \"from $BEARERD_STATE_BEFORE\"; wait";

    #[tokio::test]
    async fn a_slow_hook_is_ended_with_all_that_it_has_started_and_the_next_change_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut slow = named_pipe(&folder.path().join("expired"));
        let mut next = named_pipe(&folder.path().join("ready"));
        let (changes, watch) = watch::channel(state(AccountState::Ready));
        let (clock, time) = Clock::simulated(Duration::from_secs(1_800_000_000));
        let name = AccountName::parse("work").unwrap();
        let on_change = ["/bin/sh", "-c", HOOK, folder.path().to_str().unwrap()].map(str::to_owned);
        let hooks = async {
            run_at_changes(&name, &on_change, watch, AccountState::Ready, &clock).await;
        };
        let user = async {
            changes.send_replace(state(AccountState::Expired));
            assert_eq!(line(&mut slow).await.as_deref(), Some("from ready"));
            changes.send_replace(state(AccountState::Ready));

            time.suspend(PATIENCE);

            assert_eq!(line(&mut next).await.as_deref(), Some("from expired"));
            assert_eq!(line(&mut slow).await, None, "nobody has its pipe any more");
            drop(changes);
        };

        tokio::join!(hooks, user);
    }

    /// A reload or a stop does not wait for it.
    #[tokio::test]
    async fn a_hook_that_is_no_longer_waited_for_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut slow = named_pipe(&folder.path().join("expired"));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", HOOK]).arg(folder.path()).env("BEARERD_STATE", "expired");
        let running = Running::start(&mut command).unwrap();
        assert!(line(&mut slow).await.is_some());

        drop(running);

        assert_eq!(line(&mut slow).await, None);
    }

    type Pipe = Lines<BufReader<pipe::Receiver>>;

    /// A named pipe, which ends when the last who writes to it has.
    fn named_pipe(path: &Path) -> Pipe {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        BufReader::new(pipe::OpenOptions::new().open_receiver(path).unwrap()).lines()
    }

    async fn line(pipe: &mut Pipe) -> Option<String> {
        timeout(Duration::from_secs(30), pipe.next_line()).await.unwrap().unwrap()
    }

    fn state(state: AccountState) -> Published {
        Published { view: View::bare(state), login: None }
    }
}
