//! Who may use the relay server: anybody, as long as there is room.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::header::HeaderName;
use iroh_base::EndpointId;
use iroh_relay::server::{Access as Decision, AccessControl, ClientRequest, ConnectionId};

use crate::http::connections::{Connections, Place};
use crate::metrics::Counter;

/// Carries the client's address from the tracker's HTTP to [`Access`], in place of whatever the client wrote there.
pub const OBSERVED: HeaderName = HeaderName::from_static("minuet-observed");

/// Counts clients, of all and of one household.
#[derive(Debug)]
pub struct Access {
    places: Arc<Connections>,
    /// The place of each client, so as many as there may be clients.
    taken: Mutex<HashMap<ConnectionId, Place>>,
    refused: Counter,
}

impl Access {
    /// For at most `clients`, and `of_address` of one address.
    pub fn new(clients: usize, of_address: u32) -> Self {
        Self {
            places: Connections::new(clients, of_address),
            taken: Mutex::default(),
            refused: Counter::default(),
        }
    }

    /// Clients now.
    pub fn clients(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Clients refused since the start.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    fn enter(&self, connection: ConnectionId, ip: Option<IpAddr>) -> Decision {
        match ip.and_then(|ip| self.places.enter(ip, false)) {
            Some(place) => {
                self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(connection, place);
                Decision::Allow
            }
            None => {
                self.refused.increment();
                Decision::Deny { reason: Some("this relay server has as many clients as it may".into()) }
            }
        }
    }
}

impl AccessControl for Access {
    async fn on_connect(&self, request: &ClientRequest) -> Decision {
        let ip = request.headers().get(OBSERVED).and_then(|ip| ip.to_str().ok()?.parse().ok());
        self.enter(request.connection_id(), ip)
    }

    fn on_disconnect(&self, _: EndpointId, connection: ConnectionId) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&connection);
    }
}
