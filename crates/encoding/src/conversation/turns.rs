//! Messages to turns: what the format does across messages before it writes any.

use std::collections::HashMap;

use super::message::{Content, Message, Role};
use crate::control::Task;

/// What is written under one role marker.
#[derive(Clone, Debug)]
pub(super) enum Turn<'a> {
    /// User messages and tool results, joined.
    User { blocks: Vec<Block<'a>>, task: Option<Task> },
    /// Any other message.
    Message(&'a Message),
}

/// A part of a user's turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Block<'a> {
    Text(&'a Content),
    Result { call: Option<&'a str>, content: &'a Content },
}

impl<'a> Turn<'a> {
    /// The message behind a turn that is not a user's.
    pub(super) fn message(&self) -> Option<&'a Message> {
        match self {
            Self::User { .. } => None,
            Self::Message(message) => Some(message),
        }
    }

    pub(super) fn role(&self) -> Role {
        self.message().map_or(Role::User, |message| message.role)
    }

    pub(super) fn task(&self) -> Option<Task> {
        match self {
            Self::User { task, .. } => *task,
            Self::Message(message) => message.task,
        }
    }
}

/// Joins each run of user messages and tool results into one turn. A user message opens a new one after a turn with
/// a task; a tool result does not.
pub(super) fn joined(messages: &[Message]) -> Vec<Turn<'_>> {
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for message in messages {
        let content = &message.content;
        match message.role {
            Role::Tool => {
                let block = Block::Result { call: message.tool_call_id.as_deref(), content };
                match turns.last_mut() {
                    Some(Turn::User { blocks, .. }) => blocks.push(block),
                    _ => turns.push(Turn::User { blocks: vec![block], task: None }),
                }
            }
            Role::User => match turns.last_mut() {
                Some(Turn::User { blocks, task: None }) => blocks.push(Block::Text(content)),
                _ => turns.push(Turn::User { blocks: vec![Block::Text(content)], task: message.task }),
            },
            _ => turns.push(Turn::Message(message)),
        }
    }
    turns
}

/// Puts the results within a turn into the order of the latest calls before it; texts keep their places. A result
/// of an unknown call counts as one of the first.
pub(super) fn sort_results_by_call<'a>(turns: &mut [Turn<'a>]) {
    let mut order: HashMap<&'a str, usize> = HashMap::new();
    for turn in turns {
        match turn {
            Turn::Message(message) if message.role == Role::Assistant && !message.tool_calls.is_empty() => {
                order.clear();
                let ids = message.tool_calls.iter().enumerate();
                order.extend(ids.filter_map(|(i, call)| Some((call.id.as_deref()?, i))));
            }
            Turn::User { blocks, .. } if !order.is_empty() => {
                let is_result = |block: &Block<'_>| matches!(block, Block::Result { .. });
                let mut results: Vec<Block<'a>> = blocks.iter().copied().filter(is_result).collect();
                results.sort_by_key(|block| match block {
                    Block::Result { call: Some(id), .. } => order.get(id).copied().unwrap_or(0),
                    _ => 0,
                });
                for (place, result) in blocks.iter_mut().filter(|block| is_result(block)).zip(results) {
                    *place = result;
                }
            }
            _ => {}
        }
    }
}

/// Takes out the developer messages before the last turn of a user. Done where old reasoning is not written either.
pub(super) fn drop_old_developers(turns: &mut Vec<Turn<'_>>) {
    let last_user = last_user(turns).unwrap_or(0);
    let mut index = 0;
    turns.retain(|turn| {
        let is_old = index < last_user;
        index += 1;
        !(is_old && turn.role() == Role::Developer)
    });
}

/// The last turn of a user or developer.
pub(super) fn last_user(turns: &[Turn<'_>]) -> Option<usize> {
    turns.iter().rposition(|turn| matches!(turn.role(), Role::User | Role::Developer))
}
