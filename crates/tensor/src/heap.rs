//! How the system treats large blocks of memory.

use std::mem::MaybeUninit;

/// Blocks of this many bytes and more are large.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 << 10;

/// From here on every large block comes from the system by itself and goes back to it when it is freed, for the whole
/// process. Without this the allocator of glibc keeps what was freed once it has seen such sizes: up to a third of the
/// buffers of a step that outgrew others, which no plan of memory can foresee. Other allocators do so anyway, and are left
/// alone.
///
/// It pays where large buffers are used again and again instead of being freed, as intermediate results of inference are.
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the C library has no safe door")]
    // SAFETY: `mallopt` takes no pointers; it sets a number of the allocator under the allocator's lock. If it does not
    // know the number it answers 0 and changes nothing, and then everything is as it was.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

/// Less than two huge pages may hold none.
#[cfg(target_os = "linux")]
const HUGE_LEAST: usize = 4 << 20;
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;

/// Asks the system to hold memory that is not written yet in huge pages, if it is large: weights are read from one end to
/// the other for every token, and pages of 4 KiB cost a twentieth of that rate (docs/performance.md). Where the system has
/// none to give, nothing changes.
pub fn prefer_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        let bytes = size_of_val(memory);
        let skipped = memory.as_ptr().addr().next_multiple_of(PAGE) - memory.as_ptr().addr();
        if bytes < HUGE_LEAST {
            return;
        }
        let pages = (bytes - skipped) / PAGE * PAGE;
        #[expect(unsafe_code, reason = "the C library has no safe door")]
        // SAFETY: the range is whole pages within `memory`, since `bytes` is more than `skipped`; the advice does not
        // change what is in them. A refusal leaves the pages as they were.
        let _ = unsafe {
            libc::madvise(memory.as_mut_ptr().byte_add(skipped).cast(), pages, libc::MADV_HUGEPAGE)
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advised_memory_holds_what_is_written_whatever_its_length_and_start() {
        for len in [0, 1, 4095, (4 << 20) - 1, (4 << 20) + 4097] {
            let mut memory: Vec<u8> = Vec::with_capacity(len + 3);
            prefer_huge_pages(&mut memory.spare_capacity_mut()[3..]);
            memory.extend((0..len + 3).map(|i| (i % 251) as u8));
            assert!(memory.iter().enumerate().all(|(i, &byte)| usize::from(byte) == i % 251), "{len}");
        }
    }

    #[test]
    fn blocks_of_all_sizes_are_had_and_freed_after_large_ones_are_returned() {
        return_large_blocks();
        for len in [1, 1 << 10, 1 << 20, 5 << 20] {
            let block = vec![7_u8; len];
            assert!(block.iter().all(|&byte| byte == 7));
        }
    }
}
