//! Links that others open.
//!
//! Rules:
//! 1. At most [`MAX_ACCEPTING`] are in their handshake. Under pressure the places are shared by household
//!    ([`minuet_guard::shares`]).
//! 2. Once [`UNPROVEN`] places are taken, whoever has not shown that it receives what is sent to its address is told to
//!    show it first (QUIC Retry, RFC 9000, 8.1.2), which costs no memory here. So addresses that are made up hold
//!    [`UNPROVEN`] places at most, and those for [`UNPROVEN_TIMEOUT`] only.
//! 3. Nobody waits in line: each is taken, told to show its address, or refused, at once.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use minuet_guard::{pool::Pool, tasks::Spawner};
use minuet_proto::ChannelId;
use tokio::{sync::mpsc, time::timeout};

use super::{super::Opening, DIAL_TIMEOUT, Quic, link};

/// Most connections that others open here and that are in their handshake, or have not named their channel.
const MAX_ACCEPTING: u64 = 64;
/// How many of these are taken before addresses must be shown.
const UNPROVEN: u64 = 8;
/// How long the handshake may take of one that has not shown its address.
const UNPROVEN_TIMEOUT: Duration = Duration::from_secs(2);
/// All that come through relay servers share as one household: whose they are is not known.
const RELAYED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What becomes of a connection that somebody opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Take,
    ShowAddress,
}

/// Rule 2.
fn judge(proven: bool, taken: u64) -> Judgement {
    if proven || taken < UNPROVEN { Judgement::Take } else { Judgement::ShowAddress }
}

/// Takes connections that others open.
pub(super) async fn accept(
    transport: Arc<Quic>,
    channel: ChannelId,
    door: mpsc::Sender<Box<dyn Opening>>,
    tasks: Spawner,
) -> Result<(), &'static str> {
    let places = Pool::new(MAX_ACCEPTING);
    loop {
        let Some(incoming) = transport.incoming().await else { return Err("the socket is closed") };
        // Relay servers know who their clients are.
        let proven = incoming.is_proven();
        if judge(proven, places.used()) == Judgement::ShowAddress {
            incoming.show_address();
            continue;
        }
        let Ok(place) = places.take(incoming.remote().unwrap_or(RELAYED), 1) else {
            incoming.refuse();
            continue;
        };
        let door = door.clone();
        let opening = async move {
            let patience = if proven { DIAL_TIMEOUT } else { UNPROVEN_TIMEOUT };
            let opening = async {
                let connection = timeout(patience, incoming.accept()).await.ok().flatten()?;
                place.set_useful(true);
                link::open(connection, channel, true).await
            };
            let opened = tokio::select! {
                opened = opening => opened,
                () = place.evicted() => None,
            };
            if let Some(opened) = opened {
                let _ = door.send(opened).await;
            }
            drop(place);
        };
        tasks.errand("a handshake", opening);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_to_be_shown_once_some_places_are_taken() {
        assert_eq!(judge(false, UNPROVEN - 1), Judgement::Take);
        assert_eq!(judge(false, UNPROVEN), Judgement::ShowAddress);
        assert_eq!(judge(true, MAX_ACCEPTING), Judgement::Take);
    }
}
