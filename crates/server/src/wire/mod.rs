//! What all protocols have in common on the wire: reading JSON by path, ids, documents, server-sent events.

mod document;
mod fields;
mod ids;
mod sse;

pub use cuvier_encoding::json_kind;
pub use document::{Delivery, document, json_response};
pub use fields::Fields;
pub use ids::{now, random_id};
pub use sse::{Source, Sse, event_stream};
