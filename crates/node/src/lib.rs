//! Drives the cores over real sockets.
