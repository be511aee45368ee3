//! The segmenter.
fn main() {}
