//! Opens the user's browser: through the desktop portal, else `$BROWSER`, else `xdg-open`.

use std::process::Stdio;

use tokio::process::Command;

use super::broker::Broker;
use crate::bus::portal;

/// Asks for a browser; `false` when there is none to ask.
pub(super) async fn open(broker: &Broker, url: &str) -> bool {
    let connection = broker.root.inner().connection();
    if portal::open_uri(connection, url, std::env::var("XDG_ACTIVATION_TOKEN").ok().as_deref()).await.is_ok()
    {
        return true;
    }
    // In a session without a display xdg-open would start a browser in the terminal.
    let candidates: Vec<String> = match (named(), has_display()) {
        (Some(list), _) => list.split(':').map(str::to_owned).collect(),
        (None, true) => vec!["xdg-open".to_owned()],
        (None, false) => return false,
    };
    candidates.iter().any(|program| start(program, url))
}

/// Whether the user can be expected to sit before a browser on this machine.
pub(super) async fn is_near(broker: &Broker) -> bool {
    if named().is_some() || has_display() {
        return true;
    }
    // Whoever comes over ssh would not see what the portal opens.
    let remote = ["SSH_CONNECTION", "SSH_TTY"].iter().any(|name| std::env::var_os(name).is_some());
    !remote && portal::is_there(broker.root.inner().connection()).await
}

fn named() -> Option<String> {
    std::env::var("BROWSER").ok().filter(|browser| !browser.is_empty())
}

fn has_display() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()))
}

/// Starts a program beside us; it may live on when this one has ended.
fn start(program: &str, url: &str) -> bool {
    let mut words = program.split_whitespace();
    let Some(name) = words.next() else { return false };
    // `%s` is the address's place in some old values of $BROWSER.
    let arguments: Vec<&str> = words.map(|word| if word == "%s" { url } else { word }).collect();
    let mut command = Command::new(name);
    command.args(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !arguments.contains(&url) {
        command.arg(url);
    }
    command.process_group(0).spawn().is_ok()
}
