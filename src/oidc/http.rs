//! The back channel: one HTTP client with the limits that every call to a provider has.
//!
//! **Invariants:** no redirect is followed, no cookie kept, no request repeated by the library, no
//! body larger than 1 MiB read, no URL put into an error.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{ACCEPT, AGE, CONTENT_TYPE, DATE, ETAG, HeaderName, IF_NONE_MATCH, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response};
use tokio::sync::OnceCell;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::error::{Class, ProviderError};
use super::hint;
use super::text::clean;
use super::token::HttpAnswer;
use crate::dpop::Nonce;
use crate::secret::{AccessToken, DpopProof};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Given up when the peer acknowledges nothing for this long.
const USER_TIMEOUT: Duration = Duration::from_secs(15);
/// A refresh that was sent lives on for this long: aborting it is what loses a rotated token.
pub const REFRESH_TIMEOUT: Duration = Duration::from_secs(60);
/// Every other call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// RFC 9449 sections 4.1 and 8.1.
const DPOP: HeaderName = HeaderName::from_static("dpop");
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
const FORM: &str = "application/x-www-form-urlencoded";
/// Clocks that say less were never set: the start of 2020.
const EARLIEST_DATE: u64 = 1_577_836_800;
const MAX_BODY: usize = 1024 * 1024;
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Clients, built at their first use: without any certificate on the system they cannot be.
pub struct Http {
    ca_file: Option<PathBuf>,
    client: OnceCell<Client>,
    /// For providers on this machine, whose requests are not encrypted: never through a proxy.
    direct: OnceCell<Client>,
}

impl Http {
    #[must_use]
    pub fn new(ca_file: Option<PathBuf>) -> Self {
        Self { ca_file, client: OnceCell::new(), direct: OnceCell::new() }
    }

    /// Sends a form (RFC 6749 appendix B).
    ///
    /// # Errors
    /// `Unreachable` while nothing was sent, `Ambiguous` once something may have arrived.
    pub async fn post_form(
        &self,
        url: &Url,
        basic: Option<&str>,
        proof: Option<&DpopProof>,
        form: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<HttpAnswer, ProviderError> {
        let request = self.client(url).await?.post(url.clone()).timeout(timeout);
        let mut request = request.header(CONTENT_TYPE, FORM).body(wiped_form(form));
        if let Some(basic) = basic {
            request = request.header(reqwest::header::AUTHORIZATION, secret_header(basic)?);
        }
        if let Some(proof) = proof {
            request = request.header(DPOP, secret_header(proof.expose())?);
        }
        send(request).await
    }

    /// Fetches a document with an access token, one that is bound to a key with a proof of it.
    ///
    /// # Errors
    /// As [`Http::post_form`].
    pub async fn get_with_token(
        &self,
        url: &Url,
        token: &AccessToken,
        proof: Option<&DpopProof>,
    ) -> Result<HttpAnswer, ProviderError> {
        let scheme = if proof.is_some() { "DPoP" } else { "Bearer" };
        let authorization = Zeroizing::new(format!("{scheme} {}", token.expose()));
        let mut request = self.client(url).await?.get(url.clone()).timeout(CALL_TIMEOUT);
        request = request.header(reqwest::header::AUTHORIZATION, secret_header(&authorization)?);
        if let Some(proof) = proof {
            request = request.header(DPOP, secret_header(proof.expose())?);
        }
        send(request).await
    }

    /// Fetches a public document, or learns that the one with this entity tag still stands (304).
    ///
    /// # Errors
    /// As [`Http::post_form`].
    pub async fn get(&self, url: &Url, etag: Option<&str>) -> Result<HttpAnswer, ProviderError> {
        let mut request = self.client(url).await?.get(url.clone()).timeout(CALL_TIMEOUT);
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        send(request).await
    }

    async fn client(&self, url: &Url) -> Result<&Client, ProviderError> {
        let direct = url.scheme() == "http";
        let client = if direct { &self.direct } else { &self.client };
        client.get_or_try_init(|| async { build(self.ca_file.as_deref(), direct) }).await
    }
}

fn build(ca_file: Option<&Path>, direct: bool) -> Result<Client, ProviderError> {
    let refused = |why: String| ProviderError::new(Class::Unreachable, why);
    let mut builder = Client::builder()
        .user_agent(concat!("bearerd/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(USER_TIMEOUT)
        // A kept connection may be dead after a suspend, and a request on it lost.
        .pool_max_idle_per_host(0);
    if direct {
        builder = builder.no_proxy();
    }
    if let Some(path) = ca_file {
        let pem = std::fs::read(path)
            .map_err(|error| refused(format!("cannot read ca_file {}: {error}", path.display())))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|_| refused(format!("ca_file {} holds no PEM certificates", path.display())))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| refused(format!("cannot set up TLS: {}", innermost(&error))))
}

/// The body of a form. It holds secrets, so it is written without growing, and wiped once it is sent.
fn wiped_form(form: &[(&str, &str)]) -> Bytes {
    let room = form.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut text = form_urlencoded::Serializer::new(String::with_capacity(room));
    let text = text.extend_pairs(form).finish();
    Bytes::from_owner(Zeroizing::new(text.into_bytes()))
}

fn secret_header(value: &str) -> Result<reqwest::header::HeaderValue, ProviderError> {
    let mut header = reqwest::header::HeaderValue::from_str(value).map_err(|_| {
        ProviderError::new(Class::Refused, "the client id or secret does not fit into a header")
    })?;
    header.set_sensitive(true);
    Ok(header)
}

async fn send(request: RequestBuilder) -> Result<HttpAnswer, ProviderError> {
    let response =
        request.header(ACCEPT, "application/json").send().await.map_err(|error| not_answered(&error))?;
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let status = response.status().as_u16();
    let content_type = header(CONTENT_TYPE);
    let retry_after = header(RETRY_AFTER).as_deref().and_then(retry_after);
    let date = told_time(header(DATE).as_deref(), header(AGE).as_deref());
    let etag = header(ETAG);
    let dpop_nonce = header(DPOP_NONCE).as_deref().and_then(Nonce::parse);
    let body = read_body(response).await?;
    Ok(HttpAnswer { status, content_type, retry_after, date, etag, dpop_nonce, body })
}

async fn read_body(mut response: Response) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| not_answered(&error))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(ProviderError::new(Class::Malformed, "the answer is larger than 1 MiB"));
        }
        if body.len() + chunk.len() > body.capacity() {
            // A vector that grows by itself leaves its old bytes behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * (body.len() + chunk.len())));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
    }
    // What follows a byte-order mark is as good, and may hold the only copy of a refresh token (M2).
    if body.starts_with(b"\xef\xbb\xbf") {
        body.drain(..3);
    }
    Ok(body)
}

/// Before a connection stands nothing was sent; after that nobody knows.
fn not_answered(error: &reqwest::Error) -> ProviderError {
    let why = innermost(error);
    if error.is_connect() || error.is_builder() {
        let hint = hint::in_brackets(hint::of_no_connection(&why));
        ProviderError::new(Class::Unreachable, format!("no connection: {why}{hint}"))
    } else if error.is_timeout() {
        ProviderError::new(Class::Ambiguous, "no answer in time")
    } else if error.is_decode() {
        ProviderError::new(Class::Ambiguous, "the answer could not be decoded")
    } else {
        ProviderError::new(Class::Ambiguous, format!("the connection broke: {why}"))
    }
}

fn innermost(error: &reqwest::Error) -> String {
    let mut source = error.source();
    let mut text = None;
    while let Some(cause) = source {
        text = Some(cause.to_string());
        source = cause.source();
    }
    clean(&text.unwrap_or_else(|| "unknown cause".to_owned()))
}

/// The provider's clock; `None` when it has none, or the answer comes out of a cache (M16).
fn told_time(date: Option<&str>, age: Option<&str>) -> Option<u64> {
    let date = httpdate::parse_http_date(date?).ok()?;
    let seconds = date.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    (seconds >= EARLIEST_DATE && age.is_none_or(|age| age.trim() == "0")).then_some(seconds)
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3), clamped to 1 s - 1 h.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => RETRY_AFTER_MAX,
        Err(_) => {
            let at = httpdate::parse_http_date(value).ok()?;
            #[expect(
                clippy::disallowed_methods,
                reason = "the header is a wall-clock date of the provider's"
            )]
            at.duration_since(std::time::SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// M16.
    #[test]
    fn a_time_that_cannot_be_the_providers_is_none() {
        let now = "Mon, 21 Sep 2026 13:46:40 GMT";
        assert_eq!(told_time(Some(now), None), Some(1_789_998_400));
        assert_eq!(told_time(Some(now), Some("0")), Some(1_789_998_400));
        for (date, age) in [
            (None, None),
            (Some("yesterday"), None),
            (Some(""), None),
            (Some("Thu, 01 Jan 1970 00:00:09 GMT"), None),
            (Some(now), Some("86000")),
            (Some(now), Some("old")),
        ] {
            assert_eq!(told_time(date, age), None, "{date:?} {age:?}");
        }
    }

    /// N17.
    #[test]
    fn retry_after_is_read_in_both_forms_and_clamped() {
        let seconds = |value| retry_after(value).map(|wait| wait.as_secs());
        assert_eq!(seconds("7"), Some(7));
        assert_eq!(seconds("0"), Some(1));
        assert_eq!(seconds("1000000000"), Some(3600));
        assert_eq!(seconds("99999999999999999999999"), Some(3600));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:28:00 GMT"), Some(1));
        assert_eq!(seconds("Fri, 31 Dec 9999 23:59:59 GMT"), Some(3600));
        assert_eq!(seconds("soon"), None);
        assert_eq!(seconds(""), None);
    }
}
