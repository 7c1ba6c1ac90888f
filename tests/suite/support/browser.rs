//! Just enough of a browser for the provider's consent page and for the callback.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

use super::keyring::DEADLINE;

/// Where a login ended.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) url: String,
    pub(crate) html: String,
    /// The address that the provider sent the browser to.
    pub(crate) callback: String,
}

pub(crate) struct Browser {
    http: reqwest::Client,
}

impl Browser {
    pub(crate) fn new() -> Self {
        let builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20));
        Self { http: builder.redirect(reqwest::redirect::Policy::none()).build().unwrap() }
    }

    /// The whole way with a yes.
    pub(crate) async fn approve(&self, url: &str) -> Page {
        let callback = self.callback_of(url, true).await;
        self.open(&callback).await
    }

    /// The whole way with a no.
    pub(crate) async fn deny(&self, url: &str) -> Page {
        let callback = self.callback_of(url, false).await;
        self.open(&callback).await
    }

    /// The consent page answered for a login on another device; the status of the page that says so.
    pub(crate) async fn answer_device(&self, url: &str, consent: bool) -> u16 {
        let html = self.http.get(url).send().await.unwrap().text().await.unwrap();
        let pending = html.split_once("name=\"pending\" value=\"").unwrap().1.split('"').next().unwrap();
        let answer = if consent { ("accept", "yes") } else { ("cancel", "no") };
        let action = Url::parse(url).unwrap().join("/auth/realms/app/login-actions/consent").unwrap();
        self.http.post(action).form(&[("pending", pending), answer]).send().await.unwrap().status().as_u16()
    }

    /// The consent page answered; the callback is not opened.
    pub(crate) async fn callback_of(&self, url: &str, consent: bool) -> String {
        let html = self.http.get(url).send().await.unwrap().text().await.unwrap();
        let pending = html.split_once("name=\"pending\" value=\"").unwrap().1.split('"').next().unwrap();
        let answer = if consent { ("accept", "yes") } else { ("cancel", "no") };
        let action = Url::parse(url).unwrap().join("/auth/realms/app/login-actions/consent").unwrap();
        let answer = self.http.post(action).form(&[("pending", pending), answer]).send().await.unwrap();
        answer.headers()["location"].to_str().unwrap().to_owned()
    }

    /// As `approve`, where the response comes back as a form.
    pub(crate) async fn approve_and_post(&self, url: &str) -> Page {
        let html = self.http.get(url).send().await.unwrap().text().await.unwrap();
        let pending = html.split_once("name=\"pending\" value=\"").unwrap().1.split('"').next().unwrap();
        let consent = Url::parse(url).unwrap().join("/auth/realms/app/login-actions/consent").unwrap();
        let form = [("pending", pending), ("accept", "yes")];
        let html = self.http.post(consent).form(&form).send().await.unwrap().text().await.unwrap();
        let action = html.split_once("action=\"").unwrap().1.split('"').next().unwrap();
        let fields: Vec<(&str, &str)> = html
            .split("<input type=\"hidden\" name=\"")
            .skip(1)
            .map(|field| field.split_once('"').unwrap())
            .map(|(name, rest)| (name, rest.split('"').nth(1).unwrap()))
            .collect();
        let answer = self.http.post(action).form(&fields).send().await.unwrap();
        assert_eq!(answer.status(), 303, "{}", answer.text().await.unwrap());
        self.open(&format!("{}/bearerd/done", action.rsplit_once('/').unwrap().0)).await
    }

    /// Opens the callback, and the page that it leads to.
    pub(crate) async fn open(&self, callback: &str) -> Page {
        let answer = self.http.get(callback).send().await.unwrap();
        let url = answer.url().clone();
        let (url, answer) = match answer.headers().get("location") {
            Some(location) => {
                let next = url.join(location.to_str().unwrap()).unwrap();
                (next.clone(), self.http.get(next).send().await.unwrap())
            }
            None => (url, answer),
        };
        let status = answer.status().as_u16();
        let html = answer.text().await.unwrap();
        Page { status, url: url.into(), html, callback: callback.to_owned() }
    }
}

/// Sends these bytes to a loopback port and reads to the end of the connection.
pub(crate) async fn raw(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut answer = Vec::new();
    let talk = async {
        // A listener that has read enough may have hung up.
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(DEADLINE, talk).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The value of a URL's parameter.
pub(crate) fn parameter(url: &str, name: &str) -> Option<String> {
    let url = Url::parse(url).unwrap();
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
