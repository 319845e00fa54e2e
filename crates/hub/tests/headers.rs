//! What a checkpoint is, read at the hub before it is downloaded.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server;

use std::fs;

use cuvier_hub::{
    Client, ClientOptions, Endpoint, HubError, RemoteCheckpoint, RepoId, Revision, remote_headers,
};
use cuvier_weights::synth::{self, SynthOptions};
use cuvier_weights::{Header, ModelConfig, WeightsError};
use server::{Fault, Hub};

fn read(hub: &Hub) -> Result<RemoteCheckpoint, HubError> {
    let client = Client::new(ClientOptions::new(Endpoint::parse(&hub.address).unwrap())).unwrap();
    let (repo, revision) = (RepoId::parse("o/r").unwrap(), Revision::parse("main").unwrap());
    remote_headers(&client, &repo, &revision, &mut |_| true)
}

/// A synthetic checkpoint of several shards.
fn files() -> Vec<(String, Vec<u8>)> {
    let shape = ModelConfig {
        vocab_size: 64,
        hidden_size: 128,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        head_dim: 48,
        qk_rope_head_dim: 16,
        q_lora_rank: 40,
        o_groups: 2,
        o_lora_rank: 24,
        compress_ratios: vec![0, 4, 128],
        index_n_heads: 4,
        index_head_dim: 32,
        index_topk: 8,
        n_routed_experts: 3,
        num_experts_per_tok: 2,
        moe_intermediate_size: 64,
        num_hash_layers: 1,
        num_nextn_predict_layers: 0,
        max_position_embeddings: 4096,
        ..ModelConfig::flash()
    };
    let folder = tempfile::tempdir().unwrap();
    let options = SynthOptions { shard_bytes_max: 200_000, ..SynthOptions::new(shape) };
    synth::write(folder.path(), &options, &mut |_, _| {}).unwrap();
    let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
    let read =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()));
    read.collect()
}

fn hub_of(files: &[(String, Vec<u8>)]) -> Hub {
    let files: Vec<(&str, Vec<u8>)> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    Hub::start(&files)
}

#[test]
fn headers_at_the_hub_are_those_of_the_files_and_no_weight_is_read() {
    let files = files();
    let hub = hub_of(&files);
    let remote = read(&hub).unwrap();
    assert_eq!(remote.commit, server::COMMIT);
    assert_eq!(remote.config.num_hidden_layers, 3);
    let shards: Vec<_> = files.iter().filter(|(name, _)| name.ends_with(".safetensors")).collect();
    assert!(shards.len() > 1 && shards.len() == remote.shards.len());
    let mut heads = 0;
    for shard in &remote.shards {
        let (_, bytes) = shards.iter().find(|(name, _)| *name == shard.file).unwrap();
        assert_eq!(shard.bytes, bytes.len() as u64);
        assert_eq!(shard.entries, Header::parse(bytes, "m").unwrap().entries);
        heads += 8 + Header::head_bytes(*bytes.first_chunk().unwrap(), "m").unwrap();
    }
    let texts: usize = files
        .iter()
        .filter(|(name, _)| name == "config.json" || name.ends_with("index.json"))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert_eq!(hub.asked(), heads + texts as u64);
    assert_eq!(remote.download_bytes, files.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
}

#[test]
fn a_header_of_absurd_length_is_refused_by_name_before_it_is_asked_for() {
    for length in [u64::MAX, 1 << 40, 99_000_000] {
        let mut files = files();
        let shard = files.iter_mut().find(|(name, _)| name.ends_with(".safetensors")).unwrap();
        shard.1[..8].copy_from_slice(&length.to_le_bytes());
        let name = shard.0.clone();
        let hub = hub_of(&files);
        match read(&hub).unwrap_err() {
            HubError::Weights(WeightsError::Header { file, .. }) => assert_eq!(file, name),
            other => panic!("{other}"),
        }
        assert!(hub.asked() < 1_000_000);
    }
}

#[test]
fn a_repository_without_a_config_or_with_a_shard_missing_is_told_so() {
    let mut files = files();
    files.retain(|(name, _)| name != "config.json");
    assert!(read(&hub_of(&files)).unwrap_err().to_string().contains("no `config.json`"));
    let mut files = self::files();
    let at = files.iter().position(|(name, _)| name.ends_with(".safetensors")).unwrap();
    let (name, _) = files.remove(at);
    assert!(read(&hub_of(&files)).unwrap_err().to_string().contains(&name));
}

#[test]
fn a_config_whose_hash_is_wrong_is_not_believed() {
    let hub = hub_of(&files());
    hub.faults(|path, _| path.ends_with("/config.json").then_some(Fault::Flip));
    assert!(matches!(read(&hub), Err(HubError::Changed { fact: "the hash", .. })));
}

#[test]
fn a_server_without_ranges_still_tells_its_headers() {
    let hub = hub_of(&files());
    hub.faults(|path, _| path.contains("/resolve/").then_some(Fault::Whole));
    assert!(read(&hub).unwrap().shards.len() > 1);
}
