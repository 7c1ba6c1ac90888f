//! `bearerd-sandbox`: the whole thing on a private bus with a provider of its own, as a tour or around a command.
//!
//! Part of the `sandbox` feature, which packages leave out of the daemon.

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, ValueEnum};

use environment::Environment;
use provider::{Fault, Settings};

pub mod consent;
mod environment;
pub mod provider;
mod tour;

/// Shows what bearerd does, in a session of its own: nothing of yours is touched.
///
/// Without a command it is a tour of half a minute. With one, after --, the command runs in that
/// session, logged in to the account "sandbox", and its exit code is ours; $BEARERD_SANDBOX_API is an
/// address that answers 200 to a valid token, and 401 to others.
#[derive(Parser)]
#[command(name = "bearerd-sandbox", version, max_term_width = 100)]
struct Arguments {
    /// Let the real browser answer the consent page.
    #[arg(long)]
    browser: bool,
    /// How long the provider's access tokens live.
    #[arg(long, value_name = "DURATION", value_parser = crate::cli::parse_duration)]
    access_ttl: Option<Duration>,
    /// How long the provider keeps an idle session.
    #[arg(long, value_name = "DURATION", value_parser = crate::cli::parse_duration)]
    session_ttl: Option<Duration>,
    /// Refresh tokens can be used again.
    #[arg(long)]
    no_rotation: bool,
    /// What the provider does to refreshes once the command runs.
    #[arg(long, value_enum, requires = "command")]
    fail: Option<Failing>,
    /// Runs in the session instead of the tour.
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Failing {
    /// Nothing listens any more.
    Down,
    /// Requests are never answered.
    Hang,
    /// A web page where JSON should be.
    Html,
    /// 503 with Retry-After.
    Busy,
    /// The session is over.
    Ended,
    /// The client is refused.
    Refused,
}

/// Its arguments, for the manual.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the tour or the command; or, under their names, the two programs that both need.
#[must_use]
pub fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    match std::path::Path::new(&called).file_name().and_then(|name| name.to_str()) {
        Some("bearerd") => return crate::process::main(),
        Some("bearerctl" | "bearerctl-askpass") => return crate::cli::main(),
        _ => {}
    }
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    match runtime.block_on(run(arguments)) {
        Ok(code) => code,
        Err(why) => fail(&why),
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, String> {
    let tour = arguments.command.is_empty();
    let default = Settings::default();
    let settings = Settings {
        access_lifetime: arguments.access_ttl.unwrap_or(default.access_lifetime),
        session_lifetime: arguments.session_ttl.unwrap_or(if tour {
            tour::SESSION
        } else {
            default.session_lifetime
        }),
        rotation: !arguments.no_rotation,
        ..default
    };
    let environment = Environment::start(settings).await?;
    if tour {
        tour::walk(&environment, arguments.browser).await?;
        return Ok(ExitCode::SUCCESS);
    }
    environment.log_in(arguments.browser).await?;
    if let Some(failing) = arguments.fail {
        fail_as(&environment.provider, failing);
    }
    environment.run(&arguments.command).await
}

fn fail_as(provider: &provider::Provider, failing: Failing) {
    let fault = match failing {
        Failing::Down => return provider.go_down(),
        Failing::Ended => return provider.end_sessions(),
        Failing::Hang => Fault::Hold,
        Failing::Html => Fault::html(200),
        Failing::Busy => {
            Fault::error(503, "temporarily_unavailable", "busy").with_header("retry-after", "30")
        }
        Failing::Refused => Fault::error(401, "invalid_client", "unknown client"),
    };
    provider.always(Some(fault));
}

#[expect(clippy::print_stderr, reason = "a program for terminals")]
fn fail(why: &str) -> ExitCode {
    eprintln!("bearerd-sandbox: {why}");
    ExitCode::FAILURE
}
