//! The tracker over real sockets. One binary: each that is linked by itself costs a build as much as all of them.

mod adversary;
mod bittorrent;
mod channel;
mod clients;
mod fleet;
mod layers;
mod libtorrent;
mod mesh;
mod relay;
mod siege;
mod support;
mod tls;
mod udp;
mod webtorrent;
mod week;
