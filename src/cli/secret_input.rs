//! Secrets from a hidden prompt or from stdin, handed on in a file descriptor.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};

use rustix::fd::OwnedFd;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::failure::Failure;
use crate::bus::secret_fd;
use crate::secret::MAX_SECRET_BYTES;

/// A secret in a descriptor; an empty one to remove what is stored.
pub(super) async fn read(what: &str, remove: bool) -> Result<OwnedFd, Failure> {
    let secret = if remove { Zeroizing::new(String::new()) } else { ask(what).await? };
    secret_fd::sealed(&secret)
        .map_err(|error| Failure::failed(format!("the {what} cannot be handed on: {error}")))
}

async fn ask(what: &str) -> Result<Zeroizing<String>, Failure> {
    let hidden = std::io::stdin().is_terminal().then(|| Hidden::start(what)).transpose();
    let hidden = hidden.map_err(|error| Failure::failed(format!("the terminal cannot be set: {error}")))?;
    let from_terminal = hidden.is_some();
    let read = tokio::task::spawn_blocking(move || read_stdin(from_terminal));
    let secret = tokio::select! {
        read = read => read.unwrap_or_else(|_| Err(std::io::Error::other("it cannot be read"))),
        // The terminal must not stay mute.
        _ = tokio::signal::ctrl_c() => {
            super::output::end_line();
            return Err(Failure::interrupted(format!("the {what} was not stored")));
        }
    };
    drop(hidden);
    let secret = secret.map_err(|error| Failure::usage(format!("the {what} cannot be read: {error}")))?;
    if secret.is_empty() && from_terminal {
        // The Ctrl-D has ended no line.
        super::output::end_line();
    }
    if secret.trim().is_empty() {
        return Err(Failure::usage(format!("the {what} is empty; to remove a stored one use --remove")));
    }
    Ok(secret)
}

fn read_stdin(one_line: bool) -> std::io::Result<Zeroizing<String>> {
    let mut secret = Zeroizing::new(String::with_capacity(4096));
    // One more than is accepted, so that the daemon can say that it is too long.
    let limit = u64::try_from(MAX_SECRET_BYTES).unwrap_or(u64::MAX) + 1;
    let mut input = std::io::stdin().lock().take(limit);
    if one_line {
        input.read_line(&mut secret)?
    } else {
        input.read_to_string(&mut secret)?
    };
    Ok(secret)
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn start(what: &str) -> rustix::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut mute = before.clone();
        mute.local_modes.remove(LocalModes::ECHO);
        mute.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(std::io::stdin(), OptionalActions::Now, &mute)?;
        let _ = write!(std::io::stderr().lock(), "{what} (not shown): ");
        Ok(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}
