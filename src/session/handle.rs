//! The only door to a session: what may be asked of its task, and what it shows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::error::Error;
use super::events::CALLER_BUDGET;
use super::live::Asked;
use super::state::{Answer, Heirloom, Reply, TokenOptions, TokenReply};
use super::text;
use super::view::View;
use super::warm::Warm;
use crate::account::AccountName;
use crate::clock::{Clock, Now};
use crate::login::{Attempt, LoginOptions};
use crate::oidc::error::ProviderError;
use crate::secret::{ClientSecret, PersonalToken};
use crate::tokens::Granted;
/// What others may see of an account.
#[derive(Clone)]
pub struct Published {
    pub view: View,
    pub login: Option<Arc<Attempt>>,
}

/// A login that was started or joined.
pub struct StartedLogin {
    pub attempt: Arc<Attempt>,
    /// Somebody else started it.
    pub joined: bool,
}

pub(super) enum Command {
    Ask(Request, oneshot::Sender<Answer>),
    LoggedIn(Box<(Granted, Asked)>, oneshot::Sender<Answer>),
    LoginFailed(ProviderError),
    Unlocking(Option<bool>),
    Interrupt(Interruption),
    Login(LoginOptions, oneshot::Sender<Result<StartedLogin, Error>>),
    LoginSecret(oneshot::Sender<Result<Option<ClientSecret>, Error>>),
    SetClientSecret(Option<ClientSecret>, oneshot::Sender<Result<(), Error>>),
    SetPersonalToken(Option<PersonalToken>, oneshot::Sender<Result<(), Error>>),
    LogoutPersonal(oneshot::Sender<Result<(), Error>>),
    Ping(oneshot::Sender<()>),
    Stop(oneshot::Sender<Heirloom>),
}

/// What happens to the whole machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// It is about to sleep.
    Suspending,
    /// It is awake again, or did not sleep after all.
    Awake,
    /// There is a way to the network where there was none, or another one.
    OtherNetwork,
    /// The configuration was read again, and is the same for this account.
    Reloaded,
}

pub(super) enum Request {
    Token(TokenOptions),
    Reject(String),
    Refresh,
    Logout,
}

/// The only door to a session.
#[derive(Clone)]
pub struct SessionHandle {
    /// Boxed: an inbox has room for 32 of them from the start, in each account.
    pub(super) commands: mpsc::Sender<Box<Command>>,
    pub(super) published: watch::Receiver<Published>,
    pub(super) account: AccountName,
    pub(super) personal: bool,
    pub(super) warm: Arc<Warm>,
    pub(super) clock: Clock,
}

impl SessionHandle {
    /// A token of at least the wanted validity, or the reason why there is none, within 15 s.
    ///
    /// # Errors
    /// As the D-Bus contract has them for `GetToken`.
    pub async fn token(&self, options: TokenOptions) -> Result<TokenReply, Error> {
        // A session that is ending or has ended speaks for itself.
        if !self.commands.is_closed()
            && let Some(reply) = self.warm.take(&options, &self.clock.now())
        {
            return Ok(reply);
        }
        match self.ask(Request::Token(options)).await? {
            Reply::Token(reply) => Ok(reply),
            Reply::Flag(_) | Reply::Done => Err(self.gone()),
        }
    }

    /// Reports a refused token by its id; whether there is a newer one now.
    ///
    /// # Errors
    /// When a newer one was needed and could not be had.
    pub async fn reject(&self, token_id: String) -> Result<bool, Error> {
        self.flag(Request::Reject(token_id)).await
    }

    /// Refreshes now.
    ///
    /// # Errors
    /// When there is nothing to refresh, or the refresh failed.
    pub async fn refresh(&self) -> Result<(), Error> {
        self.ask(Request::Refresh).await.map(|_| ())
    }

    /// Ends the session here, and at the provider if that answers: then `true`.
    ///
    /// # Errors
    /// When the stored session could not be removed yet.
    pub async fn logout(&self) -> Result<bool, Error> {
        if self.personal {
            return self.storing(Command::LogoutPersonal).await.map(|()| false);
        }
        self.flag(Request::Logout).await
    }

    /// Starts a login, or joins the pending one.
    ///
    /// # Errors
    /// When the account cannot log in, its provider cannot be found or no listener can be bound; or
    /// when a login with other options is pending.
    pub async fn login(&self, options: LoginOptions) -> Result<StartedLogin, Error> {
        self.command(|reply| Command::Login(options, reply)).await?
    }

    /// Stores a client secret, or removes it.
    ///
    /// # Errors
    /// When the store is closed.
    pub async fn set_client_secret(&self, secret: Option<ClientSecret>) -> Result<(), Error> {
        self.storing(|reply| Command::SetClientSecret(secret, reply)).await
    }

    /// Stores a personal token, or removes it.
    ///
    /// # Errors
    /// When the store is closed.
    pub async fn set_personal_token(&self, token: Option<PersonalToken>) -> Result<(), Error> {
        self.storing(|reply| Command::SetPersonalToken(token, reply)).await
    }

    /// Answers when the loop turns: proof of life.
    pub async fn ping(&self) -> bool {
        self.command(Command::Ping).await.is_ok()
    }

    #[must_use]
    pub fn view(&self) -> View {
        self.published.borrow().view.clone()
    }

    #[must_use]
    pub fn published(&self) -> Published {
        self.published.borrow().clone()
    }

    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    /// Lets a refresh on its way end and be saved, then ends the task.
    pub async fn stop(&self) -> Option<Heirloom> {
        self.command(Command::Stop).await.ok()
    }

    /// Takes over the tokens of a login; `true` once they are stored, `false` if that has to wait.
    ///
    /// # Errors
    /// When they are another user's.
    pub async fn logged_in(&self, granted: Granted, asked: Asked) -> Result<bool, Error> {
        let answer = self.command(|reply| Command::LoggedIn(Box::new((granted, asked)), reply)).await?;
        Ok(matches!(answer?, Reply::Flag(true)))
    }

    /// The time by the session's clock.
    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    pub(crate) fn account(&self) -> &AccountName {
        &self.account
    }

    /// A login's tokens were refused.
    pub(crate) async fn login_failed(&self, error: ProviderError) {
        // A session that has ended takes no interest.
        let _ = self.commands.send(Box::new(Command::LoginFailed(error))).await;
    }

    /// The keyring's prompt is shown (`None`), or has ended, with the keyring open or not.
    pub async fn unlocking(&self, opened: Option<bool>) {
        // A session that has ended takes no interest.
        let _ = self.commands.send(Box::new(Command::Unlocking(opened))).await;
    }

    /// Something happens to the machine that a refresh should know of.
    pub async fn interrupt(&self, interruption: Interruption) {
        // A session that has ended takes no interest.
        let _ = self.commands.send(Box::new(Command::Interrupt(interruption))).await;
    }

    pub(crate) async fn login_secret(&self) -> Result<Option<ClientSecret>, Error> {
        self.command(Command::LoginSecret).await?
    }

    /// The client secret; while the keyring is closed its unlocking is waited for.
    pub(crate) async fn login_secret_within(
        &self,
        wait: Duration,
        clock: &Clock,
    ) -> Result<Option<ClientSecret>, Error> {
        let deadline = clock.now().boot.after(wait);
        let mut changes = self.watch();
        loop {
            match self.login_secret().await {
                Err(error @ (Error::StoreLocked(_) | Error::StoreUnavailable(_))) => tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return Err(error) },
                    () = clock.sleep_until(deadline) => return Err(error),
                },
                result => return result,
            }
        }
    }

    /// A change of the store that the user waits for; it goes on after the time that a caller may wait.
    async fn storing(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), Error>>) -> Command,
    ) -> Result<(), Error> {
        let late = || Error::Timeout(text::store_late(self.account.as_str()));
        self.clock.within(CALLER_BUDGET, self.command(command)).await.ok_or_else(late)??
    }

    async fn flag(&self, request: Request) -> Result<bool, Error> {
        Ok(matches!(self.ask(request).await?, Reply::Flag(true)))
    }

    async fn ask(&self, request: Request) -> Answer {
        self.command(|reply| Command::Ask(request, reply)).await?
    }

    pub(super) async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Box::new(command(reply))).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())
    }

    fn gone(&self) -> Error {
        Error::NoSession(format!(
            "account {:?} was just reconfigured or bearerd is stopping; try again",
            self.account.as_str()
        ))
    }
}
