//! A way to the network that came or changed: the kernel's own news of default routes (rtnetlink(7)),
//! which need no network manager.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::unix::AsyncFd;

use crate::accounts::Accounts;
use crate::clock::Clock;
use crate::session::Interruption;

/// `RTMGRP_IPV4_ROUTE` and `RTMGRP_IPV6_ROUTE`; `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x40 | 0x400 | 0x1 | 0x10 | 0x100;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
const IFF_LOWER_UP: u32 = 0x1_0000;
/// A network comes with several routes.
const BURST: Duration = Duration::from_millis(500);

/// Tells the sessions of each new default route.
pub(crate) async fn watch(accounts: &Accounts, clock: &Clock) {
    let mut routes = match Routes::open() {
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

struct Routes {
    socket: AsyncFd<OwnedFd>,
    known: Known,
}

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
        let socket = AsyncFd::new(socket)?;
        Ok(Self { socket, known: Known::default() })
    }

    /// Waits for a new default route.
    async fn next(&mut self) -> io::Result<()> {
        let mut news = [0_u8; 8192];
        loop {
            let mut ready = self.socket.readable().await?;
            let received = ready.try_io(|fd| Ok(recv(fd.get_ref(), &mut news, RecvFlags::empty())?.0));
            match received {
                Ok(Ok(length)) if self.known.take(&news[..length]) => return Ok(()),
                // So much has changed that some of it was dropped.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    self.known = Known::default();
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    }

    fn drain(&mut self) {
        let mut news = [0_u8; 8192];
        while let Ok((length, _)) = recv(self.socket.get_ref(), &mut news, RecvFlags::empty()) {
            self.known.take(&news[..length]);
        }
    }
}

/// The default routes that are known. Whoever keeps a lease announces its route again and again, which is no change.
#[derive(Default)]
struct Known(BTreeSet<Route>);

/// The attributes that make a route another one: type and content of each.
type Route = Vec<(u16, Vec<u8>)>;

impl Known {
    /// Takes up what has happened; whether there is a new default route of the main table. Each message is an
    /// `nlmsghdr` (length u32, type u16, and 10 bytes) and what belongs to the type, in host byte order.
    fn take(&mut self, mut news: &[u8]) -> bool {
        let mut new = false;
        while let (Some(length), Some(kind)) = (news.first_chunk::<4>(), news.get(4..6)) {
            let length = u32::from_ne_bytes(*length) as usize;
            let body = news.get(16..length.min(news.len())).unwrap_or_default();
            match u16::from_ne_bytes([kind[0], kind[1]]) {
                RTM_NEWROUTE => new |= default_route(body).is_some_and(|route| self.0.insert(route)),
                RTM_DELROUTE => {
                    default_route(body).map(|route| self.0.remove(&route));
                }
                RTM_NEWLINK if flags(body) & IFF_LOWER_UP != 0 => {}
                // The kernel does not tell of the routes that go with an interface.
                RTM_NEWLINK | RTM_DELLINK | RTM_DELADDR => self.forget(body.get(4..8).unwrap_or_default()),
                _ => {}
            }
            // Messages begin at multiples of four.
            news = news.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
        }
        new
    }

    fn forget(&mut self, interface: &[u8]) {
        self.0.retain(|route| !route.iter().any(|(kind, content)| *kind == RTA_OIF && content == interface));
    }
}

/// What tells a default route of the main table from others, in an `rtmsg` (family, length of the destination, ..,
/// table, .., type) and its attributes.
fn default_route(body: &[u8]) -> Option<Route> {
    let is_default =
        body.get(1) == Some(&0) && body.get(4) == Some(&RT_TABLE_MAIN) && body.get(7) == Some(&RTN_UNICAST);
    let mut route = vec![(0, vec![*body.first().filter(|_| is_default)?])];
    let mut rest = body.get(12..).unwrap_or_default();
    while let Some([a, b, c, d]) = rest.first_chunk::<4>() {
        let (length, kind) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
        if matches!(kind, RTA_OIF | RTA_GATEWAY | RTA_MULTIPATH | RTA_VIA) {
            route.push((kind, rest.get(4..length).unwrap_or_default().to_vec()));
        }
        rest = rest.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
    }
    Some(route)
}

/// The flags of an `ifinfomsg` (family, .., type, index, flags).
fn flags(body: &[u8]) -> u32 {
    body.get(8..12).and_then(|flags| flags.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
    }

    fn route(kind: u16, destination_bits: u8, table: u8, of: u8, interface: u32) -> Vec<u8> {
        let attribute =
            |kind: u16, content: [u8; 4]| [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &content].concat();
        let head = [2, destination_bits, 0, 0, table, 0, 0, of, 0, 0, 0, 0];
        // The first is its priority.
        let attributes = [attribute(6, [9; 4]), attribute(RTA_OIF, interface.to_ne_bytes())].concat();
        message(kind, &[&head[..], &attributes].concat())
    }

    fn default(kind: u16, interface: u32) -> Vec<u8> {
        route(kind, 0, RT_TABLE_MAIN, RTN_UNICAST, interface)
    }

    fn link(kind: u16, interface: u32, flags: u32) -> Vec<u8> {
        let body = [[0; 4], interface.to_ne_bytes(), flags.to_ne_bytes(), [0; 4]].concat();
        message(kind, &body)
    }

    #[test]
    fn only_a_new_default_route_counts_wherever_it_stands() {
        let new = |news: &[u8]| Known::default().take(news);
        let ours = default(RTM_NEWROUTE, 3);
        let other = route(RTM_NEWROUTE, 24, RT_TABLE_MAIN, RTN_UNICAST, 3);
        assert!(new(&ours));
        assert!(new(&[other.clone(), ours.clone()].concat()));
        assert!(!new(&other), "a container's, or a tunnel's to one network");
        assert!(!new(&route(RTM_NEWROUTE, 0, 255, RTN_UNICAST, 3)), "the local table");
        assert!(!new(&route(RTM_NEWROUTE, 0, RT_TABLE_MAIN, 7, 1)), "one that leads nowhere");
        assert!(!new(&default(RTM_DELROUTE, 3)), "one that went");
        for length in 0..ours.len() {
            let _ = new(&ours[..length]);
        }
        assert!(!new(&[0; 64]));
    }

    /// A router announces itself every few minutes, and a lease is renewed: the network is the same.
    #[test]
    fn a_route_that_is_announced_again_is_no_change_until_it_was_gone() {
        let mut known = Known::default();
        assert!(known.take(&default(RTM_NEWROUTE, 3)));
        assert!(!known.take(&default(RTM_NEWROUTE, 3)));
        assert!(known.take(&default(RTM_NEWROUTE, 4)), "another way");
        assert!(!known.take(&link(RTM_NEWLINK, 3, IFF_LOWER_UP)), "a look at it changes nothing");
        assert!(!known.take(&default(RTM_NEWROUTE, 3)));

        for gone in [
            default(RTM_DELROUTE, 3),
            link(RTM_NEWLINK, 3, 0),
            link(RTM_DELLINK, 3, IFF_LOWER_UP),
            link(RTM_DELADDR, 3, 0),
        ] {
            assert!(!known.take(&gone));
            assert!(!known.take(&default(RTM_NEWROUTE, 4)), "the other is there still");
            assert!(known.take(&default(RTM_NEWROUTE, 3)), "{gone:?}");
        }
    }

    #[tokio::test]
    async fn the_kernel_lets_us_listen() {
        let mut routes = Routes::open().unwrap();
        assert!(futures_util::poll!(std::pin::pin!(routes.next())).is_pending());
    }
}
