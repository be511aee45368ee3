//! What parts of the tracker may know of each other: who answers knows those who know, never the other way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Parts that put the others together: any of them may be named here, and nobody names these.
const TOP: [&str; 3] = ["cli", "main", "tracker"];
/// Ways to ask the tracker. Only what is above names them.
const TRANSPORTS: [&str; 2] = ["http", "udp"];
/// Parts without sockets and tasks.
const PURE: [&str; 1] = ["mesh"];

/// The text of each part, without its tests: a file of the crate, or all files of a folder.
fn parts() -> BTreeMap<String, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    entries(&source).map(|path| (name(&path), read(&path))).collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of the source");
    entries.map(|entry| entry.expect("an entry of the folder").path())
}

/// A file's name without its ending.
fn name(path: &Path) -> String {
    path.file_stem().expect("an entry has a name").to_string_lossy().into_owned()
}

fn read(path: &Path) -> String {
    if path.is_dir() {
        return entries(path).filter(|path| name(path) != "tests").map(|path| read(&path)).collect();
    }
    let text = std::fs::read_to_string(path).expect("a file of the source");
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

/// Lines of code that name a part of the crate.
fn naming<'a>(text: &'a str, part: &str) -> Vec<&'a str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let path = format!("crate::{part}");
    let names = |line: &&str| {
        line.match_indices(&path).any(|(at, _)| {
            let after = line[at + path.len()..].chars().next();
            !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
        }) || line.contains("crate::{")
    };
    code.filter(names).collect()
}

#[test]
fn what_the_tracker_knows_does_not_know_how_it_is_asked() {
    let parts = parts();
    for part in TOP.iter().chain(&TRANSPORTS).chain(&PURE) {
        assert!(parts.contains_key(*part), "there is no part {part}: {:?}", parts.keys());
    }
    for (part, text) in parts.iter().filter(|(part, _)| !TOP.contains(&part.as_str()) && *part != "lib") {
        for name in TOP.into_iter().chain(TRANSPORTS).filter(|name| name != part) {
            let lines = naming(text, name);
            assert!(lines.is_empty(), "{part} is below {name} and names it: {lines:?}");
        }
        if PURE.contains(&part.as_str()) {
            let rim = ["tokio::", "hyper::", "std::fs", "std::net::TcpStream", "Instant::now", "SystemTime"];
            let lines: Vec<&str> =
                text.lines().filter(|line| rim.iter().any(|rim| line.contains(rim))).collect();
            assert!(lines.is_empty(), "{part} is pure: {lines:?}");
        }
    }
}

#[test]
fn a_part_that_names_another_is_seen() {
    let text = "use crate::http::tls;\n// crate::http\nuse crate::httpd;\nlet a = crate::http;";
    assert_eq!(naming(text, "http"), ["use crate::http::tls;", "let a = crate::http;"]);
    assert_eq!(naming("use crate::{http, udp};", "http").len(), 1, "one use of many parts hides which");
}
