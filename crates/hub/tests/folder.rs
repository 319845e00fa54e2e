//! A folder after its download: what broke is found, named and mended.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server;

use std::fs;
use std::path::Path;
use std::slice;

use cuvier_hub::{
    Broken, Client, ClientOptions, Damage, Endpoint, Event, HubError, PullOptions, RepoId, Revision, check,
    pull,
};
use server::Hub;
use tempfile::{TempDir, tempdir};

const CHUNK: u64 = 1000;

/// A safetensors file of 64 + 3 × 2000 bytes.
fn shard() -> Vec<u8> {
    let entries: Vec<String> = ["a", "b", "c"]
        .iter()
        .zip([0, 2000, 4000])
        .map(|(name, start)| {
            format!(
                "\"{name}\":{{\"dtype\":\"I8\",\"shape\":[2000],\"data_offsets\":[{start},{}]}}",
                start + 2000
            )
        })
        .collect();
    let json = format!("{{{}}}", entries.join(","));
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.bytes());
    bytes.extend((0..6000_u32).map(|i| (i / 7) as u8));
    bytes
}

fn hub() -> Hub {
    Hub::start(&[
        ("config.json", b"{}".to_vec()),
        ("model.safetensors", shard()),
        ("tokenizer.json", vec![5; 2500]),
    ])
}

fn pull_into(hub: &Hub, folder: &Path, recheck: bool) -> (Vec<String>, Vec<Event>) {
    let client = Client::new(ClientOptions::new(Endpoint::parse(&hub.address).unwrap())).unwrap();
    let (repo, revision) = (RepoId::parse("o/r").unwrap(), Revision::parse("main").unwrap());
    let options = PullOptions { chunk_bytes: CHUNK, recheck };
    let mut events = Vec::new();
    let report = pull(&client, &repo, &revision, folder, &options, &mut |event| {
        events.extend(event);
        true
    });
    (report.unwrap().fetched, events)
}

fn filled(hub: &Hub) -> TempDir {
    let folder = tempdir().unwrap();
    pull_into(hub, folder.path(), false);
    folder
}

fn broken(folder: &Path) -> Vec<Broken> {
    check(folder, &mut |_, _| true).unwrap().unwrap().broken
}

fn flip(file: &Path, at: &[usize]) {
    let mut bytes = fs::read(file).unwrap();
    for &at in at {
        bytes[at] ^= 0x10;
    }
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_folder_as_it_was_downloaded_is_whole() {
    let folder = filled(&hub());
    let report = check(folder.path(), &mut |_, _| true).unwrap().unwrap();
    assert_eq!((report.files.len(), report.broken), (3, Vec::new()));
    assert_eq!((report.repo.as_str(), report.commit.as_str()), ("o/r", server::COMMIT));
}

#[test]
fn a_folder_that_was_not_downloaded_has_nothing_to_check() {
    assert_eq!(check(tempdir().unwrap().path(), &mut |_, _| true).unwrap(), None);
}

#[test]
fn a_broken_byte_is_named_by_file_range_and_tensor() {
    let folder = filled(&hub());
    let file = folder.path().join("model.safetensors");
    let start = shard().len() - 6000;
    flip(&file, &[start + 2500]);
    let found = broken(folder.path());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].file, "model.safetensors");
    let Damage::Bytes { ranges, tensors } = &found[0].damage else { panic!("{found:?}") };
    assert_eq!(ranges.as_slice(), slice::from_ref(&(2000..3000)));
    assert_eq!(tensors, &["a", "b"], "the chunk has the end of one and the start of the other");
    let text = found[0].to_string();
    assert!(text.contains("model.safetensors: not as it was downloaded within bytes 2000..3000"), "{text}");
    flip(&file, &[start + 2500, start + 5900]);
    let found = broken(folder.path());
    assert!(matches!(&found[0].damage, Damage::Bytes { tensors, .. } if tensors == &["c"]), "{found:?}");
}

#[test]
fn a_broken_header_is_named_though_no_tensor_can_be() {
    let folder = filled(&hub());
    flip(&folder.path().join("model.safetensors"), &[7]);
    let found = broken(folder.path());
    let Damage::Bytes { ranges, tensors } = &found[0].damage else { panic!("{found:?}") };
    assert_eq!((ranges.as_slice(), tensors.len()), (slice::from_ref(&(0..1000)), 0));
}

#[test]
fn absent_and_shortened_files_are_named() {
    let folder = filled(&hub());
    fs::remove_file(folder.path().join("config.json")).unwrap();
    fs::write(folder.path().join("tokenizer.json"), [5; 2499]).unwrap();
    let found = broken(folder.path());
    assert_eq!(found[0].damage, Damage::Missing);
    assert_eq!(found[1].damage, Damage::Length { want: 2500, got: 2499 });
}

#[test]
fn only_broken_chunks_are_fetched_again() {
    let hub = hub();
    let folder = filled(&hub);
    let file = folder.path().join("model.safetensors");
    flip(&file, &[1500, 4000]);
    hub.faults(|_, _| None);
    let (fetched, _) = pull_into(&hub, folder.path(), true);
    assert_eq!(fetched, ["model.safetensors"]);
    assert_eq!(hub.asked(), 2 * CHUNK);
    assert_eq!(fs::read(&file).unwrap(), shard());
    assert_eq!(broken(folder.path()), []);
}

#[test]
fn a_touched_file_is_read_again_and_an_untouched_one_is_not() {
    let hub = hub();
    let folder = filled(&hub);
    let (fetched, events) = pull_into(&hub, folder.path(), false);
    assert!(fetched.is_empty() && !events.iter().any(|event| matches!(event, Event::Checking { .. })));
    fs::write(folder.path().join("tokenizer.json"), [6; 2500]).unwrap();
    let (fetched, events) = pull_into(&hub, folder.path(), false);
    assert_eq!(fetched, ["tokenizer.json"]);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Checking { .. })).count(), 1);
    assert_eq!(fs::read(folder.path().join("tokenizer.json")).unwrap(), [5; 2500]);
}

#[test]
fn right_files_that_came_another_way_are_not_fetched() {
    let hub = hub();
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("model.safetensors"), shard()).unwrap();
    let (fetched, _) = pull_into(&hub, folder.path(), false);
    assert_eq!(fetched, ["config.json", "tokenizer.json"]);
    assert_eq!(broken(folder.path()), []);
}

#[test]
fn a_broken_record_is_an_error_of_the_check_and_mended_by_the_next_download() {
    let hub = hub();
    let folder = filled(&hub);
    fs::write(folder.path().join(".cuvier-manifest.json"), "{").unwrap();
    assert!(matches!(check(folder.path(), &mut |_, _| true), Err(HubError::Manifest { .. })));
    let (fetched, _) = pull_into(&hub, folder.path(), false);
    assert!(fetched.is_empty());
    assert_eq!(broken(folder.path()), []);
}

#[test]
fn a_check_that_is_told_to_stop_stops() {
    let folder = filled(&hub());
    assert!(matches!(check(folder.path(), &mut |_, _| false), Err(HubError::Interrupted)));
}
