//! A peer of the bus, and what the kernel's texts about a process say. Pure.

use std::fmt;
use std::sync::Arc;

use crate::oidc::text::clean;

/// The longest name of anything that is kept.
const MAX_NAME: usize = 255;

/// What a program runs in, as far as that can be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Any program of the user's: there is no boundary between it and us.
    Host,
    /// Inside a container that shares our bus, by its name: a convenience, not a sandbox.
    Container(String),
    /// By its application id, from the file that Flatpak puts into each instance.
    Flatpak(String),
    /// By the snap's name, from its AppArmor label or its cgroup.
    Snap(String),
    /// It could not be looked at, for this reason. It may be sandboxed, so it counts as that.
    Hidden(&'static str),
}

impl Kind {
    #[must_use]
    pub fn is_sandboxed(&self) -> bool {
        matches!(self, Self::Flatpak(_) | Self::Snap(_) | Self::Hidden(_))
    }
}

/// A process that talks to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub kind: Kind,
    pub uid: u32,
    /// 0 when it is not known.
    pub pid: u32,
    /// Its program's file; empty when it is not known.
    pub exe: String,
    /// Its systemd unit or scope; empty when it has none.
    pub unit: Arc<str>,
    /// Its own name and its parents', nearest first, for people: `busctl ← bash ← sshd`.
    pub chain: String,
    /// In the form of the configuration's rules: `flatpak:org.example.Mail`, `exe:/usr/bin/curl`.
    pub id: Arc<str>,
}

impl Caller {
    #[must_use]
    pub fn new(kind: Kind, uid: u32, pid: u32, exe: String, unit: &str, chain: String) -> Self {
        let id = match &kind {
            Kind::Flatpak(app) => format!("flatpak:{app}"),
            Kind::Snap(name) => format!("snap:{name}"),
            Kind::Container(name) => format!("container:{name}"),
            Kind::Host if !exe.is_empty() => format!("exe:{exe}"),
            Kind::Host | Kind::Hidden(_) if !unit.is_empty() => format!("unit:{unit}"),
            Kind::Host | Kind::Hidden(_) => "unknown".to_owned(),
        };
        Self { kind, uid, pid, exe, unit: unit.into(), chain, id: id.into() }
    }

    /// Nothing but whose it is.
    #[must_use]
    pub fn hidden(uid: u32, pid: u32, why: &'static str) -> Self {
        Self::new(Kind::Hidden(why), uid, pid, String::new(), "", String::new())
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        match &self.kind {
            Kind::Hidden(why) => write!(f, " ({why})"),
            _ if self.chain.is_empty() => Ok(()),
            _ => write!(f, " ({})", self.chain),
        }
    }
}

/// A process's name and its parent, from /proc/PID/stat. The name may hold anything, brackets too.
pub(crate) fn name_and_parent(stat: &str) -> Option<(String, u32)> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let parent = after.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((clean(&name.replace('←', " ")), parent))
}

/// The systemd unit or scope, from /proc/PID/cgroup: the user manager's if there is one.
pub(crate) fn unit(cgroup: &str) -> Option<&str> {
    let path = systemd_path(cgroup)?;
    let is_unit = |name: &&str| matches!(name.rsplit_once('.'), Some((_, "service" | "scope")));
    let mut units = path.split('/').filter(is_unit).filter(|name| name.len() <= MAX_NAME);
    let first = units.next()?;
    let of_user = first.starts_with("user@").then(|| units.next()).flatten();
    Some(of_user.unwrap_or(first))
}

/// The path in the unified hierarchy, or in systemd's own one beside version 1.
fn systemd_path(cgroup: &str) -> Option<&str> {
    let lines = || cgroup.lines().filter_map(|line| line.split_once(':')).map(|(_, rest)| rest);
    let named = |name| lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    named("").filter(|path| *path != "/").or_else(|| named("name=systemd"))
}

/// The snap's name, from the cgroups that snapd made: `snap.NAME.APP.service`, `snap.NAME.APP-UUID.scope`.
pub(crate) fn snap_of_cgroup(cgroup: &str) -> Option<String> {
    cgroup.lines().flat_map(|line| line.split('/')).find_map(snap)
}

/// The snap's name, from the AppArmor label: `snap.NAME.APP (enforce)`.
pub(crate) fn snap_of_label(label: &str) -> Option<String> {
    snap(label.split(' ').next()?)
}

fn snap(text: &str) -> Option<String> {
    let name = text.strip_prefix("snap.")?.split('.').next()?;
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (!name.is_empty() && name.len() <= MAX_NAME && name.chars().all(known)).then(|| name.to_owned())
}

/// The application id, from the file that Flatpak puts into each instance.
pub(crate) fn flatpak_application(info: &str) -> Option<String> {
    let mut section = "";
    for line in info.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if let Some((key, value)) = line.split_once('=')
            && matches!(section, "Application" | "Runtime")
            && key.trim() == "name"
        {
            let value = value.trim();
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
            return (!value.is_empty() && value.len() <= MAX_NAME && value.chars().all(known))
                .then(|| value.to_owned());
        }
    }
    None
}

/// The container's name, from the file that podman, toolbox and distrobox put into it.
pub(crate) fn container_name(containerenv: &str) -> String {
    let named = containerenv.lines().find_map(|line| line.trim().strip_prefix("name="));
    let name = clean(named.unwrap_or_default().trim_matches('"'));
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// The process of a pidfd, from its /proc/self/fdinfo; `None` when it has ended.
pub(crate) fn pid_of_pidfd(fdinfo: &str) -> Option<u32> {
    let pid = fdinfo.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    pid.trim().parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_hold_brackets_and_our_own_arrow() {
        assert_eq!(name_and_parent("7 (bash) S 1 7 7"), Some(("bash".into(), 1)));
        assert_eq!(name_and_parent("7 (a) R 9 (b) S 12 7"), Some(("a) R 9 (b".into(), 12)));
        assert_eq!(name_and_parent("7 (x ← root) S 3"), Some(("x root".into(), 3)));
        assert_eq!(name_and_parent("7 bash S 3"), None);
    }

    #[test]
    fn units_are_the_user_managers_where_there_is_one() {
        let under = "/user.slice/user-1000.slice/user@1000.service";
        for (cgroup, expected) in [
            (format!("0::{under}/app.slice/backup.service\n"), Some("backup.service")),
            (
                format!("0::{under}/app.slice/app-org.x-12.scope/sub/inner.scope\n"),
                Some("app-org.x-12.scope"),
            ),
            (format!("0::{under}\n"), Some("user@1000.service")),
            ("0::/system.slice/cron.service\n".into(), Some("cron.service")),
            ("0::/user.slice/user-1000.slice/session-3.scope\n".into(), Some("session-3.scope")),
            // Hybrid: the unified hierarchy is there and empty, or says the same.
            ("4:cpu:/x\n1:name=systemd:/system.slice/cron.service\n0::/\n".into(), Some("cron.service")),
            ("0::/\n".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(unit(&cgroup), expected, "{cgroup}");
        }
    }

    #[test]
    fn snaps_are_known_by_their_cgroup_or_label() {
        let under = "0::/user.slice/user-1000.slice/user@1000.service/app.slice";
        let scope = format!("{under}/snap.firefox.firefox-0e1f.scope\n");
        assert_eq!(snap_of_cgroup(&scope).as_deref(), Some("firefox"));
        assert_eq!(snap_of_cgroup("9:freezer:/snap.hello-world\n0::/\n").as_deref(), Some("hello-world"));
        assert_eq!(snap_of_cgroup("0::/user.slice/mysnap.x.scope\n"), None);
        assert_eq!(snap_of_label("snap.firefox.firefox (enforce)").as_deref(), Some("firefox"));
        assert_eq!(snap_of_label("unconfined"), None);
        assert_eq!(snap_of_label("snap."), None);
    }

    #[test]
    fn a_flatpak_is_known_by_its_instance_file() {
        let info = "[Instance]\nname=no\n\n[Application]\nname=org.example.Mail\nruntime=x\n";
        assert_eq!(flatpak_application(info).as_deref(), Some("org.example.Mail"));
        assert_eq!(flatpak_application("[Runtime]\nname=org.x.Sdk\n").as_deref(), Some("org.x.Sdk"));
        for bad in ["", "[Application]\nname=\n", "[Application]\nname=a b<i>\n", "name=org.x.Y"] {
            assert_eq!(flatpak_application(bad), None, "{bad}");
        }
    }

    #[test]
    fn containers_and_descriptors_are_read() {
        assert_eq!(container_name("engine=\"podman\"\nname=\"toolbox-12\"\n"), "toolbox-12");
        assert_eq!(container_name(""), "unnamed");
        assert_eq!(pid_of_pidfd("pos:\t0\nPid:\t4711\nNSpid:\t4711\n"), Some(4711));
        assert_eq!(pid_of_pidfd("Pid:\t-1\n"), None);
        assert_eq!(pid_of_pidfd("Pid:\t0\n"), None);
    }

    #[test]
    fn an_id_is_what_a_rule_would_say() {
        let caller = |kind, exe: &str, unit: &str| {
            Caller::new(kind, 1000, 5, exe.into(), unit, "a ← b".into()).to_string()
        };
        assert_eq!(caller(Kind::Host, "/usr/bin/curl", "x.scope"), "exe:/usr/bin/curl (a ← b)");
        assert_eq!(
            caller(Kind::Flatpak("org.x.Y".into()), "/usr/bin/xdg-dbus-proxy", ""),
            "flatpak:org.x.Y (a ← b)"
        );
        assert_eq!(caller(Kind::Hidden("it has ended"), "", "a.service"), "unit:a.service (it has ended)");
        assert_eq!(caller(Kind::Host, "", ""), "unknown (a ← b)");
    }
}
