//! Hashes: what a hub says of a file's content, and what its chunks on disk are remembered by.

use std::fmt;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHash(pub(crate) [u8; 32]);

impl ChunkHash {
    #[cfg(test)]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(crate) fn parse(hex: &str) -> Option<Self> {
        bytes_of_hex(hex).map(Self)
    }
}

impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// The hash by which a hub knows a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentId {
    /// SHA-256 of the bytes: large files.
    Sha256([u8; 32]),
    /// Git's hash of a blob, SHA-1 over `blob LENGTH\0` and the bytes: small files, of which a hub lists no other.
    GitBlob([u8; 20]),
}

impl ContentId {
    /// 64 hexadecimal digits are a SHA-256, 40 the hash of a git blob, anything else is neither.
    pub fn parse_hex(hex: &str) -> Option<Self> {
        match hex.len() {
            64 => bytes_of_hex(hex).map(Self::Sha256),
            40 => bytes_of_hex(hex).map(Self::GitBlob),
            _ => None,
        }
    }

    /// The hash of bytes, of the same kind as this one.
    pub(crate) fn same_kind_of(&self, bytes: &[u8]) -> Self {
        let mut hasher = ContentHasher::new(self, bytes.len() as u64);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(bytes) => write_hex(f, bytes),
            Self::GitBlob(bytes) => write_hex(f, bytes),
        }
    }
}

/// Hashes a file's bytes in order, in the way that its id was made.
pub(crate) enum ContentHasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl ContentHasher {
    /// `size`: all bytes that will come; git hashes it first.
    pub(crate) fn new(kind: &ContentId, size: u64) -> Self {
        match kind {
            ContentId::Sha256(_) => Self::Sha256(Sha256::new()),
            ContentId::GitBlob(_) => Self::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> ContentId {
        match self {
            Self::Sha256(hasher) => ContentId::Sha256(hasher.finalize().into()),
            Self::GitBlob(hasher) => ContentId::GitBlob(hasher.finalize().into()),
        }
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn bytes_of_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits: Option<Vec<u8>> = hex.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let bytes: Vec<u8> = digits?.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect();
    (hex.len() == 2 * N).then(|| bytes.try_into().ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_empty_content_has_its_known_hashes() {
        let git = ContentId::parse_hex("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391").unwrap();
        assert_eq!(git.same_kind_of(b""), git);
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let sha256 = ContentId::parse_hex(hex).unwrap();
        assert_eq!(sha256.same_kind_of(b""), sha256);
        assert_eq!(sha256.to_string(), hex);
    }

    #[test]
    fn what_is_not_hexadecimal_is_no_hash() {
        assert_eq!(ContentId::parse_hex(&"g".repeat(64)), None);
        assert_eq!(ContentId::parse_hex(&"é".repeat(20)), None);
        assert_eq!(ContentId::parse_hex("abc"), None);
    }
}
