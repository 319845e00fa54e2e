//! The events of one answer, as the caller receives them.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use cuvier_types::{Event, SequenceId};

use crate::step::Command;

/// Hears the events of one answer, on the engine's thread: it must neither block nor take long. One that is dropped
/// before it heard a last event belonged to an engine that died.
pub trait Listener: Send + 'static {
    /// Takes the next event. False: nobody listens any more, and the answer is cancelled.
    fn hear(&mut self, event: Event) -> bool;
}

impl Listener for Sender<Event> {
    fn hear(&mut self, event: Event) -> bool {
        self.send(event).is_ok()
    }
}

/// An answer under way whose events a [`Listener`] hears. Dropping it cancels the answer within one step.
#[derive(Debug)]
pub struct Ticket {
    sequence: SequenceId,
    commands: Sender<Command>,
}

impl Ticket {
    pub(crate) fn new(sequence: SequenceId, commands: Sender<Command>) -> Self {
        Self { sequence, commands }
    }

    /// The sequence that gives the answer.
    pub fn sequence(&self) -> SequenceId {
        self.sequence
    }

    /// Asks for the end within one step; the answer then ends with `Finished`, reason `Cancelled`, unless it came
    /// to its own end first.
    pub fn cancel(&self) {
        // An engine that is gone has cancelled everything.
        let _ = self.commands.send(Command::Cancel(self.sequence));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Of a sequence that has ended, the engine knows nothing any more.
        self.cancel();
    }
}

/// The events of one answer: progress of the prompt, tokens, one last event.
///
/// The first event tells how many tokens of the prompt need not be computed. Dropping the stream cancels the
/// answer within one step.
#[derive(Debug)]
pub struct EventStream {
    ticket: Ticket,
    events: Receiver<Event>,
    has_ended: bool,
}

/// No event came in the time given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no event within the time given")]
pub struct Timeout;

impl EventStream {
    pub(crate) fn new(ticket: Ticket, events: Receiver<Event>) -> Self {
        Self { ticket, events, has_ended: false }
    }

    /// The sequence that gives the answer.
    pub fn sequence(&self) -> SequenceId {
        self.ticket.sequence()
    }

    /// As [`Ticket::cancel`].
    pub fn cancel(&self) {
        self.ticket.cancel();
    }

    /// The next event, `None` after the last one; waits no longer than `timeout`.
    ///
    /// # Errors
    /// If no event came in time; a later call may still get it.
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<Event>, Timeout> {
        if self.has_ended {
            return Ok(None);
        }
        match self.events.recv_timeout(timeout) {
            Ok(event) => Ok(Some(self.note(event))),
            Err(RecvTimeoutError::Timeout) => Err(Timeout),
            Err(RecvTimeoutError::Disconnected) => Ok(Some(self.note(engine_died()))),
        }
    }

    fn note(&mut self, event: Event) -> Event {
        self.has_ended = matches!(event, Event::Finished { .. } | Event::Failed { .. });
        event
    }
}

impl Iterator for EventStream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.has_ended {
            return None;
        }
        let event = self.events.recv().unwrap_or_else(|_| engine_died());
        Some(self.note(event))
    }
}

fn engine_died() -> Event {
    Event::Failed { message: "the engine has stopped".to_owned() }
}
