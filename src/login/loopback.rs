//! The loopback listener of one login (RFC 8252 section 7.3).
//!
//! **Invariants:** it is on 127.0.0.1 only, lives as long as its login, lets exactly one valid
//! response through, and never answers with anything taken from a request.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, LOCATION,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::page::Page;
use super::peer;
use crate::clock::Clock;
use crate::config::RedirectUri;
use crate::oidc::authorization::{AuthorizationRequest, Response};
use crate::secret::AuthorizationCode;

/// The clean address that the browser ends on: no code in its history.
const DONE_PATH: &str = "/bearerd/done";
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_TARGET: usize = 8 * 1024;
/// Cookies of other programs on 127.0.0.1 come along: they are not kept apart by port.
const MAX_HEAD: usize = 32 * 1024;
const MAX_CONNECTIONS: usize = 32;
/// How long the port stays open after the end for a browser that was sent to the last page.
const LAST_PAGE_WAIT: Duration = Duration::from_secs(2);

/// A bound port, not listened on by anybody else.
pub(crate) struct Listener {
    socket: TcpListener,
    host: String,
    path: String,
    port: u16,
}

impl Listener {
    /// Binds the configured port, or an ephemeral one.
    ///
    /// # Errors
    /// When a fixed port is taken; no other one is tried.
    pub(crate) fn bind(redirect: &RedirectUri) -> io::Result<Self> {
        let address = SocketAddr::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, redirect.port.unwrap_or(0)));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        // A fixed port must be usable again within a minute of the last login, whose connections
        // still wait in TIME_WAIT; two listeners on one port it does not allow on Linux.
        // An ephemeral port has no such need (RFC 8252 appendix B.5).
        socket.set_reuse_address(redirect.port.is_some())?;
        socket.bind(&address.into())?;
        socket.listen(16)?;
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket.into())?;
        let port = socket.local_addr()?.port();
        Ok(Self { socket, host: redirect.host.clone(), path: redirect.path.clone(), port })
    }

    /// The redirect URI with the port that was bound.
    pub(crate) fn redirect_uri(&self) -> String {
        format!("http://{}:{}{}", self.host, self.port, self.path)
    }

    /// Starts answering.
    pub(crate) fn serve(self, request: Arc<AuthorizationRequest>) -> Callback {
        let (outcome_sender, outcome) = oneshot::channel();
        let result = watch::Sender::new(None);
        let (served_sender, served) = mpsc::channel(1);
        let site = Arc::new(Site {
            request,
            authority: format!("{}:{}", self.host, self.port),
            path: self.path,
            outcome: Mutex::new(Some(outcome_sender)),
            result: result.subscribe(),
            served: served_sender,
        });
        let server = tokio::spawn(accept(self.socket, site));
        Callback { outcome: Some(outcome), result, served, server }
    }
}

/// What came back through the browser.
pub(crate) enum Outcome {
    Code(AuthorizationCode),
    Denied,
    Failed {
        code: String,
        message: String,
    },
    /// The listener itself broke.
    Broken,
}

/// A listener at work; dropping it closes the port.
pub(crate) struct Callback {
    outcome: Option<oneshot::Receiver<Outcome>>,
    result: watch::Sender<Option<Page>>,
    served: mpsc::Receiver<()>,
    server: JoinHandle<()>,
}

impl Callback {
    /// Waits for the one response that counts.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        match &mut self.outcome {
            Some(outcome) => outcome.await.unwrap_or(Outcome::Broken),
            None => Outcome::Broken,
        }
    }

    /// Shows the browser how it ended, then closes the port.
    pub(crate) async fn finish(mut self, page: Page, clock: &Clock) {
        self.result.send_replace(Some(page));
        tokio::select! {
            _ = self.served.recv() => {}
            () = clock.sleep(LAST_PAGE_WAIT) => {}
        }
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Site {
    request: Arc<AuthorizationRequest>,
    authority: String,
    path: String,
    /// Taken by the first response that counts.
    outcome: Mutex<Option<oneshot::Sender<Outcome>>>,
    result: watch::Receiver<Option<Page>>,
    served: mpsc::Sender<()>,
}

async fn accept(socket: TcpListener, site: Arc<Site>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(converse(stream, peer, Arc::clone(&site)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the callback port");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, site: Arc<Site>) {
    let Ok(local) = stream.local_addr() else { return };
    if !peer::is_ours(peer, local).await {
        tracing::warn!(%peer, "dropped a connection of another user to the callback port");
        return;
    }
    let shows_result = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request: Request<Incoming>| {
        let (site, shows_result) = (Arc::clone(&site), Arc::clone(&shows_result));
        async move {
            let answer = site.answer(&request).await;
            shows_result.fetch_or(answer.headers().contains_key(CONNECTION), Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(100)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // The connection has ended, so the page is out of our hands.
    if shows_result.load(Ordering::Relaxed) {
        let _ = site.served.try_send(());
    }
}

impl Site {
    async fn answer(&self, request: &Request<Incoming>) -> hyper::Response<Full<Bytes>> {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        if host != Some(self.authority.as_str()) || request.headers().get_all(HOST).iter().count() != 1 {
            return page(&Page::BadRequest("The Host header is not this listener's"));
        }
        if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET) {
            return with_status(StatusCode::URI_TOO_LONG, page(&Page::BadRequest("The address is too long")));
        }
        let path = request.uri().path();
        if path != self.path && path != DONE_PATH {
            return page(&Page::NotFound);
        }
        if request.method() != Method::GET {
            let answer = page(&Page::BadRequest("Only GET is answered here"));
            return with_status(StatusCode::METHOD_NOT_ALLOWED, answer);
        }
        if path == DONE_PATH {
            return self.last_page().await;
        }
        let outcome = match self.request.read_response(request.uri().query().unwrap_or_default()) {
            Response::Stray(why) => {
                tracing::debug!(why, "a stray request at the callback; the login goes on");
                return page(&Page::Stray);
            }
            Response::Code(code) => Outcome::Code(code),
            Response::Denied => Outcome::Denied,
            Response::Failed { code, message } => Outcome::Failed { code, message },
        };
        let sender = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(sender) = sender else { return page(&Page::AlreadyUsed) };
        let _ = sender.send(outcome);
        let mut answer = page(&Page::Stray);
        *answer.body_mut() = Full::default();
        answer.headers_mut().insert(LOCATION, HeaderValue::from_static(DONE_PATH));
        with_status(StatusCode::SEE_OTHER, answer)
    }

    /// Held until the login has ended, so that the page can say how.
    async fn last_page(&self) -> hyper::Response<Full<Bytes>> {
        if self.outcome.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return page(&Page::NotFound);
        }
        let mut result = self.result.clone();
        let shown = match result.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => None,
        };
        let mut answer = page(&shown.unwrap_or(Page::Stray));
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    }
}

fn with_status(status: StatusCode, mut answer: hyper::Response<Full<Bytes>>) -> hyper::Response<Full<Bytes>> {
    *answer.status_mut() = status;
    answer
}

fn page(page: &Page) -> hyper::Response<Full<Bytes>> {
    let mut answer = hyper::Response::new(Full::from(page.html()));
    *answer.status_mut() = StatusCode::from_u16(page.status()).unwrap_or(StatusCode::OK);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B1, B3.
    #[tokio::test]
    async fn the_port_is_on_loopback_and_exclusive() {
        let listener = Listener::bind(&RedirectUri::default()).unwrap();
        assert_eq!(listener.socket.local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
        assert!(!socket2::SockRef::from(&listener.socket).reuse_address().unwrap());

        // B2: a taken fixed port is an error, not another port.
        let taken = RedirectUri { port: Some(listener.port), ..RedirectUri::default() };
        assert_eq!(Listener::bind(&taken).err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
    }
}
