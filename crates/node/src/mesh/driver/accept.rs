//! Links that others open.

use std::sync::Arc;

use iroh::endpoint::Connection;
use minuet_mesh::Direction;
use minuet_proto::ChannelId;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Done;
use crate::mesh::{endpoint::Transport, link};

/// Most connections that others open here and that are in their handshake.
const MAX_ACCEPTING: usize = 64;
/// Takes connections that others open, some handshakes at a time.
pub(super) async fn accept(
    transport: Transport,
    channel: ChannelId,
    done: mpsc::Sender<Done>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_ACCEPTING));
    loop {
        let place = match Arc::clone(&places).acquire_owned().await {
            Ok(place) => place,
            Err(_) => return,
        };
        let incoming = tokio::select! {
            incoming = transport.incoming() => incoming,
            () = cancel.cancelled() => return,
        };
        let Some(handshake) = incoming else { return };
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
        tasks.spawn(cancel.clone().run_until_cancelled_owned(opening));
    }
}
