//! Between a request and what it asks for: who asks, and a note of how it went.

use std::sync::Arc;
use std::time::Duration;

use zbus::Connection;
use zbus::message::Header;
use zbus::names::UniqueName;

use super::caller::Callers;
use super::error::Error;
use super::peer::Door;
use super::permission_store::PermissionStore;
use super::prompt;
use crate::access::caller::{Caller, Kind};
use crate::access::consent::{Answer, Known};
use crate::access::log::{Event, GRANTED};
use crate::access::{Access, Ruling};
use crate::account::AccountName;
use crate::accounts::Account;
use crate::clock::{BootTime, Clock};
use crate::config::AccountConfig;
use crate::login::Attempt;
use crate::oidc::text::shell_word;
use crate::session::{self, TokenOptions, TokenReply};

/// Every call is answered within this.
pub(super) const BUDGET: Duration = Duration::from_secs(15);
/// How much of it an answer of the user's may take.
const PATIENCE: Duration = Duration::from_secs(11);

pub(super) struct Gate {
    pub(super) access: Arc<Access>,
    connection: Connection,
    callers: Callers,
    pub(super) store: Arc<PermissionStore>,
    clock: Clock,
}

impl Gate {
    pub(super) async fn new(
        connection: &Connection,
        access: Arc<Access>,
        clock: Clock,
    ) -> zbus::Result<Self> {
        let callers = Callers::new(connection, clock.clone()).await?;
        let store = Arc::new(PermissionStore::new(connection, clock.clone()).await?);
        Ok(Self { access, connection: connection.clone(), callers, store, clock })
    }

    /// A request that is about no account.
    pub(super) async fn caller(&self, door: &Door, header: &Header<'_>) -> Result<Arc<Caller>, Error> {
        let caller = self.who(door, header).await?;
        self.access.admit(&caller).map_err(Error::access_denied)?;
        Ok(caller)
    }

    /// A request that is about bearerd itself: not for sandboxed programs.
    pub(super) async fn control(&self, door: &Door, header: &Header<'_>) -> Result<(), Error> {
        let caller = self.caller(door, header).await?;
        self.access.admit_to_control(&caller).map_err(Error::access_denied)
    }

    async fn who(&self, door: &Door, header: &Header<'_>) -> Result<Arc<Caller>, Error> {
        match door {
            Door::Bus => self.callers.sender(header).await,
            Door::Direct(_, caller) => Ok(Arc::clone(caller)),
        }
    }

    /// A request that is about an account. Whoever may be asked about or denied is sent to the bus from
    /// the direct socket.
    pub(super) async fn permit(
        &self,
        door: &Door,
        header: &Header<'_>,
        account: &AccountConfig,
        event: Event,
    ) -> Result<Permit, Error> {
        let caller = self.who(door, header).await?;
        let direct = matches!(door, Door::Direct(..));
        if direct && account.rules.restrict() {
            return Err(elsewhere(&account.name));
        }
        let mut permit = self.leave(caller, &account.name, event);
        let refused = match self.access.rule(account, &permit.caller, event) {
            Ruling::Go => return Ok(permit),
            Ruling::Refuse(why) => why,
            Ruling::Ask { .. } if direct => return Err(elsewhere(&account.name)),
            Ruling::Ask { each } => {
                permit.deadline = Some(self.clock.now().boot.after(BUDGET));
                match self.ask(&permit, each).await {
                    Ok(()) => return Ok(permit),
                    Err(why) => why,
                }
            }
        };
        permit.noted(Err(Error::access_denied(refused)), |()| 0).map(|()| permit)
    }

    /// A login that the user began at the desktop, for the record: no rule is about the user. The caller is whose
    /// connection said that the user did.
    pub(super) async fn desktop_login(&self, teller: &UniqueName<'_>, account: &AccountName) -> Permit {
        let caller = self.callers.named(teller).await;
        let gone = |_| Arc::new(Caller::hidden(rustix::process::getuid().as_raw(), 0, "it has ended"));
        self.leave(caller.unwrap_or_else(gone), account, Event::Login)
    }

    fn leave(&self, caller: Arc<Caller>, account: &AccountName, event: Event) -> Permit {
        Permit {
            access: Arc::clone(&self.access),
            clock: self.clock.clone(),
            caller,
            account: account.clone(),
            event,
            deadline: None,
        }
    }

    /// Asks the user, unless the answer is known or the question is under way.
    async fn ask(&self, permit: &Permit, each: bool) -> Result<(), String> {
        let (account, caller) = (&permit.account, &permit.caller);
        match self.store.look(account, caller).await {
            Some(true) if !each => return Ok(()),
            Some(false) => return Err(refusal(Some(Answer::Denied), account, caller)),
            _ => {}
        }
        let patience = self.clock.now().boot.after(PATIENCE);
        loop {
            let mut asking = match self.access.look(account, caller, each) {
                Known::Allowed => return Ok(()),
                Known::Refused(answer) => return Err(refusal(Some(answer), account, caller)),
                Known::Crowded => return Err(crowded(account, caller)),
                Known::Asked(asking) => asking,
                Known::New(asking) => {
                    self.question(account, caller, each);
                    asking
                }
            };
            let answer = tokio::select! {
                biased;
                answer = asking.wait_for(Option::is_some) => answer.ok().and_then(|answer| *answer),
                () = self.clock.sleep_until(patience) => None,
            };
            match answer {
                // One of those that wait has it.
                Some(Answer::Once | Answer::Always | Answer::Kept) if each => {}
                Some(Answer::Once | Answer::Always | Answer::Kept) => return Ok(()),
                answer => return Err(refusal(answer, account, caller)),
            }
        }
    }

    /// A task: the answer may come after whoever waited for it has given up.
    fn question(&self, account: &AccountName, caller: &Arc<Caller>, each: bool) {
        let always = !each && !matches!(caller.kind, Kind::Hidden(_));
        let (access, store) = (Arc::clone(&self.access), Arc::clone(&self.store));
        let (connection, clock) = (self.connection.clone(), self.clock.clone());
        let (account, caller) = (account.clone(), Arc::clone(caller));
        tokio::spawn(async move {
            let answer = match prompt::ask(&connection, &clock, &account, &caller, always).await {
                Answer::Always if store.allow(&account, &caller).await => Answer::Kept,
                answer => answer,
            };
            access.answered(&account, &caller, answer).await;
        });
    }
}

/// Why the user is not even asked.
fn crowded(account: &AccountName, caller: &Caller) -> String {
    format!(
        "{} may use {:?} only if the user says so, and other questions wait for them already; try again when those are answered",
        caller.id,
        account.as_str()
    )
}

fn elsewhere(account: &AccountName) -> Error {
    Error::access_denied(format!("{:?} has rules that need the session bus; ask there", account.as_str()))
}

/// Why the user's answer, or none, is a no.
fn refusal(answer: Option<Answer>, account: &AccountName, caller: &Caller) -> String {
    let (who, account) = (&caller.id, account.as_str());
    // A program chooses its file's name.
    let word = shell_word(who);
    match answer {
        None => format!("the user has not answered yet whether {who} may use {account:?}; try again"),
        Some(Answer::NobodyToAsk) => format!(
            "{who} may use {account:?} only if the user says so, and there is no notification server to ask \
             through; allow it with a rule in the configuration, then run: bearerctl reload"
        ),
        Some(Answer::Denied) => format!(
            "the user has denied {who} the use of {account:?}; to be asked again run: \
             bearerctl permissions --forget {word} {account}"
        ),
        Some(_) => format!(
            "the user was asked whether {who} may use {account:?} and did not say yes; to be asked again run: \
             bearerctl permissions --forget {word} {account}"
        ),
    }
}

/// Leave to do one thing.
pub(super) struct Permit {
    access: Arc<Access>,
    clock: Clock,
    caller: Arc<Caller>,
    account: AccountName,
    event: Event,
    /// When the caller must be answered, where the user was asked first.
    deadline: Option<BootTime>,
}

impl Permit {
    /// Does it, and notes how it went.
    pub(super) async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, impl Into<Error>>>,
    ) -> Result<T, Error> {
        self.hand_out(work, |_| 0).await
    }

    /// Hands out a token: what the caller wished for, and no more than its rule has for it.
    pub(super) async fn token(
        &self,
        account: &Account,
        mut options: TokenOptions,
    ) -> Result<TokenReply, Error> {
        let expires = |reply: &TokenReply| reply.expires_at;
        let Some((rule, most)) = account.config.rules.limit(&self.caller) else {
            return self.hand_out(account.session.token(options), expires).await;
        };
        let denied = |and: &str| {
            let (name, who) = (self.account.as_str(), &self.caller.id);
            Error::access_denied(format!(
                "the rule of {name:?} for {rule:?} gives {who} {most} alone{and}; change the rule and run: bearerctl reload"
            ))
        };
        let within =
            options.narrow.as_ref().map_or(Some(Arc::clone(most)), |wish| most.limit(wish).map(Arc::new));
        if within.is_none() {
            return self.noted(Err(denied("")), expires);
        }
        options.narrow = within;
        let work = async {
            let reply = account.session.token(options).await.map_err(|error| match error {
                session::error::Error::InvalidOption(why) => {
                    denied(&format!(", and there is no such token: {why}"))
                }
                error => error.into(),
            })?;
            if most.is_exceeded_by(&reply.scope) {
                return Err(denied(&format!(", and the provider grants {:?} all the same", reply.scope)));
            }
            Ok(reply)
        };
        self.hand_out(work, expires).await
    }

    /// As `run`, for what expires.
    pub(super) async fn hand_out<T>(
        &self,
        work: impl Future<Output = Result<T, impl Into<Error>>>,
        expires: impl FnOnce(&T) -> u64,
    ) -> Result<T, Error> {
        let work = async { work.await.map_err(Into::into) };
        let Some(deadline) = self.deadline else { return self.noted(work.await, expires) };
        let done = tokio::select! {
            biased;
            done = work => done,
            () = self.clock.sleep_until(deadline) => {
                Err(Error::timeout("the user was asked first, and then time was up; try again"))
            }
        };
        self.noted(done, expires)
    }

    /// Notes how the attempt ends that this began.
    pub(super) fn note_end(self, attempt: &Arc<Attempt>) {
        let attempt = Arc::clone(attempt);
        tokio::spawn(async move {
            let outcome = attempt.ended().await.as_str();
            self.access.note(Event::LoginEnd, &self.account, &self.caller, outcome, 0);
        });
    }

    fn noted<T>(&self, done: Result<T, Error>, expires: impl FnOnce(&T) -> u64) -> Result<T, Error> {
        let (outcome, expires) = match &done {
            Ok(done) => (GRANTED, expires(done)),
            Err(error) => (error.word(), 0),
        };
        self.access.note(self.event, &self.account, &self.caller, outcome, expires);
        done
    }
}
