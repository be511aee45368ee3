//! The source's place in the live mesh.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use minuet_node::{
    TrackerClient,
    mesh::{Error, Mesh, MeshOptions, MeshRole, MeshStart},
};
use minuet_proto::{ChannelKey, SegmentSeq, SignedRecord, mesh::Serial};
use tokio_util::sync::CancellationToken;

use crate::{recorder::now_ms, shelf::Shelf};

/// Pieces that the source keeps and serves: some 30 to 60 s.
const WINDOW: usize = 1024;
/// Serials that a millisecond has: more than any feed has pieces.
const SERIALS_PER_MS: u64 = 64;
/// What serials are counted from: 2025-01-01, in Unix milliseconds.
const SERIAL_EPOCH_MS: u64 = 1_735_689_600_000;
/// How long after its last sealed segment an earlier run may have gone on.
const LONGEST_OPEN_MS: u64 = 2 * minuet_proto::record::MAX_SEGMENT_MS;

/// Joins the mesh as its source.
pub async fn start(
    key: &ChannelKey,
    newest: Option<&SignedRecord>,
    listen: SocketAddr,
    upload_limit: Option<u64>,
    folder: &Path,
    trackers: Vec<TrackerClient>,
) -> Result<Mesh, Error> {
    let options = MeshOptions {
        channel: key.channel(),
        key: Some(key.clone()),
        role: MeshRole::Source,
        start: MeshStart::Live,
        target_delay: Duration::ZERO,
        listen,
        upload_limit,
        upload: true,
        folder: folder.to_owned(),
        window: WINDOW,
        first_serial: first_serial(now_ms(), newest.map(|record| record.sealed_ms)),
        known: None,
        lines: Some(folder.join("lines.json")),
        trackers,
    };
    // Records come from here, so none that a neighbour brings is news.
    Mesh::start(options).await.map(|(mesh, _)| mesh)
}

/// The serial to begin with: above all that an earlier run can have used. Serials follow the clock, far faster than
/// pieces come; where the clock was set back since the last segment was sealed, they go on after that.
fn first_serial(now_ms: u64, sealed_ms: Option<u64>) -> Serial {
    let from_ms = match sealed_ms {
        Some(sealed_ms) if now_ms <= sealed_ms => sealed_ms + LONGEST_OPEN_MS,
        _ => now_ms,
    };
    Serial::new(from_ms.saturating_sub(SERIAL_EPOCH_MS).saturating_mul(SERIALS_PER_MS))
}

/// Passes each new record on to the mesh.
pub async fn pass_records_on(mesh: Arc<Mesh>, shelf: Arc<Shelf>, stop: CancellationToken) {
    let mut news = shelf.watch_offered();
    let mut passed: Option<SegmentSeq> = *news.borrow_and_update();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = news.changed() => if changed.is_err() { return },
        }
        let offered = *news.borrow_and_update();
        for record in shelf.after(passed).into_iter().filter(|record| Some(record.seq) <= offered) {
            passed = Some(record.seq);
            mesh.record(record).await;
        }
    }
}

/// Stays until neighbours ask for nothing more, but not for ever; then takes leave.
pub async fn end(mesh: Arc<Mesh>) {
    mesh.linger().await;
    if let Some(mesh) = Arc::into_inner(mesh) {
        mesh.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_go_on_above_those_of_an_earlier_run() {
        let at = SERIAL_EPOCH_MS + 1000;
        assert_eq!(first_serial(at, None), Serial::new(64_000));
        assert_eq!(first_serial(at, Some(at - 1)), Serial::new(64_000));
        let set_back = first_serial(at, Some(at + 5));
        assert!(set_back.get() > (1005 + LONGEST_OPEN_MS - 1) * SERIALS_PER_MS);
    }
}
