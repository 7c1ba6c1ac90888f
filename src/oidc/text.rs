//! Provider texts, made safe to log, to show and to send over D-Bus.

use std::borrow::Cow;

/// The longest provider text kept, in characters.
const MAX_CHARS: usize = 200;
/// A longer word is no word of a message; it might be a token that the provider echoed.
const MAX_WORD: usize = 48;

/// Drops control, format and bidirectional characters, cuts long words and long texts.
#[must_use]
pub fn clean(text: &str) -> String {
    let readable = |c: char| if c.is_whitespace() || c.is_control() { ' ' } else { c };
    let visible =
        text.chars().map(readable).filter(|c| !is_invisible(*c)).take(4 * MAX_CHARS).collect::<String>();
    let mut cleaned = String::new();
    for word in visible.split(' ').filter(|word| !word.is_empty()) {
        if !cleaned.is_empty() {
            cleaned.push(' ');
        }
        cleaned.push_str(if word.chars().count() > MAX_WORD { "…" } else { word });
    }
    if cleaned.chars().count() > MAX_CHARS {
        cleaned = cleaned.chars().take(MAX_CHARS).chain(['…']).collect();
    }
    cleaned
}

/// Zero-width, bidirectional and other format characters, which change how a text reads.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One word of a shell, for what is to be copied there: most texts need no quotes.
pub(crate) fn shell_word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~+/=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C16, M14.
    #[test]
    fn control_bidi_and_oversized_texts_are_tamed() {
        assert_eq!(clean("a\0b\r\n\u{202e}c\u{feff}"), "a b c");
        assert_eq!(clean(&format!("Invalid token {}", "x".repeat(900))), "Invalid token …");
        assert!(clean(&"word ".repeat(100_000)).chars().count() <= MAX_CHARS + 1);
    }

    #[test]
    fn what_is_copied_into_a_shell_stays_one_word() {
        assert_eq!(shell_word("exe:/usr/bin/curl"), "exe:/usr/bin/curl");
        assert_eq!(shell_word("exe:/tmp/x; rm -rf ~"), "'exe:/tmp/x; rm -rf ~'");
        assert_eq!(shell_word("a'$(b)"), r"'a'\''$(b)'");
        assert_eq!(shell_word(""), "''");
    }
}
