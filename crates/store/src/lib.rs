//! Segments on disk.
