//! Calls an API with a token from bearerd, and once more with a newer one if it is refused.
//!
//! usage: get_token URL [ACCOUNT]      needs the crates tokio, reqwest, and bearerd with its feature `http`

#![allow(clippy::print_stdout, reason = "an example prints")]

use bearerd::client::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: get_token URL [ACCOUNT]")?;
    let account = arguments.next().unwrap_or_default();

    let client = Client::connect(&account).await?;
    let response = client.send(reqwest::Client::new().get(&url)).await?;

    println!("{}", response.status().as_u16());
    if response.status().is_success() { Ok(()) } else { Err("the API refused".into()) }
}
