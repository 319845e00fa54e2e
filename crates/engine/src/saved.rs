//! A conversation as bytes.
//!
//! Layout, little endian: magic (8 bytes), version (u32), number of tokens (u64), length of the state (u64), the
//! tokens (u32 each), the state as the model wrote it (with the model's fingerprint), checksum (u64) of all that
//! stands before it.

use cuvier_types::TokenId;

use crate::RestoreError;
use crate::checksum::checksum;

const MAGIC: &[u8; 8] = b"CUVIERCV";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 8 + 4 + 8 + 8;
const CHECKSUM_LEN: usize = 8;

/// What a saved conversation holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Saved<'a> {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) state: &'a [u8],
}

/// Writes a conversation.
pub(crate) fn write(tokens: &[TokenId], state: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + 4 * tokens.len() + state.len() + CHECKSUM_LEN);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(tokens.len() as u64).to_le_bytes());
    out.extend_from_slice(&(state.len() as u64).to_le_bytes());
    out.extend(tokens.iter().flat_map(|token| token.0.to_le_bytes()));
    out.extend_from_slice(state);
    let sum = checksum(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// Reads a conversation; nothing is believed before lengths and checksum agree.
pub(crate) fn read(bytes: &[u8]) -> Result<Saved<'_>, RestoreError> {
    let (header, rest) = bytes.split_at_checked(HEADER_LEN).ok_or(RestoreError::NotAConversation)?;
    if &header[..8] != MAGIC {
        return Err(RestoreError::NotAConversation);
    }
    let version = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(RestoreError::Version { got: version, want: VERSION });
    }
    let (n_tokens, n_state) = (number(&header[12..20]), number(&header[20..28]));
    // Saturating: a length that overflows is longer than any input.
    let want =
        n_tokens.saturating_mul(4).saturating_add(n_state).saturating_add((HEADER_LEN + CHECKSUM_LEN) as u64);
    if want != bytes.len() as u64 {
        return Err(RestoreError::Length { got: bytes.len() as u64, want });
    }
    let (covered, sum) = bytes.split_at(bytes.len() - CHECKSUM_LEN);
    let (got, want) = (checksum(covered), number(sum));
    if got != want {
        return Err(RestoreError::Checksum { got, want });
    }
    // Both lengths were found to fit the input, so they fit `usize`.
    let (tokens, rest) = rest.split_at(4 * n_tokens as usize);
    let tokens = tokens.as_chunks::<4>().0.iter().map(|&token| TokenId(u32::from_le_bytes(token))).collect();
    Ok(Saved { tokens, state: &rest[..n_state as usize] })
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_cut_and_every_altered_byte_is_refused() {
        let bytes = write(&[TokenId(5), TokenId(70_000)], b"state bytes");
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).is_err(), "cut at {len}");
        }
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut altered = bytes.clone();
                altered[index] ^= 1 << bit;
                assert!(read(&altered).is_err(), "bit {bit} of byte {index}");
            }
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(read(&longer), Err(RestoreError::Length { .. })));
    }

    #[test]
    fn what_gives_the_damage_away_is_said() {
        let bytes = write(&[TokenId(5)], b"state");
        assert!(matches!(read(b"{}"), Err(RestoreError::NotAConversation)));
        assert!(matches!(read(&bytes[..bytes.len() - 1]), Err(RestoreError::Length { .. })));
        let mut newer = bytes.clone();
        newer[8] = 2;
        assert!(matches!(read(&newer), Err(RestoreError::Version { got: 2, want: 1 })));
        let mut altered = bytes;
        altered[HEADER_LEN] ^= 1;
        assert!(matches!(read(&altered), Err(RestoreError::Checksum { .. })));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            tokens in prop::collection::vec(any::<u32>().prop_map(TokenId), 0..50),
            state in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = write(&tokens, &state);
            prop_assert_eq!(read(&bytes).unwrap(), Saved { tokens, state: &state });
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), framed: bool) {
            let bytes = if framed { [MAGIC.as_slice(), &1u32.to_le_bytes(), &bytes].concat() } else { bytes };
            let _ = read(&bytes);
        }
    }
}
