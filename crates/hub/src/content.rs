//! The hashes of a file on disk.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::chunks::Chunks;
use crate::digest::{ChunkHash, ContentHasher};
use crate::{ContentId, HubError};

/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// A file's content, as far as hashes tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Its hash, of the kind that was asked for.
    pub(crate) id: ContentId,
    /// One per chunk.
    pub(crate) chunks: Vec<ChunkHash>,
}

/// Reads a file of the size that `chunks` says and hashes it whole and by chunk. `look` is told how many bytes were read
/// and may end it. A file that ends early or goes on has another hash than it should.
pub(crate) fn hash_file(
    path: &Path,
    kind: &ContentId,
    chunks: Chunks,
    look: &mut dyn FnMut(u64) -> Result<(), HubError>,
) -> Result<Content, HubError> {
    let mut file = File::open(path).map_err(HubError::io(path, "opening"))?;
    let mut whole = ContentHasher::new(kind, chunks.size);
    let mut hashes = Vec::new();
    let (mut chunk, mut left) = (Sha256::new(), chunks.chunk_bytes);
    let mut piece = vec![0; PIECE];
    loop {
        // At most `PIECE`, so the cast is exact.
        let room = left.min(PIECE as u64) as usize;
        let came = file.read(&mut piece[..room]).map_err(HubError::io(path, "reading"))?;
        if came == 0 {
            break;
        }
        whole.update(&piece[..came]);
        chunk.update(&piece[..came]);
        left -= came as u64;
        if left == 0 {
            hashes.push(ChunkHash(std::mem::take(&mut chunk).finalize().into()));
            left = chunks.chunk_bytes;
        }
        look(came as u64)?;
    }
    if left < chunks.chunk_bytes {
        hashes.push(ChunkHash(chunk.finalize().into()));
    }
    Ok(Content { id: whole.finish(), chunks: hashes })
}
