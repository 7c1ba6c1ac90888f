//! Secrets through file descriptors: a token out in a sealed memfd, a secret in from any readable one.

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create, seek};
use zeroize::Zeroizing;

use super::error::Error;
use crate::secret::MAX_SECRET_BYTES;

const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A memfd that holds the text, positioned at its start, that nobody can change any more.
pub(crate) fn sealed(text: &str) -> io::Result<OwnedFd> {
    let fd = memfd_create("bearerd-token", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let written = rustix::io::write(&fd, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    seek(&fd, SeekFrom::Start(0))?;
    fcntl_add_seals(&fd, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(fd)
}

/// Reads a descriptor to its end: at most 64 KiB of UTF-8, within 5 s.
pub(super) async fn read(fd: OwnedFd) -> Result<Zeroizing<String>, Error> {
    let read = tokio::task::spawn_blocking(move || read_blocking(&fd)).await;
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(Error::invalid_argument(format!("the file descriptor: {error}"))),
        Err(_) => return Err(Error::invalid_argument("the file descriptor could not be read")),
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Error::invalid_argument("the secret is not UTF-8 text; give it as plain text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn read_blocking(fd: &OwnedFd) -> io::Result<Zeroizing<Vec<u8>>> {
    let error = |text: &str| io::Error::other(text.to_owned());
    // A memfd comes as its writer left it: at its end.
    let _ = seek(fd, SeekFrom::Start(0));
    let started = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES + 1));
    let mut chunk = Zeroizing::new([0_u8; 4096]);
    loop {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let left = READ_TIMEOUT.saturating_sub(Duration::try_from(now - started).unwrap_or_default());
        let timeout = Timespec::try_from(left).map_err(|_| error("no time left"))?;
        let mut ready = [PollFd::new(fd, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) => return Err(error("it did not end within 5 seconds")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        match rustix::io::read(fd, chunk.as_mut_slice()) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        if bytes.len() > MAX_SECRET_BYTES {
            return Err(error("it holds more than 64 KiB"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sealed_token_is_readable_and_cannot_be_changed() {
        let fd = sealed("canary-token").unwrap();
        assert!(rustix::io::write(&fd, b"x").is_err());
        assert_eq!(read(fd).await.unwrap().as_str(), "canary-token");
    }

    #[tokio::test]
    async fn pipes_are_read_to_their_end_and_oversized_ones_refused() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, b"canary-secret\n").unwrap();
        drop(writer);
        assert_eq!(read(reader).await.unwrap().as_str(), "canary-secret\n");

        let zero = OwnedFd::from(std::fs::File::open("/dev/zero").unwrap());
        let error = read(zero).await.err().unwrap().to_string();
        assert!(error.contains("more than 64 KiB"), "{error}");
    }
}
