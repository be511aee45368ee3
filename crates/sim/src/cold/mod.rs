//! The rival: cold minute swarming, as a plain BitTorrent client would do it.
//!
//! Each minute is a torrent that exists once the minute is over. For each one every viewer learns of
//! it from the tracker, announces, connects, shakes hands, and waits to be unchoked; pieces are taken
//! rarest first in pipelined 16 KiB requests (BEP 3); a choker with four slots, one of them
//! optimistic, has its round every ten seconds; nothing is kept for the next minute. In the rival's
//! favour: a free slot is filled at once, the choker never errs about rates, all peers of an answer
//! are dialled at the same time, and nobody's requests are lost.

mod choker;
mod swarm;
pub mod world;
