//! What the driver looks at twice a second: the links' paths, for the core and for who reads the figures; and ten times a
//! second what they have delivered, for the limit that fits the line.

use minuet_mesh::Input;

use super::{Driver, Link, message_rate};
use crate::mesh::MeshStats;

/// Looks between two lists of neighbours.
const LOOKS_PER_LIST: u32 = 4;

impl Driver {
    /// Tells the core, and the other parts of the program, what the line can send, and them what the mesh has sent.
    pub(super) fn look_at_line(&mut self) {
        let now = self.now();
        let links: Vec<_> = self.links.values().filter_map(Link::sample).collect();
        let (mut sent, mut received) = self.past_wire;
        for link in self.links.values() {
            let wire = link.wire_bytes();
            sent += wire.0;
            received += wire.1;
        }
        let before = self.estimate.for_mesh();
        self.estimate.look(&links, received, self.window.rate(), now);
        let limit = self.estimate.for_mesh();
        if let Some(limit) = limit.filter(|_| limit != before) {
            tracing::trace!("the line seems to send {} kbit/s", limit / 125);
            self.handled = now;
            self.node.handle(Input::UploadLimit { bytes_per_s: message_rate(limit) }, now);
        }
        let limit = self.estimate.limit().filter(|_| !self.links.is_empty());
        self.uplink.say(sent, limit);
    }

    /// Tells the core of round trips and of what others may be promised, and readers of figures.
    pub(super) fn review(&mut self) {
        let now = self.now();
        self.handled = now;
        let mut wire = self.past_wire;
        self.relayed = 0;
        for (id, link) in &self.links {
            let path = link.path();
            self.relayed += usize::from(path.relayed);
            tracing::trace!("{id:?}: {path:?}, on its way: {:?}", link.undrained());
            let (sent, received) = link.wire_bytes();
            wire.0 += sent;
            wire.1 += received;
            if !path.rtt.is_zero() {
                self.node.handle(Input::LinkRtt { link: *id, rtt: path.rtt }, now);
            }
        }
        if let Some(promise) = self.estimate.promise() {
            self.node.handle(Input::UploadPromise { bytes_per_s: message_rate(promise) }, now);
        }
        let dialable = self.dialable.look(self.links.len(), &self.reach.borrow(), now);
        if dialable != *self.said_dialable.borrow() {
            tracing::debug!("others {} dial this node", if dialable { "can" } else { "cannot" });
            self.tell_address();
        }
        self.stats.send_replace(MeshStats {
            core: *self.node.stats(),
            peers: self.node.link_count(),
            relayed: self.relayed,
            upload_limit: self.estimate.limit(),
            narrow: self.estimate.narrow(),
            stream: self.window.rate(),
            http_bytes: self.http_bytes,
            wire_sent: wire.0,
            wire_received: wire.1,
        });
        self.reviews = self.reviews.wrapping_add(1);
        if self.reviews.is_multiple_of(LOOKS_PER_LIST) {
            self.neighbours.send_replace(self.seen());
        }
    }
}
