//! Minute torrents.
