//! Plans as people read them.

use cuvier_model::plan::{Plan, TooLittle, Wish};
use cuvier_weights::expert_store::LayerReads;

use crate::needs::{CONTEXT, SLOTS};
use crate::options::show_size;

/// The plan in three lines.
pub fn lines(plan: &Plan) -> [String; 3] {
    let Wish { context, slots, memory, other, .. } = plan.wish;
    let first = format!(
        "memory     {} of {}: weights {}, experts from disk {}, states {}, workspace {}, other {}",
        show_size(plan.total()),
        memory.map_or_else(|| "no ceiling".to_owned(), show_size),
        show_size(plan.weights),
        show_size(plan.expert_cache),
        show_size(plan.kv),
        show_size(plan.workspace),
        show_size(other),
    );
    let mut second =
        format!("sequences  {} of up to {context} tokens; steps of {} tokens", sequences(slots), plan.chunk);
    if plan.chunk_answering < plan.chunk {
        second += &format!(", of {} while one answers", plan.chunk_answering);
    }
    let third = match plan.streaming {
        None => "weights    all in memory".to_owned(),
        Some(streaming) => format!(
            "weights    {} experts in memory, {} layers whole; {} read from disk for a token if experts are chosen evenly",
            streaming.experts,
            streaming.layers,
            show_size(plan.read_bytes_per_token as u64)
        ),
    };
    [first, second, third]
}

/// What was read for so many tokens, in a line.
pub fn reads(reads: &LayerReads, tokens: usize) -> String {
    let per_token = reads.bytes.checked_div(tokens as u64).unwrap_or(0);
    let waiting = reads.waiting.as_secs_f64();
    let rate = if reads.reading.is_zero() { 0.0 } else { reads.bytes as f64 / reads.reading.as_secs_f64() };
    let mut line = format!(
        "experts {:.0} % in memory, {} read per token at {:.2} GB/s a reader, {waiting:.2} s of it waited for",
        100.0 * reads.hit_share(),
        show_size(per_token),
        rate / 1e9,
    );
    if reads.guessed > 0 {
        let right = 100.0 * reads.guessed_right as f64 / reads.guessed as f64;
        line += &format!("; {right:.0} % of guesses right");
    }
    if reads.other_bytes > 0 {
        let rate = reads.other_bytes as f64 / reads.other_reading.as_secs_f64();
        let per_token = show_size(reads.other_bytes.checked_div(tokens as u64).unwrap_or(0));
        let waiting = reads.other_waiting.as_secs_f64();
        line += &format!(
            "; other weights {per_token} per token at {:.2} GB/s, {waiting:.2} s of it waited for",
            rate / 1e9
        );
    }
    line
}

fn sequences(slots: usize) -> String {
    if slots == 1 { "one sequence".to_owned() } else { format!("{slots} sequences") }
}

/// Why a wish is refused, and the nearest that is not: as settings of `flags`, those that the verb has, and the memory.
pub fn refusal(refused: &TooLittle, wish: &Wish, flags: &[&str]) -> String {
    let memory = wish.memory.map_or_else(|| "no ceiling".to_owned(), show_size);
    let mut nearest = vec![format!("--memory {}B", refused.memory)];
    let others = [(CONTEXT, refused.context), (SLOTS, refused.slots)];
    let others = others.into_iter().filter(|(flag, _)| flags.contains(flag));
    nearest.extend(others.filter_map(|(flag, fits)| Some(format!("{flag} {}", fits?))));
    format!(
        "does not fit into {memory}: {} of {} tokens takes {}; what fits: {}",
        sequences(wish.slots),
        wish.context,
        show_size(refused.memory),
        nearest.join(", or ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_each_setting_that_would_fit() {
        let refused = TooLittle { memory: 3 << 30, context: Some(4096), slots: None };
        let wish = Wish {
            memory: Some(2 << 30),
            context: 65_536,
            slots: 1,
            kv: cuvier_model::KvFormat::Fp8,
            chunk: cuvier_model::plan::StepSize::Chosen,
            logit_rows: 0,
            holds: false,
            other: 0,
            threads: 1,
        };
        let text = refusal(&refused, &wish, &[CONTEXT, SLOTS]);
        assert!(text.contains("--memory 3221225472B, or --context 4096"), "{text}");
        assert!(!refusal(&refused, &wish, &[SLOTS]).contains("--context"), "a verb without that flag");
        assert!(!text.contains("--slots"), "{text}");
    }
}
