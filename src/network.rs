//! A way to the network that came or changed: the kernel's own news of default routes (rtnetlink(7)),
//! which need no network manager.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::unix::AsyncFd;

use crate::accounts::Accounts;
use crate::clock::Clock;
use crate::session::Interruption;

/// `RTMGRP_IPV4_ROUTE` and `RTMGRP_IPV6_ROUTE`.
const GROUPS: u32 = 0x40 | 0x400;
const RTM_NEWROUTE: u16 = 24;
const RT_TABLE_MAIN: u8 = 254;
/// A network comes with several routes.
const BURST: Duration = Duration::from_millis(500);

/// Tells the sessions of each new default route.
pub(crate) async fn watch(accounts: &Accounts, clock: &Clock) {
    let routes = match Routes::open() {
        Ok(routes) => routes,
        Err(error) => {
            return tracing::info!(%error, "changes of the network are not seen; retries wait their time");
        }
    };
    loop {
        if let Err(error) = routes.next().await {
            return tracing::warn!(%error, "changes of the network are seen no longer");
        }
        clock.sleep(BURST).await;
        routes.drain();
        tracing::info!("the network has changed");
        accounts.interrupt(Interruption::OtherNetwork).await;
    }
}

struct Routes(AsyncFd<OwnedFd>);

impl Routes {
    fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // NETLINK_ROUTE is protocol 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe, for types that can change their descriptor; OwnedFd cannot"
        )]
        AsyncFd::new(socket).map(Self)
    }

    /// Waits for a new default route.
    async fn next(&self) -> io::Result<()> {
        let mut news = [0_u8; 8192];
        loop {
            let mut ready = self.0.readable().await?;
            let received = ready.try_io(|fd| Ok(recv(fd.get_ref(), &mut news, RecvFlags::empty())?.0));
            match received {
                Ok(Ok(length)) if has_default_route(&news[..length]) => return Ok(()),
                // So much has changed that some of it was dropped.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    }

    fn drain(&self) {
        let mut news = [0_u8; 8192];
        while recv(self.0.get_ref(), &mut news, RecvFlags::empty()).is_ok() {}
    }
}

/// Whether there is a new default route of the main table among the messages: `nlmsghdr` (length u32,
/// type u16, and 10 bytes), then `rtmsg` (family, length of the destination, .., table), in host byte order.
fn has_default_route(mut news: &[u8]) -> bool {
    while let (Some(length), Some(kind)) = (news.first_chunk::<4>(), news.get(4..6)) {
        let length = u32::from_ne_bytes(*length) as usize;
        let route = news.get(16..length.min(news.len())).unwrap_or_default();
        if kind == RTM_NEWROUTE.to_ne_bytes()
            && route.get(1) == Some(&0)
            && route.get(4) == Some(&RT_TABLE_MAIN)
        {
            return true;
        }
        // Messages begin at multiples of four.
        news = news.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, destination_bits: u8, table: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(28_u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([2, destination_bits, 0, 0, table, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn only_a_new_default_route_counts_wherever_it_stands() {
        let default = message(RTM_NEWROUTE, 0, RT_TABLE_MAIN);
        assert!(has_default_route(&default));
        assert!(has_default_route(&[message(RTM_NEWROUTE, 24, RT_TABLE_MAIN), default.clone()].concat()));
        assert!(!has_default_route(&message(RTM_NEWROUTE, 24, RT_TABLE_MAIN)));
        assert!(!has_default_route(&message(RTM_NEWROUTE, 0, 255)), "the local table");
        assert!(!has_default_route(&message(25, 0, RT_TABLE_MAIN)), "one that went");
        for length in 0..default.len() {
            let _ = has_default_route(&default[..length]);
        }
        assert!(!has_default_route(&[0; 64]));
    }

    #[tokio::test]
    async fn the_kernel_lets_us_listen() {
        let routes = Routes::open().unwrap();
        assert!(futures_util::poll!(std::pin::pin!(routes.next())).is_pending());
    }
}
