//! What an answer is stamped with: an id that nobody can guess, the time.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// `prefix` and 24 random hexadecimal digits. Ids of calls find what was sampled, so they must not be guessable.
///
/// # Panics
/// If the system has no randomness to give, without which no key could be safe either.
pub fn random_id(prefix: &str) -> String {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    let mut id = prefix.to_owned();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
