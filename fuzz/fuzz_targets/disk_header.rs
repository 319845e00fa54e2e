#![no_main]

use libfuzzer_sys::fuzz_target;

// The folder of the cache is its owner's, but a disk may give back anything.
fuzz_target!(|bytes: &[u8]| cuvier_engine::fuzz_disk_header(bytes));
