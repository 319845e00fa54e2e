//! What the machine says of memory.

use cuvier_types::Bytes;

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

/// The most memory this process has held, mapped files included; 0 where the system does not tell.
pub fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_margin_of_what_is_free_is_left_to_others() {
        let free = free_memory().expect("this system says it");
        assert!(free.0 < meminfo("MemTotal:").expect("it has a total"));
    }
}
