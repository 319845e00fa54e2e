//! Anthropic's messages: `POST /v1/messages` and `/v1/messages/count_tokens`.

mod answer;
mod messages;
mod request;

pub(crate) use request::{answer, count_tokens};
