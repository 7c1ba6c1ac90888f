//! `org.freedesktop.LogControl1`, for `systemctl --user service-log-level bearerd LEVEL`.

use zbus::{fdo, interface};

use crate::logging::Levels;

/// The log level at run time.
pub struct LogControl {
    levels: Levels,
}

impl LogControl {
    #[must_use]
    pub fn new(levels: Levels) -> Self {
        Self { levels }
    }
}

#[interface(name = "org.freedesktop.LogControl1")]
impl LogControl {
    /// A syslog level: emerg, alert, crit, err, warning, notice, info, debug.
    #[zbus(property(emits_changed_signal = "false"))]
    fn log_level(&self) -> String {
        self.levels.current().to_owned()
    }

    #[zbus(property)]
    fn set_log_level(&self, level: String) -> fdo::Result<()> {
        self.levels.set(&level).map_err(fdo::Error::InvalidArgs)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn log_target(&self) -> String {
        self.levels.target().to_owned()
    }

    #[zbus(property)]
    fn set_log_target(&self, target: String) -> fdo::Result<()> {
        if target == self.levels.target() || target == "auto" {
            return Ok(());
        }
        Err(fdo::Error::NotSupported("the log target follows from how bearerd was started".to_owned()))
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn syslog_identifier(&self) -> &'static str {
        "bearerd"
    }
}
