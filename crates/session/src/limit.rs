//! What this node's line can send, where nobody has said so, and whether it brings the stream. Pure.

use std::time::Duration;

use minuet_line::{Downlink, Estimate, Learned, LinkSample, Look, Settings};
use minuet_mesh::Timestamp;

/// Part of a limit on the wire that packet headers, acknowledgements and packets sent again take, in per cent: measured
/// at 8 Mbit/s each way.
const OVERHEAD_PERCENT: u64 = 8;

/// What a rate on the wire leaves for the messages of the mesh, both in bytes a second.
pub fn message_rate(wire_bytes_per_s: u64) -> u64 {
    wire_bytes_per_s.saturating_mul(100_u64.saturating_sub(OVERHEAD_PERCENT)) / 100
}

/// Finds the limit. Rates are in bytes a second on the wire.
#[derive(Debug)]
pub(crate) struct Limit {
    line: Estimate,
    downlink: Downlink,
    is_source: bool,
    /// Nobody has given a limit, and media is passed on.
    counts: bool,
    narrow: Option<u64>,
}

impl Limit {
    pub fn new(counts: bool, is_source: bool, remembered: Option<Learned>, now: Timestamp) -> Self {
        let line = Estimate::new(Settings { is_source, remembered }, now.since(Timestamp::ZERO));
        Self { line, downlink: Downlink::default(), is_source, counts, narrow: None }
    }

    /// The most that may be sent; none if that is not for the estimate to say.
    pub fn all(&self) -> Option<u64> {
        self.counts.then(|| self.line.limit())
    }

    /// The part of it that is for the mesh.
    pub fn for_mesh(&self) -> Option<u64> {
        self.counts.then(|| self.line.for_links())
    }

    /// What neighbours may be told that this node sends: no more than the line has delivered. None where a limit was
    /// given, and before anything was delivered.
    pub fn promise(&self) -> Option<u64> {
        Some(self.line.promise()).filter(|promise| self.counts && *promise > 0)
    }

    /// What the line brings, if that is too little for the stream.
    pub fn narrow(&self) -> Option<u64> {
        self.narrow
    }

    /// What another run on the same network should begin with.
    pub fn learned(&self) -> Option<Learned> {
        self.line.learned()
    }

    /// Takes a look at all links that are up, given what they have received and other parts of the program have sent since
    /// the start, and the stream's rate; 0 where that is not known.
    pub fn look(&mut self, links: &[LinkSample], received: u64, others: u64, stream: u64, now: Timestamp) {
        let now: Duration = now.since(Timestamp::ZERO);
        self.line.look(Look { links, others_bytes: others, stream }, now);
        // A source gets no media.
        let stream = if self.is_source { 0 } else { stream };
        self.narrow = self.downlink.look(received, stream, self.line.wait(), now);
    }
}
