//! Links that others open.
//!
//! Rules:
//! 1. At most [`MAX_ACCEPTING`] are in their handshake. Under pressure the places are shared by household
//!    ([`minuet_guard::shares`]).
//! 2. Once [`UNPROVEN`] places are taken, a newcomer must first show that it receives what is sent to its address (QUIC Retry,
//!    RFC 9000, 8.1.2), which costs no memory here. So made-up addresses hold [`UNPROVEN`] places at most, and for
//!    [`UNPROVEN_TIMEOUT`] only.
//! 3. Nobody waits in line: each newcomer is taken, told to show its address, or refused, at once.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use minuet_guard::{
    pace::{Allowance, Pace},
    pool::Pool,
    tasks::Spawner,
};
use minuet_proto::ChannelId;
use tokio::time::timeout;

use super::{super::Door, DIAL_TIMEOUT, Quic, link};

/// Most connections that others open here and that are in their handshake, or have not named their channel.
const MAX_ACCEPTING: u64 = 64;
/// How many of these are taken before addresses must be shown.
const UNPROVEN: u64 = 8;
/// How long the handshake may take of one that has not shown its address.
const UNPROVEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Handshakes that all may begin, and what each household may begin beyond that.
const COMMON: Allowance = Allowance { burst: 200, cost: Duration::from_millis(50) };
const OWN: Allowance = Allowance { burst: 8, cost: Duration::from_secs(2) };
/// All that come through relay servers share as one household: whose they are is not known.
const RELAYED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What becomes of a connection that somebody opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Take,
    ShowAddress,
}

/// Rule 2; and an allowance is only charged to who shows that it is its own.
fn judge(proven: bool, tight: bool, taken: u64) -> Judgement {
    if proven || !tight && taken < UNPROVEN { Judgement::Take } else { Judgement::ShowAddress }
}

/// Takes connections that others open.
pub(super) async fn accept(
    transport: Arc<Quic>,
    channel: ChannelId,
    door: Door,
    tasks: Spawner,
) -> Result<(), &'static str> {
    let places = Pool::new(MAX_ACCEPTING);
    let (mut pace, began) = (Pace::new(COMMON, OWN), Instant::now());
    loop {
        let Some(incoming) = transport.incoming().await else { return Err("the socket is closed") };
        // Relay servers know who their clients are.
        let proven = incoming.is_proven();
        let tight = pace.is_tight(began.elapsed());
        if judge(proven, tight, places.used()) == Judgement::ShowAddress {
            incoming.show_address();
            continue;
        }
        let from = incoming.remote().unwrap_or(RELAYED);
        if !pace.admit(from, began.elapsed()) {
            incoming.refuse();
            continue;
        }
        let Ok(place) = places.take(from, 1) else {
            incoming.refuse();
            continue;
        };
        let (door, punching) = (door.clone(), transport.punching.clone());
        let opening = async move {
            let patience = if proven { DIAL_TIMEOUT } else { UNPROVEN_TIMEOUT };
            let opening = async {
                let connection = timeout(patience, incoming.accept()).await.ok().flatten()?;
                place.set_useful(true);
                punching.watch(&connection);
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
        assert_eq!(judge(false, false, UNPROVEN - 1), Judgement::Take);
        assert_eq!(judge(false, false, UNPROVEN), Judgement::ShowAddress);
        assert_eq!(judge(false, true, 0), Judgement::ShowAddress);
        assert_eq!(judge(true, true, MAX_ACCEPTING), Judgement::Take);
    }
}
