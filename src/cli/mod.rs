//! `bearerctl`: the contract for people and shell scripts. Data goes to stdout, everything else to stderr.
//!
//! **Invariant:** talks D-Bus only, `doctor`, `setup` and `add` apart, which are for a bearerd that can't be talked
//! to; no token or secret is ever an argument.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use broker::Broker;
use failure::Failure;

mod adapters;
mod add;
mod broker;
mod browser;
mod direct;
mod doctor;
mod doctor_account;
mod examples;
mod failure;
mod log;
mod login;
mod manual;
mod metadata;
mod output;
mod permissions;
mod secret_input;
mod setup;
mod status;
mod token;
mod unlock;
mod watch;

#[cfg(feature = "sandbox")]
pub(crate) use output::parse_duration;

/// Log in once; every program gets a valid access token.
///
/// ACCOUNT may be left out when there is a default account, or only one.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 login required, 4 keyring locked or absent,
/// 5 retry later, 6 refused by the provider or by policy, 130 ended by Ctrl-C.
#[derive(Parser)]
#[command(name = "bearerctl", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Request(Request),
    /// Run a command with a token file that is kept fresh; its path is in BEARER_TOKEN_FILE.
    #[command(after_help = examples::EXEC)]
    Exec {
        /// By default the default account, or the only one.
        #[arg(value_parser = account_name)]
        account: Option<String>,
        /// Put the token into BEARER_TOKEN too, where it is not kept fresh.
        #[arg(long)]
        env: bool,
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Add an account: looks at what its provider offers, writes a commented file, and logs in.
    #[command(display_order = 0)]
    Add(add::Wanted),
    /// Check everything that has to be right, and say what to do about the rest.
    Doctor {
        /// Look at this account and its provider alone, and closer.
        #[arg(value_parser = account_name)]
        account: Option<String>,
        /// A list of findings: check, verdict (ok, note, wrong), text, and fix: a command, or null where none mends it.
        #[arg(long)]
        json: bool,
    },
    /// Make a bearerd that was installed below your home known to systemd and the bus, or repair that.
    Setup {
        /// Undo it.
        #[arg(long)]
        remove: bool,
    },
    /// Print completions for a shell.
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// Which one.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands into a folder.
    Man {
        /// One that exists; a page is a file there.
        folder: Option<std::path::PathBuf>,
    },
}

/// What bearerd is asked to do.
#[derive(Subcommand)]
enum Request {
    /// Log in: opens the browser, waits, and says who is logged in.
    #[command(after_help = examples::LOGIN)]
    Login {
        /// By default the default account, or the only one.
        #[arg(value_parser = account_name)]
        account: Option<String>,
        /// Print the address only.
        #[arg(long)]
        no_browser: bool,
        /// Log in on any device: it shows a code to enter there. Chosen by itself where there is no browser.
        #[arg(long, conflicts_with_all = ["paste", "no_browser"])]
        device: bool,
        /// The browser is on another machine: paste the address on which it ends.
        #[arg(long)]
        paste: bool,
        /// Log in even if there is a session; it serves until the new one is there.
        #[arg(long)]
        force: bool,
        /// Wait no longer than this, such as 90s or 5m; the login itself lasts for `login_timeout`, by default 10 minutes.
        #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
        timeout: Option<Duration>,
    },
    /// Print a valid access token.
    #[command(after_help = examples::TOKEN)]
    Token {
        #[command(flatten)]
        wanted: token::Wanted,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: adapters::Format,
        /// Whom the mail server knows, for xoauth2; by default who is logged in.
        #[arg(long)]
        user: Option<String>,
    },
    /// A credential helper for git, which runs it by itself.
    #[command(after_help = examples::GIT_CREDENTIAL)]
    GitCredential {
        /// By default the account whose api_origins has the server.
        #[arg(long, value_parser = account_name)]
        account: Option<String>,
        /// Named by git, which has the rest on stdin.
        operation: adapters::GitOperation,
    },
    /// Answer a prompt for a password, for GIT_ASKPASS and its like; also by the name bearerctl-askpass.
    #[command(after_help = examples::ASKPASS)]
    Askpass {
        /// What the other program would show, with the address that it is about.
        prompt: String,
    },
    /// Report a token that an API answered with 401; the token is read from stdin.
    #[command(after_help = examples::REJECT)]
    Reject {
        /// By default the default account, or the only one.
        #[arg(value_parser = account_name)]
        account: Option<String>,
    },
    /// Show the accounts: state, who, when things expire.
    Status {
        /// This one only.
        #[arg(value_parser = account_name)]
        account: Option<String>,
        /// For programs.
        #[arg(long)]
        json: bool,
        /// Follow the changes, until Ctrl-C.
        #[arg(long, short, conflicts_with = "json")]
        watch: bool,
    },
    /// Print each change of an account's state, until Ctrl-C.
    Monitor {
        /// This one only.
        #[arg(value_parser = account_name)]
        account: Option<String>,
        /// A line of JSON for each change, with all that changed.
        #[arg(long)]
        json: bool,
    },
    /// Show who asked for what, and what came of it.
    #[command(after_help = examples::LOG)]
    Log {
        /// This one only.
        #[arg(value_parser = account_name)]
        account: Option<String>,
        /// Only callers with this in their name, unit or chain of processes.
        #[arg(long, value_name = "TEXT")]
        caller: Option<String>,
        /// Only this outcome: granted, or an error's word such as AccessDenied.
        #[arg(long, value_name = "WORD")]
        outcome: Option<String>,
        /// Go on with what comes, until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
        /// For programs: an object a line.
        #[arg(long)]
        json: bool,
    },
    /// Hand no token out to anybody until `bearerctl resume`; sessions are kept alive.
    Pause,
    /// Hand tokens out again.
    Resume,
    /// Show what was allowed for good, or forget an answer.
    Permissions {
        /// Be asked again about this caller, such as flatpak:org.example.Mail, and this account.
        #[arg(long, num_args = 2, value_names = ["CALLER", "ACCOUNT"])]
        forget: Option<Vec<String>>,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Remove the account's tokens, and end the session at the provider.
    Logout {
        /// By default the default account, or the only one.
        #[arg(value_parser = account_name)]
        account: Option<String>,
    },
    /// Refresh the access token now.
    Refresh {
        /// By default the default account, or the only one.
        #[arg(value_parser = account_name)]
        account: Option<String>,
    },
    /// Read the configuration again.
    Reload,
    /// Unlock the keyring, with its own prompt, and wait for it.
    Unlock,
    /// Store a personal token, from a hidden prompt or from stdin.
    #[command(after_help = examples::SET_TOKEN)]
    SetToken {
        /// By default the default account, or the only one.
        #[arg(value_parser = account_name)]
        account: Option<String>,
        /// Remove the stored one.
        #[arg(long)]
        remove: bool,
    },
    /// Store the client secret, from a hidden prompt or from stdin.
    #[command(after_help = examples::SET_SECRET)]
    SetSecret {
        /// Whose client it is.
        #[arg(value_parser = account_name)]
        account: String,
        /// Remove the stored one.
        #[arg(long)]
        remove: bool,
    },
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let words = words();
    if let Some(end) = shortcut(&words) {
        return end.map_or_else(|failure| report(&failure), |()| ExitCode::SUCCESS);
    }
    parse_and_run(words)
}

// Its stack is large, and a shortcut does without.
#[inline(never)]
fn parse_and_run(words: Vec<OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => error.exit(),
        Err(help) => {
            let end = Failure::unless_unread(output::written(help.print()));
            return end.map_or_else(|failure| report(&failure), |()| ExitCode::SUCCESS);
        }
    };
    if let Command::Request(Request::Token { wanted, format, user }) = &arguments.command
        && let Some(end) = token::print_directly(wanted, *format, user.as_deref())
    {
        return end.map_or_else(|failure| report(&failure), |()| ExitCode::SUCCESS);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::failed(format!("cannot start: {error}"))),
    };
    let end = runtime.block_on(run(arguments.command));
    // A prompt that still waits for a line must not hold up the end.
    runtime.shutdown_background();
    match end {
        Ok(code) => ExitCode::from(code),
        Err(failure) => report(&failure),
    }
}

/// `token` and `token ACCOUNT`, which scripts run again and again, need nothing of what follows.
fn shortcut(words: &[OsString]) -> Option<Result<(), Failure>> {
    let account = match words {
        [_, token] if token == "token" => "",
        [_, token, account] if token == "token" => {
            account.to_str().filter(|name| !name.is_empty() && !name.starts_with('-'))?
        }
        _ => return None,
    };
    let wanted = token::Wanted::of(account);
    token::print_directly(&wanted, adapters::Format::default(), None)
}

/// Our arguments; by the name of the helper for passwords, those of its command.
fn words() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let name = words.first().map(|word| Path::new(word).file_name().map(OsString::from));
    if name.flatten().is_some_and(|name| name == adapters::ASKPASS) {
        words.insert(1, "askpass".into());
    }
    words
}

async fn run(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Request(request) => ask(request).await,
        Command::Exec { account, env, command } => {
            let broker = Broker::connect().await?;
            return adapters::exec(&broker, &name(account), &command, env).await;
        }
        Command::Add(wanted) => add::add(wanted).await,
        Command::Doctor { account: None, json } => doctor::examine(json).await,
        Command::Doctor { account: Some(account), json } => doctor_account::examine(&account, json).await,
        Command::Setup { remove: false } => setup::install().await,
        Command::Setup { remove: true } => setup::remove().await,
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { folder } => manual::pages(folder.as_deref()),
    }?;
    Ok(0)
}

async fn ask(request: Request) -> Result<(), Failure> {
    let broker = Broker::connect().await?;
    match request {
        Request::Login { account, no_browser, device, paste, force, timeout } => {
            let flow = match (device, paste, no_browser) {
                (true, ..) => Some("device"),
                (_, true, _) => Some("paste"),
                (.., true) => Some("code"),
                _ => None,
            };
            let wanted = login::Wanted { account: name(account), flow, force, timeout };
            login::log_in(&broker, wanted).await
        }
        Request::Token { wanted, format, user } => {
            token::print(&broker, &wanted, format, user.as_deref()).await
        }
        Request::GitCredential { account, operation } => {
            adapters::git_credential(&broker, account.as_deref(), operation).await
        }
        Request::Askpass { prompt } => adapters::askpass(&broker, &prompt).await,
        Request::Reject { account } => token::reject(&broker, &name(account)).await,
        Request::Status { account, watch: true, .. } => {
            Failure::unless_unread(watch::table(&broker, account.as_deref()).await)
        }
        Request::Status { account, json, .. } => status::print(&broker, account.as_deref(), json).await,
        Request::Monitor { account, json } => {
            Failure::unless_unread(watch::monitor(&broker, account.as_deref(), json).await)
        }
        Request::Log { account, caller, outcome, follow, json } => {
            let account = match account {
                Some(account) => Some(broker.resolve(&account).await?),
                None => None,
            };
            let wanted = log::Wanted { account, caller, outcome, follow, json };
            Failure::unless_unread(log::print(&broker, &wanted).await)
        }
        Request::Pause => {
            broker.access().await?.pause().await?;
            output::note(status::PAUSED);
            Ok(())
        }
        Request::Resume => {
            let access = broker.access().await?;
            access.resume().await?;
            output::note(if access.paused().await? {
                "your pause has ended; the screen's lock goes on: nothing is handed out until you unlock it"
            } else {
                "tokens are handed out again"
            });
            Ok(())
        }
        Request::Permissions { forget: Some(forget), .. } => permissions::forget(&broker, &forget).await,
        Request::Permissions { forget: None, json } => permissions::print(&broker, json).await,
        Request::Logout { account } => {
            let account = broker.resolve(&name(account)).await?;
            let before = broker.properties(&account).await?;
            let ended = broker.root.logout(&account).await?;
            output::note(&if ended {
                format!("logged out of {account:?}; the provider ended the session too")
            } else if broker::text(&before, "State") == "logged-out" {
                format!("not logged in to {account:?}; nothing was ended")
            } else {
                format!(
                    "logged out of {account:?} here; the provider did not confirm that it ended the session"
                )
            });
            Ok(())
        }
        Request::Refresh { account } => {
            let account = broker.resolve(&name(account)).await?;
            broker.account(&account).await?.refresh().await?;
            output::note(&format!("refreshed {account:?}"));
            Ok(())
        }
        Request::Reload => {
            broker.root.reload().await?;
            output::note("the configuration was read");
            Ok(())
        }
        Request::Unlock => unlock::unlock(&broker).await,
        Request::SetToken { account, remove } => {
            let account = broker.resolve(&name(account)).await?;
            let fd = secret_input::read(&format!("personal token for {account:?}"), remove).await?;
            broker.root.set_personal_token(&account, fd.into()).await?;
            output::note(&stored("personal token", &account, remove));
            Ok(())
        }
        Request::SetSecret { account, remove } => {
            let account = broker.resolve(&account).await?;
            let fd = secret_input::read(&format!("client secret for {account:?}"), remove).await?;
            broker.root.set_client_secret(&account, fd.into()).await?;
            output::note(&stored("client secret", &account, remove));
            Ok(())
        }
    }
}

/// In a script an empty name is a variable that is not set, and the default account would be a guess.
fn account_name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("the account's name is empty; for the names run: bearerctl status");
    }
    Ok(text.to_owned())
}

/// The account "" is the default one.
fn name(account: Option<String>) -> String {
    account.unwrap_or_default()
}

fn stored(what: &str, account: &str, removed: bool) -> String {
    format!("{} the {what} of {account:?}", if removed { "removed" } else { "stored" })
}

fn report(failure: &Failure) -> ExitCode {
    let text = failure.to_string();
    if !text.is_empty() {
        output::note(&format!("bearerctl: {text}"));
    }
    ExitCode::from(failure.exit_code())
}

fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal() && is_capable()
}

fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal() && is_capable()
}

/// Whether terminals here can move their cursor.
fn is_capable() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Ctrl-C, for what has something to put in order first.
fn interrupts() -> Result<Signal, Failure> {
    signal(SignalKind::interrupt())
        .map_err(|error| Failure::failed(format!("cannot listen for Ctrl-C: {error}")))
}
