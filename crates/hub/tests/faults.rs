//! Downloads over a network and from hubs that fail in every way: each fault is overcome or named, and what has a file's
//! name has its bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cuvier_hub::{
    Client, ClientOptions, Endpoint, Event, HubError, PullOptions, PullReport, RepoId, RetryPolicy, Revision,
    Token, pull,
};
use server::{Fault, Hub};
use tempfile::{TempDir, tempdir};

const CHUNK: u64 = 1000;
const SHARD: &str = "model.safetensors";

/// Bytes that differ from chunk to chunk.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", bytes(2500)),
        ("encoding/encoding_dsv4.py", bytes(10)),
        ("LICENSE", bytes(1000)),
        ("README.md", Vec::new()),
        (SHARD, bytes(20_345)),
        ("inference/model.py", bytes(99)),
        (".gitattributes", bytes(9)),
    ]
}

fn options(hub: &Hub) -> ClientOptions {
    ClientOptions {
        stall_timeout: Duration::from_millis(300),
        retry: RetryPolicy {
            tries_max: 4,
            wait_first: Duration::from_millis(10),
            wait_max: Duration::from_millis(40),
            wait_asked_max: Duration::from_secs(5),
        },
        ..ClientOptions::new(Endpoint::parse(&hub.address).unwrap())
    }
}

fn pull_with(
    options: ClientOptions,
    pull_options: &PullOptions,
    folder: &Path,
    mut observe: impl FnMut(Option<Event>) -> bool,
) -> Result<PullReport, HubError> {
    let (repo, revision) = (RepoId::parse("o/r").unwrap(), Revision::parse("main").unwrap());
    pull(&Client::new(options).unwrap(), &repo, &revision, folder, pull_options, &mut observe)
}

fn pull_options() -> PullOptions {
    PullOptions { chunk_bytes: CHUNK, recheck: false }
}

fn pull_into(hub: &Hub, folder: &Path) -> Result<PullReport, HubError> {
    pull_with(options(hub), &pull_options(), folder, |_| true)
}

/// Every file that a checkpoint needs is there with its bytes, and none that it does not, and no part.
fn assert_whole(folder: &Path, files: &[(&str, Vec<u8>)]) {
    let needed = files.iter().filter(|(name, _)| !name.starts_with("inference") && !name.starts_with('.'));
    for (name, bytes) in needed.clone() {
        assert_eq!(&fs::read(folder.join(name)).unwrap(), bytes, "{name}");
    }
    let names = |path: &Path| {
        let entries =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let plain = entries.filter(|name| !name.starts_with('.'));
        plain.collect::<Vec<_>>()
    };
    let there = names(folder).len() + names(&folder.join("encoding")).len() - 1;
    assert_eq!(there, needed.count(), "{:?}", names(folder));
}

/// A hub whose shard's requests fail as said, a folder filled from it, and the bytes that were asked for beyond the files'.
fn overcome(fault: impl Fn(usize) -> Option<Fault> + Send + Sync + 'static) -> (Hub, TempDir, u64) {
    let hub = Hub::start(&files());
    hub.faults(move |path, number| if path.ends_with(SHARD) { fault(number) } else { None });
    let folder = tempdir().unwrap();
    pull_into(&hub, folder.path()).unwrap();
    assert_whole(folder.path(), &files());
    let size: usize =
        files().iter().filter(|(name, _)| !name.starts_with("inference")).map(|(_, b)| b.len()).sum();
    let beyond = hub.asked() - (size as u64 - 9);
    (hub, folder, beyond)
}

/// The error of a hub whose shard's requests all fail so; the folder has no shard.
fn refused(fault: &Fault) -> HubError {
    let hub = Hub::start(&files());
    let always = fault.clone();
    hub.faults(move |path, _| path.ends_with(SHARD).then(|| always.clone()));
    let folder = tempdir().unwrap();
    let error = pull_into(&hub, folder.path()).unwrap_err();
    assert!(!folder.path().join(SHARD).exists(), "{fault:?}");
    error
}

#[test]
fn a_folder_is_filled_with_what_a_checkpoint_needs_and_each_byte_is_asked_for_once() {
    let (_, _, beyond) = overcome(|_| None);
    assert_eq!(beyond, 0);
}

#[test]
fn a_second_call_fetches_nothing() {
    let (hub, folder, _) = overcome(|_| None);
    hub.faults(|_, _| None);
    let report = pull_into(&hub, folder.path()).unwrap();
    assert!(report.fetched.is_empty());
    assert_eq!(hub.asked(), 0);
}

#[test]
fn cut_connections_cost_less_than_a_chunk_each() {
    let (hub, _, beyond) = overcome(|number| (number % 3 == 1).then_some(Fault::Cut(700)));
    let cuts = hub.seen().iter().filter(|seen| seen.path.ends_with(SHARD)).count() as u64 / 3 + 1;
    assert!(beyond > 0 && beyond <= cuts * CHUNK, "{beyond} bytes for {cuts} cuts");
}

#[test]
fn a_download_that_was_stopped_goes_on_with_at_most_one_chunk_per_connection_again() {
    let hub = Hub::start(&files());
    // Slow enough at its end that it is stopped before it is whole.
    hub.faults(|path, number| {
        (path.ends_with(SHARD) && number >= 9).then_some(Fault::Stall(500, Duration::from_millis(200)))
    });
    let folder = tempdir().unwrap();
    let mut came = 0;
    let stopped = pull_with(options(&hub), &pull_options(), folder.path(), |event| {
        if let Some(Event::Came(bytes)) = event {
            came += bytes;
        }
        came < 8000
    });
    assert!(matches!(stopped, Err(HubError::Interrupted)), "{stopped:?}");
    let first = hub.asked();
    hub.faults(|_, _| None);
    pull_into(&hub, folder.path()).unwrap();
    assert_whole(folder.path(), &files());
    let size: usize = files()[..6].iter().map(|(_, bytes)| bytes.len()).sum();
    let beyond = first + hub.asked() - size as u64;
    assert!(hub.asked() < size as u64 && beyond <= 4 * CHUNK, "{beyond} bytes twice");
}

#[test]
fn a_journal_or_a_part_that_was_damaged_costs_bytes_and_never_puts_wrong_ones_into_a_file() {
    type Damage = fn(&Path, &Path);
    let damages: [Damage; 6] = [
        |_, journal| fs::write(journal, "garbage").unwrap(),
        |_, journal| fs::remove_file(journal).unwrap(),
        |part, _| fs::remove_file(part).unwrap(),
        |part, _| fs::write(part, [9; 100]).unwrap(),
        |part, _| fs::write(part, [9; 50_000]).unwrap(),
        |_, journal| {
            let text = fs::read_to_string(journal).unwrap();
            fs::write(journal, text + "done 20 ").unwrap();
        },
    ];
    for damage in damages {
        let hub = Hub::start(&files());
        hub.faults(|path, number| (path.ends_with(SHARD) && number > 9).then_some(Fault::Status(404, "")));
        let folder = tempdir().unwrap();
        pull_into(&hub, folder.path()).unwrap_err();
        let part = folder.path().join("model.safetensors.part");
        let journal = folder.path().join("model.safetensors.part.journal");
        assert!(fs::read_to_string(&journal).unwrap().contains("\ndone "));
        damage(&part, &journal);
        hub.faults(|_, _| None);
        pull_into(&hub, folder.path()).unwrap();
        assert_whole(folder.path(), &files());
    }
}

#[test]
fn a_server_that_stalls_is_left_and_asked_again() {
    let start = Instant::now();
    let (_, _, beyond) =
        overcome(|number| (number == 3).then_some(Fault::Stall(500, Duration::from_secs(20))));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(beyond <= CHUNK);
}

#[test]
fn a_server_that_always_stalls_is_given_up_by_name() {
    let error = refused(&Fault::Stall(0, Duration::from_secs(2)));
    assert!(error.to_string().starts_with("model.safetensors: gave up after 4 tries"), "{error}");
}

#[test]
fn a_body_that_is_too_short_is_asked_for_again_and_one_too_long_is_cut() {
    overcome(|number| (number % 2 == 0).then_some(Fault::Cut(999)));
    overcome(|_| Some(Fault::Long));
}

#[test]
fn a_flipped_bit_costs_one_more_download_and_two_are_named() {
    let (hub, _, beyond) = overcome(|number| (number == 5).then_some(Fault::Flip));
    assert_eq!(beyond, 20_345);
    assert!(hub.seen().len() > 40);
    match refused(&Fault::Flip) {
        HubError::Hash { file, .. } => assert_eq!(file, SHARD),
        other => panic!("{other}"),
    }
}

#[test]
fn a_file_whose_hash_was_wrong_leaves_no_part() {
    let hub = Hub::start(&files());
    hub.faults(|path, _| path.ends_with("tokenizer.json").then_some(Fault::Flip));
    let folder = tempdir().unwrap();
    let error = pull_into(&hub, folder.path()).unwrap_err();
    assert!(matches!(&error, HubError::Hash { file, .. } if file == "tokenizer.json"), "{error}");
    assert!(!folder.path().join("tokenizer.json.part").exists());
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    let start = Instant::now();
    overcome(|number| (number == 0).then_some(Fault::Status(429, "retry-after: 1\r\n")));
    assert!(start.elapsed() >= Duration::from_secs(1));
    overcome(|number| [1, 5, 9].contains(&number).then_some(Fault::Status(500, "")));
    overcome(|number| [1, 5, 9].contains(&number).then_some(Fault::Status(503, "retry-after: 0\r\n")));
}

#[test]
fn a_server_that_asks_for_more_patience_than_there_is_is_given_up() {
    let error = refused(&Fault::Status(429, "retry-after: 86400\r\n"));
    assert!(matches!(error, HubError::GaveUp { .. }), "{error}");
    let error = refused(&Fault::Status(500, ""));
    assert!(matches!(error, HubError::GaveUp { tries: 4, .. }), "{error}");
}

#[test]
fn a_refusal_says_what_to_do() {
    assert!(refused(&Fault::Status(403, "")).to_string().contains("terms"));
    assert!(refused(&Fault::Status(404, "")).to_string().contains("no such"));
    let hub = Hub::start(&files());
    hub.faults(|_, _| Some(Fault::Status(401, "")));
    let error = pull_into(&hub, tempdir().unwrap().path()).unwrap_err().to_string();
    assert!(error.contains("the list of o/r") && error.contains("token"), "{error}");
}

#[test]
fn a_file_that_changed_midway_is_named() {
    let etag = format!("etag: \"{}\"\r\n", "ab".repeat(32));
    for header in [etag, format!("x-repo-commit: {}\r\n", "d".repeat(40)), "x-linked-size: 7\r\n".to_owned()]
    {
        let error = refused(&Fault::Header(header.clone()));
        assert!(matches!(&error, HubError::Changed { file, .. } if file == SHARD), "{header}: {error}");
    }
}

#[test]
fn bytes_that_changed_midway_are_found_by_their_hash() {
    let hub = Hub::start(&files());
    let folder = tempdir().unwrap();
    hub.lie(hub.listing());
    let mut other = bytes(20_345);
    other[7] ^= 255;
    hub.replace(SHARD, other);
    let error = pull_into(&hub, folder.path()).unwrap_err();
    assert!(matches!(&error, HubError::Hash { file, .. } if file == SHARD), "{error}");
}

#[test]
fn lies_about_a_size_are_named() {
    for lie in ["20344", "20346", "999999"] {
        let hub = Hub::start(&files());
        let folder = tempdir().unwrap();
        hub.lie(hub.listing().replace("20345", lie));
        let error = pull_into(&hub, folder.path()).unwrap_err();
        assert!(matches!(&error, HubError::Changed { file, .. } if file == SHARD), "{lie}: {error}");
    }
}

#[test]
fn more_bytes_than_the_disk_has_free_are_refused_with_both_figures() {
    let hub = Hub::start(&files());
    let folder = tempdir().unwrap();
    hub.lie(hub.listing().replace("20345", "4000000000000000"));
    let error = pull_into(&hub, folder.path()).unwrap_err();
    match error {
        HubError::Space { need, free, .. } => assert!(need > 4_000_000_000_000_000 && free < need),
        other => panic!("{other}"),
    }
    assert_eq!(hub.asked(), 0);
}

#[test]
fn a_server_without_ranges_sends_a_file_once() {
    let (hub, _, _) = overcome(|_| Some(Fault::Whole));
    let shard = hub.seen().iter().filter(|seen| seen.path.ends_with(SHARD)).count();
    assert!(shard <= 4, "one stream, and a request of each connection that found it taken: {shard}");
}

#[test]
fn ranges_that_end_midway_are_overcome() {
    overcome(|number| (number >= 7).then_some(Fault::Whole));
    overcome(|number| (number % 5 == 4).then_some(Fault::Whole));
}

#[test]
fn a_range_that_was_not_asked_for_is_refused() {
    // One less than a chunk may be tried, so that no order of connections gives one of them up.
    overcome(|number| [0, 3, 6].contains(&number).then_some(Fault::Range("bytes 1-1000/20345")));
    let error = refused(&Fault::Range("bytes 1-1000/20345"));
    assert!(matches!(&error, HubError::GaveUp { .. }), "{error}");
    let error = refused(&Fault::Range("bytes 0-999/20346"));
    assert!(matches!(&error, HubError::Changed { .. }), "{error}");
}

#[test]
fn the_token_goes_to_the_hub_and_not_where_it_redirects() {
    let (hub, storage) = (Hub::start(&files()), Hub::start(&files()));
    let away = storage.address.clone();
    hub.faults(move |path, _| {
        path.ends_with(SHARD).then(|| Fault::Redirect(format!("{away}/cdn/{SHARD}?signed=1")))
    });
    storage.faults(|_, _| None);
    let with_token = ClientOptions { token: Some(Token::new(" hf_secret\n").unwrap()), ..options(&hub) };
    assert!(!format!("{with_token:?}").contains("secret"));
    let folder = tempdir().unwrap();
    // The storage of this test knows the path without its query only.
    let error =
        pull_with(with_token.clone(), &pull_options(), folder.path(), |_| true).unwrap_err().to_string();
    assert!(!error.contains("secret") && !error.contains("signed"), "{error}");
    let away = storage.address.clone();
    hub.faults(move |path, _| path.ends_with(SHARD).then(|| Fault::Redirect(format!("{away}/cdn/{SHARD}"))));
    pull_with(with_token, &pull_options(), folder.path(), |_| true).unwrap();
    assert_whole(folder.path(), &files());
    assert!(hub.seen().iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")));
    assert!(storage.seen().len() > 20 && storage.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[test]
fn a_token_is_not_sent_unencrypted_over_a_network() {
    let endpoint = Endpoint::parse("http://hub.example").unwrap();
    let options =
        ClientOptions { token: Some(Token::new("secret").unwrap()), ..ClientOptions::new(endpoint) };
    let error = Client::new(options).err().unwrap().to_string();
    assert!(error.contains("unencrypted") && !error.contains("secret"), "{error}");
}

#[test]
fn a_redirect_in_circles_is_given_up() {
    let hub = Hub::start(&files());
    let here = hub.address.clone();
    hub.faults(move |path, _| path.ends_with(SHARD).then(|| Fault::Redirect(format!("{here}{path}"))));
    let error = pull_into(&hub, tempdir().unwrap().path()).unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
}

#[test]
fn names_that_leave_the_folder_write_nothing() {
    let hub = Hub::start(&files());
    let folder = tempdir().unwrap();
    let inner = folder.path().join("inner");
    for name in ["../config.json", "/etc/config.json\",\"x\":\"", "..\\\\config.json", "CONFIG.json"] {
        hub.lie(hub.listing().replace("tokenizer.json", name));
        let result = pull_into(&hub, &inner);
        if !name.starts_with('/') {
            assert!(matches!(result, Err(HubError::Name { .. })), "{name}: {result:?}");
        }
        hub.lie(Hub::start(&files()).listing());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_link_in_the_folder_is_not_written_through() {
    let hub = Hub::start(&files());
    let (folder, outside) = (tempdir().unwrap(), tempdir().unwrap());
    std::os::unix::fs::symlink(outside.path(), folder.path().join("encoding")).unwrap();
    let error = pull_into(&hub, folder.path()).unwrap_err();
    assert!(matches!(error, HubError::NotPlain { want: "folder", .. }), "{error}");
    fs::remove_file(folder.path().join("encoding")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("x"), folder.path().join("model.safetensors.part"))
        .unwrap();
    let error = pull_into(&hub, folder.path()).unwrap_err();
    assert!(matches!(error, HubError::NotPlain { want: "file", .. }), "{error}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn two_downloads_do_not_fill_one_folder_at_once() {
    let hub = Hub::start(&files());
    let folder = tempdir().unwrap();
    pull_into(&hub, folder.path()).unwrap();
    let lock = fs::File::options().write(true).open(folder.path().join(".cuvier-pull.lock")).unwrap();
    lock.lock().unwrap();
    assert!(matches!(pull_into(&hub, folder.path()), Err(HubError::Busy { .. })));
}

#[test]
fn a_stalled_download_is_stopped_at_once() {
    let hub = Hub::start(&files());
    hub.faults(|path, _| path.ends_with(SHARD).then_some(Fault::Stall(10, Duration::from_secs(20))));
    let patient = ClientOptions { stall_timeout: Duration::from_secs(20), ..options(&hub) };
    let start = Instant::now();
    let folder = tempdir().unwrap();
    let stopped =
        pull_with(patient, &pull_options(), folder.path(), |_| start.elapsed() < Duration::from_millis(400));
    assert!(matches!(stopped, Err(HubError::Interrupted)));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_new_commit_replaces_what_differs_and_keeps_the_rest() {
    let (hub, folder, _) = overcome(|_| None);
    let mut changed = files();
    changed[1].1 = bytes(3100);
    hub.replace("tokenizer.json", bytes(3100));
    let report = pull_into(&hub, folder.path()).unwrap();
    assert_eq!(report.fetched, ["tokenizer.json"]);
    assert_whole(folder.path(), &changed);
}
