//! The text of a configuration, and what is wrong at which line of it.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use toml::Spanned;

use super::ConfigError;

/// The text, for errors that name a place in it.
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) file: &'a str,
}

impl Source<'_> {
    /// The number of a key, `default` if it is not there.
    pub(super) fn within<T: Copy + PartialOrd + Display>(
        &self,
        key: &str,
        value: &Option<Spanned<T>>,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T, ConfigError> {
        let Some(value) = value else { return Ok(default) };
        let number = *value.get_ref();
        if range.contains(&number) {
            return Ok(number);
        }
        let (start, end) = (range.start(), range.end());
        Err(self.at(value.span(), format!("`{key}` is {number}; it can be {start} to {end}")))
    }

    /// The path of a key that must be there; `what` is what it is for.
    pub(super) fn folder(
        &self,
        key: &str,
        value: &Option<Spanned<String>>,
        what: &str,
    ) -> Result<PathBuf, ConfigError> {
        match value {
            Some(path) if path.get_ref().is_empty() => {
                Err(self.at(path.span(), format!("`{key}` is empty; it can be {what}")))
            }
            Some(path) => Ok(PathBuf::from(path.get_ref())),
            None => Err(self.missing(&format!("`{key}` is missing: {what}"))),
        }
    }

    pub(super) fn not_one_of(&self, key: &str, span: Range<usize>, got: &str, names: &[&str]) -> ConfigError {
        self.at(span, format!("`{key}` is \"{got}\"; it can be \"{}\"", names.join("\", \"")))
    }

    pub(super) fn missing(&self, problem: &str) -> ConfigError {
        ConfigError { file: self.file.to_owned(), line: None, problem: problem.to_owned() }
    }

    pub(super) fn at(&self, span: Range<usize>, problem: String) -> ConfigError {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        ConfigError { file: self.file.to_owned(), line: Some(line), problem }
    }

    /// What the parser found; it says what was expected, and the line says of which key.
    pub(super) fn toml(&self, error: &toml::de::Error) -> ConfigError {
        let Some(span) = error.span() else { return self.missing(error.message()) };
        let start = self.text.get(..span.start).map_or(0, |before| before.rfind('\n').map_or(0, |at| at + 1));
        let line = self.text[start..].lines().next().unwrap_or_default();
        let key = line.split_once('=').map(|(key, _)| format!("`{}`: ", key.trim())).unwrap_or_default();
        self.at(span, format!("{key}{}", error.message()))
    }
}
