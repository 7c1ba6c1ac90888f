//! `bearerctl doctor`: everything that has to be right, checked one by one, and what to do about the rest.
//!
//! The one command that looks beside the bus: it reads the configuration and asks the providers itself, for
//! a daemon that can't start or reach anything could not tell.

use std::collections::HashMap;

use serde_json::{Value as Json, json};
use zbus::fdo::DBusProxy;
use zbus::names::BusName;
use zbus::zvariant::OwnedObjectPath;

use super::broker::{Broker, text};
use super::failure::Failure;
use super::{output, status};
use crate::bus::NAME;
use crate::clock::Clock;
use crate::config::{Config, ConfigDirs, Endpoints, OAuthConfig, RedirectUri, Source};
use crate::oidc::discovery;
use crate::oidc::http::Http;

const SECRETS: &str = "org.freedesktop.secrets";
/// ID tokens are refused when the clocks are further apart.
pub(super) const MOST_SKEW: u64 = 600;

/// What a check found, and the command that mends it.
pub(super) struct Finding {
    verdict: Verdict,
    text: String,
    fix: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// Worth knowing; nothing is broken.
    Note,
    /// Broken.
    Wrong,
}

impl Finding {
    /// A sentence that may end with the command, as those of the daemon and of failures do.
    fn of(verdict: Verdict, sentence: &str) -> Self {
        let (text, fix) = match sentence.rsplit_once("; run: ") {
            Some((text, fix)) => (text, Some(fix.to_owned())),
            None => (sentence, None),
        };
        Self { verdict, text: text.to_owned(), fix }
    }

    /// What has to be typed to mend it.
    pub(super) fn fix(self, command: impl Into<String>) -> Self {
        Self { fix: Some(command.into()), ..self }
    }

    fn line(&self) -> String {
        let mark = match self.verdict {
            Verdict::Fine => "ok    ",
            Verdict::Note => "note  ",
            Verdict::Wrong => "WRONG ",
        };
        let fix = self.fix.as_ref().map(|command| format!("; run: {command}")).unwrap_or_default();
        format!("{mark}{}{fix}", self.text)
    }

    /// `check` is what stands before the first colon.
    fn object(&self) -> Json {
        let verdict = match self.verdict {
            Verdict::Fine => "ok",
            Verdict::Note => "note",
            Verdict::Wrong => "wrong",
        };
        let check = self.text.split(':').next().unwrap_or_default();
        json!({ "check": check, "verdict": verdict, "text": self.text, "fix": self.fix })
    }
}

pub(super) fn fine(text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Fine, text: text.into(), fix: None }
}

pub(super) fn note(text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Note, text: text.into(), fix: None }
}

pub(super) fn wrong(text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Wrong, text: text.into(), fix: None }
}

/// Prints every finding; fails when something is wrong.
pub(super) async fn examine(json: bool) -> Result<(), Failure> {
    let mut findings = Vec::new();
    let mut tell = |finding: Finding| {
        let told = if json { Ok(()) } else { output::lines(&finding.line()) };
        findings.push(finding);
        told
    };
    let config = Config::load(&ConfigDirs::from_env());
    match &config {
        Ok(config) => {
            tell(match config.accounts.len() {
                0 => wrong("configuration: no account").fix("bearerctl add NAME"),
                1 => fine("configuration: 1 account"),
                count => fine(format!("configuration: {count} accounts")),
            })?;
            for warning in &config.warnings {
                tell(note(format!("configuration: {warning}")))?;
            }
        }
        Err(error) => tell(wrong(format!("configuration: {error}; correct it")).fix("bearerctl reload"))?,
    }
    let broker = match Broker::connect().await {
        Ok(broker) => {
            tell(fine("session bus: it answers"))?;
            for finding in on_the_bus(&broker).await {
                tell(finding)?;
            }
            Some(broker)
        }
        Err(failure) => {
            tell(Finding::of(Verdict::Wrong, &format!("session bus: {failure}")))?;
            None
        }
    };
    for finding in on_the_machine().await {
        tell(finding)?;
    }
    let states = match &broker {
        Some(broker) => match broker.all_properties().await {
            Ok(accounts) => {
                tell(fine("bearerd: it answers"))?;
                if status::paused(broker).await? {
                    tell(note("paused: nothing is handed out").fix("bearerctl resume"))?;
                }
                accounts.into_iter().collect::<HashMap<_, _>>()
            }
            Err(failure) => {
                tell(Finding::of(Verdict::Wrong, &format!("bearerd: {failure}")))?;
                HashMap::new()
            }
        },
        None => HashMap::new(),
    };
    let clock = Clock::system().map_err(|error| Failure::failed(format!("no clock: {error}")))?;
    for (name, account) in config.iter().flat_map(|config| &config.accounts) {
        match states.get(name.as_str()) {
            Some(properties) if text(properties, "State") == "ready" => tell(fine(format!("{name}: ready")))?,
            Some(properties) => {
                let (state, message) = (text(properties, "State"), text(properties, "StateMessage"));
                tell(if state == "logged-out" {
                    Finding::of(Verdict::Note, &format!("{name}: {message}"))
                } else {
                    Finding::of(Verdict::Wrong, &format!("{name}: {state}: {message}"))
                })?;
            }
            None if broker.is_some() && !states.is_empty() => {
                tell(wrong(format!("{name}: bearerd does not know it yet")).fix("bearerctl reload"))?;
            }
            None => {}
        }
        if let Source::OAuth(oauth) = &account.source {
            tell(note(format!("{name}: register the redirect URI {}", redirect(&oauth.redirect))))?;
            tell(provider(name.as_str(), oauth, &clock).await)?;
        }
    }
    conclude(&findings, json)
}

/// Prints these findings; fails when something is wrong.
pub(super) fn report(findings: &[Finding], json: bool) -> Result<(), Failure> {
    if !json {
        for finding in findings {
            output::lines(&finding.line())?;
        }
    }
    conclude(findings, json)
}

fn conclude(findings: &[Finding], json: bool) -> Result<(), Failure> {
    if json {
        output::data(&findings.iter().map(Finding::object).collect::<Json>().to_string())?;
    }
    match findings.iter().filter(|finding| finding.verdict == Verdict::Wrong).count() {
        0 => Ok(()),
        wrong => Err(Failure::failed(format!("{wrong} found wrong; each line says what to do"))),
    }
}

/// Activation, the unit, the keyring and what a desktop has.
async fn on_the_bus(broker: &Broker) -> Vec<Finding> {
    let connection = broker.root.inner().connection();
    let Ok(bus) = DBusProxy::new(connection).await else { return Vec::new() };
    let activatable = bus.list_activatable_names().await.unwrap_or_default();
    let is_activatable = |name: &str| activatable.iter().any(|known| known.as_str() == name);
    let owned = async |name: &'static str| match BusName::try_from(name) {
        Ok(name) => bus.name_has_owner(name).await.unwrap_or(false),
        Err(_) => false,
    };
    let mut findings = vec![if is_activatable(NAME) {
        fine("activation: the bus starts bearerd")
    } else {
        wrong("activation: the bus cannot start bearerd").fix("bearerctl setup")
    }];
    findings.push(if owned("org.freedesktop.systemd1").await {
        let manager = zbus::Proxy::new(
            connection,
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
        );
        let state = match manager.await {
            Ok(manager) => manager.call::<_, _, String>("GetUnitFileState", &("bearerd.service",)).await,
            Err(error) => Err(error),
        };
        match state.as_deref() {
            Ok("enabled") => fine("unit: enabled, starts with your session"),
            Ok(_) => note("unit: started by the first call only; to renew sessions from the start")
                .fix("systemctl --user enable --now bearerd"),
            Err(_) => wrong("unit: bearerd.service is not installed").fix("bearerctl setup"),
        }
    } else {
        note("unit: no systemd user manager on this bus; the bus itself starts bearerd")
    });
    findings.push(if owned(SECRETS).await || is_activatable(SECRETS) {
        keyring(connection).await
    } else {
        wrong(
            "keyring: nothing provides org.freedesktop.secrets; install gnome-keyring, KWallet or KeePassXC, \
             or set store = \"memory\"",
        )
    });
    for (check, name, there, missing) in [
        (
            "portal",
            "org.freedesktop.portal.Desktop",
            "bearerd can open a browser",
            "there is none, so bearerctl login opens the browser itself, or prints the address",
        ),
        (
            "notifications",
            "org.freedesktop.Notifications",
            "you are told when a session ends",
            "there is no server, so nobody tells you when a session ends; bearerctl status does",
        ),
    ] {
        findings.push(if owned(name).await || is_activatable(name) {
            fine(format!("{check}: {there}"))
        } else {
            note(format!("{check}: {missing}"))
        });
    }
    findings
}

/// What the system bus knows: whether we live on after a logout, and whether the clock is right. A container may
/// have none, and then there is nothing to say.
async fn on_the_machine() -> Vec<Finding> {
    let Ok(system) = zbus::Connection::system().await else { return Vec::new() };
    let ask = async |name: &'static str, path: &'static str, interface: &'static str, property: &str| {
        let proxy = zbus::proxy::Builder::<zbus::Proxy<'_>>::new(&system)
            .destination(name)?
            .path(path)?
            .interface(interface)?
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        proxy.get_property::<bool>(property).await
    };
    let mut findings = Vec::new();
    let user = "/org/freedesktop/login1/user/self";
    match ask("org.freedesktop.login1", user, "org.freedesktop.login1.User", "Linger").await {
        Ok(true) => findings.push(fine("linger: on, sessions are renewed while you are logged out too")),
        Ok(false) => findings.push(
            note("linger: off, sessions are renewed while you are logged in; to have it always")
                .fix("loginctl enable-linger"),
        ),
        Err(_) => {}
    }
    let (name, path) = ("org.freedesktop.timedate1", "/org/freedesktop/timedate1");
    match ask(name, path, name, "NTPSynchronized").await {
        Ok(true) => findings.push(fine("clock: synchronised")),
        Ok(false) => findings.push(
            note("clock: not synchronised; ID tokens are refused when it is ten minutes off")
                .fix("timedatectl set-ntp true"),
        ),
        Err(_) => {}
    }
    findings
}

async fn keyring(connection: &zbus::Connection) -> Finding {
    let locked = async {
        let path = "/org/freedesktop/secrets";
        let service = zbus::Proxy::new(connection, SECRETS, path, "org.freedesktop.Secret.Service").await?;
        let default: OwnedObjectPath = service.call("ReadAlias", &("default",)).await?;
        if default.as_str() == "/" {
            return Ok(None);
        }
        let interface = "org.freedesktop.Secret.Collection";
        let collection =
            zbus::Proxy::new(connection, SECRETS, default.as_str().to_owned(), interface).await?;
        collection.get_property::<bool>("Locked").await.map(Some)
    };
    match locked.await {
        Ok(Some(false)) => fine("keyring: unlocked"),
        Ok(Some(true)) => note("keyring: locked").fix("bearerctl unlock"),
        Ok(None) => note("keyring: it has no default collection yet; the first login makes one"),
        Err(error @ zbus::Error::MethodError(..)) => wrong(format!("keyring: it does not answer: {error}")),
        Err(error) => wrong(format!("keyring: {error}")),
    }
}

pub(super) fn redirect(redirect: &RedirectUri) -> String {
    match redirect {
        RedirectUri::Loopback(loopback) => match loopback.port {
            Some(port) => format!("http://{}:{port}{}", loopback.host, loopback.path),
            None => format!(
                "http://{}{} (any port, RFC 8252 section 7.3; at a Keycloak: http://{}/*)",
                loopback.host, loopback.path, loopback.host
            ),
        },
        RedirectUri::Elsewhere(url) => format!("{url} (log in with --paste)"),
    }
}

/// Whether the provider can be reached and found, and whether its clock agrees with ours.
async fn provider(name: &str, oauth: &OAuthConfig, clock: &Clock) -> Finding {
    let http = Http::new(oauth.ca_file.clone());
    let (urls, issuer) = match &oauth.endpoints {
        // Asked without anything: whatever it answers, it is there.
        Endpoints::Explicit(explicit) => (vec![explicit.token.clone()], None),
        Endpoints::Discovered(discovered) => {
            (discovery::locations(&discovered.issuer).to_vec(), oauth.issuer.as_deref())
        }
    };
    let mut problem = String::new();
    for url in urls {
        let answer = match http.get(&url, None).await {
            Ok(answer) => answer,
            Err(error) => return wrong(format!("{name}: its provider cannot be reached: {error}")),
        };
        if let Some(issuer) = issuer {
            if answer.status != 200 {
                // What the first place said is more to the point than that the second is empty.
                if problem.is_empty() {
                    problem = format!("its metadata is answered with status {}", answer.status);
                }
                continue;
            }
            if let Err(why) = discovery::read(&answer.body, issuer) {
                problem = why;
                continue;
            }
        }
        let now = clock.now().wall.as_secs();
        return match answer.date.map(|date| date.abs_diff(now)) {
            Some(skew) if skew > MOST_SKEW => wrong(format!(
                "{name}: this machine's clock is {} away from the provider's",
                output::duration(skew)
            ))
            .fix("timedatectl set-ntp true"),
            _ if issuer.is_some() => fine(format!("{name}: its provider was found by its issuer")),
            _ => fine(format!("{name}: its provider can be reached")),
        };
    }
    wrong(format!("{name}: {problem}; check `issuer`"))
}
