//! What the serial line of the emulated machine says.

use anyhow::bail;

/// Written by init before the tests.
pub const CPU: &str = "emulate: cpu ";
/// Written by init before each program, with its name.
pub const RUN: &str = "emulate: run ";
/// Written by init after each program, with its exit status.
pub const STATUS: &str = "emulate: status ";

/// Flags of `/proc/cpuinfo` without which `Isa::available` does not hold AVX-512.
const AVX512: [&str; 5] = ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"];

/// The sums over all programs that ran.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub passed: u32,
    pub failed: u32,
    /// Programs that did not end well.
    pub programs: Vec<String>,
}

/// Reads the whole line.
///
/// # Errors
/// If the CPU lacks an instruction set, or the `expected` programs have not all run to their end.
pub fn read(serial: &str, expected: usize) -> anyhow::Result<Verdict> {
    let Some(flags) = serial.lines().find_map(|line| line.strip_prefix(CPU)) else {
        bail!("the emulated machine did not reach its init");
    };
    let flags: Vec<_> = flags.split_whitespace().collect();
    let absent: Vec<_> = AVX512.into_iter().filter(|flag| !flags.contains(flag)).collect();
    if !absent.is_empty() {
        bail!("the emulated CPU lacks {}", absent.join(", "));
    }
    let mut verdict = Verdict::default();
    let (mut name, mut ended) = ("", 0);
    for line in serial.lines() {
        if let Some(program) = line.strip_prefix(RUN) {
            name = program;
        } else if let Some(status) = line.strip_prefix(STATUS) {
            ended += 1;
            if status != "0" {
                verdict.programs.push(format!("{name} (status {status})"));
            }
        } else if let Some(result) = line.strip_prefix("test result: ") {
            verdict.passed += count(result, " passed");
            verdict.failed += count(result, " failed");
        }
    }
    if ended != expected {
        bail!("{ended} of {expected} programs ran to their end; the last was {name}");
    }
    Ok(verdict)
}

/// The number before a word.
fn count(result: &str, word: &str) -> u32 {
    let before = result.split(';').find_map(|part| part.strip_suffix(word));
    before.and_then(|part| part.rsplit(' ').next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &str = "emulate: cpu flags : avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni\n";

    #[test]
    fn results_of_all_programs_are_added_and_one_that_fails_is_named() {
        let serial = format!(
            "{FLAGS}emulate: run a\ntest result: ok. 12 passed; 0 failed; 0 ignored; 0 measured\nemulate: status 0\n\
             emulate: run b\ntest result: FAILED. 3 passed; 2 failed; 1 ignored\nemulate: status 101\n"
        );
        let programs = vec!["b (status 101)".to_owned()];
        assert_eq!(read(&serial, 2).expect("a whole line"), Verdict { passed: 15, failed: 2, programs });
    }

    #[test]
    fn a_cpu_without_avx512_and_a_program_that_never_ends_are_errors() {
        let message = |serial: &str| read(serial, 1).expect_err("an error").to_string();
        assert!(message("booting").contains("did not reach its init"));
        assert!(message(&FLAGS.replace(" avx512vl", "")).contains("lacks avx512vl"));
        assert!(message(&format!("{FLAGS}emulate: run a\n")).contains("0 of 1 programs"));
    }
}
