//! What lies beside a partial file: which of its chunks have come, each with its hash.
//!
//! The hashes make the journal a claim that is checked against the partial file before it is believed, so neither a
//! crash between two writes nor an edited journal can put wrong bytes into a file. It is only ever appended to, one line
//! per chunk; a last line without its end was cut and counts for nothing.

use std::collections::BTreeMap;

use crate::ContentId;
use crate::chunks::Chunks;
use crate::digest::ChunkHash;

const TITLE: &str = "cuvier partial file 1";

/// A parsed journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Journal {
    /// The content that is coming.
    pub(crate) id: ContentId,
    /// Its cutting.
    pub(crate) chunks: Chunks,
    /// The chunks that are there.
    pub(crate) done: BTreeMap<u64, ChunkHash>,
}

impl Journal {
    /// Of a file of which nothing has come.
    pub(crate) fn new(id: ContentId, chunks: Chunks) -> Self {
        Self { id, chunks, done: BTreeMap::new() }
    }

    /// `None` if it is not a whole and sound journal: then the file starts anew.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        if lines.next()? != TITLE {
            return None;
        }
        let id = ContentId::parse_hex(lines.next()?.strip_prefix("content ")?)?;
        let size: u64 = lines.next()?.strip_prefix("size ")?.parse().ok()?;
        let chunk_bytes: u64 = lines.next()?.strip_prefix("chunk ")?.parse().ok()?;
        if chunk_bytes == 0 {
            return None;
        }
        let mut journal = Self::new(id, Chunks { size, chunk_bytes });
        for line in lines {
            let (index, hash) = line.strip_prefix("done ")?.split_once(' ')?;
            let index = index.parse().ok().filter(|&index| index < journal.chunks.count())?;
            journal.done.insert(index, ChunkHash::parse(hash)?);
        }
        Some(journal)
    }

    /// The whole journal as text.
    pub(crate) fn to_text(&self) -> String {
        let Self { id, chunks: Chunks { size, chunk_bytes }, done } = self;
        let head = format!("{TITLE}\ncontent {id}\nsize {size}\nchunk {chunk_bytes}\n");
        done.iter().fold(head, |text, (&index, hash)| text + &line(index, hash))
    }

    /// Bytes that are there already.
    pub(crate) fn done_bytes(&self) -> u64 {
        self.done.keys().map(|&index| self.chunks.range(index)).map(|range| range.end - range.start).sum()
    }
}

/// What is appended when a chunk has come.
pub(crate) fn line(index: u64, hash: &ChunkHash) -> String {
    format!("done {index} {hash}\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn journal(done: &[u64]) -> Journal {
        let id = ContentId::Sha256([7; 32]);
        let done = done.iter().map(|&index| (index, ChunkHash::of(&index.to_le_bytes()))).collect();
        Journal { id, chunks: Chunks { size: 100, chunk_bytes: 16 }, done }
    }

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let journal = journal(&[0, 3, 6]);
        assert_eq!(Journal::parse(&journal.to_text()), Some(journal.clone()));
        assert_eq!(journal.done_bytes(), 16 + 16 + 4);
    }

    #[test]
    fn a_last_line_that_was_cut_counts_for_nothing() {
        let text = journal(&[0, 3]).to_text();
        let cut = &text[..text.len() - 1];
        assert_eq!(Journal::parse(cut), Some(journal(&[0])));
    }

    #[test]
    fn a_chunk_beyond_the_end_makes_the_journal_void() {
        let text = journal(&[]).to_text() + &line(7, &ChunkHash::of(b""));
        assert_eq!(Journal::parse(&text), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = Journal::parse(&text);
        }

        #[test]
        fn a_damaged_journal_is_void_or_names_chunks_of_the_file(at in 0_usize..400, byte in 0_u8..128) {
            let mut bytes = journal(&[1, 2, 5]).to_text().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Some(journal) = Journal::parse(std::str::from_utf8(&bytes).unwrap()) {
                prop_assert!(journal.done.keys().all(|&index| index < journal.chunks.count()));
                prop_assert!(journal.done_bytes() <= journal.chunks.size);
            }
        }
    }
}
