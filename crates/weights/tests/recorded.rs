//! Files that other programs wrote.

use std::fs;
use std::path::{Path, PathBuf};

use cuvier_weights::{Checkpoint, Drafter, ModelConfig, inventory};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/parity")
}

#[test]
fn a_checkpoint_that_transformers_saved_opens_under_official_names() {
    let checkpoint = Checkpoint::open(&fixtures().join("save_pretrained")).expect("it is whole");
    assert_eq!(checkpoint.drafter(), Drafter::None, "transformers drops the MTP block");
    assert!(checkpoint.unused().is_empty(), "{:?}", checkpoint.unused());
    assert_eq!(checkpoint.n_tensors(), inventory(checkpoint.config(), false).iter().count());
    let report = checkpoint.verify(false, &mut |_, _| true).expect("nobody interrupts");
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn every_recorded_config_parses_and_survives_its_json() {
    let mut configs = 0;
    for entry in fs::read_dir(fixtures().join("configs")).expect("the fixtures are there") {
        let path = entry.expect("the folder can be read").path();
        let json = fs::read_to_string(&path).expect("the file can be read");
        let config = ModelConfig::parse(&json, "config.json").expect("it is a config");
        assert_eq!(ModelConfig::parse(&config.to_json(), "config.json").expect("so is ours"), config);
        configs += 1;
    }
    assert!(configs > 10, "{configs}");
}
