//! Domain types and wire formats. Pure.
