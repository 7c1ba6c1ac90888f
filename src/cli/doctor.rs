//! `bearerctl doctor`: everything that has to be right, checked one by one, and what to do about the rest.
//!
//! The one command that looks beside the bus: it reads the configuration and asks the providers itself, for
//! a daemon that can't start or reach anything could not tell.

use std::collections::HashMap;

use zbus::fdo::DBusProxy;
use zbus::names::BusName;
use zbus::zvariant::OwnedObjectPath;

use super::broker::{Broker, text};
use super::failure::Failure;
use super::output;
use crate::bus::NAME;
use crate::clock::Clock;
use crate::config::{Config, ConfigDirs, Endpoints, OAuthConfig, RedirectUri, Source};
use crate::oidc::discovery;
use crate::oidc::http::Http;

const SECRETS: &str = "org.freedesktop.secrets";
/// ID tokens are refused when the clocks are further apart.
const MOST_SKEW: u64 = 600;

enum Finding {
    Fine(String),
    /// Worth knowing; nothing is broken.
    Note(String),
    /// Broken, with what to do.
    Wrong(String),
}

use Finding::{Fine, Note, Wrong};

/// Prints every finding; fails when something is wrong.
pub(super) async fn examine() -> Result<(), Failure> {
    let mut wrong = 0_usize;
    let mut tell = |finding: Finding| {
        let (mark, text) = match finding {
            Fine(text) => ("ok    ", text),
            Note(text) => ("note  ", text),
            Wrong(text) => {
                wrong += 1;
                ("WRONG ", text)
            }
        };
        output::data(&format!("{mark}{text}"))
    };
    let config = Config::load(&ConfigDirs::from_env());
    match &config {
        Ok(config) => {
            tell(match config.accounts.len() {
                0 => Wrong("configuration: no account; see README.md, \"First login\"".to_owned()),
                1 => Fine("configuration: 1 account".to_owned()),
                count => Fine(format!("configuration: {count} accounts")),
            });
            for warning in &config.warnings {
                tell(Note(format!("configuration: {warning}")));
            }
        }
        Err(error) => {
            tell(Wrong(format!("configuration: {error}; correct it, then: bearerctl reload")));
        }
    }
    let broker = match Broker::connect().await {
        Ok(broker) => {
            tell(Fine("session bus".to_owned()));
            for finding in on_the_bus(&broker).await {
                tell(finding);
            }
            Some(broker)
        }
        Err(failure) => {
            tell(Wrong(failure.to_string()));
            None
        }
    };
    let states = match &broker {
        Some(broker) => match broker.all_properties().await {
            Ok(accounts) => {
                tell(Fine("bearerd answers".to_owned()));
                accounts.into_iter().collect::<HashMap<_, _>>()
            }
            Err(failure) => {
                tell(Wrong(format!("bearerd: {failure}")));
                HashMap::new()
            }
        },
        None => HashMap::new(),
    };
    let clock = Clock::system().map_err(|error| Failure::failed(format!("no clock: {error}")))?;
    for (name, account) in config.iter().flat_map(|config| &config.accounts) {
        match states.get(name.as_str()) {
            Some(properties) if text(properties, "State") == "ready" => {
                tell(Fine(format!("{name}: ready")));
            }
            Some(properties) => {
                let (state, message) = (text(properties, "State"), text(properties, "StateMessage"));
                tell(if state == "logged-out" {
                    Note(format!("{name}: {message}"))
                } else {
                    Wrong(format!("{name}: {state}: {message}"))
                });
            }
            None if broker.is_some() && !states.is_empty() => {
                tell(Wrong(format!("{name}: bearerd does not know it yet; run: bearerctl reload")));
            }
            None => {}
        }
        if let Source::OAuth(oauth) = &account.source {
            tell(Note(format!("{name}: register the redirect URI {}", redirect(&oauth.redirect))));
            tell(provider(name.as_str(), oauth, &clock).await);
        }
    }
    if wrong == 0 {
        Ok(())
    } else {
        Err(Failure::failed(format!("{wrong} found wrong; each line says what to do")))
    }
}

/// Activation, the unit and the keyring.
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
        Fine("activation file".to_owned())
    } else {
        Wrong("activation: the bus cannot start bearerd; run: bearerctl setup".to_owned())
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
            Ok("enabled") => Fine("unit: enabled, starts with your session".to_owned()),
            Ok(_) => Note(
                "unit: started by the first call; to renew sessions from the start: systemctl --user enable --now bearerd"
                    .to_owned(),
            ),
            Err(_) => Wrong(
                "unit: bearerd.service is not installed; run: bearerctl setup"
                    .to_owned(),
            ),
        }
    } else {
        Note("unit: no systemd user manager on this bus; the bus itself starts bearerd".to_owned())
    });
    findings.push(if owned(SECRETS).await || is_activatable(SECRETS) {
        keyring(connection).await
    } else {
        Wrong(
            "keyring: nothing provides org.freedesktop.secrets; install gnome-keyring, KWallet or KeePassXC, \
             or set store = \"memory\""
                .to_owned(),
        )
    });
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
        Ok(Some(false)) => Fine("keyring: unlocked".to_owned()),
        Ok(Some(true)) => Note("keyring: locked; run: bearerctl unlock".to_owned()),
        Ok(None) => Note("keyring: it has no default collection yet; the first login makes one".to_owned()),
        Err(error @ zbus::Error::MethodError(..)) => Wrong(format!("keyring: it does not answer: {error}")),
        Err(error) => Wrong(format!("keyring: {error}")),
    }
}

fn redirect(redirect: &RedirectUri) -> String {
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
            Err(error) => return Wrong(format!("{name}: its provider cannot be reached: {error}")),
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
            Some(skew) if skew > MOST_SKEW => Wrong(format!(
                "{name}: this machine's clock is {} away from the provider's; set it right (timedatectl set-ntp true)",
                output::duration(skew)
            )),
            _ if issuer.is_some() => Fine(format!("{name}: its provider was found by its issuer")),
            _ => Fine(format!("{name}: its provider can be reached")),
        };
    }
    Wrong(format!("{name}: {problem}; check `issuer`"))
}
