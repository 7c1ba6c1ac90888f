//! The root interface, `org.bearerd.Broker1`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use zbus::interface;
use zbus::message::Header;
use zbus::zvariant::{OwnedFd, OwnedObjectPath, OwnedValue, Value};

use super::error::Error;
use super::gate::Permit;
use super::options::Options;
use super::peer::{Call, Door};
use super::{Bus, account_path, secret_fd};
use crate::access::log::Event;
use crate::accounts::Account;
use crate::dpop::{Nonce, Target};
use crate::login::{Flow, LoginOptions};
use crate::secret::{AccessToken, ClientSecret, MAX_SECRET_BYTES, PersonalToken};
use crate::session::{TokenOptions, TokenReply};
use crate::tokens::Narrow;

/// The contract's version: additions raise it.
const VERSION: u32 = 1;
/// A day; more than any caller can use.
const MAX_MIN_VALIDITY: u32 = 86_400;
const TOKEN_OPTIONS: &[&str] = &["min_validity", "force_refresh", "scope", "audience", "resource"];
const PROOF_OPTIONS: &[&str] = &["access_token", "nonce"];
const LOGIN_OPTIONS: &[&str] = &["open_browser", "flow", "prompt", "activation_token"];
/// OpenID Connect Core section 3.1.2.1; `none` needs no user, and so no login.
const PROMPTS: &[&str] = &["login", "consent", "select_account", "create"];
/// The length of a token id: 128 bits in base64url.
const TOKEN_ID_LENGTH: usize = 22;

type Details = HashMap<&'static str, Value<'static>>;

pub(super) struct Broker {
    bus: Arc<Bus>,
    door: Door,
}

impl Broker {
    pub(super) fn new(bus: Arc<Bus>, door: Door) -> Self {
        Self { bus, door }
    }

    /// Where every call begins: whose it is.
    fn enter(&self, header: &Header<'_>) -> Result<Call, Error> {
        self.bus.in_flight.enter(self.door.peer(header))
    }

    fn account(&self, name: &str) -> Result<Arc<Account>, Error> {
        Ok(self.bus.accounts.account(name)?)
    }

    async fn permit(&self, header: &Header<'_>, account: &Account, event: Event) -> Result<Permit, Error> {
        self.bus.gate.permit(&self.door, header, &account.config, event).await
    }

    async fn token(
        &self,
        name: &str,
        options: TokenOptions,
        header: &Header<'_>,
    ) -> Result<(TokenReply, Arc<Account>), Error> {
        let account = self.account(name)?;
        let permit = self.permit(header, &account, Event::Token).await?;
        let reply = permit.token(&account, options).await?;
        Ok((reply, account))
    }

    async fn start_login(
        &self,
        name: &str,
        open: bool,
        activation: Option<String>,
        options: LoginOptions,
        header: &Header<'_>,
    ) -> Result<(OwnedObjectPath, String), Error> {
        let account = self.account(name)?;
        let permit = self.permit(header, &account, Event::Login).await?;
        let joins = account.session.watch().borrow().login.as_ref().is_some_and(|login| login.is_pending());
        if open && !joins && !self.bus.may_open_browser(&account.config.name) {
            let name = account.config.name.as_str();
            return Err(Error::rate_limited(format!(
                "too many logins to {name:?} would open a browser; try again in 10 seconds, or run: bearerctl login {name}"
            )));
        }
        let started = permit.run(account.session.login(options)).await?;
        let path = self.bus.serve_login(&started.attempt).await?;
        let url = started.attempt.view().url;
        if !started.joined {
            permit.note_end(&started.attempt);
        }
        if open && !started.joined {
            let (bus, url) = (Arc::clone(&self.bus), url.clone());
            tokio::spawn(async move {
                if let Err(error) = bus.open_in_browser(&url, activation.as_deref()).await {
                    tracing::info!(%error, "no portal opened a browser; the caller has the address");
                }
            });
        }
        Ok((path, url))
    }
}

fn login_options(options: &Options) -> Result<LoginOptions, Error> {
    let flow = match options.string("flow")?.as_deref() {
        None | Some("code") => Flow::Code,
        Some("device") => Flow::Device,
        Some("paste") => Flow::Paste,
        Some(_) => {
            return Err(Error::invalid_option("`flow` must be \"code\", \"device\" or \"paste\""));
        }
    };
    let prompt = options.string("prompt")?.filter(|prompt| !prompt.is_empty());
    let known = |prompt: &String| prompt.split(' ').all(|word| PROMPTS.contains(&word));
    if prompt.as_ref().is_some_and(|prompt| !known(prompt)) {
        return Err(Error::invalid_option(format!("`prompt` must be of: {}", PROMPTS.join(", "))));
    }
    if flow == Flow::Device && prompt.is_some() {
        return Err(Error::invalid_option("`prompt` has no meaning with flow \"device\"; leave it out"));
    }
    Ok(LoginOptions { flow, prompt })
}

fn details(reply: &TokenReply, account: &Account) -> Details {
    HashMap::from([
        ("token_type", Value::from(if reply.key.is_some() { "DPoP" } else { "Bearer" })),
        ("expires_in", Value::from(reply.expires_in)),
        ("scope", Value::from(reply.scope.clone())),
        ("account", Value::from(account.config.name.as_str().to_owned())),
        ("source", Value::from(if reply.personal { "personal" } else { "oauth" })),
        ("subject", Value::from(reply.subject.clone())),
        ("token_id", Value::from(reply.token_id.clone())),
    ])
}

fn token_options(options: HashMap<String, OwnedValue>) -> Result<TokenOptions, Error> {
    let options = Options::parse(options, TOKEN_OPTIONS)?;
    let min_validity = options.integer("min_validity", MAX_MIN_VALIDITY)?;
    let narrow =
        Narrow::new(options.string("scope")?, options.string("audience")?, options.string("resource")?);
    Ok(TokenOptions {
        min_validity: min_validity.map(|seconds| Duration::from_secs(seconds.into())),
        narrow: narrow.map_err(Error::invalid_option)?.map(Arc::new),
        force_refresh: options.boolean("force_refresh")?.unwrap_or(false),
    })
}

/// Hands out access tokens, starts logins, and manages what they rest on.
///
/// Every call answers within 15 seconds. The account "" is the default one. Errors are named
/// org.bearerd.Broker1.Error.*; each message begins with the error's word and ends with what to do.
#[interface(name = "org.bearerd.Broker1", introspection_docs = true)]
impl Broker {
    /// Returns a valid access token, its expiry in Unix seconds (0: unknown) and details: token_type s,
    /// expires_in u (seconds), scope s, account s, source s ("oauth" or "personal"), subject s, token_id s.
    /// Never opens a browser.
    #[zbus(out_args("access_token", "expires_at", "details"))]
    async fn get_token(
        &self,
        account: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(String, u64, Details), Error> {
        let _call = self.enter(&header)?;
        let (reply, account) = self.token(account, TokenOptions::default(), &header).await?;
        Ok((reply.token.expose().to_owned(), reply.expires_at, details(&reply, &account)))
    }

    /// As GetToken, with options: min_validity u (seconds that the token must live on),
    /// force_refresh b (a new token even if the current one is good; rate limited), and for a narrower
    /// token: scope s (some of the granted ones, space separated), audience s, resource s (URIs, RFC 8707).
    #[zbus(out_args("access_token", "expires_at", "details"))]
    async fn get_token_with_options(
        &self,
        account: &str,
        options: HashMap<String, OwnedValue>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(String, u64, Details), Error> {
        let _call = self.enter(&header)?;
        let (reply, account) = self.token(account, token_options(options)?, &header).await?;
        Ok((reply.token.expose().to_owned(), reply.expires_at, details(&reply, &account)))
    }

    /// As GetTokenWithOptions, with the token in a sealed memfd, out of captures of the bus.
    #[zbus(out_args("access_token", "expires_at", "details"))]
    async fn get_token_fd(
        &self,
        account: &str,
        options: HashMap<String, OwnedValue>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(OwnedFd, u64, Details), Error> {
        let _call = self.enter(&header)?;
        let (reply, account) = self.token(account, token_options(options)?, &header).await?;
        let fd = secret_fd::sealed(reply.token.expose())
            .map_err(|error| zbus::Error::from(zbus::fdo::Error::IOError(error.to_string())))?;
        Ok((fd.into(), reply.expires_at, details(&reply, &account)))
    }

    /// Returns a proof (RFC 9449) for one request with a token of an account that has dpop = true: the value of
    /// its header DPoP, beside Authorization: DPoP. Options: access_token s (the token that goes with it; by
    /// default the one of GetToken), nonce s (what the API's header DPoP-Nonce said). Use it at once, and once.
    #[zbus(out_args("proof"))]
    async fn create_dpop_proof(
        &self,
        account: &str,
        http_method: &str,
        http_uri: &str,
        options: HashMap<String, OwnedValue>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String, Error> {
        let _call = self.enter(&header)?;
        let account = self.account(account)?;
        if !account.is_bound() {
            let name = account.config.name.as_str();
            return Err(Error::invalid_argument(format!(
                "the tokens of {name:?} are bound to no key; send them as Bearer, or set dpop = true and run: \
                 bearerctl login {name}"
            )));
        }
        let target = Target::parse(http_method, http_uri).map_err(Error::invalid_argument)?;
        let options = Options::parse(options, PROOF_OPTIONS)?;
        let given =
            options.long_string("access_token", MAX_SECRET_BYTES)?.map(AccessToken::parse).transpose();
        let given =
            given.map_err(|why| Error::invalid_option(format!("`access_token` cannot be used: {why}")))?;
        let nonce = match options.string("nonce")? {
            None => None,
            Some(text) => Some(Nonce::parse(&text).ok_or_else(|| {
                Error::invalid_option("`nonce` must be as the API's header DPoP-Nonce has it")
            })?),
        };
        let permit = self.permit(&header, &account, Event::Proof).await?;
        let reply = permit.token(&account, TokenOptions::default()).await?;
        let at = account.session.now().wall.as_secs();
        let token = given.as_ref().unwrap_or(&reply.token);
        let proof = reply.key.map(|key| key.prove(&target, Some(token), nonce.as_ref(), at));
        match proof {
            Some(Ok(proof)) => Ok(proof.expose().to_owned()),
            Some(Err(error)) => Err(zbus::Error::from(zbus::fdo::Error::Failed(error.to_string())).into()),
            None => Err(Error::invalid_argument("the account was just reconfigured; try again")),
        }
    }

    /// Reports that an API answered 401 to this token; give the token or the token_id of its details.
    /// Returns whether a newer token is there now. Not for 403.
    #[zbus(out_args("renewed"))]
    async fn reject_token(
        &self,
        account: &str,
        token_or_id: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<bool, Error> {
        let _call = self.enter(&header)?;
        let account = self.account(account)?;
        // Both are looked for: a personal token may be as short as an id.
        let as_token = AccessToken::parse(token_or_id).map(|token| token.id());
        let Ok(id_of_token) = as_token else {
            return Err(Error::invalid_argument(
                "neither a token nor a token_id; take it as GetToken returned it",
            ));
        };
        let permit = self.permit(&header, &account, Event::Reject).await?;
        let reject = async {
            if token_or_id.len() == TOKEN_ID_LENGTH && account.session.reject(token_or_id.to_owned()).await? {
                return Ok::<bool, Error>(true);
            }
            Ok(account.session.reject(id_of_token).await?)
        };
        permit.run(reject).await
    }

    /// Starts a login, or joins the pending one, and opens the browser through the desktop portal.
    /// Returns the attempt's object, and the address for the user in case no browser opened.
    #[zbus(out_args("attempt", "url"))]
    async fn login(
        &self,
        account: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(OwnedObjectPath, String), Error> {
        let _call = self.enter(&header)?;
        self.start_login(account, true, None, LoginOptions::default(), &header).await
    }

    /// As Login, with options: open_browser b (default true), activation_token s (for the portal),
    /// flow s ("code", the default; "device": the user enters UserCode at VerificationUri, on any device;
    /// "paste": the address on which the browser ends is brought to Complete), prompt s (of OpenID Connect: login, consent, select_account, create).
    #[zbus(out_args("attempt", "url"))]
    async fn login_with_options(
        &self,
        account: &str,
        options: HashMap<String, OwnedValue>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(OwnedObjectPath, String), Error> {
        let _call = self.enter(&header)?;
        let options = Options::parse(options, LOGIN_OPTIONS)?;
        let open = options.boolean("open_browser")?.unwrap_or(true);
        let activation = options.string("activation_token")?;
        self.start_login(account, open, activation, login_options(&options)?, &header).await
    }

    /// Removes the account's tokens here, and ends the session at the provider if it can be reached.
    #[zbus(out_args("ended_at_provider"))]
    async fn logout(&self, account: &str, #[zbus(header)] header: Header<'_>) -> Result<bool, Error> {
        let _call = self.enter(&header)?;
        let account = self.account(account)?;
        let permit = self.permit(&header, &account, Event::Logout).await?;
        permit.run(account.session.logout()).await
    }

    /// Stores a personal token, read from the descriptor to its end: at most 64 KiB, within 5 s.
    /// Nothing in it removes the stored one.
    async fn set_personal_token(
        &self,
        account: &str,
        fd: OwnedFd,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Error> {
        let _call = self.enter(&header)?;
        let account = self.account(account)?;
        if !account.is_personal() {
            let name = account.config.name.as_str();
            return Err(Error::invalid_argument(format!(
                "{name:?} takes no personal token; set source = \"personal\", or run: bearerctl login {name}"
            )));
        }
        let permit = self.permit(&header, &account, Event::SetPersonalToken).await?;
        let text = secret_fd::read(fd.into()).await?;
        let token = match text.trim() {
            "" => None,
            text => Some(PersonalToken::from_pasted(text).map_err(|why| unusable("personal token", why))?),
        };
        permit.run(account.session.set_personal_token(token)).await
    }

    /// Stores a client secret, read like a personal token. Nothing in it removes the stored one.
    async fn set_client_secret(
        &self,
        account: &str,
        fd: OwnedFd,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Error> {
        let _call = self.enter(&header)?;
        let account = self.account(account)?;
        if !account.takes_client_secret() {
            let name = account.config.name.as_str();
            return Err(Error::invalid_argument(format!(
                "{name:?} takes no stored client secret; see client_auth, client_secret_file and source in its configuration"
            )));
        }
        let permit = self.permit(&header, &account, Event::SetClientSecret).await?;
        let text = secret_fd::read(fd.into()).await?;
        let secret = match text.trim() {
            "" => None,
            _ => Some(ClientSecret::from_pasted(&text).map_err(|why| unusable("client secret", why))?),
        };
        permit.run(account.session.set_client_secret(secret)).await
    }

    /// Shows the keyring's own prompt and returns at once; the accounts' State tells the end. Not for
    /// sandboxed programs.
    async fn unlock_store(&self, #[zbus(header)] header: Header<'_>) -> Result<(), Error> {
        let _call = self.enter(&header)?;
        self.bus.accounts.check()?;
        self.bus.gate.control(&self.door, &header).await?;
        self.bus.accounts.unlock_store();
        Ok(())
    }

    /// Lists the accounts: name, object path, state.
    #[zbus(out_args("accounts"))]
    fn list_accounts(&self) -> Result<Vec<(String, OwnedObjectPath, String)>, Error> {
        self.bus.accounts.check()?;
        let accounts = self.bus.accounts.list();
        let row = |account: &Arc<Account>| {
            let state = account.session.view().state.as_str().to_owned();
            Ok((account.config.name.to_string(), account_path(&account.config.name)?, state))
        };
        accounts.iter().map(row).collect()
    }

    /// Reads the configuration again. On an error the old one stays in force as a whole. Not for sandboxed
    /// programs.
    async fn reload(&self, #[zbus(header)] header: Header<'_>) -> Result<(), Error> {
        let _call = self.enter(&header)?;
        self.bus.gate.control(&self.door, &header).await?;
        self.bus.reload().await
    }

    /// The version of this interface; additions raise it.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> u32 {
        VERSION
    }

    /// The account that "" names; empty when there is none.
    #[zbus(property)]
    fn default_account(&self) -> String {
        self.bus.accounts.default_account().map(|name| name.to_string()).unwrap_or_default()
    }
}

fn unusable(what: &str, why: crate::secret::InvalidSecret) -> Error {
    Error::invalid_argument(format!("the {what} cannot be used: {why}"))
}
