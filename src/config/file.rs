//! One TOML file, read so that every complaint names its file, line and key.
//!
//! **Invariant:** an error never repeats a value: it may be a secret.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// No configuration needs more.
const MAX_FILE: u64 = 1024 * 1024;

/// What is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// Counted from 1; `None` when it is about the whole file.
    pub line: Option<usize>,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

/// A file's path and text: what errors need to name a line.
pub(super) struct Document {
    pub(super) path: PathBuf,
    text: String,
    /// Where each line ends, for the thousand places that are asked for.
    line_ends: Vec<usize>,
    /// Whether others than the owner may read the file.
    pub(super) exposed: bool,
}

impl Document {
    /// Reads a file; `None` when it does not exist.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, ConfigError> {
        use std::os::unix::fs::MetadataExt as _;

        let fail = |message: String| ConfigError { file: path.to_owned(), line: None, message };
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(format!("it cannot be read: {error}"))),
        };
        if metadata.len() > MAX_FILE {
            return Err(fail("it is larger than 1 MiB".to_owned()));
        }
        let text =
            std::fs::read_to_string(path).map_err(|error| fail(format!("it cannot be read: {error}")))?;
        Ok(Some(Self::new(path.to_owned(), text, metadata.mode() & 0o077 != 0)))
    }

    /// A text that is built in.
    pub(super) fn built_in(name: &str, text: &str) -> Self {
        Self::new(format!("(built in) {name}").into(), text.to_owned(), true)
    }

    /// A text that is to become a private file.
    pub(super) fn draft(path: &Path, text: &str) -> Self {
        Self::new(path.to_owned(), text.to_owned(), false)
    }

    fn new(path: PathBuf, text: String, exposed: bool) -> Self {
        let line_ends = text.match_indices('\n').map(|(at, _)| at).collect();
        Self { path, text, line_ends, exposed }
    }

    pub(super) fn table(&self) -> Result<Spanned<DeTable<'_>>, ConfigError> {
        DeTable::parse(&self.text).map_err(|error| {
            // The library's own rendering would quote the line.
            let message = error.message().lines().next().unwrap_or("it is no TOML").to_owned();
            let message = if message.contains('`') { "it is no valid TOML here".to_owned() } else { message };
            ConfigError { file: self.path.clone(), line: error.span().map(|span| self.line(&span)), message }
        })
    }

    pub(super) fn error(&self, span: &Range<usize>, message: impl Into<String>) -> ConfigError {
        ConfigError { file: self.path.clone(), line: Some(self.line(span)), message: message.into() }
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.line_ends.partition_point(|end| *end < span.start) + 1
    }
}

/// A value with the place that it came from.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) document: &'a Document,
    key: &'a str,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Field<'a> {
    pub(super) fn new(document: &'a Document, key: &'a str, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self { document, key, value }
    }

    pub(super) fn string(&self) -> Result<&'a str, ConfigError> {
        self.value.get_ref().as_str().ok_or_else(|| self.error("must be a string"))
    }

    /// A string that is one of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let text = self.string()?;
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.error(&format!("must be {}", known.join(" or ")))
        })
    }

    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        self.value.get_ref().as_bool().ok_or_else(|| self.error("must be true or false"))
    }

    pub(super) fn integer(&self, max: u64) -> Result<u64, ConfigError> {
        let number = self.value.get_ref().as_integer();
        let number = number.and_then(|n| u64::from_str_radix(&n.as_str().replace('_', ""), n.radix()).ok());
        number
            .filter(|n| *n <= max)
            .ok_or_else(|| self.error(&format!("must be a whole number from 0 to {max}")))
    }

    pub(super) fn strings(&self) -> Result<Vec<String>, ConfigError> {
        let all = self.value.get_ref().as_array().map(|array| {
            array.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        all.flatten().ok_or_else(|| self.error("must be a list of strings"))
    }

    /// A list of tables, each as a field of this name.
    pub(super) fn tables(&self) -> Result<Vec<Self>, ConfigError> {
        let list = self.value.get_ref().as_array().ok_or_else(|| self.error("must be a list of tables"))?;
        Ok(list.iter().map(|value| Self { value, ..*self }).collect())
    }

    pub(super) fn table(&self) -> Result<Fields<'a>, ConfigError> {
        let table = self.value.get_ref().as_table().ok_or_else(|| self.error("must be a table"))?;
        Ok(Fields { document: self.document, table })
    }

    pub(super) fn error(&self, message: &str) -> ConfigError {
        self.document.error(&self.value.span(), format!("`{}` {message}", self.key))
    }

    pub(super) fn line(&self) -> usize {
        self.document.line(&self.value.span())
    }
}

/// A table's fields.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    document: &'a Document,
    table: &'a DeTable<'a>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(document: &'a Document, table: &'a DeTable<'a>) -> Self {
        Self { document, table }
    }

    pub(super) fn get(&self, key: &'a str) -> Option<Field<'a>> {
        self.table.get(key).map(|value| Field::new(self.document, key, value))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, Range<usize>, Field<'a>)> + use<'a> {
        let document = self.document;
        self.table.iter().map(move |(key, value)| {
            let name: &'a str = key.get_ref().as_ref();
            (name, key.span(), Field::new(document, name, value))
        })
    }

    /// Refuses keys that nobody reads, with the nearest one that is.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ConfigError> {
        for (key, span, _) in self.iter() {
            if !known.contains(&key) {
                let key = crate::oidc::text::clean(key);
                let hint = match nearest(&key, known) {
                    Some(nearest) => format!("; did you mean `{nearest}`?"),
                    None => format!("; known: {}", known.join(", ")),
                };
                return Err(self.document.error(&span, format!("unknown key `{key}`{hint}")));
            }
        }
        Ok(())
    }
}

/// The most similar word, if one is similar at all.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let best = known.iter().map(|candidate| (distance(word, candidate), *candidate)).min()?;
    (best.0 <= 2.max(best.1.len() / 3)).then_some(best.1)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(100).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = replaced.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_nonsense_has_none() {
        assert_eq!(distance("kitten", "sitting"), 3);
        let known = ["client_id", "client_auth", "scopes"];
        assert_eq!(nearest("clientid", &known), Some("client_id"));
        assert_eq!(nearest("scope", &known), Some("scopes"));
        assert_eq!(nearest("quux", &known), None);
    }
}
