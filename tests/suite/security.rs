//! What SECURITY.md says is shown, is shown: by tests that exist.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::{Path, PathBuf};

const THREATS: usize = 26;

/// All files of our own code below the folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
            found.push(path);
        }
    }
}

/// What a cell has between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// R1 to R26, each once: shown by tests that are named and are there, or not defended in so many words.
#[test]
fn each_threat_names_tests_that_exist_or_is_not_defended() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    files(&root.join("src"), &mut sources);
    files(&root.join("tests"), &mut sources);
    let text = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let rows: Vec<Vec<&str>> =
        text.lines().filter(|line| line.starts_with("| R")).map(|line| line.split(" | ").collect()).collect();
    let numbers: Vec<String> = rows.iter().map(|row| row[0].replace("| ", "")).collect();
    assert_eq!(numbers, (1..=THREATS).map(|number| format!("R{number}")).collect::<Vec<_>>());

    for row in rows {
        let [number, _, done, shown] = row[..] else { panic!("not four cells: {row:?}") };
        let mut tests = 0;
        // `file`: `test`, `test`; `file`: `test`
        for place in shown.split("; ").filter(|place| place.contains('`')) {
            let mut names = quoted(place);
            let file = names.next().unwrap();
            let texts: Vec<String> = sources
                .iter()
                .filter(|path| path.ends_with(file))
                .map(|path| std::fs::read_to_string(path).unwrap())
                .collect();
            let names: Vec<&str> = names.collect();
            assert!(!names.is_empty(), "{number}: {file} without a test");
            for name in &names {
                let definitions = [format!("fn {name}("), format!("def {name}(")];
                let defined = texts.iter().any(|text| definitions.iter().any(|one| text.contains(one)));
                assert!(defined, "{number}: {file} has no {name}");
            }
            tests += names.len();
        }
        assert!(tests > 0 || done.contains("not defended"), "{number} is neither shown nor given up");
    }
}
