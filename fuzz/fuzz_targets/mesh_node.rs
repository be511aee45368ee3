//! One node of the mesh, and strangers who say anything in any order: no panic, and bounded memory.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/mesh/tests/mesh/chaos.rs"]
mod chaos;

fuzz_target!(|input: &[u8]| chaos::run(input));
