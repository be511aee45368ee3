//! HTTP servers that stand in the open: what the segmenter's web seed and status page and a viewer's gateway share.
//!
//! A stranger can open connections and say nothing, send a head or a body byte by byte, and ask for what is large and
//! not read it. With [`serve()`] each connection has a place of a [`Pool`](minuet_guard::pool::Pool), which is shared by
//! households, and each step of a request has a time: see [`Limits`]. What a connection holds in memory is bounded by
//! [`MAX_BUFFER`], on the kernel's side by [`MAX_UNSENT`], if answers come in chunks: [`mod@file`] reads them from the disk
//! as the reader takes them.
//!
//! With an operator's certificate a port takes HTTPS as well, with HTTP/2. Each request that is under way there beside the
//! connection's first has a place of its own, like a connection. What is answered from memory as a whole is bounded in bytes.
//!
//! [`files`] sees to it that connections do not take the descriptors that recordings need. [`listen()`] listens on both
//! families of addresses. [`range`] is what RFC 9110 says about byte ranges, and [`Part`] answers by it.

// A panic here is the end of a program. Lengths and ranges come from strangers: only by methods that cannot
// overflow.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod file;
pub mod files;
mod io;
mod limits;
mod listen;
mod outlet;
mod part;
pub mod range;
mod request;
mod server;

pub use io::MAX_UNSENT;
pub use limits::Limits;
pub use listen::listen;
pub use part::Part;
pub use server::{Error, MAX_BUFFER, PROTOCOLS, Secure, serve};
