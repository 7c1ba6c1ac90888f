//! `bearerctl login`.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::pin::pin;
use std::time::Duration;

use qrcode::render::unicode::Dense1x2;
use zbus::zvariant::{ObjectPath, OwnedObjectPath, Value};

use super::broker::{Broker, text};
use super::failure::Failure;
use super::output::{self, Colours, Spinner};
use super::{browser, unlock};
use crate::bus::Error;
use crate::bus::proxy::LoginProxy;
use crate::clock::Clock;

/// The longest that one Wait lasts, in milliseconds.
const WAIT_MS: u32 = 20_000;
const BLACK_ON_WHITE: &str = "\x1b[30;107m";

pub(super) struct Wanted {
    pub(super) account: String,
    /// `None`: whatever this place allows, with a browser if there is one.
    pub(super) flow: Option<&'static str>,
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
    let attempt = before.get("LoginAttempt").and_then(|path| path.downcast_ref::<ObjectPath<'_>>().ok());
    let attempt = attempt.filter(|path| path.as_str() != "/");
    let pending = attempt.is_some();
    let logged_in = matches!(text(&before, "State"), "ready" | "offline" | "unsaved");
    if logged_in && !pending && !wanted.force {
        output::note(&format!(
            "already logged in to {account:?}{}; use --force to log in again",
            as_whom(text(&before, "Subject"))
        ));
        return Ok(());
    }

    let again = format!("bearerctl login {account}{}", if wanted.force { " --force" } else { "" });
    // From here on there is something to cancel.
    let mut interrupt = super::interrupts()?;
    let flows = match (wanted.flow, attempt) {
        (Some(flow), _) => vec![flow.to_owned()],
        (None, Some(attempt)) => vec![broker.login(attempt.to_owned().into()).await?.flow().await?],
        (None, None) => flows_of_this_place(broker).await,
    };
    let cancelled =
        || Failure::interrupted(format!("the login to {account:?} was cancelled; for another run: {again}"));
    let asking = Spinner::start("asking the provider (Ctrl-C cancels)");
    let mut started = pin!(start(broker, &account, flows));
    let started = tokio::select! {
        started = &mut started => started,
        _ = interrupt.recv() => {
            drop(asking);
            output::note("it is cancelled when the provider has answered; Ctrl-C again does not wait for that");
            // Only the answer says what there is to cancel.
            tokio::select! {
                started = started => if let (Ok((_, path, _)), false) = (started, pending) {
                    broker.login(path).await?.cancel().await?;
                },
                _ = interrupt.recv() => return Err(Failure::interrupted(format!(
                    "not waited for; if the login to {account:?} still starts, this joins it: {again}"
                ))),
            }
            return Err(cancelled());
        }
    };
    drop(asking);
    let (flow, path, url) = started?;
    let login = broker.login(path).await?;
    let paste = flow == "paste";
    let opened = wanted.flow.is_none() && flow == "code" && browser::open(broker, &url).await;
    let soon = if url.contains("request_uri=") {
        "\nThe address is good for a short time; for a fresh one run the same command again."
    } else {
        ""
    };
    output::note(&if flow == "device" {
        device_text(&account, &login, &url).await?
    } else if opened {
        format!("log in to {account:?} in the browser that opens; if none does, open:\n  {url}")
    } else if paste {
        format!(
            "to log in to {account:?} open in any browser:\n  {url}{soon}\nIt ends on a page that may not load; \
             paste that page's whole address here:"
        )
    } else {
        format!(
            "to log in to {account:?} open in a browser on this machine (elsewhere: bearerctl login {account} --paste):\n  {url}{soon}"
        )
    });

    // A paste is typed on the line where the spinner would turn.
    let spinner = match Clock::system() {
        Ok(clock) if !paste => {
            let end = login.expires().await?;
            let waiting = match flow.as_str() {
                "device" => "waiting for the code to be entered (Ctrl-C cancels)",
                _ => "waiting for the browser (Ctrl-C cancels)",
            };
            Some(Spinner::until(waiting, end, clock))
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
        failure = pastes(&again, &login), if paste => {
            // Somebody else's login is theirs to cancel.
            if !pending {
                login.cancel().await?;
            }
            return Err(failure);
        }
        () = patience => None,
        _ = interrupt.recv() => {
            drop(spinner);
            if paste {
                output::end_line();
            }
            if pending {
                return Err(Failure::interrupted(format!(
                    "the login to {account:?} goes on, for it was started elsewhere; to wait for it again run: {again}"
                )));
            }
            login.cancel().await?;
            return Err(cancelled());
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
            format!("the login ended: {state}; run: bearerctl login {account}")
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

/// The ways to log in that make sense here, best first.
async fn flows_of_this_place(broker: &Broker) -> Vec<String> {
    let flows: &[&str] = if browser::is_near(broker).await {
        &["code"]
    } else if std::io::stdin().is_terminal() {
        &["device", "paste"]
    } else {
        &["device", "code"]
    };
    flows.iter().map(|&flow| flow.to_owned()).collect()
}

/// Starts the first flow that the provider has.
async fn start(
    broker: &Broker,
    account: &str,
    flows: Vec<String>,
) -> Result<(String, OwnedObjectPath, String), Failure> {
    let mut flows = flows.into_iter().peekable();
    loop {
        let flow = flows.next().unwrap_or_else(|| "code".to_owned());
        let options =
            HashMap::from([("open_browser", Value::from(false)), ("flow", Value::from(flow.clone()))]);
        match broker.root.login_with_options(account, options).await {
            Err(Error::InvalidOption(_)) if flows.peek().is_some() => {}
            Err(error) => return Err(error.into()),
            Ok((path, url)) => return Ok((flow, path, url)),
        }
    }
}

/// RFC 8628 sections 3.3 and 5.4: the code is shown always, and whose login it is.
async fn device_text(account: &str, login: &LoginProxy<'_>, url: &str) -> Result<String, Failure> {
    let (page, code) = (login.verification_uri().await?, login.user_code().await?);
    let picture = if super::stderr_is_terminal() { qr_code(url) } else { String::new() };
    let direct =
        if url == page { String::new() } else { format!("or open, and compare the code:\n  {url}\n") };
    Ok(format!(
        "to log in to {account:?} open on any device:\n  {page}\nand enter the code:\n  {code}\n{direct}{picture}\
         Go on only if you have started this login yourself; never give the code to anybody."
    ))
}

/// For a camera: black on white whatever the terminal's colours are; without colours for a dark terminal, as most
/// are. Empty if the address is too long, or the terminal cannot show it.
fn qr_code(url: &str) -> String {
    let (Ok(code), true) = (encoded(url), output::speaks_utf8()) else { return String::new() };
    let columns = output::columns(std::io::stderr());
    picture(&code, Colours::of_stderr(), columns).unwrap_or_default()
}

fn encoded(url: &str) -> qrcode::QrResult<qrcode::QrCode> {
    qrcode::QrCode::with_error_correction_level(url, qrcode::EcLevel::L)
}

/// Two rows of a code to a line; `None` if that is wider than `fits`.
fn picture(code: &qrcode::QrCode, Colours(coloured): Colours, fits: Option<usize>) -> Option<String> {
    let mut picture = code.render::<Dense1x2>();
    if !coloured {
        picture.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark);
    }
    let picture = picture.build();
    let width = picture.lines().map(|line| line.chars().count()).max().unwrap_or_default();
    if fits.is_some_and(|columns| columns < width) {
        return None;
    }
    let line = |line| if coloured { format!("{BLACK_ON_WHITE}{line}\x1b[0m\n") } else { format!("{line}\n") };
    Some(picture.lines().map(line).collect())
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
async fn pastes(again: &str, login: &LoginProxy<'_>) -> Failure {
    loop {
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            let read = std::io::stdin().read_line(&mut line);
            read.map(|length| (length > 0).then_some(line))
        });
        let Ok(Ok(Some(line))) = line.await else {
            return Failure::usage(format!("no address was pasted; to try again run: {again} --paste"));
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As a camera sees it, whose code is dark on light.
    #[test]
    fn the_picture_of_a_code_is_the_code_of_its_address() {
        let url = "https://id.example.org/realms/staff/device?user_code=WDJB-MJHT";
        let code = encoded(url).unwrap();
        assert_ne!(dark(&code), dark(&encoded(&url.to_lowercase()).unwrap()));
        let width = code.width() + 2 * QUIET_ZONE;
        for coloured in [true, false] {
            let picture = picture(&code, Colours(coloured), Some(width)).unwrap();

            let rows = modules(&picture, coloured);

            let (quiet, inside) = (QUIET_ZONE, QUIET_ZONE..QUIET_ZONE + code.width());
            assert!(rows.iter().all(|row| row.len() == width), "{picture}");
            assert!(rows[..quiet].iter().flatten().all(|dark| !dark), "{picture}");
            assert!(rows[inside.end..width].iter().flatten().all(|dark| !dark), "{picture}");
            for row in &rows[inside.clone()] {
                assert!(row[..quiet].iter().chain(&row[inside.end..]).all(|dark| !dark), "{picture}");
            }
            let seen: Vec<bool> =
                rows[inside.clone()].iter().flat_map(|row| row[inside.clone()].to_vec()).collect();
            assert_eq!(seen, dark(&code), "{picture}");
        }
        assert_eq!(picture(&code, Colours(true), Some(width - 1)), None);
    }

    fn dark(code: &qrcode::QrCode) -> Vec<bool> {
        code.to_colors().iter().map(|colour| *colour == qrcode::Color::Dark).collect()
    }

    /// What is light around a code, so that it is found.
    const QUIET_ZONE: usize = 4;

    /// Which of the picture's modules are dark: drawn in black on white, or left out in white on a dark terminal.
    fn modules(picture: &str, coloured: bool) -> Vec<Vec<bool>> {
        let mut rows = Vec::new();
        for line in picture.lines() {
            let blocks = if coloured {
                line.strip_prefix(BLACK_ON_WHITE).unwrap().strip_suffix("\x1b[0m").unwrap()
            } else {
                line
            };
            let halves: Vec<(bool, bool)> = blocks
                .chars()
                .map(|block| match block {
                    ' ' => (false, false),
                    '▀' => (true, false),
                    '▄' => (false, true),
                    '█' => (true, true),
                    other => panic!("{other:?} is no block"),
                })
                .collect();
            rows.push(halves.iter().map(|(upper, _)| *upper == coloured).collect());
            rows.push(halves.iter().map(|(_, lower)| *lower == coloured).collect());
        }
        rows
    }
}
