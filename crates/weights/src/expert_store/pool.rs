//! Memory of experts, used again and again.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::direct::AlignedBuffer;

/// Buffers that nobody uses. There are never more than experts in memory at once.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<AlignedBuffer>>>);

/// A buffer that goes back to its pool.
pub(super) struct PooledBuffer {
    /// `None` once it has gone back.
    buffer: Option<AlignedBuffer>,
    pool: Pool,
}

impl Pool {
    /// A buffer of at least `len` bytes with whatever was in it.
    ///
    /// # Errors
    /// If there is no memory left for another.
    pub(super) fn take(&self, len: usize) -> io::Result<PooledBuffer> {
        let pooled = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let buffer = pooled.filter(|buffer| buffer.bytes().len() >= len);
        let buffer = buffer.map_or_else(|| AlignedBuffer::new(len), Ok)?;
        Ok(PooledBuffer { buffer: Some(buffer), pool: self.clone() })
    }
}

impl PooledBuffer {
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], AlignedBuffer::bytes_mut)
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], AlignedBuffer::bytes)
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}
