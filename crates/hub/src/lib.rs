//! `hub`: the files of a checkpoint, from a model hub into a folder.
//!
//! Door: [`pull`](pull()) fills a folder and goes on where the last call was cut; [`check`](check()) says whether the folder
//! still holds what came, and names file, bytes and tensors that do not; [`remote_headers`] reads config and headers before
//! anything is downloaded. All three are told by a callback whether to stop.
//!
//! **Invariants:**
//! * A revision is pinned to its commit first, and every answer is held against what the hub listed then: size, range, hash.
//! * A file has its name only when all its bytes have the listed hash. Until then it is `NAME.part`, beside a journal that is
//!   checked before it is believed.
//! * What is fetched twice is at most one chunk per connection and kill, and nothing after a cut connection.
//! * The hub is not trusted: no name leads out of the folder, no length makes us hold more than a fixed bound, and the token
//!   goes to the hub alone.
//! * What to do is decided in `work`, `answer`, `retry`, `chunks` and `journal`, which know no clock, socket or file.
//!
//! **Absent on purpose:** repair from other hubs, uploads, and a default hub: whose files to trust is for the user to say.

#![forbid(unsafe_code)]

mod address;
mod answer;
mod check;
mod chunks;
mod client;
mod content;
mod digest;
mod error;
mod fetch;
mod folder;
mod journal;
mod listing;
mod manifest;
mod name;
mod part;
mod pull;
mod remote;
mod retry;
mod watch;
mod work;

pub use address::{Endpoint, RepoId, Revision};
pub use check::{Broken, CheckReport, Damage, check};
pub use client::{Client, ClientOptions, Token};
pub use digest::ContentId;
pub use error::HubError;
pub use listing::{Listing, RemoteFile};
pub use name::{FileName, is_needed};
pub use pull::{PullOptions, PullReport, pull};
pub use remote::{RemoteCheckpoint, RemoteShard, remote_headers};
pub use retry::RetryPolicy;
pub use watch::Event;
