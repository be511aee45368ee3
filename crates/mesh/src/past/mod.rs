//! Finished segments: what this node keeps of them, what others keep, who asks whom for which piece, and what is sent.
//!
//! The live edge ends where a segment is finished. From then on its pieces are named by segment and index, and are checked
//! against its torrent, whose info hash the channel's key has signed; so heads and serials are of no account here. The host
//! says which segments it keeps ([`Input::Keeps`](crate::Input)) and which it wants when ([`Input::Plan`](crate::Input)).
//!
//! Rule of precedence: whatever the live edge can use goes first, everywhere. A finished segment is asked for and sent with
//! what the uplink has left; as long as there is more uplink than the live edge takes, that is enough for as many again.

pub(crate) mod fetch;
pub(crate) mod learn;
pub(crate) mod minutes;
pub(crate) mod serve;
pub(crate) mod telling;

pub use fetch::Verdict;
pub use learn::Learned;
pub use minutes::{FIRST_ALONE, Planned, Shape};
