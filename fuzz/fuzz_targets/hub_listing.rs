#![no_main]

use std::path::{Component, Path};

use cuvier_hub::{Listing, RepoId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let repo = RepoId::parse("owner/name").expect("a repository");
    if let Ok(listing) = Listing::parse(json, &repo) {
        for file in &listing.files {
            let path = Path::new(file.name.as_str());
            let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
            assert!(plain, "{:?} leaves the folder", file.name);
        }
    }
});
