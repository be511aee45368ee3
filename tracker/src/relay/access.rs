//! Who may use the relay server: nodes that have joined a channel here lately, as long as there is room. When there is
//! none, a newcomer takes the place of a client of the network that has most (`minuet_guard`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hyper::header::HeaderName;
use iroh_base::EndpointId;
use iroh_relay::server::clients::Clients;
use iroh_relay::server::{Access as Decision, AccessControl, ClientRequest, ConnectionId};
use minuet_guard::net::household;
use minuet_guard::pool::{Pool, Taken};
use minuet_proto::mesh::NodeId;

use crate::metrics::Counter;

/// Carries the client's address from the tracker's HTTP to [`Access`], in place of whatever the client wrote there.
pub const OBSERVED: HeaderName = HeaderName::from_static("minuet-observed");

/// Says whether a node has joined a channel here lately.
pub type Joined = Arc<dyn Fn(&NodeId) -> bool + Send + Sync>;

/// Who may be a client, and who is one.
pub struct Access {
    places: Pool,
    per_address: Option<u32>,
    joined: Joined,
    /// The place of each client, so as many as there may be clients.
    taken: Mutex<HashMap<ConnectionId, (EndpointId, Taken)>>,
    /// Where clients are told to go.
    clients: OnceLock<Clients>,
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
        Self {
            places: Pool::new(clients as u64),
            per_address,
            joined,
            taken: Mutex::default(),
            clients: OnceLock::new(),
            refused: Counter::default(),
        }
    }

    /// The relay server's clients, once it is there.
    pub fn set_clients(&self, clients: Clients) {
        // Set once.
        let _ = self.clients.set(clients);
    }

    /// Clients now.
    pub fn clients(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Clients refused since the start.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    fn enter(
        &self,
        connection: ConnectionId,
        client: EndpointId,
        ip: Option<IpAddr>,
    ) -> Result<(), &'static str> {
        if !(self.joined)(&NodeId(*client.as_bytes())) {
            return Err("this relay server serves nodes that have joined a channel at its tracker");
        }
        let full = "this relay server has as many clients as it may";
        let ip = ip.ok_or(full)?;
        if self.per_address.is_some_and(|most| self.places.held(household(ip)) >= u64::from(most)) {
            return Err(full);
        }
        let place = self.places.take(ip, 1).map_err(|_| full)?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(connection, (client, place));
        Ok(())
    }

    /// Tells those to go whose places others have been given.
    fn hang_up(&self) {
        let gone: Vec<(EndpointId, ConnectionId)> = {
            let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let evicted = taken.iter().filter(|(_, (_, place))| place.is_evicted());
            evicted.map(|(connection, (client, _))| (*client, *connection)).collect()
        };
        if let Some(clients) = self.clients.get() {
            for (client, connection) in gone {
                clients.disconnect(client, Some(connection));
            }
        }
    }
}

impl AccessControl for Access {
    async fn on_connect(&self, request: &ClientRequest) -> Decision {
        let ip = request.headers().get(OBSERVED).and_then(|ip| ip.to_str().ok()?.parse().ok());
        let full = self.places.is_full();
        match self.enter(request.connection_id(), request.endpoint_id(), ip) {
            Ok(()) => {
                if full {
                    self.hang_up();
                }
                Decision::Allow
            }
            Err(reason) => {
                self.refused.increment();
                Decision::Deny { reason: Some(reason.into()) }
            }
        }
    }

    fn on_disconnect(&self, _: EndpointId, connection: ConnectionId) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&connection);
    }
}
