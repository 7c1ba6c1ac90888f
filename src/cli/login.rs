//! `bearerctl login`.

use std::collections::HashMap;
use std::time::Duration;

use zbus::zvariant::{ObjectPath, Value};

use super::broker::{Broker, text};
use super::failure::Failure;
use super::output::{self, Spinner};
use super::{browser, unlock};
use crate::bus::Error;
use crate::bus::proxy::LoginProxy;
use crate::clock::Clock;

/// The longest that one Wait lasts, in milliseconds.
const WAIT_MS: u32 = 20_000;

pub(super) struct Wanted {
    pub(super) account: String,
    pub(super) browser: bool,
    pub(super) paste: bool,
    pub(super) force: bool,
    pub(super) timeout: Option<Duration>,
}

pub(super) async fn log_in(broker: &Broker, wanted: Wanted) -> Result<(), Failure> {
    let account = broker.resolve(&wanted.account).await?;
    let mut before = broker.properties(&account).await?;
    if text(&before, "State") == "store-locked" {
        // There may well be a session behind the lock.
        unlock::unlock(broker).await?;
        before = broker.properties(&account).await?;
    }
    let pending = before
        .get("LoginAttempt")
        .and_then(|path| path.downcast_ref::<ObjectPath<'_>>().ok())
        .is_some_and(|path| path.as_str() != "/");
    let logged_in = matches!(text(&before, "State"), "ready" | "offline" | "unsaved");
    if logged_in && !pending && !wanted.force {
        output::note(&format!(
            "already logged in to {account:?}{}; use --force to log in again",
            as_whom(text(&before, "Subject"))
        ));
        return Ok(());
    }

    // From here on there is something to cancel.
    let mut interrupt = super::interrupts()?;
    let mut options = HashMap::from([("open_browser", Value::from(false))]);
    if wanted.paste {
        options.insert("flow", Value::from("paste"));
    }
    let (path, url) = broker.root.login_with_options(&account, options).await?;
    let login = broker.login(path).await?;
    let opened = wanted.browser && browser::open(broker, &url).await;
    output::note(&if opened {
        format!("log in to {account:?} in the browser that opens; if none does, open:\n  {url}")
    } else if wanted.paste {
        format!(
            "to log in to {account:?} open in any browser:\n  {url}\nIt ends on a page that may not load; \
             paste that page's whole address here:"
        )
    } else {
        format!(
            "to log in to {account:?} open in a browser on this machine (elsewhere: bearerctl login {account} --paste):\n  {url}"
        )
    });

    // A paste is typed on the line where the spinner would turn.
    let spinner = match Clock::system() {
        Ok(clock) if !wanted.paste => {
            let end = login.expires().await?;
            Some(Spinner::until("waiting for the browser (Ctrl-C cancels)", end, clock))
        }
        _ => None,
    };
    let patience = async {
        match wanted.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let state = tokio::select! {
        state = end(&login) => Some(state?),
        failure = pastes(&login), if wanted.paste => {
            login.cancel().await?;
            return Err(failure);
        }
        () = patience => None,
        _ = interrupt.recv() => {
            drop(spinner);
            // Somebody else's login is theirs to cancel.
            if !pending {
                login.cancel().await?;
            }
            return Err(Failure::interrupted());
        }
    };
    drop(spinner);
    let Some(state) = state else {
        return Err(Failure::retry(format!(
            "Timeout: nobody has logged in to {account:?} yet; the address stays good, and \
             bearerctl login {account} waits for it again"
        )));
    };
    let message = login.error_message().await?;
    if state != "succeeded" {
        return Err(Failure::failed(if message.is_empty() {
            format!("the login ended: {state}")
        } else {
            message
        }));
    }
    let after = broker.properties(&account).await?;
    output::note(&format!("logged in to {account:?}{}", as_whom(text(&after, "Subject"))));
    if !message.is_empty() {
        output::note(&message);
    }
    Ok(())
}

/// Waits for the end of the attempt.
async fn end(login: &LoginProxy<'_>) -> Result<String, Failure> {
    loop {
        let state = login.wait(WAIT_MS).await?;
        if state != "pending" {
            return Ok(state);
        }
    }
}

/// Brings the addresses that the user pastes; returns only when there is nobody to paste any more.
async fn pastes(login: &LoginProxy<'_>) -> Failure {
    loop {
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            let read = std::io::stdin().read_line(&mut line);
            read.map(|length| (length > 0).then_some(line))
        });
        let Ok(Ok(Some(line))) = line.await else { return Failure::usage("no address was pasted") };
        if line.trim().is_empty() {
            continue;
        }
        match login.complete(line.trim()).await {
            Ok(()) => std::future::pending().await,
            Err(Error::InvalidArgument(text)) => output::note(&text),
            Err(error) => return error.into(),
        }
    }
}

fn as_whom(subject: &str) -> String {
    if subject.is_empty() { String::new() } else { format!(" as {subject}") }
}
