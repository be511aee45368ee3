//! Where playing begins, or goes on. Pure, but for looking at the live window.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use minuet_node::{
    follow::Start,
    mesh::{LivePiece, LiveWindow, Mesh, Need},
};
use minuet_proto::{Phase, PieceId, SegmentSeq, SignedState, mesh::Serial};
use tokio::sync::watch;

use super::past::Records;

/// How long a tracker's records may take to come, once it has told of the channel.
const SETTLES: Duration = Duration::from_secs(2);
/// How long a node listens for those who keep what is older than what trackers know.
const HEARS: Duration = Duration::from_millis(1500);
/// How long the live edge is waited for.
const EDGE: Duration = Duration::from_secs(10);
/// A place in the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A piece of the live window, so far behind the live edge.
    Live(Serial, Duration),
    /// A piece of a finished segment.
    Past(PieceId),
}

/// What is known of where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// In this segment.
    Past(SegmentSeq),
    /// In what is still on air, at this time by the source's clock.
    OnAir(u64),
    /// Nothing yet.
    Unknown,
}

/// Where `start` is, by what is known `waited` after the beginning.
///
/// # Errors
/// There is no such place.
pub fn find(
    start: Start,
    records: &Records,
    state: Option<&SignedState>,
    waited: Duration,
) -> anyhow::Result<Found> {
    let known = records.known.values();
    let fits = |record: &&minuet_proto::SignedRecord| match start {
        Start::At(at_ms) => record.sealed_ms > at_ms,
        Start::Segment(number) => record.seq >= number,
        Start::Live | Start::Ago(_) | Start::Oldest => true,
    };
    if let Some(record) = known.clone().find(fits) {
        return Ok(Found::Past(record.seq));
    }
    let newest = known.last();
    let Some(state) = state else { return Ok(Found::Unknown) };
    let has_all = newest.is_some_and(|newest| newest.seq.next() == state.next);
    if !has_all && waited < SETTLES {
        return Ok(Found::Unknown);
    }
    if state.phase == Phase::Ended {
        let newest = newest.map_or(String::new(), |newest| format!(" with segment {}", newest.seq));
        bail!(
            "the broadcast has ended{newest}, before the time that --start names: --start oldest plays what is kept of it"
        );
    }
    match start {
        Start::Segment(number) if number > state.next => {
            bail!("segment {number} is not on air yet: the newest is {}", state.next)
        }
        Start::At(at_ms) => Ok(Found::OnAir(at_ms)),
        Start::Segment(_) | Start::Live | Start::Ago(_) | Start::Oldest => {
            Ok(Found::OnAir(newest.map_or(0, |newest| newest.sealed_ms)))
        }
    }
}

/// The number of the segment that `start` is in, where that is older than all records that are known: by how long segments are.
pub fn estimate(start: Start, records: &Records, state: Option<&SignedState>) -> Option<SegmentSeq> {
    let oldest = records.known.values().next()?;
    let segment_ms = state.map_or(oldest.duration_ms, |state| state.segment_ms).max(1);
    let number = match start {
        Start::Oldest => SegmentSeq(0),
        Start::At(at_ms) if at_ms < oldest.ingest_ms => {
            let count = oldest.ingest_ms.saturating_sub(at_ms).div_ceil(segment_ms);
            SegmentSeq(oldest.seq.0.saturating_sub(count))
        }
        Start::Segment(number) => number,
        Start::At(_) | Start::Live | Start::Ago(_) => return None,
    };
    (number < oldest.seq).then_some(number)
}

/// The place in the live window that was on air at `at_ms`.
pub fn on_air(window: &LiveWindow, at_ms: u64) -> Option<Place> {
    let newest = window.newest()?;
    let piece = window.random_access_before(at_ms).or_else(|| window.first_random_access())?;
    Some(behind(&piece, &newest))
}

fn behind(piece: &LivePiece, newest: &LivePiece) -> Place {
    let behind_ms = newest.piece.ingest_ms.saturating_sub(piece.piece.ingest_ms);
    Place::Live(piece.piece.serial, Duration::from_millis(behind_ms))
}

/// The first segment from `number` on that somebody keeps, of whom this node hears soon.
pub async fn oldest_kept(mesh: &Mesh, number: SegmentSeq) -> Option<SegmentSeq> {
    let (archive, reader) = (mesh.archive(), mesh.reader());
    mesh.seek(Some(number));
    let need = Need { segment: number, from: 0, due: Instant::now(), span: Duration::from_secs(60) };
    reader.plan(vec![need]).await;
    let mut news = archive.subscribe();
    let hearing = async {
        loop {
            news.borrow_and_update();
            let next = archive.elsewhere(number).and_then(|elsewhere| elsewhere.next);
            if next.is_some_and(|next| next == number) {
                return;
            }
            let _ = news.changed().await;
        }
    };
    // Others may yet say that they keep what is older.
    let _ = tokio::time::timeout(HEARS, hearing).await;
    archive.elsewhere(number).and_then(|elsewhere| elsewhere.next)
}

/// The piece from which a moment in a segment is played, in Unix milliseconds by the source's clock: the one with the last place
/// where decoding can start at or before it, as the record says.
pub async fn at_moment(
    begin: PieceId,
    at_ms: u64,
    mesh: &Mesh,
    records: &watch::Receiver<Records>,
) -> PieceId {
    let archive = mesh.archive();
    let mut news = archive.subscribe();
    let record = async {
        loop {
            news.borrow_and_update();
            let known = records.borrow().known.get(&begin.segment).cloned();
            if let Some(record) = known.or_else(|| archive.record(begin.segment)) {
                return record;
            }
            let _ = news.changed().await;
        }
    };
    // Nodes give it to each other where trackers have forgotten it.
    let Ok(record) = tokio::time::timeout(HEARS, record).await else { return begin };
    let moment = Duration::from_millis(at_ms.saturating_sub(record.ingest_ms));
    record.access.before(moment).map_or(begin, |point| PieceId { piece: point.piece, ..begin })
}

/// The live edge: at `piece`, if the live window has it, else `delay` behind the newest piece.
pub async fn edge(mesh: &Arc<Mesh>, piece: Option<PieceId>, delay: Duration) -> Place {
    let window = mesh.window();
    let mut news = window.subscribe();
    let finding = async {
        loop {
            news.borrow_and_update();
            let wanted = piece
                .and_then(|id| window.of_segment(id.segment).into_iter().find(|known| known.piece.id == id));
            let newest = window.newest();
            if let Some((wanted, newest)) = wanted.as_ref().zip(newest.as_ref()) {
                let Place::Live(serial, behind) = behind(wanted, newest) else { continue };
                return Place::Live(serial, behind.max(delay));
            }
            if let Some(newest) = newest {
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                let before_ms = newest.piece.ingest_ms.saturating_sub(delay_ms);
                let near = window.random_access_before(before_ms).or_else(|| window.first_random_access());
                if let Some(near) = near {
                    return Place::Live(near.piece.serial, delay);
                }
            }
            let _ = news.changed().await;
        }
    };
    match tokio::time::timeout(EDGE, finding).await {
        Ok(place) => place,
        // Nothing is known: whatever comes first.
        Err(_) => Place::Live(window.newest().map_or(Serial::ZERO, |newest| newest.piece.serial), delay),
    }
}
