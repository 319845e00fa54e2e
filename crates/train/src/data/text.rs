//! Text from a folder on this machine: pages without their markup, without what they repeat, in two halves.
//!
//! Repetition is taken out before the halves are made. Done the other way round, a page that is held out keeps what it
//! shares with pages that are learned, and its loss says less than it seems to.

mod html;
mod shingles;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{DataError, OptionError};
use super::rng::hash;
use super::sample::{Sample, Task};
use super::split::Split;
use shingles::Seen;

/// Which pages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// A folder of `.html`, `.md` and `.txt` files, at any depth. Without it the command line must give one.
    pub path: Option<PathBuf>,
    /// Folders and files within it that are left out, as `std` or `book/print.html`.
    pub exclude: Vec<PathBuf>,
    /// How many of a hundred pages are held out. 0 to 100.
    pub held_out_percent: u64,
    /// Pages with less text, in bytes, are left out.
    pub least_bytes: usize,
}

/// Pages, in an order that mixes the folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    train: Vec<String>,
    held_out: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { path: None, exclude: Vec::new(), held_out_percent: 5, least_bytes: 400 }
    }
}

impl Options {
    /// # Errors
    /// If an option is out of its bounds.
    pub fn check(&self) -> Result<(), OptionError> {
        let got = self.held_out_percent;
        OptionError::unless(got <= 100, "held_out_percent", "0 to 100", &got)
    }
}

impl Pages {
    /// Reads the pages of `folder`.
    ///
    /// # Errors
    /// If the folder or a page cannot be read. Bytes that are not UTF-8 are replaced.
    pub fn read(folder: &Path, options: &Options) -> Result<Self, DataError> {
        let mut files = Vec::new();
        walk(folder, Path::new(""), options, &mut files)?;
        // By name and not as the system lists them: of two pages that are alike, the first one stays.
        files.sort_unstable();
        let mut seen = Seen::default();
        let mut pages: Vec<(u64, String)> = Vec::new();
        for file in files {
            let path = folder.join(&file);
            let bytes = fs::read(&path).map_err(|source| DataError::Io { path, source })?;
            let text = String::from_utf8_lossy(&bytes);
            let text = if has_extension(&file, "html") { html::text(&text) } else { text.into_owned() };
            let text = seen.without_repetition(&text);
            if text.len() >= options.least_bytes {
                pages.push((hash(&file), text));
            }
        }
        pages.sort_by_key(|&(hash, _)| hash);
        let is_held_out = |&(hash, _): &(u64, String)| hash % 100 < options.held_out_percent;
        let (held_out, train): (Vec<_>, Vec<_>) = pages.into_iter().partition(is_held_out);
        let texts = |pages: Vec<(u64, String)>| pages.into_iter().map(|(_, text)| text).collect();
        Ok(Self { train: texts(train), held_out: texts(held_out) })
    }

    /// Pages of one half.
    #[must_use]
    pub fn len(&self, split: Split) -> usize {
        self.half(split).len()
    }

    /// A page of one half, if there are so many.
    #[must_use]
    pub fn sample(&self, split: Split, index: usize) -> Option<Sample> {
        Some(Sample::text(Task::Text, self.half(split).get(index)?.clone()))
    }

    fn half(&self, split: Split) -> &[String] {
        match split {
            Split::Train => &self.train,
            Split::HeldOut => &self.held_out,
        }
    }
}

/// Collects the pages below `folder/inner`, relative to `folder`, with `/` between the parts.
fn walk(folder: &Path, inner: &Path, options: &Options, files: &mut Vec<String>) -> Result<(), DataError> {
    // Joining an empty path would add a slash to the name that an error shows.
    let path = if inner.as_os_str().is_empty() { folder.to_owned() } else { folder.join(inner) };
    let io = |source| DataError::Io { path: path.clone(), source };
    for entry in fs::read_dir(&path).map_err(io)? {
        let entry = entry.map_err(io)?;
        let inner = inner.join(entry.file_name());
        if options.exclude.contains(&inner) {
            continue;
        }
        let is_folder = entry.file_type().map_err(io)?.is_dir();
        let name = inner.to_string_lossy().replace('\\', "/");
        if is_folder {
            walk(folder, &inner, options, files)?;
        } else if ["html", "md", "txt"].iter().any(|extension| has_extension(&name, extension))
            // A book on one page repeats all of its others.
            && entry.file_name() != "print.html"
        {
            files.push(name);
        }
    }
    Ok(())
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|got| got == extension)
}

#[cfg(test)]
mod tests;
