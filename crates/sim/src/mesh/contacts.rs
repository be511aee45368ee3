//! Addresses, and whom a node may contact: what the driver does with a dial.
//!
//! An address names the node that is there. A dial reaches its node only if the key is that node's; else somebody else is
//! bothered, and the dial fails. Every dial goes by the budgets of `minuet-guard`, as in the product.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use minuet_guard::contact::{Budgets, Teller};
use minuet_proto::mesh;

use crate::{
    engine::{Micros, NodeId, SECOND},
    plan::Life,
};

/// Bytes of a typical address in peer exchange: an IPv4 and an IPv6 socket address.
const ADDRESS_BYTES: usize = 24;
/// Somebody who has nothing to do with the mesh.
pub const VICTIM: NodeId = NodeId(u32::MAX);
/// How long a dial takes to fail where nobody with that key is.
const NOBODY: Micros = 3 * SECOND;

/// The address of a node.
pub fn address(id: NodeId) -> Bytes {
    let mut address = BytesMut::with_capacity(ADDRESS_BYTES);
    address.put_u32(id.0);
    address.resize(ADDRESS_BYTES, 0);
    address.freeze()
}

/// Who is at an address.
fn at(address: &[u8]) -> NodeId {
    NodeId(address.first_chunk().map_or(u32::MAX, |number| u32::from_be_bytes(*number)))
}

/// The IP address of a node. Each is in a network of its own, but for those who are all in one.
pub fn ip(id: NodeId, lives: &[Life]) -> IpAddr {
    let [_, high, middle, low] = id.0.to_be_bytes();
    IpAddr::V4(match lives.get(id.index()) {
        _ if id == VICTIM => Ipv4Addr::new(203, 0, 113, 9),
        Some(life) if life.in_one_net => Ipv4Addr::new(198, 51, 100, low),
        _ => Ipv4Addr::new(20 + high, middle, low, 1),
    })
}

/// One node's contacts.
#[derive(Debug, Default)]
pub struct Contacts {
    budgets: Budgets,
    /// Dials that lead nowhere, and when that shows.
    failing: Vec<(Micros, mesh::NodeId)>,
    /// Dials to the victim.
    pub to_victim: u64,
}

impl Contacts {
    /// A node is to be dialled. Whether its driver does so, and reaches it.
    pub fn dial(&mut self, peer: &mesh::PeerInfo, meant: NodeId, lives: &[Life], now: Micros) -> bool {
        let target = at(&peer.address);
        let allowed =
            self.budgets.contact(ip(target, lives), Teller::Unknown, Duration::from_micros(now)).is_ok();
        self.to_victim += u64::from(allowed && target == VICTIM);
        let reached = allowed && target == meant;
        if !reached {
            // A dial that is not allowed fails at once, and with the next look at the node.
            self.failing.push((if allowed { now + NOBODY } else { now + 1 }, peer.node));
        }
        reached
    }

    /// A link to a node is up.
    pub fn succeeded(&mut self, peer: NodeId, lives: &[Life], now: Micros) {
        self.budgets.succeeded(ip(peer, lives), Duration::from_micros(now));
    }

    /// When the next dial fails.
    pub fn wakes_at(&self) -> Option<Micros> {
        self.failing.iter().map(|(at, _)| *at).min()
    }

    /// A dial that has failed by now.
    pub fn take_failed(&mut self, now: Micros) -> Option<mesh::NodeId> {
        let index = self.failing.iter().position(|(at, _)| *at <= now)?;
        Some(self.failing.swap_remove(index).1)
    }
}
