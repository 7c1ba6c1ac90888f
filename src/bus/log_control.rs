//! `org.freedesktop.LogControl1`, for `systemctl --user service-log-level bearerd LEVEL`.

use std::sync::Arc;

use zbus::message::Header;
use zbus::{fdo, interface};

use super::Bus;
use super::peer::Door;
use crate::logging::Levels;

/// The log level at run time.
pub(super) struct LogControl {
    bus: Arc<Bus>,
    levels: Levels,
}

impl LogControl {
    pub(super) fn new(bus: Arc<Bus>, levels: Levels) -> Self {
        Self { bus, levels }
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
    async fn set_log_level(
        &self,
        level: String,
        #[zbus(header)] header: Option<Header<'_>>,
    ) -> fdo::Result<()> {
        let header = header.ok_or_else(|| fdo::Error::AccessDenied("it is not known who asks".to_owned()))?;
        let permitted = self.bus.gate.control(&Door::Bus, &header).await;
        permitted.map_err(|error| fdo::Error::AccessDenied(error.to_string()))?;
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
