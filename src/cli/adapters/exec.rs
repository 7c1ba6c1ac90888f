//! `bearerctl exec`: runs a command beside a file with a token that is always good.
//!
//! The file is found as the WLCG's bearer token discovery has it: its path is in `BEARER_TOKEN_FILE`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use zeroize::Zeroizing;

use super::usable_as_bearer;
use crate::cli::broker::Broker;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::clock::Clock;
use crate::secret::random_token;

/// How often the token is asked for at least and at most.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(3600);
/// The same where nobody knows when it ends.
const UNKNOWN: Duration = Duration::from_secs(60);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);

/// Runs the command to its end, and ends as it did. `in_environment`: the token is in `BEARER_TOKEN` too,
/// where it gets old.
pub(in crate::cli) async fn run(
    broker: &Broker,
    account: &str,
    command: &[String],
    in_environment: bool,
) -> Result<u8, Failure> {
    let account = broker.resolve(account).await?;
    let clock = Clock::system().map_err(|error| Failure::failed(format!("no clock: {error}")))?;
    let (token, expires_at, details) = broker.root.get_token_with_options(&account, HashMap::new()).await?;
    let token = Zeroizing::new(token);
    usable_as_bearer(&details)?;
    let mut file = TokenFile::new().map_err(|error| {
        Failure::failed(format!("there is no place for the token file: {error}; run it in a login session"))
    })?;
    file.write(&token).map_err(|error| file.failure(&error))?;
    let mut signals =
        Forwarded::new().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
    let (name, arguments) =
        command.split_first().ok_or_else(|| Failure::usage("there is no command to run"))?;
    let mut program = Command::new(name);
    program.args(arguments).env("BEARER_TOKEN_FILE", &file.path).env_remove("BEARER_TOKEN");
    if in_environment {
        program.env("BEARER_TOKEN", &token);
    }
    let mut child = program.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::usage(format!("{name}: there is no such command")),
        _ => Failure::failed(format!("{name} cannot be started: {error}")),
    })?;
    drop(program);

    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let status = tokio::select! {
        status = child.wait() => status,
        never = keep_fresh(broker, &account, &clock, &mut file, token, expires_at) => match never {},
        never = signals.forward(pid) => match never {},
    };
    Ok(exit_code(status.map_err(|error| Failure::failed(format!("{name}: {error}")))?))
}

/// Brings each new token into the file, until the command has ended.
async fn keep_fresh(
    broker: &Broker,
    account: &str,
    clock: &Clock,
    file: &mut TokenFile,
    mut token: Zeroizing<String>,
    mut expires_at: u64,
) -> Infallible {
    let mut failing = false;
    loop {
        let left = Duration::from_secs(expires_at).saturating_sub(clock.now().wall);
        let patience = if expires_at == 0 { UNKNOWN } else { left / 2 };
        clock.sleep(if failing { AGAIN } else { patience.clamp(SOONEST, LATEST) }).await;
        let renewed = match broker.root.get_token_with_options(account, HashMap::new()).await {
            Ok((newer, end, _)) => {
                let newer = Zeroizing::new(newer);
                let written = if *newer == *token { Ok(()) } else { file.write(&newer) };
                (token, expires_at) = (newer, end);
                written.map_err(|error| file.failure(&error))
            }
            Err(error) => Err(error.into()),
        };
        if let Err(failure) = &renewed
            && !failing
        {
            output::note(&format!("bearerctl: the token file is not fresh: {failure}"));
        }
        failing = renewed.is_err();
    }
}

/// What ends a program: what a terminal sends reaches the command by itself, the rest is passed on.
struct Forwarded {
    hangup: Signals,
    terminate: Signals,
    interrupt: Signals,
    quit: Signals,
}

impl Forwarded {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn forward(&mut self, pid: Option<Pid>) -> Infallible {
        loop {
            let signal = tokio::select! {
                _ = self.hangup.recv() => Signal::HUP,
                _ = self.terminate.recv() => Signal::TERM,
                _ = self.interrupt.recv() => continue,
                _ = self.quit.recv() => continue,
            };
            if let Some(pid) = pid {
                // It may have ended meanwhile.
                let _ = kill_process(pid, signal);
            }
        }
    }
}

/// As shells tell it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// A file that only its owner can read, in a folder of its own; both go with this.
struct TokenFile {
    folder: PathBuf,
    path: PathBuf,
}

impl TokenFile {
    /// In the runtime directory, which is in memory and ends with the session.
    fn new() -> io::Result<Self> {
        let parent = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
        let parent = parent.ok_or_else(|| io::Error::other("XDG_RUNTIME_DIR is not set"))?;
        let folder =
            PathBuf::from(parent).join(format!("bearerctl-{}", random_token().map_err(io::Error::other)?));
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self { path: folder.join("token"), folder })
    }

    /// Replaces it as a whole: no reader ever sees half a token.
    fn write(&mut self, token: &str) -> io::Result<()> {
        let new = self.folder.join("new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(token.as_bytes())?;
        std::fs::rename(&new, &self.path)
    }

    fn failure(&self, error: &io::Error) -> Failure {
        Failure::failed(format!("{} cannot be written: {error}", self.path.display()))
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        // Best effort: what stays is good for minutes.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
