//! The back channel over TLS: certificates are checked, and one of our own can be trusted.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::Arc;

use bearerd::sandbox::provider::Settings;
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::{Map, Value};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support::browser::Browser;
use crate::support::desk::Desk;
use crate::support::trap::Trap;

/// C6, R21: with `ca_file` a provider of our own is trusted.
#[tokio::test]
async fn a_certificate_of_ones_own_is_trusted_by_its_file() {
    let (mut desk, port, pem) = desk().await;
    std::fs::write(desk.path("ca.pem"), pem).unwrap();
    let ca_file = format!("ca_file = {:?}", desk.path("ca.pem"));
    configure(&mut desk, port, &ca_file).await;

    desk.log_in("work").await;

    desk.forced_token("work").await.unwrap();
    assert!(desk.provider.accepts(&desk.access_token("work").await));
}

/// C6, O: without it nothing secret is sent, and the reason is named.
#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent() {
    let (mut desk, port, _) = desk().await;
    configure(&mut desk, port, "").await;
    let (login, url) = desk.start_login("work").await;

    Browser::new().approve(&url).await;

    assert_eq!(login.wait(20_000).await.unwrap(), "failed");
    let message = login.error_message().await.unwrap();
    assert!(
        message.contains("invalid peer certificate: UnknownIssuer (as where a network wants"),
        "{message}"
    );
    assert!(message.contains("clock is wrong, or `ca_file` is missing)"), "{message}");
    assert!(desk.provider.token_requests("authorization_code").is_empty());
}

/// C6: an account at a provider of one's own is added in one go, wherever its file is named from.
#[tokio::test]
async fn a_provider_with_a_certificate_of_ones_own_is_added_with_its_file() {
    let (mut desk, port, pem) = desk().await;
    std::fs::write(desk.path("ca.pem"), pem).unwrap();
    desk.write_config("");
    desk.start_daemon().await;
    let plain = desk.provider.issuer();
    let issuer = plain.replace(desk.provider.base(), &format!("https://127.0.0.1:{port}"));
    let here = |name: &str, path: &str| (name.to_owned(), Value::from(format!("{issuer}{path}")));
    let metadata = Map::from_iter([
        here("issuer", ""),
        here("authorization_endpoint", "/protocol/openid-connect/auth"),
        here("token_endpoint", "/protocol/openid-connect/token"),
    ]);
    desk.provider.configure(|settings| settings.metadata = metadata.into());
    let add = async |more: &[&str]| {
        let mut command = desk.program(env!("CARGO_BIN_EXE_bearerctl"));
        command.current_dir(desk.path("")).args(["add", "work", "--issuer", &issuer, "--client-id", "x"]);
        command.args(more);
        let done = desk.run(command, "").await;
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let file = desk.path("config/bearerd/accounts.d/work.toml");

    let (code, said) = add(&[]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("is not trusted: no connection: ") && said.contains("--ca-file FILE"), "{said}");
    let (code, said) = add(&["--ca-file", "missing.pem"]).await;
    assert!(code == Some(2) && said.contains("--ca-file missing.pem: No such file"), "{said}");
    assert!(!file.exists());

    let (code, said) = add(&["--ca-file", "ca.pem"]).await;

    assert_eq!(code, Some(0), "{said}");
    let text = std::fs::read_to_string(&file).unwrap();
    let pem = std::fs::canonicalize(desk.path("ca.pem")).unwrap();
    assert!(text.contains(&format!("ca_file = {pem:?}\n")), "{text}");
    let found = desk.ctl(&["doctor", "work"], "").await;
    let found = String::from_utf8(found.stdout).unwrap();
    assert!(found.contains("ok    TLS: its certificate is trusted\n"), "{found}");
}

/// C6: what is not encrypted stays on this machine, whatever proxy the session is to use.
#[tokio::test]
async fn a_proxy_is_given_nothing_in_clear_text() {
    let proxy =
        Trap::start(0, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let mut desk = Desk::bare(Settings::default()).await;
    desk.environment = ["http_proxy", "all_proxy"].map(|name| (name, proxy.url(""))).into();
    desk.write_config(&desk.discovered_account("work", "store = \"memory\""));
    desk.start_daemon().await;
    desk.set_secret("work").await;

    desk.log_in("work").await;

    desk.forced_token("work").await.unwrap();
    assert_eq!(proxy.caught(), Vec::<String>::new());
}

/// A desk whose provider's token endpoint is also behind TLS: the port, and the certificate.
async fn desk() -> (Desk, u16, String) {
    let desk = Desk::bare(Settings::default()).await;
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let certificate = parameters.self_signed(&key).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], private).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let inner = desk.provider.base().trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust us hangs up.
            let Ok(mut outside) = acceptor.accept(stream).await else { continue };
            let Ok(mut inside) = TcpStream::connect(&inner).await else { continue };
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut outside, &mut inside).await });
        }
    });
    (desk, port, certificate.pem())
}

async fn configure(desk: &mut Desk, port: u16, more: &str) {
    let account = desk.account("work", &format!("store = \"memory\"\n{more}"));
    let plain = desk.provider.token_endpoint();
    let path = plain.trim_start_matches(desk.provider.base());
    let profile = desk.provider.profile_url();
    let account = account.replace(&plain, &format!("https://127.0.0.1:{port}{path}"));
    desk.write_config(&account.replace(&format!("profile_url = \"{profile}\"\n"), ""));
    desk.start_daemon().await;
    desk.set_secret("work").await;
}
