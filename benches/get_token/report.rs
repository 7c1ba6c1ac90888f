//! Figures and plots, into the documentation.

use std::path::Path;

use crate::figures::{Findings, Goal};
use crate::support::Error;

const BEGIN: &str = "<!-- figures: written by the benchmark -->";
const END: &str = "<!-- end of figures -->";

pub(crate) fn goals(findings: &Findings) -> String {
    let rows: String = findings.goals.iter().map(Goal::row).collect();
    format!("| what | goal | measured | |\n|---|---|--:|---|\n{rows}")
}

/// Between the marks of a page, and the plots in `images` beside it.
pub(crate) fn write(page: &Path, findings: &Findings) -> Result<(), Error> {
    let old = std::fs::read_to_string(page)?;
    let (before, rest) = old.split_once(BEGIN).ok_or("the page has no place for figures")?;
    let (_, after) = rest.split_once(END).ok_or("the page has no end of figures")?;
    let (machine, goals, text) = (machine(), goals(findings), findings.text.trim_end());
    let figures = format!("{machine}\n\n### Goals\n\n{goals}\n{text}");
    std::fs::write(page, format!("{before}{BEGIN}\n\n{figures}\n\n{END}{after}"))?;
    let images = page.with_file_name("images");
    std::fs::create_dir_all(&images)?;
    for (name, svg) in &findings.plots {
        std::fs::write(images.join(name), svg)?;
    }
    Ok(())
}

/// What the figures were measured on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let value = |text: String, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?.to_owned();
        Some(line.split_once(['=', ':'])?.1.trim().trim_matches('"').to_owned())
    };
    let unknown = || "an unknown machine".to_owned();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "Measured on {} ({cores} cores), {}, Linux {}.",
        value(read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
        value(read("/etc/os-release"), "PRETTY_NAME").unwrap_or_else(unknown),
        read("/proc/sys/kernel/osrelease").trim()
    )
}
