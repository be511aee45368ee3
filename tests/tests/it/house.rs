//! What crates may depend on: the table of ARCHITECTURE.md, and no input or output in the pure ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

/// Crates that have no sockets, no files, no clock and no randomness of their own, with the features that they have then.
const PURE: [&str; 9] = ["proto", "media", "remux", "mesh", "line", "dht", "session", "guard", "announce"];
/// What none of those may reach by any way: runtimes, sockets, files, the system's randomness and its clock.
const RIM: [&str; 18] = [
    "async-io",
    "axum",
    "getrandom",
    "hyper",
    "iroh",
    "jiff",
    "librqbit",
    "mio",
    "nix",
    "noq",
    "redb",
    "redis",
    "reqwest",
    "rustix",
    "socket2",
    "tempfile",
    "tokio",
    "wasm-bindgen",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

/// The names in backticks.
fn names(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What each crate needs of ours, as the page says.
fn as_written(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let (_, after) = page.split_once("dependencies run one way.").expect("the page has the rule");
    let (none, after) = after.split_once(" need none of ours").expect("the page names those that need none");
    let alone = names(none).into_iter().map(|name| (name, BTreeSet::new()));
    let (table, _) = after.split_once("\n\nNo crate").expect("the table ends with its rule");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `").map(|line| format!("`{line}")));
    let rows: Vec<(String, String)> = rows
        .map(|row| {
            row.split_once(" | ").map(|(of, needs)| (of.to_owned(), needs.to_owned())).expect("two columns")
        })
        .collect();
    let written = rows.iter().flat_map(|(of, needs)| names(of).into_iter().map(|name| (name, names(needs))));
    alone.chain(written).collect()
}

/// What a manifest says under `[dependencies]`.
fn as_built(manifest: &str) -> BTreeSet<String> {
    let (_, after) = manifest.split_once("[dependencies]\n").unwrap_or_default();
    let lines = after.lines().take_while(|line| !line.starts_with('['));
    let ours = lines.filter_map(|line| line.strip_prefix("minuet-"));
    ours.map(|line| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn crates_depend_on_what_the_architecture_says() {
    let root = root();
    let written = as_written(&std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap());
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root.join("crates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.push(root.join("tracker"));
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let built = as_built(&manifest);
        let written =
            written.get(&name).unwrap_or_else(|| panic!("ARCHITECTURE.md does not say what {name} needs"));
        assert_eq!(&built, written, "what {name} needs, and what ARCHITECTURE.md says");
    }
}

#[test]
fn pure_crates_reach_no_sockets_no_files_and_no_clock() {
    for name in PURE {
        let out = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
            .args(["--target", "wasm32-unknown-unknown", "--package", &format!("minuet-{name}")])
            .current_dir(root())
            .output()
            .expect("cargo runs");
        let listed = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let reached: BTreeSet<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(reached.contains(format!("minuet-{name}").as_str()), "{listed}");
        let forbidden: Vec<&str> = RIM.into_iter().filter(|crate_| reached.contains(crate_)).collect();
        assert!(forbidden.is_empty(), "minuet-{name} is pure, and depends on {forbidden:?}");
    }
}

#[test]
fn a_table_that_does_not_fit_is_seen() {
    let page = "dependencies run one way. `a` and `b` need none of ours. Above them:\n\n| crate | needs |\n| --- | --- |\n\
                | `c`, `d` | `a` |\n\nNo crate depends";
    let written = as_written(page);
    assert_eq!(written.len(), 4);
    assert_eq!(
        written["d"],
        as_built("[dependencies]\nminuet-a.workspace = true\n[dev-dependencies]\nminuet-b = 1\n")
    );
}
