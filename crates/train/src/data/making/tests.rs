use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::batches::Batches;
use super::super::error::told;
use super::super::jsonl::{SampleFile, read_documents};
use super::*;

const RECIPE: &str = r#"
seed = 3
[tokenizer]
size = 500
[[source]]
task = "arithmetic"
samples = 60
held_out = 10
digits = [1, 2]
[[source]]
task = "recall"
samples = 20
held_out = 5
distance = [60, 90]
forms = ["single", "several", "chain"]
[[source]]
task = "tools"
samples = 20
think = ["off", "low"]
[[source]]
task = "text"
least_bytes = 20
held_out_percent = 50
"#;

fn embedded() -> TokenizerFiles {
    TokenizerFiles::of_model(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf"))
        .expect("the calf's")
}

fn pages() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for page in 0..12 {
        let text = format!(
            "<main><p>Page {page} says that boat{page} left at {page} and came home with fish{page}.</p>"
        );
        fs::write(folder.path().join(format!("{page}.html")), text).expect("written");
    }
    folder
}

fn made(recipe: &str, out: &Path) -> Result<Vec<Made>, DataError> {
    let pages = pages();
    let recipe = Recipe::parse(recipe, Path::new("mine.toml"), Some(pages.path()))?;
    Making::new(&recipe, embedded())?.write(out, false, &mut |_| {})
}

fn written() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("data");
    made(RECIPE, &out).expect("made");
    (folder, out)
}

#[test]
fn what_is_written_can_be_read_and_is_counted() {
    let (_folder, out) = written();
    let tokenizer = Tokenizer::from_file(&out.join(TOKENIZER)).expect("a tokenizer");
    assert_eq!(tokenizer.vocab_size(), 500);
    let encoder = Encoder { tokenizer: &tokenizer, generation: cuvier_encoding::Generation::Revised0731 };
    let documents = read_documents(&out.join(TRAIN), encoder).expect("documents");
    let summary: Value = serde_json::from_slice(&fs::read(out.join(SUMMARY)).expect("there")).expect("JSON");
    let total = &summary["total"]["train"];
    let tokens: usize = documents.iter().map(|document| document.len()).sum();
    assert_eq!(total["samples"], json!(documents.len()));
    assert_eq!(total["tokens"], json!(tokens));
    assert_eq!(total["trained_tokens"], json!(documents.iter().map(|d| d.n_trained()).sum::<usize>()));
    assert_eq!(summary["sources"][0]["train"]["samples"], json!(60));
    assert_eq!(summary["sources"][1]["held_out"]["samples"], json!(5));
    assert_eq!(summary["seed"], json!(3));
    let longest = documents.iter().map(|document| document.len()).max().expect("some");
    assert_eq!(Batches::new(documents, 1, 500, longest).n_tokens(), tokens);
}

#[test]
fn no_sample_is_in_both_files() {
    let (_folder, out) = written();
    let lines = |name: &str| -> std::collections::HashSet<String> {
        SampleFile::open(&out.join(name))
            .expect("there")
            .map(|sample| sample.expect("a sample").to_line())
            .collect()
    };
    assert!(lines(TRAIN).is_disjoint(&lines(HELD_OUT)));
}

#[test]
fn the_same_recipe_writes_the_same_bytes() {
    let ((_one, a), (_two, b)) = (written(), written());
    for name in [TRAIN, HELD_OUT, TOKENIZER, TOKENIZER_CONFIG, SUMMARY] {
        assert_eq!(fs::read(a.join(name)).expect("there"), fs::read(b.join(name)).expect("there"), "{name}");
    }
}

#[test]
fn a_folder_with_files_is_overwritten_only_by_force() {
    let (_folder, out) = written();
    let recipe = "[[source]]\ntask = \"identity\"\nsamples = 3\n";
    let error = told(&made(recipe, &out).expect_err("not empty"));
    assert!(error.contains("not empty") && error.contains("--force"), "{error}");
    let recipe = Recipe::parse(recipe, Path::new("mine.toml"), None).expect("a recipe");
    let making = Making::new(&recipe, embedded()).expect("nothing to read");
    assert_eq!(making.write(&out, true, &mut |_| {}).expect("made")[0].train.samples, 3);
    assert_eq!(SampleFile::open(&out.join(TRAIN)).expect("there").count(), 3);
}

#[test]
fn a_preview_has_some_samples_of_each_source_and_they_are_those_that_are_written() {
    let recipe =
        "[[source]]\ntask = \"arithmetic\"\nsamples = 9\n[[source]]\ntask = \"recall\"\nsamples = 9\n";
    let recipe = Recipe::parse(recipe, Path::new("mine.toml"), None).expect("a recipe");
    let making = Making::new(&recipe, embedded()).expect("nothing to read");
    let preview = making.preview(2).expect("samples");
    assert_eq!(preview.len(), 4);
    let folder = tempfile::tempdir().expect("a folder");
    making.write(folder.path(), false, &mut |_| {}).expect("made");
    let file = SampleFile::open(&folder.path().join(TRAIN)).expect("there");
    let written: Vec<Sample> = file.map(|sample| sample.expect("a sample")).collect();
    assert_eq!(
        [&written[0], &written[1], &written[9], &written[10]],
        [&preview[0], &preview[1], &preview[2], &preview[3]]
    );
}

#[test]
fn options_that_leave_nothing_to_hold_out_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe =
        "[[source]]\ntask = \"facts\"\nsamples = 1\nheld_out = 1\npeople = 1\nforms = [\"statement\"]\n";
    // One person has five things; some world holds none of them out.
    let error = (0..20).find_map(|world| {
        fs::remove_dir_all(folder.path().join("out")).ok();
        made(&format!("{recipe}world = {world}\n"), &folder.path().join("out")).err()
    });
    let error = told(&error.expect("a world without"));
    assert!(error.contains("facts") && error.contains("hold out"), "{error}");
}
