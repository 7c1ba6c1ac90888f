//! Reads what a process is, so that another one that has taken its number is not mistaken for it.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};

use super::caller::{
    Caller, Kind, container_name, flatpak_application, name_and_parent, pid_of_pidfd, snap_of_cgroup,
    snap_of_label, unit,
};
use crate::clock::Clock;
use crate::oidc::text::is_invisible;

/// How long a process's own file system may take: it may be one that never answers.
const ROOT_TIMEOUT: Duration = Duration::from_secs(2);
/// Kernel texts and instance files are shorter.
const MAX_TEXT: u64 = 64 * 1024;
/// Most are shorter than this, and read at once.
const USUAL_TEXT: usize = 1024;
/// The most parents that are named.
const MAX_PARENTS: usize = 8;

const ENDED: &str = "its process has ended";
const CLOSED: &str = "its process does not let itself be looked at";

/// A process as the other end of a socket, or the bus, tells of it.
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) pid: u32,
    /// Stays this process's for ever. Without one the kernel is too old to have them.
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) label: String,
}

/// What the process is.
pub(crate) async fn identify(peer: Peer, clock: &Clock) -> Caller {
    let pid = match &peer.pidfd {
        Some(pidfd) => {
            pid_of_pidfd(&text(&format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap_or_default())
        }
        None => Some(peer.pid).filter(|pid| *pid > 0),
    };
    let Some(pid) = pid else { return Caller::hidden(peer.uid, peer.pid, ENDED) };
    let cgroup = text(&format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
    let exe = exe.map(|path| path_text(&path.to_string_lossy())).unwrap_or_default();
    let chain = chain(pid);
    let label = match peer.label.as_str() {
        "" => text(&format!("/proc/{pid}/attr/apparmor/current")).unwrap_or_default(),
        label => label.to_owned(),
    };
    let kind = match snap_of_label(&label).or_else(|| snap_of_cgroup(&cgroup)) {
        Some(snap) => Kind::Snap(snap),
        None => kind(pid, clock).await,
    };
    // Alive after all that: it was this process that all that was read of.
    if peer.pidfd.as_ref().is_some_and(has_ended) {
        return Caller::hidden(peer.uid, pid, ENDED);
    }
    Caller::new(kind, peer.uid, pid, exe, &clean_unit(&cgroup), chain)
}

fn clean_unit(cgroup: &str) -> String {
    path_text(unit(cgroup).unwrap_or_default())
}

/// Readable, and whole: a path is one long word.
fn path_text(path: &str) -> String {
    path.chars().map(|c| if c.is_control() || is_invisible(c) { '?' } else { c }).take(1024).collect()
}

async fn kind(pid: u32, clock: &Clock) -> Kind {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt"));
    let Ok(theirs) = namespace(&pid.to_string()) else { return Kind::Hidden(CLOSED) };
    if namespace("self").is_ok_and(|ours| ours == theirs) {
        return Kind::Host;
    }
    let look = tokio::task::spawn_blocking(move || inside(pid));
    match clock.within(ROOT_TIMEOUT, look).await {
        Some(kind) => kind.unwrap_or(Kind::Hidden(CLOSED)),
        None => Kind::Hidden("its file system does not answer"),
    }
}

/// By the files that a sandbox or a container puts into its root.
fn inside(pid: u32) -> Kind {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = open(format!("/proc/{pid}/root"), flags, Mode::empty()) else {
        return Kind::Hidden(CLOSED);
    };
    match file_below(&root, ".flatpak-info") {
        Ok(Some(info)) => {
            return flatpak_application(&info)
                .map_or(Kind::Hidden("its Flatpak instance has no name"), Kind::Flatpak);
        }
        Ok(None) => {}
        Err(_) => return Kind::Hidden(CLOSED),
    }
    if let Ok(Some(text)) = file_below(&root, "run/.containerenv") {
        return Kind::Container(container_name(&text));
    }
    match file_below(&root, ".dockerenv") {
        Ok(Some(_)) => Kind::Container("docker".to_owned()),
        // A service with files of its own, say.
        _ => Kind::Host,
    }
}

/// A regular file's text; `None` when there is none.
fn file_below(root: &OwnedFd, name: &str) -> std::io::Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(root, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(std::io::Error::other("no regular file"));
    }
    let mut bytes = Vec::new();
    File::from(file).take(MAX_TEXT).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The process's name and its parents', up to the service manager. For people: any of them may have changed.
fn chain(pid: u32) -> String {
    let mut names: Vec<String> = Vec::new();
    let mut next = pid;
    while next > 1 && names.len() <= MAX_PARENTS {
        let stat = text(&format!("/proc/{next}/stat")).unwrap_or_default();
        let Some((name, parent)) = name_and_parent(&stat) else { break };
        if name == "systemd" && !names.is_empty() {
            break;
        }
        names.push(name);
        next = parent;
    }
    names.join(" ← ")
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut ready = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
}

/// A text of the kernel's, which never waits for anybody.
fn text(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(USUAL_TEXT);
    File::open(path).ok()?.take(MAX_TEXT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn start() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn peer(child: &Child) -> Peer {
        let pid = Pid::from_child(child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        Peer { uid: 1000, pid: child.id(), pidfd: Some(pidfd), label: String::new() }
    }

    /// Q5.
    #[tokio::test]
    async fn a_program_is_known_by_its_file_and_its_parents() {
        let mut child = start();

        let caller = identify(peer(&child), &Clock::system().unwrap()).await;

        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((&caller.kind, caller.pid), (&Kind::Host, child.id()));
        assert!(caller.id.starts_with("exe:/") && caller.exe.contains("/bin/"), "{caller}");
        assert!(caller.chain.starts_with("cat ← "), "{caller}");
    }

    #[test]
    fn a_path_cannot_change_how_the_question_about_it_reads() {
        assert_eq!(path_text("/tmp/a\nb\u{202e}c d"), "/tmp/a?b?c d");
    }

    /// R6: whoever has taken the number of a process is not taken for it.
    #[tokio::test]
    async fn a_process_that_has_ended_is_not_mistaken_for_the_next_of_its_number() {
        let clock = Clock::system().unwrap();
        let mut child = start();
        let mut other = start();
        let mut gone = peer(&child);
        child.kill().unwrap();
        child.wait().unwrap();
        // As the number would be if the other had got it.
        gone.pid = other.id();

        let caller = identify(gone, &clock).await;

        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(caller.kind, Kind::Hidden(ENDED));
        assert_eq!(&*caller.id, "unknown");
    }
}
