//! A conversation: a history and its state that outlive a single answer.

use std::sync::mpsc;

use cuvier_types::TokenId;

use crate::handle::Door;
use crate::shelf::ConversationId;
use crate::step::{Command, Reply};
use crate::{EngineError, EventStream, Request};

/// A history of tokens with the model's state of it. Made by [`crate::EngineHandle::open`].
///
/// What can be reached in several ways is equal, bit for bit: computed at once or in parts, forked, rolled back,
/// saved and restored. Dropping the handle forgets the conversation and cancels the answer under way.
#[derive(Debug)]
pub struct Conversation {
    id: ConversationId,
    door: Door,
}

impl Conversation {
    pub(crate) fn open(door: &Door) -> Result<Self, EngineError> {
        let id = door.next_conversation();
        door.command(Command::Open(id))?;
        Ok(Self { id, door: door.clone() })
    }

    pub(crate) fn restore(door: &Door, bytes: Vec<u8>) -> Result<Self, EngineError> {
        let id = door.next_conversation();
        door.ask(|reply| Command::Restore { id, bytes, reply })?;
        Ok(Self { id, door: door.clone() })
    }

    /// Appends the request's prompt to the history and continues it. The answer is appended as it is drawn, a stop
    /// token included; so is what an answer that was cancelled or failed had got to.
    ///
    /// # Errors
    /// If the request is not valid, the history would outgrow the context, or an answer is under way. Nothing has
    /// changed then.
    pub fn send(&self, request: Request) -> Result<EventStream, EngineError> {
        request.check(self.door.bounds)?;
        let sequence = self.door.next_sequence();
        let (events, receiver) = mpsc::channel();
        let listener = Box::new(events);
        self.ask(|id, reply| Command::Send { id, sequence, request, listener, reply })?;
        Ok(EventStream::new(self.door.ticket(sequence), receiver))
    }

    /// A second conversation with the same history, from here on independent.
    ///
    /// # Errors
    /// If an answer is under way.
    pub fn fork(&self) -> Result<Self, EngineError> {
        let to = self.door.next_conversation();
        self.ask(|from, reply| Command::Fork { from, to, reply })?;
        Ok(Self { id: to, door: self.door.clone() })
    }

    /// Takes back the last `n_tokens` tokens of the history, up to all of them. What the model's state cannot take
    /// back is computed anew when it is next needed.
    ///
    /// # Errors
    /// If there are fewer tokens, or an answer is under way. Nothing has changed then.
    pub fn rollback(&self, n_tokens: usize) -> Result<(), EngineError> {
        self.ask(|id, reply| Command::Rollback { id, n_tokens, reply })
    }

    /// The whole history: all that was sent and drawn.
    ///
    /// # Errors
    /// If an answer is under way.
    pub fn tokens(&self) -> Result<Vec<TokenId>, EngineError> {
        self.ask(|id, reply| Command::Tokens { id, reply })
    }

    /// History and state as bytes, for [`crate::EngineHandle::restore`].
    ///
    /// # Errors
    /// If an answer is under way.
    pub fn save(&self) -> Result<Vec<u8>, EngineError> {
        self.ask(|id, reply| Command::Save { id, reply })
    }

    fn ask<T>(&self, command: impl FnOnce(ConversationId, Reply<T>) -> Command) -> Result<T, EngineError> {
        self.door.ask(|reply| command(self.id, reply))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // An engine that is gone has forgotten it already.
        let _ = self.door.command(Command::Close(self.id));
    }
}
