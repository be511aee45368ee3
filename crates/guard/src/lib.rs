//! What every program of Minuet has between itself and strangers. Six parts, used by all programs alike:
//!
//! - [`net`]: to which household and which wider networks an address belongs.
//! - [`shares`]: places and bytes that strangers may take up. Bounded in total; shared by household and by wider
//!   network, so that nobody shuts out the others. `pool` (feature `tasks`) lets tasks hold them.
//! - [`pace`]: how often strangers may come, where each time costs something that lasts.
//! - [`rate`]: how often, in a moment and in the long run, for one and by household.
//! - [`contact`]: the one rule for outgoing contacts: may this program contact this address, which somebody named?
//!   `contacts` (feature `tasks`) has the tasks of a process keep it.
//! - `tasks` (feature `tasks`): long-lived tasks under watch. The end of a task never goes unnoticed.
//!
//! `families` (feature `tasks`) says which families of addresses this host has.
//!
//! All but `contacts`, `families`, `pool` and `tasks` is pure: time is an argument, and nothing opens a socket.

pub mod contact;
#[cfg(feature = "tasks")]
pub mod contacts;
#[cfg(feature = "tasks")]
pub mod families;
pub mod net;
pub mod pace;
#[cfg(feature = "tasks")]
pub mod pool;
pub mod rate;
pub mod shares;
#[cfg(feature = "tasks")]
pub mod tasks;
