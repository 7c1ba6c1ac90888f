//! What an answer of that size costs with nothing behind it: over the bus, peer to peer, and over a bare socket.

use std::collections::HashMap;
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use zbus::connection::Builder;
use zbus::zvariant::Value;

use crate::TOKEN_LENGTH;
use crate::support::Error;

pub(crate) const NAME: &str = "org.bearerd.Floor";
pub(crate) const PATH: &str = "/org/bearerd/Floor";
/// Sockets, in the folder that is given.
pub(crate) const BARE: &str = "bare";
pub(crate) const PEERS: &str = "floor";
/// What the bare socket is asked with.
pub(crate) const QUESTION: &[u8; 5] = b"bench";

struct Floor;

#[zbus::interface(name = "org.bearerd.Floor")]
impl Floor {
    fn get_token(&self, account: &str) -> (String, u64, HashMap<&'static str, Value<'static>>) {
        let details = HashMap::from([
            ("token_type", Value::from("Bearer")),
            ("expires_in", Value::from(299_u32)),
            ("scope", Value::from("")),
            ("account", Value::from(account.to_owned())),
            ("source", Value::from("oauth")),
            ("subject", Value::from("")),
            ("token_id", Value::from("0123456789012345678901")),
        ]);
        ("x".repeat(TOKEN_LENGTH), 1_800_000_000, details)
    }
}

pub(crate) async fn serve(folder: &Path) -> Result<(), Error> {
    let (bare, peers) = (UnixListener::bind(folder.join(BARE))?, UnixListener::bind(folder.join(PEERS))?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = bare.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; QUESTION.len()];
                while stream.read_exact(&mut asked).await.is_ok() {
                    stream.write_all(&[b'x'; TOKEN_LENGTH]).await?;
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = peers.accept().await {
            tokio::spawn(async move {
                let builder = Builder::unix_stream(stream).server(zbus::Guid::generate())?;
                builder.p2p().serve_at(PATH, Floor)?.build().await?.closed().await;
                Ok::<_, zbus::Error>(())
            });
        }
    });
    Builder::session()?.serve_at(PATH, Floor)?.name(NAME)?.build().await?.closed().await;
    Ok(())
}
