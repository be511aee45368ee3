//! Several trackers behind one Redis or Valkey: any of them answers for any channel.
//!
//! The unit of sharing is the channel, not the info hash, and the store is never on the path of an announce, a join or a
//! publication: a tracker accepts, answers, and then tells the others. What it says goes three ways:
//! - *at once*, by a message to all (`PUBLISH`), which each of them takes in like a publisher's;
//! - *for those who were away*, in a hash for each channel, which a tracker compares with its own window when it connects
//!   and every [`RECONCILE_EVERY`], both ways. So a store that has lost everything is filled again by whoever has it;
//! - *samples* of nodes and peers, every [`EXCHANGE_EVERY`], in a hash of each channel with a field for each tracker.
//!
//! Keys expire, and nothing in the store is trusted: what is not signed by the channel is thrown away, and what is longer than
//! trackers write is not even read. When the
//! store is away each tracker goes on alone and tries again after a pause that grows up to [`LONGEST_PAUSE`].

mod link;
pub mod news;
mod samples;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::metrics::Counter;
use crate::state::{Running, State};
use link::Link;
use news::{News, TrackerId};
use store::Oversized;

/// How often samples of nodes and peers are exchanged.
pub const EXCHANGE_EVERY: Duration = Duration::from_secs(2);
/// After this time another tracker's sample counts no more.
pub const SAMPLE_TTL: Duration = Duration::from_secs(15);
/// How often the windows are compared with the store.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(60);
/// The first pause after the store was lost.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// News that may wait to be told; what does not fit is told when the windows are compared.
const OUTBOX: usize = 1024;

/// A tracker's end of the fleet.
#[derive(Debug)]
pub struct Fleet {
    id: TrackerId,
    outbox: mpsc::Sender<News>,
    connected: AtomicBool,
    oversized: Oversized,
    /// What was taken in from others.
    pub received: Counter,
    /// What was told to others.
    pub told: Counter,
}

impl Fleet {
    /// One that is not connected yet, and what it is to tell.
    pub fn new() -> (Self, mpsc::Receiver<News>) {
        let (outbox, waiting) = mpsc::channel(OUTBOX);
        let fleet = Self {
            id: rand::random(),
            outbox,
            connected: AtomicBool::new(false),
            oversized: Oversized::default(),
            received: Counter::default(),
            told: Counter::default(),
        };
        (fleet, waiting)
    }

    /// Tells the others what has been accepted here. Never waits.
    pub fn tell(&self, news: News) {
        // What is lost here is found when the windows are compared.
        let _ = self.outbox.try_send(news);
    }

    /// Whether the store answers.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// Keeps the tracker in touch with the fleet until it shuts down.
pub(crate) async fn run(
    state: Arc<State>,
    running: Running,
    store: redis::Client,
    mut waiting: mpsc::Receiver<News>,
) {
    let Some(fleet) = &state.fleet else { return };
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    while !running.shutdown.is_cancelled() {
        let result = tokio::select! {
            () = running.shutdown.cancelled() => break,
            result = Link::serve(&state, &running.tasks, fleet, &store, &mut waiting) => result,
        };
        let was_connected = fleet.connected.swap(false, Ordering::Relaxed);
        if was_connected {
            pause = FIRST_PAUSE;
        }
        if let Err(error) = result
            && (was_connected || !told)
        {
            warn!(%error, "the shared store is away; going on alone");
            told = true;
        }
        // By chance, so that the trackers of a fleet do not come back at once.
        let spread = pause.mul_f64(0.5 + rand::random::<f64>());
        tokio::select! {
            () = running.shutdown.cancelled() => break,
            () = tokio::time::sleep(spread) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    info!("left the fleet");
}
