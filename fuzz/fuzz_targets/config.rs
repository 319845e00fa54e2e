#![no_main]

use cuvier_weights::accounting::account;
use cuvier_weights::{ModelConfig, Precision};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &str| {
    let Ok(config) = ModelConfig::parse(json, "config.json") else { return };
    let again = ModelConfig::parse(&config.to_json(), "config.json").expect("what we write we read");
    assert_eq!(again, config);
    // Counting lists every tensor: slow for the largest shapes that are allowed, and no different for them.
    if config.n_routed_experts * config.num_hidden_layers < 1000 {
        let counted = account(&config, Precision::F32, true, 1 << 30);
        assert!(counted.parameters.active <= counted.parameters.total);
        assert!(counted.parameters.bytes / 4 >= counted.parameters.total);
        assert!(counted.flops_ratio().is_finite());
    }
});
