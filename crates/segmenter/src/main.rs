//! The segmenter.

mod input;

fn main() {}
