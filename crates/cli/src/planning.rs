//! Plans as people read them, and what the machine has.

use cuvier_model::plan::{Plan, TooLittle, Wish};
use cuvier_types::Bytes;
use cuvier_weights::expert_store::LayerReads;

use crate::options::show_size;

/// What a process leaves to the others: at least so many bytes, and this share of what is free.
const MARGIN_BYTES: u64 = 512 << 20;
const MARGIN_SHARE: u64 = 20;

/// What a process may take: what is free on the machine or in its group of processes, less a margin. `None`: the system
/// does not say.
pub fn free_memory() -> Option<Bytes> {
    let machine = meminfo("MemAvailable:")?;
    let group = group_limit().unwrap_or(u64::MAX);
    let free = machine.min(group);
    Some(Bytes(free.saturating_sub(MARGIN_BYTES.max(free / MARGIN_SHARE))))
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// What the group of processes that this one belongs to may still take, in either version of such groups.
fn group_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = |key: &str| groups.lines().find_map(|line| line.split_once(key).map(|(_, path)| path));
    let number = |folder: &str, file: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup{folder}/{file}")).ok()?.trim().parse().ok()
    };
    let left = |folder: &str, limit: &str, used: &str| {
        Some(number(folder, limit)?.saturating_sub(number(folder, used).unwrap_or(0)))
    };
    let second = path("0::").and_then(|path| left(path, "memory.max", "memory.current"));
    let first = path(":memory:")
        .and_then(|path| left(&format!("/memory{path}"), "memory.limit_in_bytes", "memory.usage_in_bytes"));
    [first, second].into_iter().flatten().min()
}

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
    let second = format!(
        "sequences  {} of up to {context} tokens; steps of {} tokens",
        sequences(slots),
        plan.chunk()
    );
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
    format!(
        "experts {:.0} % in memory, {} read per token at {:.2} GB/s a reader, {waiting:.2} s of it waited for",
        100.0 * reads.hit_share(),
        show_size(per_token),
        rate / 1e9,
    )
}

fn sequences(slots: usize) -> String {
    if slots == 1 { "one sequence".to_owned() } else { format!("{slots} sequences") }
}

/// Why a wish is refused, and the nearest that is not.
pub fn refusal(refused: &TooLittle, wish: &Wish) -> String {
    let memory = wish.memory.map_or_else(|| "no ceiling".to_owned(), show_size);
    let mut nearest = vec![format!("--memory {}B", refused.memory)];
    if let Some(context) = refused.context {
        nearest.push(format!("--context {context}"));
    }
    if let Some(slots) = refused.slots {
        nearest.push(format!("--slots {slots}"));
    }
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
        let text = refusal(&refused, &wish);
        assert!(text.contains("--memory 3221225472B, or --context 4096"), "{text}");
        assert!(!text.contains("--slots"), "{text}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_margin_of_what_is_free_is_left_to_others() {
        let free = free_memory().expect("this system says it");
        assert!(free.0 < meminfo("MemTotal:").expect("it has a total"));
    }
}
