//! What is printed: lines, durations, and a sign of life on terminals.

use std::borrow::Cow;
use std::io::{ErrorKind, Write as _};
use std::os::fd::AsFd;
use std::time::Duration;

use super::failure::Failure;
use crate::clock::Clock;

/// A line for people, on stderr. That nobody reads it is no reason to fail.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", plain(text));
}

/// Lines for people, on stdout.
pub(super) fn lines(text: &str) -> Result<(), Failure> {
    data(&plain(text))
}

/// Data for programs, on stdout.
pub(super) fn data(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    written(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
}

/// What moves the cursor of a terminal.
pub(super) fn raw(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    written(write!(stdout, "{}", plain(text)).and_then(|()| stdout.flush()))
}

/// What came of writing to stdout.
pub(super) fn written(end: std::io::Result<()>) -> Result<(), Failure> {
    end.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::unread(),
        _ => Failure::failed(format!("stdout cannot be written: {error}")),
    })
}

/// Whether the locale's characters are UTF-8.
pub(super) fn speaks_utf8() -> bool {
    let set = |name| std::env::var(name).ok().filter(|locale| !locale.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// With signs of ours that every locale has; people's names stay as they are.
fn plain(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || speaks_utf8() {
        return text.into();
    }
    text.replace('←', "<-").replace('…', "...").into()
}

/// Ends the line on which a terminal has shown the Ctrl-C, so that the prompt gets one of its own.
pub(super) fn end_line() {
    if super::stderr_is_terminal() {
        note("");
    }
}

/// The terminal's height.
pub(super) fn rows() -> u16 {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(24, |size| size.ws_row)
}

/// The terminal's width, where this is one.
pub(super) fn columns(of: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(of).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// Colours where a person sees them: on a terminal or with `CLICOLOR_FORCE`, unless `NO_COLOR` is set.
#[derive(Clone, Copy)]
pub(super) struct Colours(pub(super) bool);

impl Colours {
    pub(super) fn of_stdout() -> Self {
        Self::wanted(super::stdout_is_terminal())
    }

    pub(super) fn of_stderr() -> Self {
        Self::wanted(super::stderr_is_terminal())
    }

    fn wanted(on_terminal: bool) -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let forced = set("CLICOLOR_FORCE").is_some_and(|value| value != "0");
        Self((on_terminal || forced) && set("NO_COLOR").is_none())
    }

    /// `text` in the colour of an account's state.
    pub(super) fn state(self, state: &str, text: &str) -> String {
        let colour = match state {
            "ready" => 32,
            "offline" | "unsaved" | "logged-out" => 33,
            "not-configured" | "refused" | "store-unavailable" | "store-locked" | "expired" => 31,
            _ => return text.to_owned(),
        };
        if self.0 { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// `text` as a heading.
    pub(super) fn heading(self, text: &str) -> String {
        if self.0 { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// `90`, `90s`, `5m` or `2h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, "s"),
    };
    let unit = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return Err("give seconds, or a number with s, m or h, such as 90s".to_owned()),
    };
    let seconds = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    let seconds = seconds.ok_or("give a whole number of seconds, minutes or hours, such as 90s")?;
    Ok(Duration::from_secs(seconds.into()))
}

/// A rounded duration of at most two units: `45 s`, `4 min 50 s`, `2 h 5 min`, `3 d`.
pub(super) fn duration(seconds: u64) -> String {
    let (big, big_unit, small, small_unit) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => (seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => (seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => (seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    };
    if small == 0 { format!("{big} {big_unit}") } else { format!("{big} {big_unit} {small} {small_unit}") }
}

/// A turning sign on the last line of a terminal; nothing anywhere else.
pub(super) struct Spinner {
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Spinner {
    pub(super) fn start(text: &'static str) -> Self {
        Self::telling(move || text.to_owned())
    }

    /// Counts down to `end`, in Unix seconds.
    pub(super) fn until(text: &'static str, end: u64, clock: Clock) -> Self {
        Self::telling(move || {
            let left = end.saturating_sub(clock.now().wall.as_secs());
            format!("{text}, {} left", duration(left))
        })
    }

    fn telling(text: impl Fn() -> String + Send + 'static) -> Self {
        if !super::stderr_is_terminal() {
            return Self { task: None };
        }
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(120));
            for sign in ['|', '/', '-', '\\'].iter().cycle() {
                tick.tick().await;
                // On a second line it could not be overwritten.
                let room = columns(std::io::stderr()).map_or(usize::MAX, |columns| columns.saturating_sub(4));
                let text: String = text().chars().take(room).collect();
                let _ = write!(std::io::stderr().lock(), "\r{sign} {text} \x1b[K");
            }
        });
        Self { task: Some(task) }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
            // Back to the line's start, and clear it.
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_and_without_units() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("2h", 7200), ("0", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "s", "-1", "1.5m", "5 m", "9999999999", "2000000h", "3d", "5é"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_written_in_at_most_two_units() {
        for (seconds, text) in
            [(45, "45 s"), (60, "1 min"), (290, "4 min 50 s"), (7500, "2 h 5 min"), (266_400, "3 d 2 h")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
