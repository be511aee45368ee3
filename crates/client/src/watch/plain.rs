//! A channel being watched with `--mode minute`: finished minutes, over plain BitTorrent.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use anyhow::bail;
use minuet_node::follow::{Followed, Start, follow};
use minuet_proto::SignedState;
use minuet_swarm::Swarm;
use tokio::sync::{mpsc, watch};

use super::{
    cause::{Cause, tracker_fails},
    minutes::Joiner,
    now_ms,
    playback::{End, Playback},
    session::{FIND_TIMEOUT, Session, finish, until_closed},
    sink::Out,
};

impl Session {
    /// Plays finished minutes, over BitTorrent.
    pub async fn play_minutes(&self, swarm: &Arc<Swarm>, out: Out) -> anyhow::Result<()> {
        let (channel, start) = (self.link.channel, self.start);
        let mut followed = follow(channel, self.trackers.to_vec(), None, start, now_ms, self.tasks.spawner());
        let (mut joiner, minutes) =
            Joiner::new(Arc::clone(swarm), Arc::clone(&self.trackers), self.tasks.spawner().clone());
        let (say_state, state) = watch::channel(None);
        let first = self.find(&mut followed).await?;
        self.take(first, &mut joiner, &say_state).await;

        let title = self.title(state.borrow().as_ref());
        tracing::info!("{title}: playing finished minutes, to {}; {}", out.name(), self.passes_on());
        let (player, sink) = out.open(&title, None)?;
        let closed = player.as_ref().map(|player| player.closed().clone());
        let mut playback = Playback {
            minutes,
            state,
            sink,
            swarm: Arc::clone(swarm),
            figures: Arc::clone(&self.figures),
            passes_on: !self.options.no_upload,
            live: start == Start::Live,
            give_up: self.options.give_up,
            played: VecDeque::new(),
            given: Duration::ZERO,
            last: None,
        };
        let following = async {
            while let Some(news) = followed.recv().await {
                if !self.take(news, &mut joiner, &say_state).await {
                    break;
                }
            }
            std::future::pending::<()>().await
        };
        let end = tokio::select! {
            end = playback.run() => end,
            () = following => Ok(End::Closed),
            () = until_closed(closed) => Ok(End::Closed),
        };
        // Nothing more for the player: it sees the end of its input.
        drop(playback);
        finish(end, player).await
    }

    /// Waits until a tracker knows the channel; says why not when none does in time.
    async fn find(&self, followed: &mut mpsc::Receiver<Followed>) -> anyhow::Result<Followed> {
        let mut why = Cause::NoAnswer.to_string();
        let found = tokio::time::timeout(FIND_TIMEOUT, async {
            while let Some(news) = followed.recv().await {
                match news {
                    Followed::Failed(failure) => {
                        why = tracker_fails(&failure.0, &failure.1);
                        tracing::warn!("{why}; trying again");
                    }
                    found => return Some(found),
                }
            }
            None
        });
        match found.await {
            Ok(Some(found)) => Ok(found),
            Ok(None) | Err(_) => bail!("{why}"),
        }
    }

    /// Takes in what following brought. False when playback has gone.
    async fn take(
        &self,
        news: Followed,
        joiner: &mut Joiner,
        state: &watch::Sender<Option<SignedState>>,
    ) -> bool {
        match news {
            Followed::Joined(peers, place) => joiner.learn(&peers, place),
            Followed::State(new, _) => {
                self.figures.lock().0.hear(new.get());
                self.tell_of_end(&new, "what is still seeded of it");
                state.send_replace(Some(new));
            }
            Followed::Record(record) => {
                self.figures.lock().0.newest = Some(record.seq);
                return joiner.join(record).await;
            }
            Followed::Failed(failure) => {
                tracing::warn!("{}; trying again, the stream goes on", tracker_fails(&failure.0, &failure.1));
            }
        }
        true
    }
}
