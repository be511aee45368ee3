//! One node of the live mesh without I/O: time, bytes and randomness come in as arguments, effects go out as values.
//!
//! # The loop
//! A host owns a [`Session`], the links and the [`Pieces`]. It gives every [`Event`] to [`Session::handle`], does what
//! [`Session::poll_effect`] says until that is empty, and gives [`Event::Timeout`] once the time of
//! [`Session::poll_timeout`] has come. Three hosts do so: `minuet-node` on tokio, `minuet-sim` in simulated time, and the
//! tests of this crate.
//!
//! # What is where
//! [`minuet_mesh`] decides what is asked, sent, promised and believed. Around it, here: `early` (blocks that overtook their
//! heads), `limit` (what the line can send, where nobody said so), `dialable` (whether others can dial this node), `named`
//! (which addresses are believed and passed on), `playheads` (all readers of the stream as one), `outset`
//! (when a picture that begins with what is past may run), [`reach`] (addresses in
//! bytes).

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod dialable;
mod early;
mod event;
mod limit;
mod named;
mod outset;
mod playheads;
pub mod reach;
mod session;

pub use event::{ClosedPiece, Effect, Event, Path, Pieces};
pub use limit::message_rate;
pub use outset::{HORIZON, Outset};
pub use playheads::ReaderId;
pub use reach::Reach;
pub use session::{Dialability, Figures, Session, Settings};
