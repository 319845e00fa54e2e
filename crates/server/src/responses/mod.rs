//! OpenAI's responses: `POST /v1/responses`.

mod answer;
mod items;
mod request;
mod tools;

pub(crate) use request::answer;
