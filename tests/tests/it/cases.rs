//! `docs/cases.md` names tests that exist.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{fs, path::Path};

#[test]
fn each_case_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = fs::read_to_string(root.join("docs/cases.md")).unwrap();
    let named: Vec<(&str, &str)> = table.split('`').filter_map(|text| text.split_once("::")).collect();
    assert!(named.len() > 30, "{named:?}");
    for (file, test) in named {
        let places = ["tests/tests/it", "crates/segmenter/tests/it"].map(|dir| root.join(dir).join(file));
        let texts = places.iter().filter_map(|path| fs::read_to_string(path.with_extension("rs")).ok());
        let found = texts.into_iter().any(|text| text.contains(&format!("#[test]\nfn {test}()")));
        assert!(found, "docs/cases.md names {file}::{test}, which is not there");
    }
}
