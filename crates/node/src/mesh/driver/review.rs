//! What the driver looks at twice a second: the links' paths, for the core, for the limit that fits the line, and for who
//! reads the figures.

use minuet_mesh::Input;

use super::{Driver, message_rate};
use crate::mesh::{MeshStats, estimate::LinkCounts};

/// Looks between two lists of neighbours.
const LOOKS_PER_LIST: u32 = 4;

impl Driver {
    /// Tells the core of round trips and of what the line can send, and readers of figures.
    pub(super) fn review(&mut self) {
        let now = self.now();
        self.handled = now;
        let mut wire = self.past_wire;
        let mut counts = Vec::with_capacity(self.links.len());
        self.relayed = 0;
        for (id, link) in &mut self.links {
            let path = link.path();
            self.relayed += usize::from(path.relayed);
            tracing::trace!("{id:?}: {path:?}, on its way: {:?}", link.undrained());
            let (sent, received) = link.wire_bytes();
            wire.0 += sent;
            wire.1 += received;
            let (sent_packets, lost_packets) = path.packets;
            let late = link.take_late();
            counts.push((
                *id,
                LinkCounts { sent_bytes: sent, sent_packets, lost_packets, rtt: path.rtt, late },
            ));
            if !path.rtt.is_zero() {
                self.node.handle(Input::LinkRtt { link: *id, rtt: path.rtt }, now);
            }
        }
        let dialable = self.dialable.look(self.links.len(), &self.reach.borrow(), now);
        if dialable != *self.said_dialable.borrow() {
            tracing::debug!("others {} dial this node", if dialable { "can" } else { "cannot" });
            self.tell_address();
        }
        if let Some(estimate) = &mut self.estimate {
            let before = estimate.limit();
            estimate.look(&counts, self.window.rate(), now);
            let limit = estimate.limit();
            if limit != before {
                tracing::debug!("the line seems to send {} kbit/s", limit / 125);
                self.node.handle(Input::UploadLimit { bytes_per_s: message_rate(limit) }, now);
            }
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
