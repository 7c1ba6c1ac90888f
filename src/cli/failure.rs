//! Why a command failed, as a sentence and as an exit code.

use std::fmt;

use crate::bus::Error;

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 1 }
    }

    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 2 }
    }

    pub(super) fn store(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 4 }
    }

    pub(super) fn retry(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 5 }
    }

    /// Ctrl-C, as shells number it, and what that has ended or left.
    pub(super) fn interrupted(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 130 }
    }

    /// Whoever read the output has seen enough, and there is nothing to tell.
    pub(super) fn unread() -> Self {
        Self { text: String::new(), code: 1 }
    }

    /// The end of what is followed as long as somebody reads it.
    pub(super) fn unless_unread(end: Result<(), Self>) -> Result<(), Self> {
        end.or_else(|failure| if failure == Self::unread() { Ok(()) } else { Err(failure) })
    }

    pub(super) fn exit_code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (text, code) = match error {
            Error::ZBus(error) => return error.into(),
            Error::NotConfigured(text) | Error::InvalidConfiguration(text) | Error::LoginFailed(text) => {
                (text, 1)
            }
            Error::NoSuchAccount(text) | Error::InvalidArgument(text) | Error::InvalidOption(text) => {
                (text, 2)
            }
            Error::NoSession(text) | Error::LoginRequired(text) => (text, 3),
            Error::StoreLocked(text) | Error::StoreUnavailable(text) => (text, 4),
            Error::ProviderUnreachable(text) | Error::RateLimited(text) | Error::Timeout(text) => (text, 5),
            Error::ProviderRefused(text) | Error::AccessDenied(text) => (text, 6),
        };
        Self { text, code }
    }
}

impl From<zbus::Error> for Failure {
    fn from(error: zbus::Error) -> Self {
        let zbus::Error::MethodError(name, message, _) = &error else {
            return Self::failed(match error {
                zbus::Error::InputOutput(why) if why.kind() == std::io::ErrorKind::TimedOut => {
                    return Self::retry("bearerd has not answered; see: systemctl --user status bearerd");
                }
                error => format!("the session bus failed: {error}; run: bearerctl doctor"),
            });
        };
        let message = message.as_deref().unwrap_or_default();
        match name.as_str() {
            "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner" => {
                Self::failed(
                    "bearerd does not run and the bus has no activation file for it; \
                     run: bearerctl setup",
                )
            }
            name if name.starts_with("org.freedesktop.DBus.Error.Spawn.")
                || name.starts_with("org.freedesktop.systemd1.") =>
            {
                Self::failed(format!(
                    "bearerd could not be started: {message}; see: journalctl --user -u bearerd"
                ))
            }
            "org.freedesktop.DBus.Error.NoReply" | "org.freedesktop.DBus.Error.Disconnected" => Self::retry(
                "bearerd ended while it was asked; try again, and see: journalctl --user -u bearerd",
            ),
            name => Self::failed(format!("{name}: {message}; run: bearerctl doctor")),
        }
    }
}
