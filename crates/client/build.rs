//! Puts hls.js into the program, if `scripts/web` has fetched it.

use std::{env, fs, path::Path};

fn main() {
    let from = env::var_os("MINUET_WEB").map_or_else(
        || Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../../target/web"),
        Into::into,
    );
    let out = env::var_os("OUT_DIR").unwrap_or_default();
    println!("cargo::rerun-if-env-changed=MINUET_WEB");
    for name in ["hls.js", "hls.js.LICENSE"] {
        let path = from.join(name);
        println!("cargo::rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path).unwrap_or_default();
        if let Err(error) = fs::write(Path::new(&out).join(name), text) {
            println!("cargo::error=cannot write {name}: {error}");
        }
    }
}
