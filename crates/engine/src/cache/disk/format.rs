//! A file of the cache as bytes, and back.
//!
//! A file is one of two things. Rows: what is append-only of the states of a text, in segments of 128 tokens, from
//! where the rows before it end. A tail: what a state at one position holds beyond the segments before it. Either names
//! the rows it stands on, which no file of another text can be: names are SHA-256 of model, scope and tokens.
//!
//! Layout, little endian: the header; then the segments, or the tail. The header: magic (8 bytes), version (u32), its
//! own length (u32), flags (u8), model (u64), scope (u64), name of the rows before (32 bytes, zeros where there are
//! none), number of segments before (u64), of its own segments (u64), bytes of a segment (u64), tokens (u64), bytes of
//! the tail (u64); the tokens behind those of the segments before (u32 each); the checksum of each segment, or of the
//! tail (u64 each); the checksum of the header before it (u64).

use cuvier_types::TokenId;
use sha2::{Digest, Sha256};

use crate::cache::plan::BLOCK;
use crate::cache::trie::Root;
use crate::checksum::checksum;

const MAGIC: &[u8; 8] = b"CUVCACHE";
/// Of this layout, and of what segments and tails hold.
const VERSION: u32 = 1;
/// The header up to its tokens.
pub(crate) const FIXED_LEN: usize = 8 + 4 + 4 + 1 + 8 + 8 + 32 + 5 * 8;
/// No header is longer: more tokens than any context has.
const HEADER_MAX: usize = 1 << 28;
const IS_MARK: u8 = 1;

/// The name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileId(pub(crate) [u8; 32]);

/// All that is known of a file without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) root: Root,
    /// The rows before; `None` where the text begins.
    pub(crate) parent: Option<FileId>,
    /// Segments that the rows before give; they may hold more.
    pub(crate) first_segment: usize,
    /// The tokens behind those of the segments before.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Rows {
        /// Bytes of each segment; above 0.
        segment_bytes: usize,
        /// Of each segment, at least one.
        checksums: Vec<u64>,
    },
    Tail {
        bytes: usize,
        checksum: u64,
        /// Others are believed to begin alike.
        is_mark: bool,
    },
}

/// Why a file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It is not what was written.
    Broken,
    /// Another version wrote it.
    Foreign,
}

/// The name of the file of this kind whose text is `tokens`, all of them from the text's beginning.
pub(crate) fn name(root: Root, first_segment: usize, is_tail: bool, tokens: &[TokenId]) -> FileId {
    let mut hash = Sha256::new();
    hash.update(root.model.to_le_bytes());
    hash.update(root.scope.to_le_bytes());
    hash.update(if is_tail { u64::MAX } else { first_segment as u64 }.to_le_bytes());
    for token in tokens {
        hash.update(token.0.to_le_bytes());
    }
    FileId(hash.finalize().into())
}

impl Header {
    pub(crate) fn is_tail(&self) -> bool {
        matches!(self.body, Body::Tail { .. })
    }

    /// Bytes of the whole file.
    pub(crate) fn file_bytes(&self) -> u64 {
        let body = match &self.body {
            Body::Rows { segment_bytes, checksums } => {
                (*segment_bytes as u64).saturating_mul(checksums.len() as u64)
            }
            Body::Tail { bytes, .. } => *bytes as u64,
        };
        body.saturating_add(self.len() as u64)
    }

    /// Bytes of the header.
    pub(crate) fn len(&self) -> usize {
        let n_checksums = match &self.body {
            Body::Rows { checksums, .. } => checksums.len(),
            Body::Tail { .. } => 1,
        };
        FIXED_LEN + 4 * self.tokens.len() + 8 * n_checksums + 8
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let (flags, n_segments, segment_bytes, tail_bytes, sums) = match &self.body {
            Body::Rows { segment_bytes, checksums } => {
                (0, checksums.len(), *segment_bytes, 0, checksums.clone())
            }
            Body::Tail { bytes, checksum, is_mark } => {
                (if *is_mark { IS_MARK } else { 0 }, 0, 0, *bytes, vec![*checksum])
            }
        };
        let mut out = Vec::with_capacity(self.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.len() as u32).to_le_bytes());
        out.push(flags);
        out.extend_from_slice(&self.root.model.to_le_bytes());
        out.extend_from_slice(&self.root.scope.to_le_bytes());
        out.extend_from_slice(&self.parent.map_or([0; 32], |parent| parent.0));
        for number in [self.first_segment, n_segments, segment_bytes, self.tokens.len(), tail_bytes] {
            out.extend_from_slice(&(number as u64).to_le_bytes());
        }
        out.extend(self.tokens.iter().flat_map(|token| token.0.to_le_bytes()));
        out.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
        let sum = checksum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// How long the header is that begins with these [`FIXED_LEN`] bytes.
    pub(crate) fn len_from(fixed: &[u8]) -> Result<usize, Unusable> {
        let mut input = Input(fixed);
        if input.take(8)? != MAGIC {
            return Err(Unusable::Broken);
        }
        if input.u32()? != VERSION {
            return Err(Unusable::Foreign);
        }
        let len = input.u32()? as usize;
        if (FIXED_LEN..=HEADER_MAX).contains(&len) { Ok(len) } else { Err(Unusable::Broken) }
    }

    /// Reads a header that is exactly these bytes; nothing is believed before its checksum agrees.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Unusable> {
        if Self::len_from(bytes.get(..FIXED_LEN).ok_or(Unusable::Broken)?)? != bytes.len() {
            return Err(Unusable::Broken);
        }
        let (covered, sum) = bytes.split_at(bytes.len() - 8);
        if Input(sum).u64()? != checksum(covered) {
            return Err(Unusable::Broken);
        }
        let mut input = Input(&covered[16..]);
        let flags = input.take(1)?[0];
        let root = Root { model: input.u64()?, scope: input.u64()? };
        let parent: [u8; 32] = input.take(32)?.try_into().expect("32 bytes were taken");
        let parent = (parent != [0; 32]).then_some(FileId(parent));
        let [first_segment, n_segments, segment_bytes] = [input.usize()?, input.usize()?, input.usize()?];
        let [n_tokens, tail_bytes] = [input.usize()?, input.usize()?];
        let tokens = input.take(n_tokens.checked_mul(4).ok_or(Unusable::Broken)?)?;
        let tokens: Vec<TokenId> =
            tokens.as_chunks::<4>().0.iter().map(|&token| TokenId(u32::from_le_bytes(token))).collect();
        let sums: Vec<u64> = input.0.as_chunks::<8>().0.iter().map(|&sum| u64::from_le_bytes(sum)).collect();
        let is_whole = input.0.len() == 8 * sums.len() && parent.is_some() == (first_segment > 0);
        let is_rows = segment_bytes > 0 && tail_bytes == 0 && flags == 0;
        let is_tail = n_segments == 0 && segment_bytes == 0 && tail_bytes > 0 && flags <= IS_MARK;
        let body = if is_rows && sums.len() == n_segments && Some(n_tokens) == n_segments.checked_mul(BLOCK) {
            Body::Rows { segment_bytes, checksums: sums }
        } else if is_tail && sums.len() == 1 && n_tokens < BLOCK {
            Body::Tail { bytes: tail_bytes, checksum: sums[0], is_mark: flags == IS_MARK }
        } else {
            return Err(Unusable::Broken);
        };
        // A text without tokens has no state worth a file.
        let is_empty = n_tokens == 0 && (first_segment == 0 || is_rows);
        if !is_whole || is_empty {
            return Err(Unusable::Broken);
        }
        Ok(Self { root, parent, first_segment, tokens, body })
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Unusable> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Unusable::Broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Unusable> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    fn u64(&mut self) -> Result<u64, Unusable> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes were taken")))
    }

    fn usize(&mut self) -> Result<usize, Unusable> {
        usize::try_from(self.u64()?).map_err(|_| Unusable::Broken)
    }
}

/// Bytes as a header of this version whose length and checksum agree, where they are long enough: what random bytes never
/// come to be.
#[cfg(any(test, fuzzing))]
fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut framed = bytes.to_vec();
    if framed.len() > FIXED_LEN {
        framed[..8].copy_from_slice(MAGIC);
        framed[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let len = (framed.len() as u32 + 8).to_le_bytes();
        framed[12..16].copy_from_slice(&len);
        let sum = checksum(&framed);
        framed.extend_from_slice(&sum.to_le_bytes());
    }
    framed
}

/// For `fuzz/`: no bytes make reading panic, and what is read is what would be written.
#[cfg(fuzzing)]
pub fn fuzz_disk_header(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), framed(bytes)] {
        if let Ok(header) = Header::read(&bytes) {
            assert_eq!(header.write(), bytes);
            assert!(header.file_bytes() > bytes.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        let rows = (1usize..4, 1usize..1_000_000).prop_map(|(n, segment_bytes)| {
            (n * BLOCK, Body::Rows { segment_bytes, checksums: (0..n as u64).collect() })
        });
        let tail = (1usize..BLOCK, 1usize..1_000_000, any::<u64>(), any::<bool>())
            .prop_map(|(n, bytes, checksum, is_mark)| (n, Body::Tail { bytes, checksum, is_mark }));
        (prop_oneof![rows, tail], any::<[u64; 3]>(), 0usize..5).prop_map(
            |((n, body), [model, scope, seed], first_segment)| Header {
                root: Root { model, scope },
                parent: (first_segment > 0).then_some(FileId([7; 32])),
                first_segment,
                tokens: (0..n as u64).map(|i| TokenId((i * seed) as u32)).collect(),
                body,
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_that_was_written_is_read(header in header()) {
            let bytes = header.write();
            prop_assert_eq!(bytes.len(), header.len());
            prop_assert_eq!(Header::len_from(&bytes[..FIXED_LEN]), Ok(bytes.len()));
            prop_assert_eq!(Header::read(&bytes), Ok(header));
        }

        #[test]
        fn a_header_with_a_flipped_bit_or_another_length_is_refused(
            header in header(),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let mut bytes = header.write();
            let at = at.index(bytes.len());
            prop_assert_eq!(Header::read(&bytes[..at]), Err(Unusable::Broken));
            bytes[at] ^= 1 << bit;
            prop_assert!(Header::read(&bytes).is_err());
            bytes[at] ^= 1 << bit;
            bytes.push(0);
            prop_assert_eq!(Header::read(&bytes), Err(Unusable::Broken));
        }

        #[test]
        fn arbitrary_bytes_never_panic_even_under_a_checksum_that_fits(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = Header::read(&bytes);
            let _ = Header::read(&framed(&bytes));
        }
    }

    #[test]
    fn a_header_of_another_version_is_foreign_not_broken() {
        let root = Root { model: 1, scope: 2 };
        let body = Body::Tail { bytes: 9, checksum: 5, is_mark: false };
        let header = Header { root, parent: None, first_segment: 0, tokens: vec![TokenId(3)], body };
        let mut bytes = header.write();
        bytes[8] += 1;
        assert_eq!(Header::read(&bytes), Err(Unusable::Foreign));
    }

    #[test]
    fn names_differ_by_model_scope_kind_and_every_token() {
        let root = Root { model: 1, scope: 2 };
        let tokens: Vec<TokenId> = (0..200).map(TokenId).collect();
        let mut names = vec![
            name(root, 0, true, &tokens),
            name(root, 0, false, &tokens),
            name(root, 1, false, &tokens),
            name(Root { model: 2, ..root }, 0, true, &tokens),
            name(Root { scope: 3, ..root }, 0, true, &tokens),
            name(root, 0, true, &tokens[..199]),
        ];
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 6);
    }
}
