//! Account names and the D-Bus object paths made from them.

use std::fmt;
use std::sync::Arc;

/// The longest account name, in characters.
const MAX_LENGTH: usize = 64;

/// A configured account's name: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountName(Arc<str>);

/// The text is no account name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an account name is 1 to 64 of the characters A-Z a-z 0-9 . _ - and starts with a letter or digit")]
pub struct InvalidAccountName;

impl AccountName {
    /// Checks the characters and the length.
    ///
    /// # Errors
    /// When the text is no account name.
    pub fn parse(text: &str) -> Result<Self, InvalidAccountName> {
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let all_known = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if starts_well && all_known && text.len() <= MAX_LENGTH {
            Ok(Self(text.into()))
        } else {
            Err(InvalidAccountName)
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last element of the account's object path, as `sd_bus_path_encode(3)` makes it: every
    /// byte but letters and digits (and a leading digit) becomes `_` and two hexadecimal digits.
    #[must_use]
    pub fn path_element(&self) -> String {
        let mut element = String::with_capacity(self.0.len());
        for (index, byte) in self.0.bytes().enumerate() {
            if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && index > 0) {
                element.push(char::from(byte));
            } else {
                element.push('_');
                for digit in [byte >> 4, byte & 15] {
                    element.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
                }
            }
        }
        element
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for AccountName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_elements_are_encoded_as_sd_bus_does() {
        for (name, element) in
            [("chaster", "chaster"), ("chaster-dev", "chaster_2ddev"), ("1a_b.c", "_31a_5fb_2ec")]
        {
            let name = AccountName::parse(name).map(|n| n.path_element());
            assert_eq!(name.as_deref(), Ok(element));
        }
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        let long = "a".repeat(65);
        for bad in ["", "-a", ".a", "a b", "é", "a/b", long.as_str()] {
            assert!(AccountName::parse(bad).is_err(), "{bad}");
        }
        assert!(AccountName::parse(&"a".repeat(64)).is_ok());
    }
}
