//! Whose process is at the other end of a loopback connection.
//!
//! Loopback is shared by all users of a machine, and the authorization URL can be read from a
//! browser's command line: another user who completes it as himself would log us into his account.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// Whether the socket at `peer`, connected to our `local` end, belongs to this process's user.
pub(crate) async fn is_ours(peer: SocketAddr, local: SocketAddr) -> bool {
    let (SocketAddr::V4(peer), SocketAddr::V4(local)) = (peer, local) else { return false };
    let own_uid = rustix::process::getuid().as_raw();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let Ok(text) = tokio::fs::read_to_string(table).await else { continue };
        if let Some(uid) = owner(&text, peer, local) {
            return uid == own_uid;
        }
    }
    false
}

/// The uid of the socket whose own address is `peer` and whose remote address is `local`.
fn owner(table: &str, peer: SocketAddrV4, local: SocketAddrV4) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let own = address(fields.next()?)?;
        let remote = address(fields.next()?)?;
        // Left: st, queues, tr:when, retransmits; then the uid.
        let uid = fields.nth(4)?.parse().ok()?;
        (own == peer && remote == local).then_some(uid)
    })
}

/// `0100007F:1F90`, or the same IPv4 address mapped into 16 bytes: words in host byte order.
fn address(text: &str) -> Option<SocketAddrV4> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = match ip.len() {
        8 => ip,
        32 => ip.strip_prefix("0000000000000000FFFF0000").filter(|rest| rest.len() == 8)?,
        _ => return None,
    };
    let word = u32::from_str_radix(ip, 16).ok()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(word.to_ne_bytes()), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
    }

    /// B18.
    #[cfg(target_endian = "little")]
    #[test]
    fn the_owner_is_found_in_both_tables_and_only_for_this_connection() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 20 4\n\
             1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 2 1 0 20 4\n\
             garbage\n";
        assert_eq!(owner(table, v4(50000), v4(8080)), Some(1001));
        assert_eq!(owner(table, v4(50001), v4(8080)), None);

        let mapped = "header\n 0: 0000000000000000FFFF00000100007F:C350 0000000000000000FFFF00000100007F:1F90 \
             01 00000000:00000000 00:00000000 00000000  1002 0 2\n";
        assert_eq!(owner(mapped, v4(50000), v4(8080)), Some(1002));
    }

    #[tokio::test]
    async fn a_connection_of_this_process_is_ours() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        assert!(is_ours(peer, server.local_addr().unwrap()).await);
        drop(client);
    }
}
