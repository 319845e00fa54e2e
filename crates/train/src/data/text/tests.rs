use super::super::error::told;
use super::*;

fn page(title: &str, own: &str) -> String {
    let shared = "<p>This handbook belongs to the harbour office, is renewed every spring, and must stay on board.</p>";
    format!("<html><nav>Contents</nav><main><h1>{title}</h1>{shared}<p>{own}</p></main></html>")
}

/// A folder of pages about numbered piers, some of them alike.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    };
    for pier in 0..60 {
        let own: Vec<String> = (0..12).map(|i| format!("crane{pier}x{i} lifts barrel{pier}y{i}")).collect();
        write(&format!("piers/{pier}.html"), &page(&format!("Pier {pier}"), &own.join(" and ")));
    }
    write("piers/copy.html", &fs::read_to_string(folder.path().join("piers/7.html")).expect("written"));
    write("print.html", &page("All", "everything at once in one very long line of words that nobody reads"));
    write("stub.html", "<main><p>Moved.</p></main>");
    write("old/left.md", &"A page of the old handbook that is left out. ".repeat(20));
    folder
}

fn options() -> Options {
    Options { held_out_percent: 20, least_bytes: 100, exclude: vec!["old".into()], ..Options::default() }
}

fn all(pages: &Pages) -> Vec<&String> {
    pages.train.iter().chain(&pages.held_out).collect()
}

#[test]
fn stubs_books_on_one_page_copies_and_what_is_excluded_are_left_out() {
    let folder = folder();
    let pages = Pages::read(folder.path(), &options()).expect("pages");
    assert_eq!(all(&pages).len(), 60);
    assert!(all(&pages).iter().all(|page| page.starts_with("# Pier ")));
    assert!((4..25).contains(&pages.len(Split::HeldOut)), "{}", pages.len(Split::HeldOut));
}

#[test]
fn no_run_of_eight_words_is_in_both_halves() {
    let folder = folder();
    let pages = Pages::read(folder.path(), &options()).expect("pages");
    let windows = |pages: &[String]| -> std::collections::HashSet<Vec<String>> {
        let words = |page: &String| page.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        pages.iter().flat_map(|page| words(page).windows(8).map(<[_]>::to_vec).collect::<Vec<_>>()).collect()
    };
    assert!(windows(&pages.train).is_disjoint(&windows(&pages.held_out)));
}

#[test]
fn the_same_folder_gives_the_same_pages() {
    let folder = folder();
    let read = || Pages::read(folder.path(), &options()).expect("pages");
    assert_eq!(read(), read());
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let error = told(&Pages::read(Path::new("nowhere/html"), &Options::default()).expect_err("not there"));
    assert!(error.starts_with("nowhere/html: "), "{error}");
}
