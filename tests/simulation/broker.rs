//! One account in one process: ours, or one of the usual making.

use std::sync::Arc;

use bearerd::account::AccountName;
use bearerd::config::{
    Endpoints, ExplicitEndpoints, KeepAlive, LogoutEndpoint, OAuthConfig, RedirectUri, ResponseMode,
    SecretSource, StoreKind,
};
use bearerd::power::Busy;
use bearerd::recovery::Recalled;
use bearerd::session::error::Error;
use bearerd::session::{Asked, Budget, Parts, Policy, SessionHandle, TokenOptions, prepare};
use bearerd::tokens::Granted;
use tokio::task::AbortHandle;

use crate::naive::Naive;
use crate::ports::Port;
use crate::world::World;

#[derive(Clone)]
pub(crate) enum Broker {
    Ours(SessionHandle, AbortHandle),
    Naive(Arc<Naive>, AbortHandle),
}

/// A token as a caller sees it.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) expires_in: u64,
    pub(crate) expires_at: u64,
}

impl Broker {
    pub(crate) fn ours(
        world: &Arc<World>,
        account: usize,
        process: u64,
        boot: &str,
        shared: (Arc<Budget>, Busy),
    ) -> Self {
        let port = || Arc::new(Port { world: Arc::clone(world), account, process });
        let dice = Arc::clone(world);
        let remains = &world.accounts[account];
        let (handle, task) = prepare(Parts {
            account: AccountName::parse(&format!("account{account}")).unwrap(),
            policy: Policy {
                account: format!("account{account}"),
                personal: false,
                stored_secret: false,
                issuer: "https://id.example".into(),
                client_id: "app".into(),
                scope: String::new(),
                keep_alive: KeepAlive::Always,
                audience_by: None,
                min_validity: None,
                dpop: false,
                boot_id: boot.to_owned(),
                machine: "m".into(),
                phase: world.chance_number(),
            },
            oauth: Some((Arc::new(config()), port())),
            store: port(),
            clock: world.clock.clone(),
            dice: Arc::new(move || dice.chance_number()),
            heirloom: None,
            recovery: port(),
            recalled: Recalled { note: remains.left_note(), unsaved: remains.held().clone() },
            budget: shared.0,
            busy: shared.1,
        });
        Self::Ours(handle, tokio::spawn(task).abort_handle())
    }

    pub(crate) fn naive(world: &Arc<World>, account: usize, process: u64) -> Self {
        let port = Port { world: Arc::clone(world), account, process };
        let naive = Arc::new(Naive::new(port));
        let task = tokio::spawn(Arc::clone(&naive).keep_alive());
        Self::Naive(naive, task.abort_handle())
    }

    pub(crate) async fn token(&self, options: TokenOptions) -> Result<Token, Error> {
        match self {
            Self::Ours(handle, _) => handle.token(options).await.map(|reply| Token {
                text: reply.token.expose().to_owned(),
                expires_in: reply.expires_in.into(),
                expires_at: reply.expires_at,
            }),
            Self::Naive(naive, _) => naive.token().await,
        }
    }

    pub(crate) async fn log_in(&self, granted: Granted, asked: Asked) -> bool {
        match self {
            Self::Ours(handle, _) => handle.logged_in(granted, asked).await.is_ok(),
            Self::Naive(naive, _) => {
                naive.log_in(granted).await;
                true
            }
        }
    }

    pub(crate) fn session(&self) -> Option<&SessionHandle> {
        match self {
            Self::Ours(handle, _) => Some(handle),
            Self::Naive(..) => None,
        }
    }

    pub(crate) fn kill(&self) {
        let (Self::Ours(_, task) | Self::Naive(_, task)) = self;
        task.abort();
    }
}

fn config() -> OAuthConfig {
    let url = |path: &str| url::Url::parse(&format!("https://id.example/{path}")).unwrap();
    OAuthConfig {
        client_id: "app".into(),
        client_auth: None,
        client_secret: SecretSource::Store,
        scopes: Vec::new(),
        redirect: RedirectUri::default(),
        endpoints: Endpoints::Explicit(Box::new(ExplicitEndpoints {
            authorization: url("auth"),
            token: url("token"),
            logout: LogoutEndpoint::None,
            jwks: None,
            userinfo: None,
            device_authorization: None,
            push: None,
        })),
        profile: None,
        iss: None,
        issuer: None,
        id_token_audiences: Vec::new(),
        response_mode: ResponseMode::Query,
        pkce: true,
        par: true,
        dpop: false,
        max_age: None,
        login_timeout: std::time::Duration::from_secs(600),
        extra_params: std::collections::BTreeMap::new(),
        scope_on_refresh: false,
        keep_alive: KeepAlive::Always,
        audience_by: None,
        min_validity: None,
        ca_file: None,
        store: StoreKind::Memory,
    }
}
