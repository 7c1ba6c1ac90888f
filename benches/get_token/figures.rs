//! Samples, and the goals of the design that they are held against.

use std::time::Duration;

/// Times of one thing, in microseconds.
#[derive(Default, Clone)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e6);
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(1, 2)
    }

    pub(crate) fn quantile(&self, part: usize, of: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len() * part / of).copied().unwrap_or(f64::NAN)
    }

    /// Median and quartiles, in microseconds.
    pub(crate) fn in_microseconds(&self) -> String {
        format!("{:.0} ({:.0}–{:.0})", self.median(), self.quantile(1, 4), self.quantile(3, 4))
    }

    /// Median and quartiles, in milliseconds.
    pub(crate) fn in_milliseconds(&self) -> String {
        let [low, median, high] = [1, 2, 3].map(|quarters| self.quantile(quarters, 4) / 1e3);
        format!("{median:.2} ({low:.2}–{high:.2})")
    }
}

/// What the design asks for, and whether it is so.
pub(crate) struct Goal {
    what: &'static str,
    bound: String,
    measured: String,
    pub(crate) met: bool,
}

impl Goal {
    /// A ratio, or whatever has no unit.
    pub(crate) fn at_most(what: &'static str, measured: f64, most: f64) -> Self {
        Self::bound(what, measured, measured <= most, &format!("at most {most}"), "")
    }

    pub(crate) fn at_least(what: &'static str, measured: f64, least: f64) -> Self {
        Self::bound(what, measured, measured >= least, &format!("at least {least}"), "")
    }

    pub(crate) fn below(what: &'static str, measured: f64, most: f64, unit: &str) -> Self {
        Self::bound(what, measured, measured < most, &format!("under {most} {unit}"), unit)
    }

    fn bound(what: &'static str, measured: f64, met: bool, goal: &str, unit: &str) -> Self {
        let digits = if measured < 10.0 { 2 } else { 0 };
        let measured = format!("{measured:.digits$} {unit}").trim_end().to_owned();
        Self { what, bound: goal.trim_end().to_owned(), measured, met }
    }

    pub(crate) fn row(&self) -> String {
        let Self { what, bound, measured, met } = self;
        format!("| {what} | {bound} | {measured} | {} |\n", if *met { "met" } else { "**not met**" })
    }
}

/// What a part of the run has to say.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) goals: Vec<Goal>,
    /// Markdown.
    pub(crate) text: String,
    /// File name and SVG.
    pub(crate) plots: Vec<(&'static str, String)>,
}

impl Findings {
    pub(crate) fn extend(&mut self, other: Self) {
        self.goals.extend(other.goals);
        self.text.push_str(&other.text);
        self.plots.extend(other.plots);
    }
}
