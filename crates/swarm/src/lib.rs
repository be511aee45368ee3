//! Minute swarms: seeding and fetching finished segments over plain BitTorrent (BEP 3), so that any other client can
//! take part.
//!
//! A [`Swarm`] is one node: it [seeds](Swarm::seed) minutes that it recorded, [fetches](Swarm::fetch) minutes that it
//! wants, passes on what it has within its upload limit, and [forgets](Swarm::forget) minutes that have had their
//! day. A [`Download`] can be [read in order](Download::reader) while it arrives; only verified pieces are read.
//!
//! Rules:
//! - A minute is known by its info hash. Metadata that hashes to anything else is refused, wherever it came from.
//! - Nothing is announced to anybody but the trackers that the caller named. There is no DHT, no local discovery and
//!   no port mapping.
//! - One file here names librqbit, the engine underneath; what was learned about it stands there.
//! - Everything needs a multi-threaded tokio runtime.
//!
//! BEPs: 3 (protocol), 9 (metadata from peers), 10 (extension protocol), 11 (peer exchange), 15 (UDP trackers).
//! Web seeds (BEP 19) are served by the source's own HTTP server for clients that use them; the engine here does not.

mod download;
mod engine;
mod error;
mod gate;
mod ledger;
mod options;
mod swarm;

pub use minuet_guard::contact::Teller;

pub use download::{Download, Progress, Reader};
pub use error::Error;
pub use ledger::Transfer;
pub use options::{Finished, MIN_UPLOAD_BYTES_PER_S, Place, Role, SwarmOptions, Upload, Wanted};
pub use swarm::{Files, Swarm, SwarmStats};
