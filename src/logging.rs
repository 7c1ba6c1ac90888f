//! Logs: the journal when the service manager listens, standard error otherwise.
//!
//! `error` is a fault of ours, `warn` the world misbehaving, `info` a change of a session, `debug`
//! what led to it. Events carry fields (`account`, `state`); no token, code or secret is ever one.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, reload};

/// Overrides the level, in `tracing`'s filter syntax.
const VARIABLE: &str = "BEARERD_LOG";
/// Libraries that could print what they carry stay at warnings, whatever level is asked for.
const QUIET: &str = "reqwest=warn,hyper=warn,hyper_util=warn,h2=warn,rustls=warn,zbus=warn";

/// The log level, changeable while running.
#[derive(Clone)]
pub struct Levels {
    current: Arc<Mutex<&'static str>>,
    apply: Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
    target: &'static str,
}

impl Levels {
    #[must_use]
    pub fn current(&self) -> &'static str {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `journal` or `console`.
    #[must_use]
    pub fn target(&self) -> &'static str {
        self.target
    }

    /// Sets a syslog level.
    ///
    /// # Errors
    /// When there is no such level.
    pub fn set(&self, level: &str) -> Result<(), String> {
        let (name, ours) = match level {
            "emerg" | "alert" | "crit" | "err" | "error" => ("err", "error"),
            "warning" | "warn" => ("warning", "warn"),
            "notice" | "info" => ("info", "info"),
            "debug" => ("debug", "debug"),
            _ => {
                return Err(format!(
                    "no log level {:?}; known: err, warning, info, debug",
                    crate::oidc::text::clean(level)
                ));
            }
        };
        (self.apply)(filter(ours))?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = name;
        Ok(())
    }
}

/// Sets up logging for the process.
///
/// # Errors
/// When it was set up before.
pub fn start() -> Result<Levels, tracing_subscriber::util::TryInitError> {
    let wanted = std::env::var(VARIABLE).ok().filter(|wanted| !wanted.is_empty());
    let (layer, handle) = reload::Layer::new(filter(wanted.as_deref().unwrap_or("info")));
    let apply = move |filter| handle.reload(filter).map_err(|error| error.to_string());
    let (output, target) = output();
    tracing_subscriber::registry().with(output.with_filter(layer)).try_init()?;
    let current = wanted.as_deref().map_or("info", syslog_name);
    Ok(Levels { current: Arc::new(Mutex::new(current)), apply: Arc::new(apply), target })
}

/// The nearest syslog level; a filter of several parts counts as the most that it may say.
fn syslog_name(wanted: &str) -> &'static str {
    match wanted {
        "error" => "err",
        "warn" => "warning",
        "info" => "info",
        _ => "debug",
    }
}

fn filter(wanted: &str) -> EnvFilter {
    // What comes later wins over what is as specific, so the quiet ones come last.
    EnvFilter::builder().parse_lossy(format!("{wanted},{QUIET}"))
}

fn output<S>() -> (Box<dyn Layer<S> + Send + Sync>, &'static str)
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        return (
            Box::new(
                journal.with_syslog_identifier("bearerd".to_owned()).with_priority_mappings(priorities()),
            ),
            "journal",
        );
    }
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).without_time();
    (Box::new(layer), "console")
}

fn priorities() -> tracing_journald::PriorityMappings {
    use tracing_journald::Priority;
    tracing_journald::PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    }
}
