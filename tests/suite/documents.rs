//! What the documents say is shown by a test is shown by one that exists.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::{Path, PathBuf};

#[test]
fn every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in ["src", "tests", "dbus"] {
        collect(&root.join(folder), &mut sources);
    }
    for document in ["SECURITY.md", "docs/security-profile.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let mut named = 0;
        for row in text.lines().filter(|line| line.starts_with('|')) {
            let shown_by = row.trim_end_matches('|').rsplit(" | ").next().unwrap();
            let mut files: Vec<&PathBuf> = Vec::new();
            for word in shown_by.split('`').skip(1).step_by(2) {
                if Path::new(word).extension().is_some() {
                    files = sources.iter().filter(|file| file.ends_with(word)).collect();
                    assert!(!files.is_empty(), "{document} names {word}, which is not there: {row}");
                    continue;
                }
                named += 1;
                let is_defined = |file: &&PathBuf| {
                    let source = std::fs::read_to_string(file).unwrap();
                    [format!("fn {word}("), format!("def {word}(")].iter().any(|start| source.contains(start))
                };
                assert!(
                    files.iter().any(is_defined),
                    "{document} names {word}, which is in none of {files:?}"
                );
            }
        }
        assert!(named > 10, "{document} names {named} tests: has its form changed?");
    }
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("node_modules") {
            collect(&path, sources);
        } else if path.extension().is_some_and(|kind| kind == "rs" || kind == "py" || kind == "xml") {
            sources.push(path);
        }
    }
}
