//! The network: nodes with an uplink and a downlink each, links between them, and time.
//!
//! What is modelled, file by file: [`queue`] order of events; [`window`] how far each node may go on
//! alone; [`access`] bandwidth and queueing of a node's uplink and downlink; [`mod@line`] a router and other traffic before a line; [`path`] propagation,
//! jitter, loss and slow start of one direction of a link; [`topology`] where nodes are and who can
//! be dialled; [`network`] puts them together.
//! Nothing here knows what the messages mean.

pub mod access;
pub mod line;
pub mod network;
pub mod path;
pub mod queue;
pub mod topology;
pub mod window;

/// Virtual time since the start of the run, and spans of it, in microseconds.
pub type Micros = u64;

/// One second in [`Micros`].
pub const SECOND: Micros = 1_000_000;
/// One millisecond in [`Micros`].
pub const MILLISECOND: Micros = 1_000;

/// A node's number, in order of creation; never used again after the node is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
