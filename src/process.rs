//! The daemon as a process: logging, limits, runtime, then [`daemon::run`].

use std::process::ExitCode;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use crate::config::ConfigDirs;
use crate::recovery::Vault;
use crate::{daemon, logging};

/// Buses, timers, routes, a connection to each provider and the callers' descriptors. With fewer, what fails
/// is left to chance, the lock against a second daemon for one.
const LEAST_FILES: u64 = 64;

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(argument) = std::env::args().nth(1) {
        return answer(&argument);
    }
    let levels = match logging::start() {
        Ok(levels) => levels,
        Err(error) => return fail(&error.to_string()),
    };
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < LEAST_FILES) {
        return fail(&format!(
            "a limit of {limit} open files is too low; raise LimitNOFILE= or `ulimit -n` to {LEAST_FILES} at least"
        ));
    }
    let vault = Vault::inherited();
    forbid_dumps();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    let end = runtime.block_on(async {
        let connection = zbus::Connection::session().await?;
        let system = zbus::Connection::system();
        daemon::run(connection, system, ConfigDirs::from_env(), vault, levels).await
    });
    // A read that blocks on a caller's descriptor must not hold up the end.
    runtime.shutdown_background();
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot go on");
            ExitCode::FAILURE
        }
    }
}

/// Tokens are in memory: no core dump, and no look by other processes of the user.
fn forbid_dumps() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps could not be forbidden");
    }
    // Under the unit the limit is there already, and changing it is not allowed.
    if getrlimit(Resource::Core).current != Some(0)
        && let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
    {
        tracing::debug!(%error, "the limit of core dumps could not be set");
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the two answers of a program without options")]
fn answer(argument: &str) -> ExitCode {
    match argument {
        "--version" | "-V" => println!("bearerd {}", env!("CARGO_PKG_VERSION")),
        "--help" | "-h" => println!(
            "bearerd: the token broker of this session. It takes no arguments; systemd or D-Bus starts it.\n\
             Configuration: ~/.config/bearerd/config.toml. Command line: bearerctl --help.\n\
             Environment: BEARERD_LOG sets the log level (error, warn, info, debug, trace)."
        ),
        _ => {
            eprintln!("bearerd: it takes no arguments; see: bearerd --help");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "logging is not there yet")]
fn fail(why: &str) -> ExitCode {
    eprintln!("bearerd: {why}");
    ExitCode::FAILURE
}
