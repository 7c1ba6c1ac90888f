//! What the state machine asks for, done: each effect a task of its own, whose end is an event again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::actor::{Actor, Completion};
use super::state::{Effect, RefreshOrder};
use crate::clock::Clock;
use crate::oidc::error::{Class, ProviderError};
use crate::oidc::{End, EndRequest, Provider, RefreshRequest};
use crate::store::{Item, ItemKind, Store};

/// How often the end of a session is told to a provider that is busy or away.
const END_TRIES: u32 = 6;

impl<P: Provider, S: Store> Actor<P, S> {
    pub(super) fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer(id, answer) => {
                    if let Some(reply) = self.waiting.remove(&id) {
                        // A caller that went away needs no answer.
                        let _ = reply.send(answer);
                    }
                }
                Effect::Load => {
                    let (store, account) = (Arc::clone(&self.store), self.account.clone());
                    self.tasks.spawn(async move { Completion::Loaded(store.load(&account).await) });
                }
                Effect::Hold(unsaved) => self.recovery.hold(&self.account, unsaved),
                Effect::Write { sequence, record } => {
                    let (store, account) = (Arc::clone(&self.store), self.account.clone());
                    self.tasks.spawn(async move {
                        let result = match record {
                            Some(record) => store.save(&account, Item::Session(record)).await,
                            None => store.erase(&account, ItemKind::Session).await,
                        };
                        Completion::Written(sequence, result)
                    });
                }
                Effect::Refresh(order) => self.refresh(order),
                Effect::GiveUp => {
                    // It may have come back already.
                    self.give_up.take().map(|give_up| give_up.send(()));
                }
                Effect::Note { sequence, note } => {
                    let (recovery, account) = (Arc::clone(&self.recovery), self.account.clone());
                    self.tasks.spawn(async move {
                        recovery.note(&account, sequence, &note).await;
                        Completion::Nothing
                    });
                }
                Effect::EndSession(request) => {
                    let Some((_, provider)) = &self.oauth else { continue };
                    let (provider, clock) = (Arc::clone(provider), self.clock.clone());
                    self.tasks.spawn(async move {
                        let end = provider.end_session(request.clone()).await;
                        if let End::Later(wait) = end {
                            // Nobody waits for it, and it ends with the process: nothing is kept for it (F6).
                            tokio::spawn(end_later(provider, request, clock, wait));
                        }
                        Completion::EndedAtProvider(end == End::Done)
                    });
                }
            }
        }
    }

    fn refresh(&mut self, order: RefreshOrder) {
        let now = self.clock.now();
        let Some((_, provider)) = &self.oauth else { return };
        if let Some(postponed) = self.budget.admit(&order, &now) {
            let effects = self.session.postponed(postponed, &now);
            return self.perform(effects);
        }
        let (give_up, given_up) = oneshot::channel();
        self.give_up = Some(give_up);
        let (provider, recovery, account) =
            (Arc::clone(provider), Arc::clone(&self.recovery), self.account.clone());
        self.tasks.spawn(async move {
            // On the disk before it is on the wire (D7).
            recovery.note(&account, order.note_sequence, &order.note).await;
            let refresh = provider.refresh(RefreshRequest {
                refresh_token: order.refresh_token,
                stored_secret: order.client_secret,
                key: order.key,
                sub: order.sub,
                servers: order.servers,
                narrow: order.narrow,
                subject: order.subject,
            });
            Completion::Refreshed(tokio::select! {
                biased;
                result = refresh => result,
                Ok(()) = given_up => {
                    Err(ProviderError::new(Class::Ambiguous, "the machine slept or changed its network meanwhile"))
                }
            })
        });
    }
}

/// Goes on telling the provider that a session is over (RFC 7009 section 2.2.1).
async fn end_later<P: Provider>(provider: Arc<P>, request: EndRequest, clock: Clock, mut wait: Duration) {
    for _ in 0..END_TRIES {
        clock.sleep(wait).await;
        match provider.end_session(request.clone()).await {
            End::Later(next) => wait = next.max(wait.saturating_mul(2)),
            End::Done => return tracing::info!("the provider ended the session after all"),
            End::Impossible => return,
        }
    }
}
