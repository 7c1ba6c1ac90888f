//! The server's half of the D-Bus handshake, for peers whom the kernel has vouched for already.
//!
//! zbus has one too. It panics at an empty line and reads without bound; and since a peer may send its
//! first call along with the handshake, this one takes not a byte more than is its own.

use std::io;

use rustix::net::RecvFlags;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

/// More than all commands of a handshake.
const MAX_BYTES: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing but a NUL before the first command.
    Nul,
    Auth,
    Data,
    Begin,
    Done,
}

/// Takes the peer through the handshake, up to its `BEGIN`.
pub(super) async fn accept(stream: &mut UnixStream, guid: &str) -> io::Result<()> {
    let uid = own_uid();
    let mut step = Step::Nul;
    let mut line = Vec::new();
    let mut seen = 0;
    while step != Step::Done {
        let mut buffer = [0; MAX_BYTES];
        let length = peek(stream, &mut buffer).await?;
        let (mut taken, mut answers) = (0, String::new());
        for byte in buffer.iter().take(length) {
            taken += 1;
            if step == Step::Nul {
                step = if *byte == 0 { Step::Auth } else { return Err(invalid("no NUL")) };
                continue;
            }
            line.push(*byte);
            if *byte != b'\n' {
                continue;
            }
            let command = line.strip_suffix(b"\r\n").ok_or_else(|| invalid("no CR LF"))?;
            let command = std::str::from_utf8(command).map_err(|_| invalid("no text"))?;
            let answer;
            (step, answer) = take(step, command, &uid, guid);
            answers += &answer;
            line.clear();
            if step == Step::Done {
                break;
            }
        }
        seen += taken;
        if seen > MAX_BYTES {
            return Err(invalid("it is too long"));
        }
        drain(stream, buffer.get_mut(..taken).unwrap_or_default())?;
        stream.write_all(answers.as_bytes()).await?;
    }
    Ok(())
}

/// What a command leads to, and its answer.
fn take(step: Step, line: &str, uid: &str, guid: &str) -> (Step, String) {
    let ok = || (Step::Begin, format!("OK {guid}\r\n"));
    let rejected = || (Step::Auth, "REJECTED EXTERNAL\r\n".to_owned());
    match (step, line.split_ascii_whitespace().collect::<Vec<_>>().as_slice()) {
        (Step::Auth, ["AUTH", "EXTERNAL"]) => (Step::Data, "DATA\r\n".to_owned()),
        (Step::Data, ["DATA"]) => ok(),
        (Step::Auth, ["AUTH", "EXTERNAL", id]) | (Step::Data, ["DATA", id]) if *id == uid => ok(),
        (Step::Auth, ["AUTH", ..]) | (Step::Data, ["DATA", ..]) | (_, ["CANCEL" | "ERROR", ..]) => rejected(),
        (Step::Begin, ["NEGOTIATE_UNIX_FD"]) => (step, "AGREE_UNIX_FD\r\n".to_owned()),
        (Step::Begin, ["BEGIN"]) => (Step::Done, String::new()),
        _ => (step, "ERROR\r\n".to_owned()),
    }
}

async fn peek(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    let peek = || Ok(rustix::net::recv(stream, &mut *buffer, RecvFlags::PEEK)?.0);
    match stream.async_io(Interest::READABLE, peek).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => Ok(length),
    }
}

/// Takes bytes that are known to be there.
fn drain(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<()> {
    let length = bytes.len();
    let taken =
        stream.try_io(Interest::READABLE, || Ok(rustix::net::recv(stream, bytes, RecvFlags::empty())?.0));
    if taken? == length { Ok(()) } else { Err(invalid("it was cut off")) }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a D-Bus handshake: {why}"))
}

/// Our user's number as the handshake has it: its digits, each as two hexadecimal digits.
pub(crate) fn own_uid() -> String {
    let digits = rustix::process::getuid().as_raw().to_string();
    // A digit is 0x30 to 0x39.
    digits.chars().flat_map(|digit| ['3', digit]).collect()
}
