//! Addresses, and whom a node may contact: what the driver does with a dial.
//!
//! An address names the node that is there. A dial reaches its node only if the key is that node's; else somebody else is
//! bothered, and the dial fails. Every dial goes by the budgets of `minuet-guard`, as in the product.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use minuet_guard::contact::{Budgets, Teller};
use minuet_proto::mesh;
use minuet_session::Reach;

use crate::{
    engine::{Micros, NodeId, SECOND},
    plan::Life,
};

/// Somebody who has nothing to do with the mesh.
pub const VICTIM: NodeId = NodeId(u32::MAX);
/// How long a dial takes to fail where nobody with that key is.
const NOBODY: Micros = 3 * SECOND;

/// How a node is reached.
pub fn reach(id: NodeId, lives: &[Life]) -> Reach {
    Reach { addrs: vec![remote(id, lives)], relay: None }
}

/// Where a node's packets come from. Those who are all in one network have a port each.
pub fn remote(id: NodeId, lives: &[Life]) -> SocketAddr {
    SocketAddr::new(ip(id, lives), (id.0 % u32::from(u16::MAX)) as u16 + 1)
}

/// Who is at the first of these addresses: the victim, who is no node, if nobody else is.
fn at(address: &Bytes) -> NodeId {
    let first = Reach::decode(address).addrs.first().copied();
    match first.map(|addr| (addr.ip(), addr.port())) {
        Some((IpAddr::V4(ip), port)) if ip.octets()[..3] == [198, 51, 100] => NodeId(u32::from(port) - 1),
        Some((IpAddr::V4(ip), _)) if ip != Ipv4Addr::new(203, 0, 113, 9) => {
            let [high, middle, low, _] = ip.octets();
            NodeId(u32::from_be_bytes([0, high.wrapping_sub(20), middle, low]))
        }
        _ => VICTIM,
    }
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
