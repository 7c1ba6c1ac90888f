//! Users who log out: from then on nobody may have a token of that session, whatever dies or hangs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bearerd::clock::BootTime;
use bearerd::session::error::Error;

use crate::model::End;
use crate::world::World;

/// A user whose logout did not go through asks again after this.
const PATIENCE: Duration = Duration::from_secs(90);

/// What an account's user was promised.
#[derive(Default)]
pub(crate) struct LoggedOut {
    /// No token of this session or an earlier one is handed out…
    session: u64,
    /// …to calls from here on.
    at: BootTime,
}

impl LoggedOut {
    /// Whether a call of then must not get a token of that session.
    pub(crate) fn forbids(&self, session: u64, began: BootTime) -> bool {
        session <= self.session && began >= self.at
    }
}

impl World {
    /// Logs out every few days; the next caller that is refused has its user log in again.
    pub(crate) async fn log_outs(self: Arc<Self>, account: usize) {
        loop {
            let pause = Duration::from_secs(self.pick(40_000..600_000));
            self.clock.sleep(pause).await;
            if self.chance(0.3) {
                // The logout itself has the bus start the daemon, which is still reading the keyring.
                self.started().await;
            }
            while !self.log_out(account).await {
                self.clock.sleep(PATIENCE).await;
            }
        }
    }

    /// Whether the account is logged out now.
    async fn log_out(self: &Arc<Self>, account: usize) -> bool {
        let _alone = self.accounts[account].door.lock().await;
        let Some(broker) = self.accounts[account].broker() else { return false };
        let Some(handle) = broker.session() else { return true };
        let number = {
            let mut model = self.model();
            let session = model.sessions.get_mut(&account).unwrap();
            session.left = true;
            session.number
        };
        // What a process erased that died before it could tell the provider, nobody knows of any more.
        let known = self.accounts[account].has(number);
        self.trace(|| format!("account {account} logs out of session {number}"));
        let began = self.now();
        let answer = tokio::time::timeout(Duration::from_secs(40), handle.logout()).await;
        let now = self.now();
        self.trace(|| match &answer {
            Ok(Ok(ended)) => format!("account {account} is logged out; at the provider too: {ended}"),
            Ok(Err(error)) => format!("account {account}: {error}"),
            Err(_) => format!("account {account}: no answer to a logout"),
        });
        self.in_time(account, &began);
        match answer {
            Ok(Ok(ended)) => {
                let (alive, untold) = {
                    let session = &self.model().sessions[&account];
                    // The answer to a refresh on its way is waited for: it has the token to end.
                    let flies = self.accounts[account].in_flight.load(Ordering::Relaxed) > 0;
                    (session.alive, known && !flies && !session.told && session.excuse.is_none())
                };
                if alive && (ended || untold) {
                    self.violation(format!("account {account}: a logout told the provider nothing"));
                }
                *self.accounts[account].logged_out() = LoggedOut { session: number, at: now.boot };
                self.logged_out();
                true
            }
            Ok(Err(Error::StoreLocked(_) | Error::StoreUnavailable(_) | Error::NoSession(_))) | Err(_) => {
                false
            }
            Ok(Err(error)) => {
                self.violation(format!("account {account}: a logout was refused: {error}"));
                true
            }
        }
    }

    /// The broker sets out to end a session at the provider.
    pub(crate) fn leaves(&self, account: usize, token: &str) {
        let number = crate::model::parse(token).map(|(number, _)| number);
        if let Some(session) = self.model().sessions.get_mut(&account)
            && number == Some(session.number)
        {
            session.told = true;
        }
    }

    /// The end of a session reaches the provider, by any of its refresh tokens.
    pub(crate) fn end_session(&self, account: usize, token: &str) {
        let ended = crate::model::parse(token);
        let mut model = self.model();
        if let Some(session) = model.sessions.get_mut(&account)
            && ended.is_some_and(|(number, _)| number == session.number)
            && session.alive
        {
            session.alive = false;
            session.ended = Some(End::Logout);
            if !session.left {
                drop(model);
                self.violation(format!("account {account}: a session was ended that nobody had left"));
            }
        }
    }
}
