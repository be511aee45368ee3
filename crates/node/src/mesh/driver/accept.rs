//! Links that others open.

use std::sync::Arc;

use iroh::endpoint::Connection;
use minuet_guard::tasks::Spawner;
use minuet_mesh::Direction;
use minuet_proto::ChannelId;
use tokio::sync::mpsc;

use super::Done;
use crate::mesh::{endpoint::Transport, link};

/// Most connections that others open here and that are in their handshake.
const MAX_ACCEPTING: usize = 64;
/// Takes connections that others open, some handshakes at a time.
pub(super) async fn accept(
    transport: Transport,
    channel: ChannelId,
    done: mpsc::Sender<Done>,
    tasks: Spawner,
) -> Result<(), &'static str> {
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_ACCEPTING));
    loop {
        let place = match Arc::clone(&places).acquire_owned().await {
            Ok(place) => place,
            Err(_) => return Err("no more places"),
        };
        let Some(handshake) = transport.incoming().await else { return Err("the socket is closed") };
        let done = done.clone();
        let opening = async move {
            let connection: Option<Connection> = handshake.await;
            if let Some(connection) = connection
                && let Some(opened) = link::open(connection, channel, true).await
            {
                let opened = Some(Box::new(opened));
                let _ = done.send(Done::Opened { peer: None, direction: Direction::Accepted, opened }).await;
            }
            drop(place);
        };
        tasks.errand("a handshake", opening);
    }
}
