//! What the driver looks at twice a second: the links' paths, for the core and for who reads the figures; and ten times a
//! second what they have delivered, for the limit that fits the line.

use minuet_mesh::Input;

use super::{Driver, Link, message_rate};
use crate::mesh::{MeshStats, estimate::UplinkEstimate};

/// Looks between two lists of neighbours.
const LOOKS_PER_LIST: u32 = 4;

impl Driver {
    /// Tells the core, and the other parts of the program, what the line can send, and them what the mesh has sent.
    pub(super) fn look_at_line(&mut self) {
        let now = self.now();
        if let Some(estimate) = &mut self.estimate {
            let links: Vec<_> = self.links.values().filter_map(Link::sample).collect();
            let before = estimate.for_mesh();
            estimate.look(&links, self.window.rate(), now);
            let limit = estimate.for_mesh();
            if limit != before {
                tracing::trace!("the line seems to send {} kbit/s", limit / 125);
                self.handled = now;
                self.node.handle(Input::UploadLimit { bytes_per_s: message_rate(limit) }, now);
            }
        }
        let sent: u64 = self.links.values().map(|link| link.wire_bytes().0).sum();
        let limit = self.estimate.as_ref().filter(|_| !self.links.is_empty()).map(UplinkEstimate::limit);
        self.uplink.say(self.past_wire.0 + sent, limit);
    }

    /// Tells the core of round trips, and readers of figures.
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
        let dialable = self.dialable.look(self.links.len(), &self.reach.borrow(), now);
        if dialable != *self.said_dialable.borrow() {
            tracing::debug!("others {} dial this node", if dialable { "can" } else { "cannot" });
            self.tell_address();
        }
        self.stats.send_replace(MeshStats {
            core: *self.node.stats(),
            peers: self.node.link_count(),
            relayed: self.relayed,
            upload_limit: self.estimate.as_ref().map(|estimate| estimate.limit()),
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
