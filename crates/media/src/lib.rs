//! MPEG-TS and the cutter. Pure.
