//! Who may use the relay server: nodes that have joined a channel here lately, as long as there is room. When there is
//! none, a newcomer takes the place of a client of the network that has most (`minuet_guard`).

use std::net::IpAddr;
use std::sync::Arc;

use iroh_base::EndpointId;
use minuet_guard::net::household;
use minuet_guard::pool::{Pool, Taken};
use minuet_proto::mesh::NodeId;

use crate::metrics::Counter;

/// Says whether a node has joined a channel here lately.
pub type Joined = Arc<dyn Fn(&NodeId) -> bool + Send + Sync>;

/// Who may be a client, and how many are.
pub struct Access {
    places: Pool,
    per_address: Option<u32>,
    joined: Joined,
    refused: Counter,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("places", &self.places).finish_non_exhaustive()
    }
}

impl Access {
    /// For at most `clients`; and, if the operator wants so, `per_address` of one household also where there is room.
    pub fn new(clients: usize, per_address: Option<u32>, joined: Joined) -> Self {
        Self { places: Pool::new(clients as u64), per_address, joined, refused: Counter::default() }
    }

    /// Clients now.
    pub fn clients(&self) -> u64 {
        self.places.used()
    }

    /// Clients refused since the start.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// A place for a client at `ip`, which has shown its key. The error is for the client.
    pub fn enter(&self, client: EndpointId, ip: IpAddr) -> Result<Taken, &'static str> {
        let entered = self.judge(client, ip);
        if entered.is_err() {
            self.refused.increment();
        }
        entered
    }

    fn judge(&self, client: EndpointId, ip: IpAddr) -> Result<Taken, &'static str> {
        if !(self.joined)(&NodeId(*client.as_bytes())) {
            return Err("this relay server serves nodes that have joined a channel at its tracker");
        }
        let full = "this relay server has as many clients as it may";
        if self.per_address.is_some_and(|most| self.places.held(household(ip)) >= u64::from(most)) {
            return Err(full);
        }
        self.places.take(ip, 1).map_err(|_| full)
    }
}
