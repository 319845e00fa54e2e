//! The prefix cache with the model itself: what it saves, and that nobody can tell.
//!
//! Weights are those of the embedded toy model, texts are random tokens, formats and paths are the true ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod traces;

use std::fs;
use std::path::{Path, PathBuf};

use cuvier_engine::{Engine, EngineConfig, EngineHandle, EventStream, Request};
use cuvier_types::{Event, TokenId};

use traces::{Replay, TRACES, ask, cache, calf, request, settle, start, text};

const MEMORY: u64 = 1 << 30;
const DISK: u64 = 1 << 30;

/// Files that hold states or rows.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "state")).collect();
    files.sort();
    files
}

fn bytes(dir: &Path) -> u64 {
    files(dir).iter().map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn agents_compute_at_most_a_twentieth_more_than_an_oracle_in_memory_and_after_a_restart() {
    let transformer = calf();
    for (name, trace) in TRACES {
        let mut replay = Replay::new(&transformer, cache(MEMORY, None));
        trace(&mut replay, &mut |_| {});
        let memory = replay.counts;
        let dir = tempfile::tempdir().unwrap();
        let mut replay = Replay::new(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
        trace(&mut replay, &mut Replay::restart);
        let disk = replay.counts;
        println!(
            "{name}: in memory {} of {} tokens, {:.4} of the oracle; after a restart {} of {}, {:.4}",
            memory.computed,
            memory.prompts,
            memory.ratio(),
            disk.computed,
            disk.prompts,
            disk.ratio()
        );
        assert!(memory.ratio() <= 1.05, "{name}: {memory:?}");
        assert!(disk.ratio() <= 1.05, "{name} after a restart: {disk:?}");
        let stats = replay.engine().cache_stats();
        assert_eq!((stats.disk_broken, stats.disk_errors, stats.disk_skipped_busy), (0, 0, 0));
    }
}

#[test]
fn of_sub_agents_that_come_at_once_only_the_first_computes_what_they_share() {
    let transformer = calf();
    let prompts: Vec<_> = (0..5).map(|agent| [text(90, 1_800), text(91 + agent, 200)].concat()).collect();
    let want: Vec<_> = prompts
        .iter()
        .map(|prompt| ask(&start(&transformer, cache(0, None)), request(prompt.clone(), 5)).0)
        .collect();
    let engine = start(&transformer, cache(MEMORY, None));
    let of = |prompt: &Vec<TokenId>| Request { marks: vec![1_800], ..request(prompt.clone(), 5) };
    let streams: Vec<_> = prompts.iter().map(|prompt| engine.submit(of(prompt)).unwrap()).collect();
    let tokens = |stream: EventStream| -> Vec<TokenId> {
        let token = |event| if let Event::Token { token, .. } = event { Some(token) } else { None };
        stream.filter_map(token).collect()
    };
    for (stream, want) in streams.into_iter().zip(want) {
        assert_eq!(tokens(stream), want.iter().map(|(token, _)| *token).collect::<Vec<_>>());
    }
    let stats = engine.cache_stats();
    println!("five sub-agents at once: {} tokens computed, {} had to be", stats.miss_tokens, 1_800 + 5 * 200);
    let step = EngineConfig::default().batch_tokens_max as u64;
    assert!(
        stats.miss_tokens <= 1_800 + 5 * 200 + step,
        "the second may begin in the first's step: {stats:?}"
    );
}

#[test]
fn a_hit_of_any_length_answers_bit_for_bit_as_if_nothing_had_been_kept() {
    let transformer = calf();
    let whole = text(9, 2_200);
    let dir = tempfile::tempdir().unwrap();
    let cold = |prompt: &[TokenId]| ask(&start(&transformer, cache(0, None)), request(prompt.to_vec(), 12)).0;
    let lengths = [127, 128, 129, 130, 255, 256, 257, 383, 384, 385, 1_000, 1_025, 2_047];
    let mut warm = start(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
    let longest = ask(&warm, request(whole.clone(), 12)).0;
    assert_eq!(longest, cold(&whole));
    let mut wanted = Vec::new();
    for n in lengths {
        // It leaves the long text here.
        let prompt = [&whole[..n], &text(10 + n as u64, 9)].concat();
        let (answer, begun) = ask(&warm, request(prompt.clone(), 12));
        let want = cold(&prompt);
        assert_eq!(answer, want, "{n} tokens in memory, of which {begun} were used");
        assert!(begun + 128 >= n, "{begun} of {n}");
        // What was just answered, from its very end.
        let again = [&prompt[..], &[answer[0].0]].concat();
        let (answer, begun) = ask(&warm, request(again.clone(), 12));
        assert_eq!((answer, begun), (cold(&again), n + 9), "{n} tokens and an answer");
        settle(&warm);
        wanted.push((n, prompt, want));
    }
    drop(warm);
    warm = start(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
    for (n, prompt, want) in wanted {
        let (answer, begun) = ask(&warm, request(prompt, 12));
        assert_eq!(answer, want, "{n} tokens from disk");
        assert_eq!(begun, if n < 128 - 8 { 0 } else { n + 8 }, "{n}: {:?}", warm.cache_stats());
    }
    let stats = warm.cache_stats();
    assert!(stats.disk_hit_tokens > 5_000 && stats.disk_reads > 5, "{stats:?}");
}

#[test]
fn scopes_and_models_never_share() {
    let transformer = calf();
    let dir = tempfile::tempdir().unwrap();
    let prompt = text(11, 300);
    let of = |scope| Request { scope, ..request(prompt.clone(), 3) };
    let engine = start(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
    assert_eq!([1, 1, 2, 2, 0].map(|scope| ask(&engine, of(scope)).1), [0, 299, 0, 299, 0]);
    drop(engine);
    let engine = start(&transformer, cache(0, Some((dir.path(), DISK))));
    assert_eq!([1, 3, 2].map(|scope| ask(&engine, of(scope)).1), [299, 0, 299]);
    drop(engine);
    let compute = cuvier_model::Compute::new(cuvier_model::Isa::best(), std::num::NonZeroUsize::MIN).unwrap();
    let other = cuvier_engine::TransformerModel::new(transformer, compute, cuvier_model::KvFormat::F32);
    let config = EngineConfig { cache: cache(MEMORY, Some((dir.path(), DISK))), ..EngineConfig::default() };
    assert_eq!(ask(&Engine::start(other, config).unwrap(), of(1)).1, 0, "another cache format");
}

#[test]
fn disk_bytes_per_new_token_stay_flat_as_a_conversation_grows() {
    let transformer = calf();
    let dir = tempfile::tempdir().unwrap();
    let mut engine = start(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
    let mut history = text(12, 600);
    let mut per_token = Vec::new();
    for turn in 0..50 {
        let before = (bytes(dir.path()), history.len());
        history.extend(text(900 + turn, 100));
        let (answer, _) = ask(&engine, request(history.clone(), 28));
        history.extend(answer.into_iter().map(|(token, _)| token));
        if turn % 5 == 4 {
            // All that was given to be written is written then.
            drop(engine);
            engine = start(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
        }
        per_token.push((bytes(dir.path()) - before.0, history.len() - before.1));
    }
    let of = |turns: std::ops::Range<usize>| {
        let (bytes, tokens) = per_token[turns].iter().fold((0, 0), |sum, add| (sum.0 + add.0, sum.1 + add.1));
        bytes as f64 / tokens as f64
    };
    let parts: Vec<f64> = (1..10).map(|part| of(5 * part..5 * part + 5)).collect();
    println!("disk bytes per new token, five turns each from turn 5 to 50: {parts:.0?}");
    // On a busy machine the writer falls behind and leaves some out: that is less, which is no growth.
    let most = |parts: &[f64]| parts.iter().copied().fold(0.0, f64::max);
    assert!(most(&parts[3..]) < 1.15 * most(&parts[..3]), "{parts:?}");
}

#[test]
fn memory_is_bounded_by_the_bytes_that_are_held() {
    let transformer = calf();
    let engine = start(&transformer, cache(3_000_000, None));
    for seed in 0..8 {
        ask(&engine, request(text(20 + seed, 700), 3));
        let stats = engine.cache_stats();
        assert!(stats.memory_bytes <= 3_000_000 && stats.memory_entries > 0, "{stats:?}");
    }
    let stats = engine.cache_stats();
    assert!(stats.memory_evictions > 0, "{stats:?}");
    assert_eq!(ask(&engine, request(text(27, 700), 3)).1, 699, "the last one is there");
    println!("{stats:?}");
}

#[test]
fn the_disks_bound_holds_and_one_that_is_too_small_writes_nothing() {
    let transformer = calf();
    let dir = tempfile::tempdir().unwrap();
    let bound = 1_500_000;
    for round in 0..3 {
        let engine = start(&transformer, cache(MEMORY, Some((dir.path(), bound))));
        for seed in 0..4 {
            ask(&engine, request(text(30 + 4 * round + seed, 400), 3));
        }
        drop(engine);
        assert!(bytes(dir.path()) <= bound && !files(dir.path()).is_empty());
    }
    let engine = start(&transformer, cache(0, Some((dir.path(), bound))));
    assert_eq!(ask(&engine, request(text(41, 400), 3)).1, 399, "the last one is there");
    drop(engine);
    let small = tempfile::tempdir().unwrap();
    let engine = start(&transformer, cache(MEMORY, Some((small.path(), 10_000))));
    ask(&engine, request(text(50, 400), 3));
    wait_for(&engine, |stats| stats.disk_skipped_large == 2);
    assert_eq!((files(small.path()).len(), engine.cache_stats().disk_writes), (0, 0));
}

fn wait_for(engine: &EngineHandle, is_so: impl Fn(cuvier_engine::CacheStats) -> bool) {
    for _ in 0..3_000 {
        if is_so(engine.cache_stats()) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{:?}", engine.cache_stats());
}

#[test]
fn any_flipped_bit_and_any_cut_is_found_and_the_prompt_computed_anew() {
    let transformer = calf();
    let dir = tempfile::tempdir().unwrap();
    let first = text(60, 500);
    let engine = start(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
    let (answer, _) = ask(&engine, request(first.clone(), 12));
    let second = [first.clone(), text(61, 300)].concat();
    let (longer, _) = ask(&engine, request(second.clone(), 12));
    drop(engine);
    let kept: Vec<(PathBuf, Vec<u8>)> =
        files(dir.path()).into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect();
    let mut n_broken = 0;
    for round in 0..60u64 {
        let random =
            |n: usize| text(1_000 + round, 40).iter().fold(0, |sum, t| sum * 31 + t.0 as usize) / 7 % n;
        for (path, whole) in &kept {
            fs::write(path, whole).unwrap();
        }
        let (path, whole) = &kept[round as usize % kept.len()];
        let mut altered = whole.clone();
        match round % 3 {
            0 => altered.truncate(random(whole.len())),
            1 => altered[random(whole.len())] ^= 1 << (round % 8),
            // In the header, where numbers lead elsewhere.
            _ => altered[random(120)] ^= 1 << (round % 8),
        }
        fs::write(path, &altered).unwrap();
        let engine = start(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
        assert_eq!(ask(&engine, request(second.clone(), 12)).0, longer, "round {round}");
        assert_eq!(ask(&engine, request(first.clone(), 12)).0, answer, "round {round}");
        let stats = engine.cache_stats();
        n_broken += stats.disk_broken + stats.disk_foreign;
        drop(engine);
    }
    println!("{n_broken} of 60 altered files were met and refused");
    assert!(n_broken >= 40, "{n_broken}");
}

#[test]
fn two_engines_cannot_have_one_folder() {
    let transformer = calf();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/here");
    let engine = start(&transformer, cache(MEMORY, Some((&path, DISK))));
    let compute = cuvier_model::Compute::new(cuvier_model::Isa::best(), std::num::NonZeroUsize::MIN).unwrap();
    let model = cuvier_engine::TransformerModel::new(transformer, compute, cuvier_model::KvFormat::Fp8);
    let config = EngineConfig { cache: cache(MEMORY, Some((&path, DISK))), ..EngineConfig::default() };
    let error = Engine::start(model, config).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    ask(&engine, request(text(70, 200), 3));
    drop(engine);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert!(!files(&path).is_empty() && files(&path).iter().all(|file| mode(file) == 0o600));
    }
}

#[test]
fn files_of_other_versions_and_strangers_are_left_alone_and_unfinished_ones_removed() {
    let transformer = calf();
    let dir = tempfile::tempdir().unwrap();
    drop(start(&transformer, cache(MEMORY, Some((dir.path(), DISK)))));
    let of = |ending: &str| dir.path().join("ab".repeat(32) + ending);
    fs::write(of(".part"), b"half").unwrap();
    let mut newer = b"CUVCACHE".to_vec();
    newer.extend_from_slice(&[9; 200]);
    fs::write(of(".state"), &newer).unwrap();
    fs::write(dir.path().join("notes.txt"), b"mine").unwrap();
    let engine = start(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
    assert_eq!((engine.cache_stats().disk_foreign, engine.cache_stats().disk_broken), (1, 0));
    assert!(!of(".part").exists() && of(".state").exists() && dir.path().join("notes.txt").exists());
}

/// Not a test: the process that the next one kills. Writes until it is killed, and says what it has seen answered.
#[test]
#[ignore = "run by the test that kills it"]
fn a_process_that_writes() {
    let Some(dir) = std::env::var_os("CUVIER_TEST_CACHE") else { return };
    let transformer = calf();
    let engine = start(&transformer, cache(MEMORY, Some((Path::new(&dir), DISK))));
    for seed in 0.. {
        ask(&engine, request(text(2_000 + seed, 260 + seed as usize % 3 * 130), 4));
        let stats = engine.cache_stats();
        println!("\nwritten {}", stats.disk_writes);
    }
}

#[test]
fn a_process_killed_at_any_moment_loses_no_finished_entry_and_leaves_no_wrong_one() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let transformer = calf();
    let dir = tempfile::tempdir().unwrap();
    let mut n_found = 0;
    for round in 0..12u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_that_writes", "--ignored", "--nocapture"])
            .env("CUVIER_TEST_CACHE", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut written =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("written ")?.parse().ok());
        let wanted = 1 + round % 4;
        let n_finished: u64 = written.by_ref().take(wanted as usize).last().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(round * 37 % 90));
        child.kill().unwrap();
        child.wait().unwrap();
        // Till here the child had somebody to write to.
        drop(written);
        let engine = start(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
        assert_eq!(engine.cache_stats().disk_broken, 0, "a name stands for a whole file");
        assert!(engine.cache_stats().disk_entries >= n_finished, "what was finished is there");
        for seed in 0..wanted {
            let prompt = text(2_000 + seed, 260 + seed as usize % 3 * 130);
            let (answer, begun) = ask(&engine, request(prompt.clone(), 4));
            n_found += usize::from(begun > 0);
            let cold = ask(&start(&transformer, cache(0, None)), request(prompt, 4)).0;
            assert_eq!(answer, cold, "round {round}, text {seed}");
        }
        drop(engine);
        fs::read_dir(dir.path()).unwrap().for_each(|entry| _ = fs::remove_file(entry.unwrap().path()));
    }
    println!("{n_found} of 30 prompts were found after a kill");
    assert!(n_found >= 15, "{n_found}");
}

#[test]
fn running_streams_go_on_while_a_state_is_read() {
    let transformer = calf();
    let dir = tempfile::tempdir().unwrap();
    let prompt = text(80, 1_500);
    let engine = start(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
    ask(&engine, request(prompt.clone(), 3));
    drop(engine);
    let engine = start(&transformer, cache(MEMORY, Some((dir.path(), DISK))));
    let mut running = engine.submit(request(text(81, 5), 400)).unwrap();
    assert!(running.by_ref().any(|event| matches!(event, Event::Token { .. })));
    let cancelled = engine.submit(request(prompt.clone(), 3)).unwrap();
    cancelled.cancel();
    assert!(matches!(cancelled.last(), Some(Event::Finished { .. })));
    assert_eq!(ask(&engine, request(prompt, 3)).1, 1_499);
    assert!(matches!(running.last(), Some(Event::Finished { .. })));
}
