//! HTTP requests with a token, over reqwest.

use reqwest::header::{AUTHORIZATION, HeaderValue, InvalidHeaderValue};
use reqwest::{RequestBuilder, Response, StatusCode};

use super::{Client, Error, Token};

const BOUND: &str = "InvalidArgument: the account's tokens are bound to a key (dpop = true), and each request needs a proof; ask \
                     for one with CreateDpopProof";

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no token; the message ends with what to do.
    #[error(transparent)]
    Token(#[from] Error),
    /// The token has characters that no header may have.
    #[error("the token fits into no header")]
    Header(#[from] InvalidHeaderValue),
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

impl Client {
    /// Sends the request with a token. When the API answers 401, the token is reported, and if there is a newer one
    /// the request is sent once more; one with a body that streams cannot be, and its 401 is the answer.
    ///
    /// # Errors
    /// When there is no token, or no answer. A status is no error.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, SendError> {
        let again = request.try_clone();
        let token = self.token().await?;
        if token.scheme == "DPoP" {
            return Err(Error::InvalidArgument(BOUND.to_owned()).into());
        }
        let response = request.header(AUTHORIZATION, authorization(&token)?).send().await?;
        match again {
            Some(again) if response.status() == StatusCode::UNAUTHORIZED && self.reject(&token).await? => {
                let newer = self.token().await?;
                Ok(again.header(AUTHORIZATION, authorization(&newer)?).send().await?)
            }
            _ => Ok(response),
        }
    }
}

fn authorization(token: &Token) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&token.authorization())?;
    value.set_sensitive(true);
    Ok(value)
}
