//! The live swarm as state machines. Pure: time, randomness and bytes come in as arguments, effects go out as
//! values.
//!
//! # The loop
//! A driver owns a [`Node`] and the links. It feeds every [`Input`] to [`Node::handle`], drains
//! [`Node::poll_output`] until it is empty, and calls [`Node::handle`] with [`Input::Timeout`] once the time of
//! [`Node::poll_timeout`] has come. That is all: no threads, no call-backs but [`HeadKey`].
//!
//! # Who keeps what
//! The core keeps bookkeeping, never media, but for the blocks of pieces that are still arriving: those go out
//! in [`Output::Verify`] as soon as the piece is whole. The driver stores verified pieces and reads them back
//! when an [`Output::Send`] carries a [`Message::Block`](minuet_proto::mesh::Message::Block).
//!
//! # Upload
//! The core paces what it sends by a hard limit, and by what the transport says it has really put on the wire
//! ([`Input::Drained`]): queues live here, where they can be reordered, not in sockets.

// A panic here is the end of a node. All that is added up comes from strangers or from time: only by methods that cannot
// overflow, and by `Timestamp`'s operators, which saturate.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod config;
mod demand;
mod event;
mod exchange;
mod members;
mod node;
mod past;
mod stream;
mod supply;
mod time;
mod trust;
mod view;

pub use config::{Config, HeadKey, PickOrder, Role, Start};
pub use demand::strain::{Cause, Shortage};
pub use event::{Direction, Discovery, HangUpReason, Input, LinkId, Output, PieceRef, Statement};
pub use node::Node;
pub use past::{FIRST_ALONE, Learned, Planned, Shape, Verdict};
pub use time::Timestamp;
pub use view::{Load, Stats};
