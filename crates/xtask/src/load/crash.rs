//! Kills at random moments, and cache files that were altered: nothing that was complete is lost, nothing wrong is served.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::Setup;
use super::wire;

/// Conversations that are played again and again.
const N_PROMPTS: usize = 6;

fn request(index: usize) -> Value {
    let story = format!("Story {index}: {}", "the whale dives deep and comes back. ".repeat(40 + 20 * index));
    json!({
        "messages": [
            {"role": "system", "content": story}, {"role": "user", "content": format!("What is {index} + 30?")},
        ],
        "seed": index, "temperature": 1.0, "max_tokens": 24, "stream": true, "reasoning_effort": "low",
    })
}

/// Kills a server that writes its cache, `kills` times; then alters its files, one bit each.
pub fn run(setup: &Setup, kills: usize) -> anyhow::Result<String> {
    let folder = std::env::temp_dir().join(format!("cuvier-crash-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let result = run_in(setup, kills, &folder);
    fs::remove_dir_all(&folder)?;
    result
}

fn run_in(setup: &Setup, kills: usize, folder: &Path) -> anyhow::Result<String> {
    let cold = setup.start(&[])?;
    let want: Vec<String> = answers(cold.address)?.into_iter().map(|heard| heard.text).collect();
    drop(cold);
    let cache = folder.to_string_lossy().into_owned();
    let flags = ["--cache-dir", &cache, "--cache-size", "1GiB"];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..kills {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let server = setup.start(&flags)?;
        let address = server.address;
        let client =
            std::thread::spawn(move || (0..N_PROMPTS).map(|i| wire::stream(address, &request(i))).collect());
        std::thread::sleep(Duration::from_millis(20 + (random >> 33) % 700));
        server.kill()?;
        let heard: Vec<anyhow::Result<wire::Heard>> = client.join().expect("clients do not panic");
        for (index, heard) in heard.into_iter().enumerate() {
            // Answers that the kill cut off are not heard.
            if let Ok(heard) = heard {
                anyhow::ensure!(
                    heard.text == want[index],
                    "prompt {index} is answered otherwise after a kill"
                );
            }
        }
    }
    let server = setup.start(&flags)?;
    check(server.address, &want)?;
    std::thread::sleep(Duration::from_secs(1));
    server.kill()?;
    let server = setup.start(&flags)?;
    let heard = answers(server.address)?;
    let (cached, prompt) = heard.iter().fold((0, 0), |(cached, prompt), heard| {
        (cached + heard.cached(), prompt + heard.usage["prompt_tokens"].as_u64().unwrap_or(0))
    });
    anyhow::ensure!(cached > 0, "nothing was found again after a restart");
    server.kill()?;
    let altered = alter(folder)?;
    let server = setup.start(&flags)?;
    check(server.address, &want)?;
    Ok(format!(
        "{kills} kills, every answer right; after a restart {cached} of {prompt} prompt tokens were found again; {altered} \
         files with one bit turned, every answer right"
    ))
}

fn answers(address: std::net::SocketAddr) -> anyhow::Result<Vec<wire::Heard>> {
    (0..N_PROMPTS).map(|index| wire::stream(address, &request(index))).collect()
}

fn check(address: std::net::SocketAddr, want: &[String]) -> anyhow::Result<()> {
    for (index, heard) in answers(address)?.iter().enumerate() {
        anyhow::ensure!(
            heard.text == want[index],
            "prompt {index}: {:?}, cold {:?}",
            heard.text,
            want[index]
        );
    }
    Ok(())
}

/// Turns one bit in the middle of every file.
fn alter(folder: &Path) -> anyhow::Result<usize> {
    let mut n = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let mut bytes = fs::read(&path)?;
        if bytes.len() > 100 {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes)?;
            n += 1;
        }
    }
    anyhow::ensure!(n > 0, "the cache has no files");
    Ok(n)
}
