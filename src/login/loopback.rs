//! The loopback listener of one login (RFC 8252 section 7.3).
//!
//! **Invariants:** it is on 127.0.0.1 only, lives as long as its login, lets exactly one valid
//! response through, and never answers with anything taken from a request.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
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

use super::gate::{Gate, Offer, Outcome};
use super::page::{self, Page};
use super::peer;
use crate::clock::Clock;
use crate::config::{Loopback, ResponseMode};

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
    pub(crate) fn bind(redirect: &Loopback) -> io::Result<Self> {
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
    pub(crate) fn serve(
        self,
        gate: Arc<Gate>,
        outcome: oneshot::Receiver<Outcome>,
        mode: ResponseMode,
    ) -> Callback {
        let result = watch::Sender::new(None);
        let (served_sender, served) = mpsc::channel(1);
        let site = Arc::new(Site {
            gate,
            mode,
            authority: format!("{}:{}", self.host, self.port),
            path: self.path,
            result: result.subscribe(),
            served: served_sender,
        });
        let server = tokio::spawn(accept(self.socket, site));
        Callback { outcome, page: Some(LastPage { result, served, server }) }
    }
}

/// Where a login's response arrives; dropping it closes the port.
pub(crate) struct Callback {
    outcome: oneshot::Receiver<Outcome>,
    /// `None`: no port, the address is pasted.
    page: Option<LastPage>,
}

struct LastPage {
    result: watch::Sender<Option<Page>>,
    served: mpsc::Receiver<()>,
    server: JoinHandle<()>,
}

impl Callback {
    /// For a response that can only be pasted.
    pub(crate) fn pasted(outcome: oneshot::Receiver<Outcome>) -> Self {
        Self { outcome, page: None }
    }

    /// Waits for the one response that counts.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        (&mut self.outcome).await.unwrap_or(Outcome::Broken)
    }

    /// Waits for the response to another request from now on.
    pub(crate) fn expect(&mut self, outcome: oneshot::Receiver<Outcome>) {
        self.outcome = outcome;
    }

    /// Shows the browser how it ended, then closes the port.
    pub(crate) async fn finish(mut self, page: Page, clock: &Clock) {
        let Some(last) = &mut self.page else { return };
        last.result.send_replace(Some(page));
        tokio::select! {
            _ = last.served.recv() => {}
            () = clock.sleep(LAST_PAGE_WAIT) => {}
        }
    }
}

impl Drop for LastPage {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Site {
    gate: Arc<Gate>,
    mode: ResponseMode,
    authority: String,
    path: String,
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
            let answer = site.answer(request).await;
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
    async fn answer(&self, request: Request<Incoming>) -> hyper::Response<Full<Bytes>> {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        if host != Some(self.authority.as_str()) || request.headers().get_all(HOST).iter().count() != 1 {
            return answer(&Page::BadRequest("The Host header is not this listener's"));
        }
        if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET) {
            return with_status(
                StatusCode::URI_TOO_LONG,
                answer(&Page::BadRequest("The address is too long")),
            );
        }
        let path = request.uri().path();
        if path != self.path && path != DONE_PATH {
            return answer(&Page::NotFound);
        }
        let posted = self.mode == ResponseMode::FormPost && path == self.path;
        if request.method() != if posted { Method::POST } else { Method::GET } {
            let why = if posted { "Only POST is answered here" } else { "Only GET is answered here" };
            return with_status(StatusCode::METHOD_NOT_ALLOWED, answer(&Page::BadRequest(why)));
        }
        if path == DONE_PATH {
            return self.last_page().await;
        }
        let parameters = if posted {
            match posted_form(request).await {
                Some(form) => form,
                None => return answer(&Page::BadRequest("The form cannot be read")),
            }
        } else {
            request.uri().query().unwrap_or_default().to_owned()
        };
        match self.gate.offer(&parameters) {
            Offer::Stray(why) => {
                tracing::debug!(why, "a stray request at the callback; the login goes on");
                answer(&Page::Stray)
            }
            Offer::AlreadyUsed => answer(&Page::AlreadyUsed),
            Offer::Taken => go_on(HeaderValue::from_static(DONE_PATH)),
            Offer::Again(next) => {
                let next = next.await.ok().and_then(|url| HeaderValue::try_from(url).ok());
                go_on(next.unwrap_or(HeaderValue::from_static(DONE_PATH)))
            }
        }
    }

    /// Held until the login has ended, so that the page can say how.
    async fn last_page(&self) -> hyper::Response<Full<Bytes>> {
        if !self.gate.is_used() {
            return answer(&Page::NotFound);
        }
        let mut result = self.result.clone();
        let shown = match result.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => None,
        };
        let mut answer = answer(&shown.unwrap_or(Page::Stray));
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    }
}

/// OAuth 2.0 Form Post Response Mode section 2; bounded like an address.
async fn posted_form(request: Request<Incoming>) -> Option<String> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .eq_ignore_ascii_case("application/x-www-form-urlencoded")
    {
        return None;
    }
    let body = http_body_util::Limited::new(request.into_body(), MAX_TARGET);
    let body = tokio::time::timeout(READ_TIMEOUT, body.collect()).await.ok()?.ok()?;
    String::from_utf8(body.to_bytes().to_vec()).ok()
}

fn go_on(location: HeaderValue) -> hyper::Response<Full<Bytes>> {
    let mut answer = answer(&Page::Stray);
    *answer.body_mut() = Full::default();
    answer.headers_mut().insert(LOCATION, location);
    with_status(StatusCode::SEE_OTHER, answer)
}

fn with_status(status: StatusCode, mut answer: hyper::Response<Full<Bytes>>) -> hyper::Response<Full<Bytes>> {
    *answer.status_mut() = status;
    answer
}

fn answer(page: &Page) -> hyper::Response<Full<Bytes>> {
    let mut answer = hyper::Response::new(Full::from(page.html()));
    *answer.status_mut() = StatusCode::from_u16(page.status()).unwrap_or(StatusCode::OK);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let strict = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_str(&page::policy()).unwrap_or(strict));
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
        let listener = Listener::bind(&Loopback::default()).unwrap();
        assert_eq!(listener.socket.local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
        assert!(!socket2::SockRef::from(&listener.socket).reuse_address().unwrap());

        // B2: a taken fixed port is an error, not another port.
        let taken = Loopback { port: Some(listener.port), ..Loopback::default() };
        assert_eq!(Listener::bind(&taken).err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
    }
}
