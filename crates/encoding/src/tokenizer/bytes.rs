//! The byte alphabet of byte-level BPE, and the bytes of every token.

use cuvier_types::TokenId;

use super::TokenizerError;
use super::file::TokenizerFile;

/// How a byte is written in a vocabulary: printable Latin-1 as itself, the other 68 from U+0100 on, in order.
///
/// Source: the byte-to-unicode table that GPT-2 introduced; V4's tokenizer uses it unchanged.
pub(crate) fn char_of_byte(byte: u8) -> char {
    if is_written_as_itself(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !is_written_as_itself(b)).count();
    // At most 67 of them come before, so this stays within U+0143.
    char::from_u32(0x100 + before as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn is_written_as_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The bytes of every token, in one piece.
pub(super) struct TokenBytes {
    bytes: Vec<u8>,
    /// Where a token starts and ends in `bytes`; nothing for an id that does not exist.
    ranges: Vec<Option<(u32, u32)>>,
    byte_ids: [TokenId; 256],
}

impl TokenBytes {
    pub(super) fn new(file: &TokenizerFile) -> Result<Self, TokenizerError> {
        let added = file.added_tokens.iter().map(|entry| entry.id);
        let len = file.entries.iter().map(|&(_, id)| id).chain(added).max().map_or(0, |id| id as usize + 1);
        let mut table = Self { bytes: Vec::new(), ranges: vec![None; len], byte_ids: [TokenId(0); 256] };
        let mut byte_of_char = [None; 0x144];
        for byte in 0..=u8::MAX {
            byte_of_char[char_of_byte(byte) as usize] = Some(byte);
        }
        let to_byte = |c: char| byte_of_char.get(c as usize).copied().flatten();
        for (token, id) in &file.entries {
            let start = table.bytes.len();
            table.bytes.extend(token.chars().map_while(to_byte));
            if table.bytes.len() - start != token.chars().count() {
                // Outside the alphabet, so no text reaches it by merging: it is an added token's own text.
                table.bytes.truncate(start);
                table.bytes.extend_from_slice(token.as_bytes());
            }
            table.close(*id, start);
            if let ([byte], 1) = (&table.bytes[start..], token.chars().count()) {
                table.byte_ids[usize::from(*byte)] = TokenId(*id);
            }
        }
        for entry in &file.added_tokens {
            let start = table.bytes.len();
            table.bytes.extend_from_slice(entry.content.as_bytes());
            table.close(entry.id, start);
        }
        Ok(table)
    }

    /// Ids run up to this one.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(super) fn get(&self, id: TokenId) -> Option<&[u8]> {
        let (start, end) = self.ranges.get(id.0 as usize).copied().flatten()?;
        Some(&self.bytes[start as usize..end as usize])
    }

    /// The token that is this byte alone.
    pub(super) fn byte(&self, byte: u8) -> TokenId {
        self.byte_ids[usize::from(byte)]
    }

    fn close(&mut self, id: u32, start: usize) {
        // 4 GiB of token text would need a tokenizer file at least as large.
        self.ranges[id as usize] = Some((start as u32, self.bytes.len() as u32));
    }
}
