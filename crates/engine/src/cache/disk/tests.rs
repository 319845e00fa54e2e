//! The disk tier with a model whose state is its tokens.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::cache::toy::{Toy, ToyState};

const HERE: Root = Root { model: 1, scope: 2 };

struct Shelf {
    disk: Disk<Toy>,
    counters: Arc<Counters>,
    pinged: Receiver<()>,
}

fn open(dir: &Path, bytes_max: u64) -> Shelf {
    let counters = Arc::new(Counters::default());
    let config = DiskCache { dir: dir.to_owned(), bytes_max };
    let opened = Disk::<Toy>::open(&config, counters.clone()).unwrap();
    let (sender, pinged): (Sender<()>, _) = channel();
    let sender = Mutex::new(sender);
    let ping = Arc::new(move || sender.lock().unwrap().send(()).unwrap());
    Shelf { disk: Disk::start(opened, ping).unwrap(), counters, pinged }
}

impl Shelf {
    /// Gives it to be written, and waits until it is or never will be.
    fn write(&self, tokens: &[TokenId]) {
        let done = || {
            let stats = self.counters.read();
            stats.disk_writes + stats.disk_skipped_large + stats.disk_errors
        };
        let before = done();
        let mut is_given = false;
        self.disk.write(HERE, tokens, false, || {
            is_given = true;
            Some(ToyState::new(tokens))
        });
        let begun = Instant::now();
        while is_given && done() == before {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", self.counters.read());
            std::thread::yield_now();
        }
    }

    fn read(&self, prompt: &[TokenId]) -> Option<Vec<TokenId>> {
        self.disk.read(SequenceId(3), HERE, prompt, 0, ToyState::new(&[]));
        self.pinged.recv_timeout(Duration::from_secs(60)).unwrap();
        let restored = self.disk.restored().unwrap();
        assert_eq!(restored.sequence, SequenceId(3));
        restored.state.map(|state| state.tokens())
    }
}

fn text(seed: u32, n: usize) -> Vec<TokenId> {
    (0..n as u32).map(|i| TokenId(seed * 1_000 + i % 997)).collect()
}

#[test]
fn what_is_written_is_read_by_the_next_process_as_far_as_texts_agree() {
    let dir = tempfile::tempdir().unwrap();
    let long = text(1, 70 * BLOCK + 5);
    let branch = [&long[..9 * BLOCK + 40], &text(2, 300)].concat();
    {
        let shelf = open(dir.path(), 1 << 30);
        [&long[..200], &long, &branch, &long[..127]].iter().for_each(|tokens| shelf.write(tokens));
        let stats = shelf.counters.read();
        assert_eq!((stats.disk_writes, stats.disk_entries), (3, 3), "127 tokens are too few");
    }
    let shelf = open(dir.path(), 1 << 30);
    let after = |tokens: &[TokenId]| [tokens, &[TokenId(7)]].concat();
    for tokens in [&long[..200], &long, &branch] {
        assert_eq!(shelf.read(&after(tokens)).as_deref(), Some(tokens));
    }
    assert_eq!(shelf.read(&long[..5_000]).as_deref(), Some(&long[..200]));
    assert_eq!(shelf.read(&text(3, 500)), None);
    let stats = shelf.counters.read();
    assert_eq!((stats.disk_reads, stats.disk_broken), (4, 0));
    // Rows of the first 9 segments are there once: 70 + 2 segments of 1,000 bytes, 512 for their tokens, some headers.
    assert!(stats.disk_bytes < 73 * 1_560, "{}", stats.disk_bytes);
}

#[test]
fn a_bound_that_was_lowered_is_kept_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    {
        let shelf = open(dir.path(), 1 << 30);
        (1..9).for_each(|seed| shelf.write(&text(seed, 300)));
    }
    let shelf = open(dir.path(), 12_000);
    let stats = shelf.counters.read();
    assert!(stats.disk_bytes <= 12_000 && stats.disk_entries > 0, "{stats:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn files_that_were_altered_in_any_way_give_a_right_state_or_none(
        file in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        what in 0u8..5,
        before_start: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let long = text(1, 5 * BLOCK + 5);
        let longer = [long.clone(), text(2, 2 * BLOCK)].concat();
        let write = |shelf: &Shelf| [&long[..300], &long, &longer].iter().for_each(|tokens| shelf.write(tokens));
        write(&open(dir.path(), 1 << 30));
        let mut shelf = (!before_start).then(|| open(dir.path(), 1 << 30));
        let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some());
        files.sort();
        let (path, other) = (&files[file.index(files.len())], &files[at.index(files.len())]);
        let mut bytes = std::fs::read(path).unwrap();
        let place = at.index(bytes.len());
        match what {
            0 => bytes[place] ^= 1 << bit,
            1 => bytes.truncate(place),
            2 => bytes.extend([0; 9]),
            3 => bytes = std::fs::read(other).unwrap(),
            _ => bytes[place..].fill(bit),
        }
        std::fs::write(path, &bytes).unwrap();
        let shelf = shelf.get_or_insert_with(|| open(dir.path(), 1 << 30));
        let prompt = [longer.clone(), text(3, 5)].concat();
        if let Some(tokens) = shelf.read(&prompt) {
            prop_assert!([&long[..300], &long, &longer].contains(&tokens.as_slice()));
        }
        write(shelf);
        prop_assert_eq!(shelf.read(&prompt), Some(longer), "what is gone is written anew");
    }
}

#[test]
fn a_folder_that_cannot_be_written_to_is_counted_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = open(dir.path(), 1 << 30);
    std::fs::remove_dir_all(dir.path()).unwrap();
    shelf.write(&text(1, 300));
    let stats = shelf.counters.read();
    assert_eq!((stats.disk_errors, stats.disk_writes, stats.disk_entries), (1, 0, 0));
    assert_eq!(shelf.read(&text(1, 400)), None);
}

/// Not a test: says how fast files of true size are written, synced, read and checked.
#[test]
#[ignore = "measures"]
fn states_of_true_width_are_timed() {
    const SEGMENT_BYTES: usize = 449_824;
    let dir = tempfile::tempdir().unwrap();
    let tokens = text(1, 128 * BLOCK + 5);
    let state = ToyState::wide(&tokens, SEGMENT_BYTES);
    let shelf = open(dir.path(), 1 << 30);
    let begun = Instant::now();
    shelf.disk.write(HERE, &tokens, false, || Some(state));
    while shelf.counters.read().disk_writes == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let written = begun.elapsed();
    let prompt = [&tokens[..], &[TokenId(7)]].concat();
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(shelf.read(&prompt).as_ref(), Some(&tokens));
        let bytes = shelf.counters.read().disk_bytes;
        println!(
            "{} tokens, {bytes} bytes: written in {written:?}, read in {:?}",
            tokens.len(),
            begun.elapsed()
        );
    }
}
