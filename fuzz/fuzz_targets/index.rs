#![no_main]

use std::path::Path;

use cuvier_weights::Index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &str| {
    if let Ok(index) = Index::parse(json, "index") {
        for shard in index.shards() {
            let joined = Path::new("folder").join(shard);
            assert_eq!(joined.parent(), Some(Path::new("folder")), "{shard:?} leaves the folder");
        }
    }
});
