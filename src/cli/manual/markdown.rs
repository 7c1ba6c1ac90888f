//! A manual page from one of our documents, so that there is one source of both.
//!
//! It knows the Markdown that those are written in: headings, paragraphs, lists, tables, fenced code, and within
//! a line code, bold words and links.

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// The page `NAME.SECTION`. The document's title gives way to the usual NAME.
pub(super) fn page(file: &str, about: &str, document: &str) -> String {
    let (name, section) = file.rsplit_once('.').unwrap_or((file, "7"));
    let version = env!("CARGO_PKG_VERSION");
    let mut head = Roff::new();
    head.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    let text = document.trim_start();
    let text = if text.starts_with("# ") { text.split_once('\n').map_or("", |(_, rest)| rest) } else { text };
    if !text.trim_start().starts_with('#') {
        head.control("SH", ["DESCRIPTION"]);
    }
    // Written here: an empty date would be left out by the renderer, and the next word take its place.
    format!(".TH {name} {section} \"\" \"bearerd {version}\"\n{}{}", head.render(), body(text))
}

/// The document's text alone, to be put below a page's head.
pub(super) fn body(document: &str) -> String {
    let mut roff = Roff::new();
    let mut lines = document.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("### ") {
            roff.control("SS", [plain(title).as_str()]);
        } else if let Some(title) = line.strip_prefix("## ") {
            roff.control("SH", [plain(title).to_uppercase().as_str()]);
        } else if line.starts_with("```") {
            roff.control("PP", []).control("EX", []);
            for code in lines.by_ref().take_while(|line| !line.starts_with("```")) {
                roff.text([roman(code)]);
            }
            roff.control("EE", []);
        } else if line.starts_with('|') {
            let header = cells(line);
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                if !row.starts_with("|-") {
                    table_row(&mut roff, &header, &cells(row));
                }
            }
        } else if let Some((mark, item)) = list_item(line) {
            let more = std::iter::from_fn(|| lines.next_if(|line| line.starts_with(' ')));
            let item = more.fold(item.to_owned(), |item, line| item + " " + line.trim_start());
            roff.control("IP", [mark, "4"]).text(inlines(&item));
        } else if !line.is_empty() {
            let ends = |line: &str| {
                line.is_empty()
                    || line.starts_with(['|', '#'])
                    || line.starts_with("```")
                    || list_item(line).is_some()
            };
            let more = std::iter::from_fn(|| lines.next_if(|line| !ends(line)));
            let paragraph = more.fold(line.to_owned(), |text, line| text + " " + line);
            roff.control("PP", []).text(inlines(&paragraph));
        }
    }
    roff.render()
}

/// A row is an entry: its first cell, those between under their column's name, and the last as its text.
fn table_row(roff: &mut Roff, header: &[String], cells: &[String]) {
    let [first, between @ .., last] = cells else { return };
    let columns = header.iter().skip(1);
    let between = columns.zip(between).map(|(column, cell)| format!("{column}: {cell}")).collect::<Vec<_>>();
    let mut tag = vec![bold(plain(first))];
    if !between.is_empty() {
        tag.push(roman(" ("));
        tag.extend(inlines(&between.join("; ")));
        tag.push(roman(")"));
    }
    roff.control("TP", []).text(tag).text(inlines(last));
}

fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\0");
    row.split('|').map(|cell| cell.trim().replace('\0', "|")).collect()
}

fn list_item(line: &str) -> Option<(&str, &str)> {
    if let Some(item) = line.strip_prefix("- ") {
        return Some(("\\(bu", item));
    }
    let (number, item) = line.split_once(". ")?;
    let is_number = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
    is_number.then(|| (&line[..=number.len()], item))
}

fn plain(text: &str) -> String {
    inlines(text)
        .into_iter()
        .map(|inline| match inline {
            Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text,
            Inline::LineBreak => " ".to_owned(),
        })
        .collect()
}

/// Code and bold words are bold, a link is its text, with its address when it leads out of here.
fn inlines(text: &str) -> Vec<Inline> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut before = String::new();
    while let Some(next) = rest.chars().next() {
        let end = |mark: &str| rest[mark.len()..].find(mark).map(|at| at + mark.len());
        let mut marked = ["**", "`"].into_iter().filter(|mark| rest.starts_with(mark));
        if let Some((mark, end)) = marked.find_map(|mark| Some((mark, end(mark)?))) {
            parts.push(roman(std::mem::take(&mut before)));
            parts.push(bold(&rest[mark.len()..end]));
            rest = &rest[end + mark.len()..];
        } else if let Some((words, address, after)) = link(rest) {
            before.push_str(words.trim_matches('`'));
            if address.contains("://") {
                before.push_str(" <");
                before.push_str(address);
                before.push('>');
            }
            rest = after;
        } else {
            before.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    parts.push(roman(before));
    parts.retain(|part| !matches!(part, Inline::Roman(text) if text.is_empty()));
    parts
}

/// `[words](address)` at the start, and what comes after it.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let (words, rest) = text.strip_prefix('[')?.split_once("](")?;
    let (address, after) = rest.split_once(')')?;
    (!words.contains([']', '['])).then_some((words, address, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_becomes_a_page_with_entries_for_the_rows_of_its_tables() {
        let document = "# Configuration\n\nIn `a.toml`,\n`b.toml`, see\n[that](that.md).\n\n## Keys\n\n\
            | key | type | meaning |\n|---|---|---|\n| `pkce` | `a`, `b` \\| c | **off** only for [some](https://x/) |\n\n\
            - one\n  goes on\n- two\n\n```toml\n.x = 1\n```\n";

        let page = page("a.toml.5", "configuration of a", document);

        let wanted = ".TH a.toml 5 \"\" \"bearerd VERSION\"\n.SH NAME\na.toml \\- configuration of a\n\
            .SH DESCRIPTION\n.PP\nIn \\fBa.toml\\fR, \\fBb.toml\\fR, see that.\n.SH KEYS\n.TP\n\
            \\fBpkce\\fR (type: \\fBa\\fR, \\fBb\\fR | c)\n\\fBoff\\fR only for some <https://x/>\n\
            .IP \\(bu 4\none goes on\n.IP \\(bu 4\ntwo\n.PP\n.EX\n\\&.x = 1\n.EE\n";
        let prelude = |line: &&str| !line.contains("Aq");
        let got = page.replace(env!("CARGO_PKG_VERSION"), "VERSION");
        assert_eq!(got.lines().filter(prelude).collect::<Vec<_>>(), wanted.lines().collect::<Vec<_>>());
    }

    #[test]
    fn marks_without_an_end_stay_as_they_are() {
        for text in ["a ` b", "a ** b", "[a](b", "[", "**", "`", "1.", "é`ü`"] {
            let kept = text.chars().filter(|c| c.is_alphanumeric()).all(|c| body(text).contains(c));
            assert!(kept, "{text:?}: {:?}", body(text));
        }
    }
}
