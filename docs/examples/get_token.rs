//! Calls an API with a token from bearerd, and once more with a newer one if it is refused.
//!
//! usage: get_token URL [ACCOUNT]      needs the crates zbus, tokio and reqwest

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::collections::HashMap;

use zbus::zvariant::OwnedValue;

#[zbus::proxy(
    interface = "org.bearerd.Broker1",
    default_service = "org.bearerd.Broker1",
    default_path = "/org/bearerd/Broker1"
)]
trait Broker {
    fn get_token(&self, account: &str) -> zbus::Result<(String, u64, HashMap<String, OwnedValue>)>;
    fn reject_token(&self, account: &str, token_or_id: &str) -> zbus::Result<bool>;
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: get_token URL [ACCOUNT]")?;
    let account = arguments.next().unwrap_or_default();

    let bus = zbus::Connection::session().await?;
    let broker = BrokerProxy::new(&bus).await?;
    let http = reqwest::Client::new();
    let (token, _, _) = broker.get_token(&account).await?;
    let mut status = http.get(&url).bearer_auth(&token).send().await?.status();
    if status == 401 && broker.reject_token(&account, &token).await? {
        let (newer, _, _) = broker.get_token(&account).await?;
        status = http.get(&url).bearer_auth(&newer).send().await?.status();
    }
    println!("{}", status.as_u16());
    if status == 200 { Ok(()) } else { Err("the API refused".into()) }
}
