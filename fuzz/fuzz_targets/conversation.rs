#![no_main]

use cuvier_encoding::{Conversation, Generation, PromptOptions, Thinking, encode_conversation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|messages: &[u8]| {
    let Ok(conversation) = serde_json::from_slice::<Conversation>(messages) else { return };
    for thinking in [Thinking::Off, Thinking::Low, Thinking::Max] {
        for generation in [Generation::Preview, Generation::Revised0731] {
            if let Ok(prompt) = encode_conversation(&conversation, PromptOptions { generation, thinking }) {
                assert!(prompt.text().starts_with("<｜begin▁of▁sentence｜>"));
            }
        }
    }
});
