//! Memory of all experts that a store may hold, side by side.
//!
//! A disk that writes into memory by pages is told of every page. Read into huge pages, an expert of Flash is told of in
//! seven pieces instead of three thousand, and comes up to three times as fast. So its memory is not a mapping of its own,
//! whose last part would be in small pages, but a part of one for all.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapMut, MmapRaw};

/// Huge pages of x86-64, and of ARM with small pages of 4 KiB. A system with others takes what it can of these.
const HUGE: usize = 2 << 20;

/// Room for a number of experts.
#[derive(Clone)]
pub(super) struct Arena(Arc<Memory>);

struct Memory {
    map: MmapRaw,
    /// Where in `map` the first slot begins.
    start: usize,
    slot_len: usize,
    /// Slots that nobody has; the last one is taken next.
    free: Mutex<Vec<usize>>,
}

/// Room for one expert. It goes back when it is dropped.
pub(super) struct Room {
    memory: Arc<Memory>,
    /// No other `Room` of `memory` has it.
    slot: usize,
}

impl Arena {
    /// `slots` times `slot_len` bytes, taken from the system as they are used, the first ones first.
    ///
    /// # Errors
    /// If the system has no such memory.
    pub(super) fn new(slots: usize, slot_len: usize) -> io::Result<Self> {
        let too_much = || io::Error::from(io::ErrorKind::OutOfMemory);
        let len = slots.checked_mul(slot_len).ok_or_else(too_much)?;
        let map = MmapMut::map_anon(len.checked_add(HUGE).ok_or_else(too_much)?)?;
        let start = map.as_ptr().align_offset(HUGE).min(HUGE);
        // Whole ones only: more than all slots have would be taken else. A wish: a system without huge pages refuses it.
        #[cfg(target_os = "linux")]
        let _ = map.advise_range(memmap2::Advice::HugePage, start, len / HUGE * HUGE);
        let free = Mutex::new((0..slots).rev().collect());
        Ok(Self(Arc::new(Memory { map: map.into(), start, slot_len, free })))
    }

    /// Room with whatever was in it.
    ///
    /// # Errors
    /// If there is none left.
    pub(super) fn take(&self) -> io::Result<Room> {
        let slot = self.0.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = slot.ok_or_else(|| io::Error::other("more experts at once than there is room for"))?;
        Ok(Room { memory: Arc::clone(&self.0), slot })
    }
}

impl Room {
    fn start(&self) -> *mut u8 {
        self.memory.map.as_mut_ptr().wrapping_add(self.memory.start + self.slot * self.memory.slot_len)
    }

    #[expect(unsafe_code, reason = "parts of one mapping cannot be lent one by one safely")]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `new` mapped `start + slots * slot_len` bytes, all initialised (the system gives zeros), and `slot` is less
        // than `slots`. The mapping lives as long as `self.memory`. A slot is in `free` or in one `Room`, which is borrowed
        // exclusively here, so nobody else reads or writes these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.memory.slot_len) }
    }
}

impl AsRef<[u8]> for Room {
    #[expect(unsafe_code, reason = "parts of one mapping cannot be lent one by one safely")]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as in `bytes_mut`; this `Room` is borrowed, so nobody writes.
        unsafe { std::slice::from_raw_parts(self.start(), self.memory.slot_len) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.memory.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_keep_their_bytes_apart_and_come_back() {
        let arena = Arena::new(3, 5 << 12).expect("there is memory");
        let mut rooms: Vec<Room> = (0..3).map(|_| arena.take().expect("there is room")).collect();
        assert!(arena.take().is_err(), "there are three");
        for (n, room) in (1..).zip(&mut rooms) {
            assert!(room.as_ref().iter().all(|&byte| byte == 0));
            assert_eq!(room.bytes_mut().as_ptr().addr() % (1 << 12), 0);
            room.bytes_mut().fill(n);
        }
        for (n, room) in (1..).zip(&rooms) {
            assert_eq!(room.as_ref().len(), 5 << 12);
            assert!(room.as_ref().iter().all(|&byte| byte == n));
        }
        drop(rooms.remove(1));
        assert_eq!(arena.take().expect("one came back").as_ref()[0], 2);
        drop(arena);
        assert!(rooms[1].as_ref().iter().all(|&byte| byte == 3), "rooms keep their memory");
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        assert!(Arena::new(usize::MAX, 1 << 20).is_err());
        assert!(Arena::new(1 << 40, 1 << 20).is_err());
        assert!(Arena::new(0, 0).expect("nothing is not much").take().is_err());
    }
}
