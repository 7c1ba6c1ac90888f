//! How long a token takes beside floors that return as much with nothing behind them, and beside what else hands
//! out tokens on a desktop: over kept connections with 1 to 1000 callers, by one command, and after a start; what a
//! daemon costs that nobody asks; and how all that grows with callers and accounts.
//!
//! All rows of a table are measured in turn, round by round, and ratios are judged alone: absolute times are the
//! machine's. The quick form, for every change, measures what the design has as ratios, and ends with 1 when one
//! is missed. The long form takes the peers that are installed along, and writes figures and plots into the
//! documentation.
//!
//! usage: cargo bench --bench get_token [-- --quick | --only PART | --write docs/performance.md]

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use figures::Findings;
use kept::Extent;
use support::Error;

mod commands;
mod expired;
mod figures;
mod floor;
mod idle;
mod kept;
mod peers;
mod plot;
mod report;
mod stage;
mod starts;
#[path = "../support/mod.rs"]
mod support;

/// As long as Keycloak's access tokens.
const TOKEN_LENGTH: usize = 1100;
/// Names and titles.
const PARTS: [(&str, &str); 5] = [
    ("kept", "Kept connections"),
    ("commands", "One command"),
    ("expired", "One expired token, 1000 callers"),
    ("starts", "Starts"),
    ("idle", "Idle, with 1, 100 and 1000 accounts"),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| Some(arguments.get(arguments.iter().position(|a| a == flag)? + 1)?.as_str());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let end = runtime.map_err(Error::from).and_then(|runtime| {
        if let Some(folder) = after("--serve-floor") {
            return runtime.block_on(floor::serve(Path::new(folder))).map(|()| true);
        }
        if arguments.iter().any(|argument| argument == "--quick") {
            return runtime.block_on(judge());
        }
        runtime.block_on(everything(after("--only"), after("--write").map(Path::new)))
    });
    match end {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("get_token: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A miss is measured again, twice: what disturbs one run hardly disturbs three.
async fn judge() -> Result<bool, Error> {
    for _ in 0..3 {
        let findings = kept::measure(Extent::Goals, true, 20).await?;
        println!("{}\n{}", findings.text, report::goals(&findings));
        if findings.goals.iter().all(|goal| goal.met) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `part` is one of [`PARTS`]; without, they are all measured.
async fn everything(part: Option<&str>, file: Option<&Path>) -> Result<bool, Error> {
    let mut findings = Findings::default();
    for (name, title) in PARTS {
        if part.is_some_and(|part| part != name) {
            continue;
        }
        write!(findings.text, "### {title}\n\n")?;
        match name {
            "kept" => {
                findings.extend(kept::measure(Extent::Everything, true, 12).await?);
                findings.extend(kept::measure(Extent::Everything, false, 12).await?);
            }
            "commands" => findings.extend(commands::measure(200).await?),
            "expired" => findings.extend(expired::measure().await?),
            "starts" => findings.extend(starts::measure().await?),
            _ => findings.extend(idle::measure().await?),
        }
    }
    // The report says how many cores there are.
    pin(false)?;
    println!("{}\n{}", report::goals(&findings), findings.text);
    if let Some(file) = file {
        report::write(file, &findings)?;
    }
    Ok(findings.goals.iter().all(|goal| goal.met))
}

/// Whether all that is started from here on shares one core.
fn pin(to_one: bool) -> Result<(), Error> {
    let mut cores = rustix::thread::CpuSet::new();
    for core in 0..if to_one { 1 } else { rustix::thread::CpuSet::MAX_CPU } {
        cores.set(core);
    }
    Ok(rustix::thread::sched_setaffinity(None, &cores)?)
}
