//! `bearerctl add`: a new account, from what its provider says about itself to the first login.
//!
//! **Invariant:** no file is ever overwritten, and none is written that the daemon would not read.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::broker::Broker;
use super::failure::Failure;
use super::metadata::{self, Found, Missing};
use super::{doctor, login, output, secret_input};
use crate::account::AccountName;
use crate::config::{ClientAuth, Config, ConfigDirs, Endpoints, OAuthConfig, Source};
use crate::oidc::http::Http;

/// Proposed where the provider knows them and nothing else is said.
const PROPOSED_SCOPES: [&str; 2] = ["openid", "profile"];

#[derive(Clone, clap::Args)]
pub(super) struct Wanted {
    /// What to call it.
    name: String,
    /// A preset, such as google; several need the issuer too.
    #[arg(long, value_name = "PRESET")]
    provider: Option<String>,
    /// The provider's address; everything else is discovered from it.
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// As registered at the provider.
    #[arg(long)]
    client_id: Option<String>,
    /// What to ask for; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// The client was registered without a secret.
    #[arg(long)]
    public: bool,
    /// Where the browser comes back, if the provider wants it with a certain port or path.
    #[arg(long, value_name = "URL")]
    redirect_uri: Option<String>,
    /// Trust the certificates in this PEM file too: for a provider whose own CA has signed its.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
    /// Log in at once; a client secret is asked for, or read from stdin.
    #[arg(long)]
    login: bool,
}

/// Looks, proposes, writes, and logs in.
pub(super) async fn add(mut wanted: Wanted) -> Result<(), Failure> {
    let asking = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let dirs = ConfigDirs::from_env();
    AccountName::parse(&wanted.name).map_err(|why| Failure::usage(why.to_string()))?;
    let config = Config::load(&dirs)
        .map_err(|error| Failure::failed(format!("{error}; correct that first, then add the account")))?;
    let path = dirs.user.join("accounts.d").join(format!("{}.toml", wanted.name));
    if config.accounts.contains_key(wanted.name.as_str()) || path.exists() {
        return Err(Failure::usage(format!(
            "there is an account or a file of that name already ({}); choose another name",
            path.display()
        )));
    }
    if let Some(file) = &mut wanted.ca_file {
        *file = readable(file)?;
    }
    let presets = Config::preset_names(&dirs).map_err(|error| Failure::failed(error.to_string()))?;
    // Everything but the client id can be checked before anybody has to register anything.
    let (draft, found) = provider(&dirs, &path, &mut wanted, asking, &presets).await?;
    output::note(&format!("register at the provider: {}", doctor::redirect(&draft.redirect)));
    if wanted.client_id.is_none() {
        wanted.client_id =
            Some(ask(asking, "the client id that it was registered under", "--client-id").await?);
    }
    if wanted.scopes.is_empty() {
        wanted.scopes = propose(&draft, found.as_ref());
        if asking {
            ask_scopes(&dirs, &path, &mut wanted).await?;
        }
    }
    let discovered = found.as_ref().and_then(|found| found.metadata.client_auth);
    let public = wanted.public || draft.client_auth.or(discovered) == Some(ClientAuth::None);
    let text = file(&wanted, &draft, found.as_ref());
    if self::draft(&dirs, &path, &wanted, Some(&text))?.is_none() {
        return Err(Failure::failed("the account needs an issuer; give --issuer"));
    }
    write(&path, &text)?;
    output::note(&format!("wrote {}", path.display()));

    let name = &wanted.name;
    let secret = if public { String::new() } else { format!("bearerctl set-secret {name}, then ") };
    let steps = format!("{secret}bearerctl login {name}");
    let next = |steps: &str| Failure::failed(format!("the account is written; next: {steps}"));
    let broker = Broker::connect().await?;
    broker
        .root
        .reload()
        .await
        .map_err(|error| next(&format!("bearerctl reload ({})", Failure::from(error))))?;
    let later = |failure: Failure| {
        output::note(&format!("the account is written; next: {steps}"));
        failure
    };
    let log_in = wanted.login
        || asking && !read_line("log in now? [Y/n]").await.map_err(later)?.starts_with(['n', 'N']);
    if !log_in {
        output::note(&format!("next: {steps}"));
        return Ok(());
    }
    if !public {
        let fd = secret_input::read(&format!("client secret for {name:?}"), false).await.map_err(later)?;
        broker.root.set_client_secret(name, fd.into()).await?;
    }
    let account = name.clone();
    let wanted = login::Wanted { account, flow: None, force: false, timeout: None };
    login::log_in(&broker, wanted).await
}

/// Which provider it is, as the daemon will read it, and what it offers. A wrong answer is asked again, a wrong flag not.
async fn provider(
    dirs: &ConfigDirs,
    path: &Path,
    wanted: &mut Wanted,
    asking: bool,
    presets: &[String],
) -> Result<(OAuthConfig, Option<Found>), Failure> {
    let flags = (wanted.provider.clone(), wanted.issuer.clone());
    loop {
        if wanted.provider.is_none() && wanted.issuer.is_none() {
            let hint = format!("a preset ({}) or an issuer's URL", presets.join(", "));
            let answer = ask(asking, &hint, "--provider or --issuer").await?;
            let place = if answer.contains("://") { &mut wanted.issuer } else { &mut wanted.provider };
            *place = Some(answer);
        }
        let wrong = match draft(dirs, path, wanted, None) {
            Ok(Some(draft)) => match look(&draft).await {
                Ok(found) => return Ok((draft, found)),
                Err(failure) => failure,
            },
            Ok(None) => {
                let hint = "the issuer's URL: this preset fits many";
                wanted.issuer = Some(ask(asking, hint, "--issuer").await?);
                continue;
            }
            Err(failure) => failure,
        };
        if (&wanted.provider, &wanted.issuer) == (&flags.0, &flags.1) {
            return Err(wrong);
        }
        output::note(&wrong.to_string());
        (wanted.provider, wanted.issuer) = flags.clone();
    }
}

/// Other scopes than the proposed ones, if they are wanted.
async fn ask_scopes(dirs: &ConfigDirs, path: &Path, wanted: &mut Wanted) -> Result<(), Failure> {
    let proposed = wanted.scopes.clone();
    let hint = format!("scopes, separated by spaces [{}]", proposed.join(" "));
    loop {
        let answer = read_line(&hint).await.map_err(unwritten)?;
        if !answer.is_empty() {
            wanted.scopes = answer.split_whitespace().map(str::to_owned).collect();
        }
        match draft(dirs, path, wanted, None) {
            Ok(_) => return Ok(()),
            Err(failure) => output::note(&failure.to_string()),
        }
        wanted.scopes.clone_from(&proposed);
    }
}

/// The file's path as the daemon, which is started elsewhere, needs it.
fn readable(file: &str) -> Result<String, Failure> {
    let unusable = |why: &dyn std::fmt::Display| Failure::usage(format!("--ca-file {file}: {why}"));
    let path = std::path::absolute(file).map_err(|error| unusable(&error))?;
    // Before anything is asked: no answer could correct it.
    std::fs::File::open(&path).map_err(|error| unusable(&error))?;
    path.into_os_string().into_string().map_err(|_| unusable(&"its whole path is not UTF-8"))
}

/// The account as the daemon will read it; `None` while the preset lacks its issuer.
fn draft(
    dirs: &ConfigDirs,
    path: &Path,
    wanted: &Wanted,
    text: Option<&str>,
) -> Result<Option<OAuthConfig>, Failure> {
    let placeholder = Wanted { client_id: Some("placeholder".to_owned()), ..wanted.clone() };
    let text = text.map_or_else(|| keys(&placeholder), str::to_owned);
    let config = match Config::read_draft(dirs, path, &text) {
        Ok(config) => config,
        Err(error) if wanted.issuer.is_none() && error.message.contains("needs `issuer`") => return Ok(None),
        Err(error) => return Err(Failure::usage(error.message)),
    };
    let account = config.accounts.into_values().next();
    Ok(account.and_then(|account| match &account.source {
        Source::OAuth(oauth) => Some(oauth.as_ref().clone()),
        Source::Personal => None,
    }))
}

/// Fetches and shows what the provider offers; nothing for endpoints that are known without it.
async fn look(draft: &OAuthConfig) -> Result<Option<Found>, Failure> {
    let (Endpoints::Discovered(_), Some(issuer)) = (&draft.endpoints, &draft.issuer) else { return Ok(None) };
    match metadata::fetch(&Http::new(draft.ca_file.clone()), issuer).await {
        Ok(found) => {
            output::note(&format!("{issuer} offers"));
            for line in found.offers() {
                output::note(&format!("  {line}"));
            }
            Ok(Some(found))
        }
        // The check of its certificate alone has that word.
        Err(Missing::Unreachable(why)) if draft.ca_file.is_none() && why.contains("certificate") => {
            Err(Failure::usage(format!(
                "{issuer} is not trusted: {why}; nothing was written: if its certificate is of your own CA, give that \
                 CA's with --ca-file FILE"
            )))
        }
        Err(Missing::Unreachable(why)) => Err(Failure::retry(format!(
            "{issuer} cannot be reached: {why}; nothing was written: check --issuer, or try again later"
        ))),
        Err(Missing::Unusable(why)) => {
            Err(Failure::usage(format!("{issuer}: {why}; nothing was written: give another --issuer")))
        }
    }
}

fn propose(draft: &OAuthConfig, found: Option<&Found>) -> Vec<String> {
    if !draft.scopes.is_empty() || found.is_none() {
        return draft.scopes.clone();
    }
    let known = found.and_then(|found| found.list("scopes_supported"));
    let wanted = PROPOSED_SCOPES
        .iter()
        .filter(|scope| known.as_ref().is_none_or(|known| known.iter().any(|known| known == *scope)));
    wanted.map(|&scope| scope.to_owned()).collect()
}

/// The account's table. JSON's strings and lists are TOML's.
fn keys(wanted: &Wanted) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = format!("[accounts.{}]\n", quoted(&wanted.name));
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key} = {value}");
    };
    for (key, value) in [
        ("provider", &wanted.provider),
        ("issuer", &wanted.issuer),
        ("client_id", &wanted.client_id),
        ("redirect_uri", &wanted.redirect_uri),
        ("ca_file", &wanted.ca_file),
    ] {
        if let Some(value) = value {
            line(key, quoted(value));
        }
    }
    if wanted.public {
        line("client_auth", quoted("none"));
    }
    if !wanted.scopes.is_empty() {
        line("scopes", serde_json::Value::from(wanted.scopes.clone()).to_string());
    }
    text
}

/// The whole file, with what a reader will want to know.
fn file(wanted: &Wanted, draft: &OAuthConfig, found: Option<&Found>) -> String {
    let mut text = format!(
        "# Written by: bearerctl add. After a change: bearerctl reload. All keys: docs/configuration.md\n\
         # To be registered at the provider: {}\n",
        doctor::redirect(&draft.redirect)
    );
    if let Some(found) = found {
        text.push_str("#\n# What the provider offered then:\n");
        for line in found.offers() {
            let _ = writeln!(text, "#   {line}");
        }
    }
    format!("{text}\n{}", keys(wanted))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(cannot)?;
    }
    let mut file =
        std::fs::File::options().write(true).create_new(true).mode(0o600).open(path).map_err(cannot)?;
    file.write_all(text.as_bytes()).map_err(cannot)
}

/// An answer from the terminal; where there is none, the flag that is missing.
async fn ask(asking: bool, what: &str, flag: &str) -> Result<String, Failure> {
    if !asking {
        return Err(Failure::usage(format!("give {flag}: {what}")));
    }
    loop {
        let answer = read_line(what).await.map_err(unwritten)?;
        if !answer.is_empty() {
            return Ok(answer);
        }
    }
}

/// What the user has left before anything came of it.
fn unwritten(failure: Failure) -> Failure {
    if failure == Failure::interrupted("") {
        return Failure::interrupted(
            "nothing was written; run it again, or give the answers as flags: bearerctl add --help",
        );
    }
    failure
}

async fn read_line(what: &str) -> Result<String, Failure> {
    let _ = write!(std::io::stderr().lock(), "{what}: ");
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        read.map(|length| (length > 0).then(|| line.trim().to_owned()))
    });
    tokio::select! {
        line = read => match line {
            Ok(Ok(Some(line))) => Ok(line),
            // Ctrl-D: there will be no answer.
            Ok(Ok(None)) => {
                output::note("");
                Err(Failure::interrupted(""))
            }
            _ => Err(Failure::usage("the terminal cannot be read; give everything as flags")),
        },
        _ = tokio::signal::ctrl_c() => {
            output::end_line();
            Err(Failure::interrupted(""))
        }
    }
}
