//! What all protocols have in common on the wire: reading JSON by path, ids, server-sent events.

mod fields;
mod ids;
mod sse;

pub use cuvier_encoding::json_kind;
pub use fields::Fields;
pub use ids::{now, random_id};
pub use sse::{Source, Sse, event_stream, json_response};
