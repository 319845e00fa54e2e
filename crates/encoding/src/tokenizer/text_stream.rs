//! Bytes that arrive in pieces, given out as whole characters.

/// Decodes a stream of bytes as UTF-8. A token may end inside a character: its first bytes wait here.
///
/// All pieces together give what [`String::from_utf8_lossy`] gives for all bytes together.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// The beginning of a character; at most three bytes.
    waiting: Vec<u8>,
}

impl TextStream {
    /// An empty stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes more bytes and returns the characters that are now whole. Bytes that can no longer become a
    /// character are returned as U+FFFD.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.waiting.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.waiting.as_slice();
        loop {
            match str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(broken) = error.error_len() else {
                        rest = after;
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[broken..];
                }
            }
        }
        let consumed = self.waiting.len() - rest.len();
        self.waiting.drain(..consumed);
        text
    }

    /// Ends the stream: what still waits will never be whole.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.waiting).into_owned()
    }
}
