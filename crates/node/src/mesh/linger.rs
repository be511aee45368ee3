//! The end of a broadcast: a node that has all of it stays a little for those that have not.

use std::time::Duration;

use tokio::sync::watch;

use super::{Mesh, MeshStats};

/// The longest that a node stays.
const LINGER: Duration = Duration::from_secs(5);
/// All neighbours have what they want when nothing was sent between so many looks at the figures, which are renewed
/// twice a second.
const QUIET_LOOKS: usize = 2;

impl Mesh {
    /// Stays until neighbours ask for nothing more, but not for ever.
    pub async fn linger(&self) {
        let _ = tokio::time::timeout(LINGER, quiet(self.watch_stats())).await;
    }
}

/// Waits until a mesh sends nothing more, or has nobody to send to.
async fn quiet(mut stats: watch::Receiver<MeshStats>) {
    let (mut sent, mut looks) = (stats.borrow_and_update().core.payload_sent, 0);
    while looks < QUIET_LOOKS && stats.borrow().peers > 0 && stats.changed().await.is_ok() {
        let now = stats.borrow_and_update().core.payload_sent;
        looks = if now == sent { looks + 1 } else { 0 };
        sent = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_stays_while_it_is_asked_for_pieces() {
        let figures = |peers, payload_sent| {
            let mut figures = MeshStats { peers, ..MeshStats::default() };
            figures.core.payload_sent = payload_sent;
            figures
        };
        let (say, stats) = watch::channel(figures(0, 5));
        quiet(stats).await;

        let stats = say.subscribe();
        say.send_replace(figures(1, 5));
        let waiting = tokio::spawn(quiet(stats));
        for sent in [5, 6, 6, 7, 8] {
            say.send_replace(figures(1, sent));
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished(), "{sent}");
        }
        for _ in 0..QUIET_LOOKS {
            say.send_replace(figures(1, 8));
            tokio::task::yield_now().await;
        }
        waiting.await.unwrap();
    }
}
