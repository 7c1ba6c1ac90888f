//! A server of an attacker's: it takes whatever comes, keeps it, and answers as it was told.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::keyring::DEADLINE;

pub(crate) struct Trap {
    pub(crate) port: u16,
    caught: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Trap {
    /// On this port, or on a free one with 0.
    pub(crate) async fn start(port: u16, answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let caught = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (Arc::clone(&caught), Arc::new(answer.into()));
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut request = vec![0; 64 * 1024];
                    let Ok(Ok(length)) = tokio::time::timeout(DEADLINE, stream.read(&mut request)).await
                    else {
                        return;
                    };
                    kept.lock().unwrap().push(String::from_utf8_lossy(&request[..length]).into_owned());
                    // Whoever has read enough hangs up.
                    let _ = stream.write_all(&answer).await;
                });
            }
        });
        Self { port, caught, server }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The first bytes of every connection so far.
    pub(crate) fn caught(&self) -> Vec<String> {
        self.caught.lock().unwrap().clone()
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.server.abort();
    }
}
