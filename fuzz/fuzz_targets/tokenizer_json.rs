#![no_main]

use cuvier_encoding::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_bytes(file) {
        let text = "Hello <think>｜DSML｜\n\n  世界 🐋 123456";
        let ids = tokenizer.encode_text(text);
        assert!(ids.iter().all(|&id| tokenizer.control().control(id).is_none()));
        assert_eq!(tokenizer.decode(&ids), text);
    }
});
