//! Whatever a constraint lets through can be read and fits.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "constrained/mod.rs"]
mod harness;

use cuvier_encoding::Tokenizer;
use harness::{Prepared, Verdict, World, cases::cases, draw};

fn calf() -> World {
    World::new(Tokenizer::from_bytes(include_bytes!("../../../models/calf/tokenizer.json")).unwrap())
}

#[test]
fn hostile_logits_cannot_break_calls_or_json() {
    let world = calf();
    let mut n_whole = 0;
    for (index, case) in cases().into_iter().enumerate() {
        let prepared = Prepared::new(&world, case);
        for n in 0..4 {
            let drawn = draw(&world, &prepared, (index * 1000 + n) as u64);
            match drawn.verdict {
                Ok(verdict) => n_whole += usize::from(verdict != Verdict::Cut),
                Err(error) => panic!("{}, {n}: {error}\n{}", prepared.case.name, drawn.text),
            }
        }
    }
    assert!(n_whole > 50, "{n_whole} answers came to their end");
}
