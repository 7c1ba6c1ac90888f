//! A broker of the usual making, to compare with: it refreshes when it has to and at half of the session's
//! life, one at a time; it gives up with its callers, answers before it saves, and knows nothing of suspend,
//! lost answers or its own death.

use std::time::Duration;

use bearerd::account::AccountName;
use bearerd::clock::BootTime;
use bearerd::oidc::error::Class;
use bearerd::oidc::{Provider as _, RefreshRequest};
use bearerd::secret::RefreshToken;
use bearerd::session::error::Error;
use bearerd::store::{Item, ItemKind, SessionRecord, Store as _};
use bearerd::tokens::{Granted, TokenResponse};
use tokio::sync::Mutex;

use crate::broker::Token;
use crate::model;
use crate::ports::Port;

const TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) struct Naive {
    port: Port,
    session: Mutex<Option<Tokens>>,
}

struct Tokens {
    access: String,
    refresh: RefreshToken,
    renew_at: BootTime,
    sequence: u64,
}

impl Naive {
    pub(crate) fn new(port: Port) -> Self {
        Self { port, session: Mutex::default() }
    }

    pub(crate) async fn token(&self) -> Result<Token, Error> {
        let mut session = self.session.lock().await;
        self.load(&mut session).await?;
        let Some(tokens) = session.as_ref() else { return Err(Error::LoginRequired("log in".into())) };
        let now = self.port.world.now();
        if model::access_ends(&tokens.access).since(now.boot) < Duration::from_secs(30) {
            self.refresh(&mut session).await?;
        }
        let tokens = session.as_ref().ok_or_else(|| Error::LoginRequired("log in".into()))?;
        let (now, ends) = (self.port.world.now(), model::access_ends(&tokens.access));
        Ok(Token {
            text: tokens.access.clone(),
            expires_in: ends.since(now.boot).as_secs(),
            expires_at: now.wall_seconds_at(ends),
        })
    }

    pub(crate) async fn keep_alive(self: std::sync::Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let mut session = self.session.lock().await;
            let now = self.port.world.now().boot;
            if self.load(&mut session).await.is_ok() && session.as_ref().is_some_and(|it| it.renew_at <= now)
            {
                let _ = self.refresh(&mut session).await;
            }
        }
    }

    pub(crate) async fn log_in(&self, granted: Granted) {
        let mut session = self.session.lock().await;
        self.take(&mut session, granted.tokens).await;
    }

    async fn load(&self, session: &mut Option<Tokens>) -> Result<(), Error> {
        if session.is_none() {
            let loaded =
                self.port.load(&name()).await.map_err(|error| Error::StoreLocked(error.to_string()))?;
            *session = loaded.session.map(|record| Tokens {
                access: String::new(),
                refresh: record.refresh_token,
                renew_at: BootTime::default(),
                sequence: record.sequence,
            });
        }
        Ok(())
    }

    async fn refresh(&self, session: &mut Option<Tokens>) -> Result<(), Error> {
        let Some(tokens) = session.as_ref() else { return Ok(()) };
        let refresh = self.port.refresh(RefreshRequest {
            refresh_token: tokens.refresh.clone(),
            stored_secret: None,
            key: None,
            sub: String::new(),
            servers: String::new(),
            narrow: None,
            subject: None,
        });
        match tokio::time::timeout(TIMEOUT, refresh).await {
            Err(_) => Err(Error::Timeout("slow".into())),
            Ok(Ok(response)) => {
                self.take(session, response).await;
                Ok(())
            }
            Ok(Err(error)) if error.class == Class::SessionOver => {
                *session = None;
                let _ = self.port.erase(&name(), ItemKind::Session).await;
                Err(Error::LoginRequired("log in".into()))
            }
            Ok(Err(error)) => Err(Error::ProviderUnreachable(error.message)),
        }
    }

    async fn take(&self, session: &mut Option<Tokens>, response: TokenResponse) {
        let now = self.port.world.now().boot;
        let (Some(refresh), sequence) =
            (response.refresh_token, session.as_ref().map_or(1, |it| it.sequence + 1))
        else {
            return;
        };
        let half = response.refresh_expires_in.known().map_or(Duration::MAX, |life| life / 2);
        *session = Some(Tokens {
            access: response.access_token.expose().to_owned(),
            refresh: refresh.clone(),
            renew_at: now.after(half),
            sequence,
        });
        let record = SessionRecord {
            refresh_token: refresh,
            issuer: "https://id.example".into(),
            client_id: "app".into(),
            servers: String::new(),
            scope: String::new(),
            subject: String::new(),
            key: None,
            sub: String::new(),
            obtained_at: 0,
            obtained_boot: 0,
            boot_id: String::new(),
            refresh_lifetime: 0,
            machine: "m".into(),
            sequence,
        };
        let _ = self.port.save(&name(), Item::Session(record)).await;
    }
}

fn name() -> AccountName {
    AccountName::parse("naive").unwrap()
}
