use super::super::error::told;
use super::super::sample::Think;
use super::*;

fn parse(text: &str) -> Result<Recipe, DataError> {
    Recipe::parse(text, Path::new("recipes/mine.toml"), None)
}

fn refused(text: &str) -> String {
    told(&parse(text).expect_err(text))
}

#[test]
fn a_config_is_read_with_its_defaults() {
    let recipe =
        parse("[[source]]\ntask = \"arithmetic\"\nsamples = 20\nthink = [\"low\"]").expect("a recipe");
    assert_eq!((recipe.seed, recipe.generation), (0, Generation::Revised0731));
    assert_eq!(recipe.tokenizer, TokenizerChoice::Embedded);
    let options = arithmetic::Options { think: vec![Think::Low], ..Default::default() };
    let source = Source { line: 1, samples: Some(20), held_out: None, options: Options::Arithmetic(options) };
    assert_eq!(recipe.sources, [source]);
    let trained = parse("seed = 7\ngeneration = \"preview\"\n[tokenizer]\nsize = 900").expect("a recipe");
    assert_eq!((trained.seed, trained.generation), (7, Generation::Preview));
    assert_eq!(trained.tokenizer, TokenizerChoice::Size(900));
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let error = refused("seed = 1\n\n[[source]]\ntask = \"arithmetic\"\nsamples = 1\ndigit = [1]\n");
    assert!(
        error.starts_with("recipes/mine.toml: ") && error.contains("line 6") && error.contains("digit"),
        "{error}"
    );
    let error = refused("sed = 1\n");
    assert!(error.contains("line 1") && error.contains("sed"), "{error}");
}

#[test]
fn a_wrong_value_is_named_with_its_line() {
    let error = refused("[[source]]\ntask = \"recall\"\nsamples = 1\nforms = [\"singles\"]\n");
    assert!(error.contains("line 4") && error.contains("singles"), "{error}");
    let error = refused("[[source]]\nsamples = 1\ntask = \"sums\"\n");
    assert!(error.contains("line 3") && error.contains("sums"), "{error}");
    let error = refused("generation = \"v9\"\n");
    assert!(error.contains("line 1") && error.contains("v9"), "{error}");
    let error = refused("\n[tokenizer]\nsize = 5\n");
    assert!(error.contains("line 2") && error.contains("`size`") && error.contains("273"), "{error}");
    assert!(refused("[tokenizer]\nsize = 500\nmodel = \"a\"\n").contains("line"));
    assert!(refused("source = 3").contains("[[source]]"));
}

#[test]
fn an_option_out_of_its_bounds_is_named_with_the_line_of_its_source() {
    let error = refused("\n[[source]]\ntask = \"arithmetic\"\nsamples = 1\ndigits = [0]\n");
    assert!(error.contains("line 2") && error.contains("`digits` must be 1 to 9"), "{error}");
    let error = refused("[[source]]\ntask = \"identity\"\n");
    assert!(error.contains("line 1") && error.contains("`samples`"), "{error}");
}

#[test]
fn paths_count_from_the_config_s_folder() {
    let recipe = parse("tokenizer = { model = \"../calf\" }").expect("a recipe");
    assert_eq!(recipe.tokenizer, TokenizerChoice::Model("recipes/../calf".into()));
    let text = "[[source]]\ntask = \"text\"\npath = \"pages\"";
    let Options::Text(options) = &parse(text).expect("a recipe").sources[0].options else { panic!("text") };
    assert_eq!(options.path, Some("recipes/pages".into()));
}

#[test]
fn a_text_source_takes_the_folder_of_the_command_line_and_needs_one() {
    let text = "[[source]]\ntask = \"text\"\n";
    let with = Recipe::parse(text, Path::new("a.toml"), Some(Path::new("docs"))).expect("a recipe");
    let Options::Text(options) = &with.sources[0].options else { panic!("text") };
    assert_eq!(options.path, Some("docs".into()));
    assert!(refused(text).contains("path"));
}

#[test]
fn the_recipes_of_the_calf_are_recipes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf/recipe");
    for name in ["data.toml", "nano-data.toml"] {
        let recipe = Recipe::read(&folder.join(name), Some(Path::new("docs"))).expect(name);
        assert!(!recipe.sources.is_empty(), "{name}");
    }
}
