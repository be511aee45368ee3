//! Signed items in BitTorrent's DHT (BEP 5, 44), as a client that stores nothing for others (BEP 43).
//!
//! [`Lookup`] walks towards the nodes that are nearest to an item and gives every good copy that it meets on the way; at its end
//! it knows to whom the item can be [given](Lookup::put). It is a state machine: the host sends what it says, tells it what came
//! back, and gives it the time.
//!
//! What strangers can do: they can name nodes that do not exist, name themselves a thousand times, answer nothing, answer slowly,
//! or hold an item back. Bounds: [`MAX_QUERIES`] to a lookup, [`MAX_HEARD`] candidates, [`MAX_NAMED`] of one answer,
//! [`MAX_OF_NET`] of one network. A node whose name does not fit its address (BEP 42) pushes none aside whose name does.
//! They cannot change an item: its signature is checked ([`Item::check`]).

// A panic here is the end of a program. Numbers come from strangers: only by methods that cannot
// overflow.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod beacon;
mod id;
mod item;
mod krpc;
mod lookup;

pub use beacon::{
    Beacon, MAX_BEACON_NODES, MAX_BEACON_TRACKERS, MEETING_PERIOD_S, MEETING_PLACES, meeting_key,
    meeting_salt,
};
pub use id::Id;
pub use item::{Item, MAX_ITEM, MAX_SALT};
pub use krpc::{Answer, MAX_DATAGRAM, MAX_NAMED, Message, Named, Query, Transaction};
pub use lookup::{Lookup, MAX_HEARD, MAX_OF_NET, MAX_QUERIES, Send, TIMEOUT};
