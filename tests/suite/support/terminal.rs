//! A terminal with nobody before it.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs::File;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::keyring::DEADLINE;

/// Runs a program on a terminal of that many columns until it ends, or has shown `last`, at which it gets a Ctrl-C.
/// What was shown is returned as it was sent.
pub(crate) async fn shown(mut command: Command, columns: u16, last: &str) -> (ExitStatus, String) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    tcsetwinsize(&ours, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs: File = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap().into();
    command.stdin(Stdio::null()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let mut child = command.spawn().unwrap();
    // Its copies of the terminal, without which the end would not be seen.
    drop(command);
    let mut ours = tokio::fs::File::from_std(ours.into());
    let mut text = Vec::new();
    let mut stopped = last.is_empty();
    let mut part = [0; 4096];
    // The last one to leave makes an error of the end.
    while let Ok(length @ 1..) = timeout(DEADLINE, ours.read(&mut part)).await.unwrap() {
        text.extend_from_slice(&part[..length]);
        if !stopped && String::from_utf8_lossy(&text).contains(last) {
            let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
            stopped = true;
        }
    }
    let status = timeout(Duration::from_secs(30), child.wait()).await.unwrap().unwrap();
    (status, String::from_utf8(text).unwrap())
}
