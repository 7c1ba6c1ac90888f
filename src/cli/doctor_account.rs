//! `bearerctl doctor ACCOUNT`: one account and its provider, looked at closer.

use url::Url;

use super::doctor::{self, Finding, MOST_SKEW, fine, note, wrong};
use super::failure::Failure;
use super::metadata::{self, Found, Missing};
use super::output;
use crate::clock::Clock;
use crate::config::{Config, ConfigDirs, Endpoints, ExplicitEndpoints, OAuthConfig, RedirectUri, Source};
use crate::oidc::error::Class;
use crate::oidc::http::{CALL_TIMEOUT, Http};
use crate::oidc::text::shell_word;

/// Prints every finding; fails when something is wrong.
pub(super) async fn examine(name: &str, json: bool) -> Result<(), Failure> {
    let config = Config::load(&ConfigDirs::from_env())
        .map_err(|error| Failure::failed(format!("{error}; correct it, then: bearerctl reload")))?;
    let account = config.account(name).map_err(|error| Failure::usage(error.to_string()))?;
    let Source::OAuth(oauth) = &account.source else {
        return doctor::report(&[fine("a personal token is asked nothing at a provider")], json);
    };
    let clock = Clock::system().map_err(|error| Failure::failed(format!("no clock: {error}")))?;
    let mut findings = provider(oauth, &account.provider, &clock).await;
    findings.extend(redirect(oauth));
    findings.push(note(format!(
        "what its logins' token answers held (names and lifetimes only): journalctl --user -u bearerd \
         F_CLIENT_ID={} -g \"token answer held\"",
        shell_word(&oauth.client_id)
    )));
    doctor::report(&findings, json)
}

async fn provider(oauth: &OAuthConfig, preset: &str, clock: &Clock) -> Vec<Finding> {
    let http = Http::new(oauth.ca_file.clone());
    let mut findings = Vec::new();
    let found = match &oauth.issuer {
        Some(issuer) => metadata::fetch(&http, issuer).await,
        None => Err(Missing::Unusable("it has no issuer".to_owned())),
    };
    let needed = matches!(oauth.endpoints, Endpoints::Discovered(_));
    match &found {
        Ok(found) => {
            findings.push(fine(format!("metadata: {}, of exactly this issuer", found.location)));
            findings.push(if found.location.scheme() == "https" {
                fine("TLS: its certificate is trusted".to_owned())
            } else {
                note("TLS: none; the issuer is on this machine".to_owned())
            });
            findings.extend(clocks(found.date, clock));
            findings.extend(found.offers().into_iter().map(|line| note(format!("it offers {line}"))));
        }
        Err(Missing::Unreachable(why)) => {
            findings.push(wrong(format!(
                "it cannot be reached: {why}; check the network, `issuer` and `ca_file`"
            )));
        }
        Err(Missing::Unusable(why)) if needed => findings.push(wrong(format!("{why}; check `issuer`"))),
        Err(Missing::Unusable(_)) => {
            findings.push(note(
                "no metadata: its endpoints are taken from the configuration as they are".to_owned(),
            ));
        }
    }
    match (&found, &oauth.endpoints) {
        (Ok(found), Endpoints::Explicit(explicit)) => findings.extend(stale(explicit, found, preset)),
        (Err(Missing::Unusable(_)), Endpoints::Explicit(explicit)) => {
            findings.extend(probes(&http, explicit, &oauth.client_id, clock).await);
        }
        _ => {}
    }
    findings
}

/// Whether endpoints that no metadata can be compared with are there. They are asked with the client's id alone, for
/// some know no address without one, and each by its own method.
async fn probes(http: &Http, explicit: &ExplicitEndpoints, client_id: &str, clock: &Clock) -> Vec<Finding> {
    let mut page = explicit.authorization.clone();
    page.query_pairs_mut().append_pair("client_id", client_id).append_pair("response_type", "code");
    let form = [("client_id", client_id)];
    let answers = [
        ("authorization_endpoint", &explicit.authorization, http.get(&page, None).await),
        (
            "token_endpoint",
            &explicit.token,
            http.post_form(&explicit.token, None, None, &form, CALL_TIMEOUT).await,
        ),
    ];
    let date = answers.iter().find_map(|(.., answer)| answer.as_ref().ok()?.date);
    let mut findings = Vec::new();
    for (key, url, answer) in answers {
        findings.push(match answer {
            Ok(answer) if matches!(answer.status, 404 | 410) => wrong(format!(
                "{key}: {url} is answered with status {}, so it may be stale, or `client_id` wrong: compare them with \
                 the provider's documentation",
                answer.status
            )),
            Ok(answer) => fine(format!("{key}: it is there (status {})", answer.status)),
            // Pages are not always small.
            Err(why) if why.class == Class::Malformed => fine(format!("{key}: it is there")),
            Err(why) => wrong(format!(
                "{key}: {url} cannot be reached: {why}; check the network and `ca_file`; it may be stale: compare it \
                 with the provider's documentation"
            )),
        });
    }
    findings.extend(clocks(date, clock));
    findings
}

fn clocks(date: Option<u64>, clock: &Clock) -> Option<Finding> {
    let skew = date?.abs_diff(clock.now().wall.as_secs());
    Some(if skew > MOST_SKEW {
        wrong(format!("clock: {} away from the provider's", output::duration(skew)))
            .fix("timedatectl set-ntp true")
    } else {
        fine(format!("clock: {} from the provider's", output::duration(skew)))
    })
}

/// Endpoints of the configuration, or of a preset, that the provider itself names otherwise.
fn stale(explicit: &ExplicitEndpoints, found: &Found, preset: &str) -> Vec<Finding> {
    let whose =
        if preset.is_empty() { "the configuration".to_owned() } else { format!("the preset {preset:?}") };
    let pairs = [
        ("authorization_endpoint", &explicit.authorization, &found.metadata.authorization_endpoint),
        ("token_endpoint", &explicit.token, &found.metadata.token_endpoint),
    ];
    let stale = |(key, ours, theirs): &(&str, &Url, &Url)| {
        (ours != theirs).then(|| {
            wrong(format!(
                "{key}: {whose} has {ours}, its metadata {theirs}; if that is right: set {key} in the account to it"
            ))
        })
    };
    let findings: Vec<Finding> = pairs.iter().filter_map(stale).collect();
    if findings.is_empty() {
        vec![fine(format!("endpoints: {whose} agrees with the metadata"))]
    } else {
        findings
    }
}

fn redirect(oauth: &OAuthConfig) -> Vec<Finding> {
    let mut findings = vec![note(format!("register the redirect URI {}", doctor::redirect(&oauth.redirect)))];
    let keycloak = oauth.issuer.as_deref().is_some_and(|issuer| issuer.contains("/realms/"));
    match &oauth.redirect {
        RedirectUri::Loopback(loopback) if loopback.port.is_none() && keycloak => findings.push(note(format!(
            "Keycloak ignores the port only if the URI is registered without one: http://{}/*, and no \"*\" for a port",
            loopback.host
        ))),
        RedirectUri::Loopback(loopback) if loopback.port.is_none() => findings.push(note(
            "if the provider wants a certain port: redirect_uri = \"http://127.0.0.1:8765/callback\"".to_owned(),
        )),
        RedirectUri::Loopback(_) | RedirectUri::Elsewhere(_) => {}
    }
    findings.push(note(
        "a wrong redirect URI shows as an error page in the browser, and the login here just waits"
            .to_owned(),
    ));
    findings
}
