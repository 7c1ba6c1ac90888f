//! Whole commands, from their start to their end: time and processor time.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bearerd::clock::Clock;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use crate::figures::{Findings, Goal, Samples};
use crate::peers::{ATTRIBUTE, GOA_ACCOUNT, GOA_NAME, GOA_OAUTH2};
use crate::plot::{self, Bar};
use crate::stage::{ACCOUNT, BEARERCTL, Stage};
use crate::support::Error;
use crate::{TOKEN_LENGTH, pin};

const FLOOR: &str = "/bin/true";
const OURS: &str = "bearerctl token";
const OIDC_TOKEN: &str = "oidc-token";
const PLOT: &str = "speed-commands.svg";

struct Row {
    name: &'static str,
    command: Command,
    wall: Samples,
    processor: Samples,
}

pub(crate) async fn measure(rounds: usize) -> Result<Findings, Error> {
    pin(false)?;
    let stage = Stage::set(true).await?;
    let clock = Clock::system()?;
    let mut rows = rows(&stage);
    for Row { name, command, .. } in rows.iter_mut().skip(1) {
        let output = command.output().map_err(|error| format!("{name}: {error}"))?;
        if output.stdout.len() < TOKEN_LENGTH {
            return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
    }
    for Row { command, .. } in &mut rows {
        command.stdout(Stdio::null());
    }
    for round in 0..rounds {
        let many = rows.len();
        for turn in 0..many {
            let Some(row) = rows.get_mut((turn + round) % many) else { continue };
            let (used, started) = (used_by_children()?, clock.now().boot);
            if !row.command.status()?.success() {
                return Err(format!("{} failed", row.name).into());
            }
            row.wall.add(clock.now().boot.since(started));
            row.processor.add(used_by_children()?.saturating_sub(used));
        }
    }
    findings(&rows)
}

fn findings(rows: &[Row]) -> Result<Findings, Error> {
    let median =
        |name: &str| rows.iter().find(|row| row.name == name).map_or(f64::NAN, |row| row.wall.median());
    let mut findings = Findings::default();
    findings.text.push_str("| command | ms | processor ms | times `true` |\n|---|--:|--:|--:|\n");
    for row in rows {
        let (wall, processor) = (row.wall.in_milliseconds(), row.processor.in_milliseconds());
        let ratio = row.wall.median() / median(FLOOR);
        writeln!(findings.text, "| `{}` | {wall} | {processor} | {ratio:.2} |", row.name)?;
    }
    if median(OIDC_TOKEN).is_finite() {
        findings.goals.push(Goal::at_most(
            "`bearerctl token`: median beside `oidc-token`'s",
            median(OURS) / median(OIDC_TOKEN),
            1.0,
        ));
    }
    let title = "One command, ms (median and quartiles)";
    let bars = rows.iter().map(|row| Bar {
        name: row.name.to_owned(),
        ours: row.name.starts_with(OURS),
        value: row.wall.median(),
        spread: Some((row.wall.quantile(1, 4), row.wall.quantile(3, 4))),
        label: format!("{:.2}", row.wall.median() / 1e3),
    });
    findings.plots.push((PLOT, plot::bars(title, &bars.collect::<Vec<_>>())));
    write!(findings.text, "\n![{title}](images/{PLOT})\n\n")?;
    Ok(findings)
}

fn rows(stage: &Stage) -> Vec<Row> {
    let bus = &stage.bus;
    let command = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        bus.adopt(command.args(arguments)).stdin(Stdio::null());
        command
    };
    let mut over_the_bus = command(BEARERCTL, &["token"]);
    // No direct socket is there.
    over_the_bus.env("XDG_RUNTIME_DIR", Path::new("/nonexistent"));
    let (name, path) = (bearerd::bus::NAME, bearerd::bus::ROOT_PATH);
    let destination = format!("--dest={name}");
    let address = format!("--address={}", bus.address());
    let mut commands = vec![
        (FLOOR, command(FLOOR, &[])),
        (OURS, command(BEARERCTL, &["token"])),
        ("bearerctl token, over the bus", over_the_bus),
        ("dbus-send … GetToken", {
            let method = format!("{name}.GetToken");
            let account = format!("string:{ACCOUNT}");
            command("dbus-send", &["--session", "--print-reply", &destination, path, &method, &account])
        }),
        ("busctl call … GetToken", {
            command("busctl", &[&address, "call", name, path, name, "GetToken", "s", ACCOUNT])
        }),
    ];
    if let Some(agent) = &stage.peers.oidc_agent {
        let mut command = agent.command(bus, OIDC_TOKEN);
        command.arg(ACCOUNT);
        commands.push((OIDC_TOKEN, command));
    }
    if stage.peers.keyring.is_some() {
        let (key, value) = ATTRIBUTE;
        commands.push(("secret-tool lookup", command("secret-tool", &["lookup", key, value])));
    }
    if stage.peers.goa.is_some() {
        let arguments = [&address, "call", GOA_NAME, GOA_ACCOUNT, GOA_OAUTH2, "GetAccessToken"];
        commands.push(("busctl call … GetAccessToken (GOA)", command("busctl", &arguments)));
    }
    let row =
        |(name, command)| Row { name, command, wall: Samples::default(), processor: Samples::default() };
    commands.into_iter().map(row).collect()
}

/// The processor time of all commands that have ended.
fn used_by_children() -> Result<Duration, Error> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}
