//! Names that a hub gives to files: which are safe, and which a checkpoint needs.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::HubError;

/// Longer than any name of a release.
const NAME_BYTES_MAX: usize = 512;
/// What common file systems allow for one component, less what `.part.journal` adds.
const COMPONENT_BYTES_MAX: usize = 200;
/// Names that Windows gives to devices, whatever their extension.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// The name of a file in a repository, with `/` between its components: it stays within its folder on every system.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName(String);

impl FileName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`HubError::Name`] if it could lead out of the folder, is hidden, or cannot be a name on some system.
    pub fn parse(name: &str) -> Result<Self, HubError> {
        match problem(name) {
            None => Ok(Self(name.to_owned())),
            Some(problem) => Err(HubError::Name { name: name.to_owned(), problem }),
        }
    }

    /// As the hub writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components.
    pub(crate) fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Its path in a folder.
    pub(crate) fn within(&self, folder: &Path) -> PathBuf {
        self.components().fold(folder.to_owned(), |path, component| path.join(component))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn problem(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Some("is empty or too long");
    }
    if name.chars().any(|c| c.is_control() || "\\:*?\"<>|".contains(c)) {
        return Some("has a character that is not allowed in names everywhere");
    }
    name.split('/').find_map(component_problem)
}

fn component_problem(component: &str) -> Option<&'static str> {
    if component.is_empty() || component == "." || component == ".." {
        return Some("may lead out of the folder");
    }
    if component.len() > COMPONENT_BYTES_MAX {
        return Some("is too long");
    }
    // Ours are hidden too (manifest, lock), and so is `.git`.
    if component.starts_with('.') {
        return Some("is hidden");
    }
    if component.ends_with(['.', ' ']) || component.starts_with(' ') {
        return Some("begins or ends with what some systems drop");
    }
    let lower = component.to_lowercase();
    // What lies beside a file while it comes.
    if lower.ends_with(".part") || lower.ends_with(".journal") {
        return Some("could be mistaken for a partial download");
    }
    let stem = lower.split('.').next().unwrap_or("");
    let numbered = |prefix| {
        let rest = stem.strip_prefix(prefix);
        rest.is_some_and(|rest: &str| rest.len() == 1 && rest.chars().all(|c| c.is_ascii_digit()))
    };
    if DEVICES.contains(&stem) || numbered("com") || numbered("lpt") {
        return Some("is the name of a device on some systems");
    }
    None
}

/// Whether a checkpoint needs the file: configs, index, shards, tokenizer, chat template, licence and card from the top of
/// the repository, and the encoder with its samples from `encoding/`. Not the official inference code, other weight
/// formats, figures or papers.
pub fn is_needed(name: &str) -> bool {
    let (folder, last) = name.rsplit_once(['/', '\\']).unwrap_or(("", name));
    if name.split(['/', '\\']).any(|component| component.starts_with('.') && component != "..") {
        return false;
    }
    // A name that climbs is taken for what its end says, so that it is not passed over but refused.
    let climbs = folder.split(['/', '\\']).any(|component| component == "..");
    if folder.is_empty() && !name.starts_with('/') || climbs {
        let kind = [".json", ".safetensors", ".jinja"].iter().any(|ending| last.ends_with(ending));
        return kind || ["tokenizer", "LICENSE", "README"].iter().any(|start| last.starts_with(start));
    }
    folder == "encoding" || folder.starts_with("encoding/")
}

/// Refuses names that are one on systems that do not tell upper from lower case, and a name that another needs as a folder.
pub(crate) fn check_distinct(names: &[FileName]) -> Result<(), HubError> {
    let mut seen: HashMap<String, &FileName> = HashMap::new();
    for name in names {
        if seen.insert(name.0.to_lowercase(), name).is_some() {
            let problem = "is there twice, but for upper and lower case";
            return Err(HubError::Name { name: name.0.clone(), problem });
        }
    }
    for name in names {
        let lower = name.0.to_lowercase();
        let folders = lower.match_indices('/').map(|(end, _)| &lower[..end]);
        if folders.into_iter().any(|folder| seen.contains_key(folder)) {
            let problem = "lies in a folder that is also a file";
            return Err(HubError::Name { name: name.0.clone(), problem });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_a_release_are_accepted() {
        for name in ["config.json", "model-00001-of-00046.safetensors", "encoding/tests/a_1.json", "LICENSE"]
        {
            assert!(FileName::parse(name).is_ok() && is_needed(name), "{name}");
        }
    }

    #[test]
    fn names_that_leave_the_folder_or_are_none_somewhere_are_refused() {
        let names = [
            "",
            "/etc/a.json",
            "../a.json",
            "encoding/../../a",
            "a\\b.json",
            "a\nb.json",
            ".git/config.json",
            ".gitattributes",
            "encoding/.git/hooks",
            "C:a.json",
            "encoding//a",
            "encoding/",
            "nul.json",
            "COM1",
            "a.json.",
            "a ",
            "./a.json",
            "a.part",
            "encoding/x.JOURNAL",
            "tokenizer\u{0}",
        ];
        for name in names {
            assert!(FileName::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn only_what_a_checkpoint_needs_is_chosen() {
        for name in [
            "inference/model.py",
            "model.bin",
            "paper.pdf",
            ".gitattributes",
            "encoding/.gitignore",
            "original/a.safetensors",
        ] {
            assert!(!is_needed(name), "{name}");
        }
        for name in ["tokenizer_config.json", "chat_template.jinja", "encoding/encoding_dsv4.py", "../a.json"]
        {
            assert!(is_needed(name), "{name}");
        }
    }

    #[test]
    fn names_that_collide_on_some_system_are_refused() {
        let names =
            |list: &[&str]| list.iter().map(|name| FileName::parse(name).unwrap()).collect::<Vec<_>>();
        assert!(check_distinct(&names(&["a.json", "b.json", "c/a.json"])).is_ok());
        assert!(check_distinct(&names(&["a.json", "A.json"])).is_err());
        assert!(check_distinct(&names(&["c/a.json", "C"])).is_err());
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_made_of_plain_components(name in "[a-zA-Z./\\\\:~ \\x00-\\x1f\\PC]{0,24}") {
            if let Ok(name) = FileName::parse(&name) {
                let path = name.within(Path::new(""));
                prop_assert!(path.components().all(|component| matches!(component, Component::Normal(_))));
                prop_assert_eq!(path.components().count(), name.components().count());
                prop_assert!(!name.as_str().starts_with('.') && !name.as_str().contains("/."));
            }
        }
    }
}
