//! Asks the user whether a program may use an account, with one notification.

use std::time::Duration;

use zbus::Connection;

use super::notification_server::{Event, Server, Text, escaped, in_time, next};
use crate::access::caller::Caller;
use crate::access::consent::Answer;
use crate::account::AccountName;
use crate::clock::Clock;

/// How long a question stays; the calls that wait for it give up earlier, and may come back.
const LIFETIME: Duration = Duration::from_secs(120);

const ONCE: &str = "once";
const ALWAYS: &str = "always";
const DENY: &str = "deny";

/// Shows the question and waits for its end. `always` offers a lasting yes.
pub(super) async fn ask(
    connection: &Connection,
    clock: &Clock,
    account: &AccountName,
    caller: &Caller,
    always: bool,
) -> Answer {
    let shown = in_time(clock, show(connection, account, caller, always)).await.unwrap_or(Ok(None));
    let (server, id) = match shown {
        Ok(Some(shown)) => shown,
        Ok(None) => return Answer::NobodyToAsk,
        Err(error) => {
            tracing::debug!(%error, "nobody can be asked");
            return Answer::NobodyToAsk;
        }
    };
    let proxy = server.proxy.clone();
    let answer = tokio::select! {
        biased;
        answer = answer(server, id) => answer,
        () = clock.sleep(LIFETIME) => Answer::Unanswered,
    };
    // The user, or the server's end, may have been faster.
    let _ = in_time(clock, proxy.close_notification(id)).await;
    answer
}

/// `None` when the server has no buttons.
async fn show(
    connection: &Connection,
    account: &AccountName,
    caller: &Caller,
    always: bool,
) -> zbus::Result<Option<(Server, u32)>> {
    let mut server = Server::find(connection).await?;
    if !server.proxy.get_capabilities().await?.iter().any(|capability| capability == "actions") {
        return Ok(None);
    }
    let summary = format!("A program wants to use {account}");
    let body = escaped(&format!("{caller}\nprocess {}. It would get access tokens.", caller.pid));
    let mut actions = vec![ONCE, "Allow once"];
    if always {
        actions.extend([ALWAYS, "Allow always"]);
    }
    actions.extend([DENY, "Deny"]);
    // Stays until it is answered, beside others.
    let text = Text { summary, body, actions, urgency: 2, lifetime: 0 };
    let reply = server.notify(0, text).await?;
    let id = server.shown(&reply)?;
    Ok(Some((server, id)))
}

async fn answer(server: Server, wanted: u32) -> Answer {
    let mut server = Some(server);
    loop {
        match next(&mut server).await {
            None => return Answer::Unanswered,
            Some(Event::Closed(id)) if id == wanted => return Answer::Dismissed,
            Some(Event::Action(id, key)) if id == wanted => match key.as_str() {
                ONCE => return Answer::Once,
                ALWAYS => return Answer::Always,
                DENY => return Answer::Denied,
                // A click on the text, which answers nothing.
                _ => {}
            },
            Some(_) => {}
        }
    }
}
