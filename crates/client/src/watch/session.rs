//! One channel being watched: following it, finding where to begin, playing, ending.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use minuet_guard::tasks::Tasks;
use minuet_node::{
    TrackerClient,
    follow::{Followed, Start, follow},
    units,
};
use minuet_proto::{ChannelLink, SignedState, mesh::Serial};
use minuet_swarm::Swarm;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    cause::{Cause, tracker_fails},
    figures::Figures,
    live::{self, LivePlayback, Said},
    live_node::LiveNode,
    lookout::{LOOK, Lookout},
    minutes::Joiner,
    now_ms,
    playback::{End, Playback},
    sink::{self, Out},
};
use crate::options::Watch;

/// How long no tracker may know the channel, or no node be reached, before watching fails.
const FIND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last pieces of a broadcast that has ended may take to come.
const END_GRACE: Duration = Duration::from_secs(5);
/// How far this machine's clock and the source's may be apart, with what is on its way.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(120);

/// One channel being watched.
pub struct Session {
    /// The command line.
    pub options: Box<Watch>,
    /// What is watched.
    pub link: ChannelLink,
    /// Where playing begins.
    pub start: Start,
    /// Whom to ask.
    pub trackers: Arc<[TrackerClient]>,
    /// The counts.
    pub figures: Arc<Figures>,
    /// Long-lived tasks.
    pub tasks: Tasks,
}

impl Session {
    /// Plays the open minute, over the live mesh.
    pub async fn play_live(&self, node: &LiveNode, out: Out) -> anyhow::Result<()> {
        let (channel, delay) = (self.link.channel, self.options.delay);
        let heard = Some(node.mesh.heard());
        let mut followed =
            follow(channel, self.trackers.to_vec(), heard, Start::Live, now_ms, self.tasks.spawner());
        let (say, said) = watch::channel(Said::default());
        self.figures.lock().0.playout().set_head_start(live::head_start(delay));
        let start = self.find_start(node, &mut followed, &say).await?;
        let title = self.title(said.borrow().state.as_ref());
        self.figures.lock().0.why = None;
        check_clock(node);
        tracing::info!(
            "{title}: playing {} behind the source, to {}; {}",
            units::show(delay),
            out.name(),
            self.passes_on()
        );
        let (player, sink) = out.open(&title)?;
        let closed = player.as_ref().map(|player| player.closed().clone());
        let mut playback = LivePlayback {
            mesh: Arc::clone(&node.mesh),
            reader: node.mesh.reader(),
            said,
            sink,
            figures: Arc::clone(&self.figures),
            delay,
            give_up: self.options.give_up,
        };
        let following = async {
            while let Some(news) = followed.recv().await {
                self.take_live(news, node, &say).await;
            }
            std::future::pending::<()>().await
        };
        let end = tokio::select! {
            end = playback.run(start) => end,
            () = following => Ok(End::Closed),
            () = until_closed(closed) => Ok(End::Closed),
        };
        // Nothing more for the player: it sees the end of its input.
        drop(playback);
        let over = matches!(end, Ok(End::Ended));
        let lingering = async {
            if over {
                node.mesh.linger().await;
            }
        };
        let ((), finished) = tokio::join!(lingering, finish(end, player));
        finished
    }

    /// Waits until the mesh knows where to begin, and says why when that takes long. What passes by itself is waited for as
    /// long as `--give-up` says.
    async fn find_start(
        &self,
        node: &LiveNode,
        followed: &mut mpsc::Receiver<Followed>,
        say: &watch::Sender<Said>,
    ) -> anyhow::Result<Serial> {
        let began = Instant::now();
        let mut lookout = Lookout::new();
        let start = live::find_start(node.mesh.window());
        tokio::pin!(start);
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                start = &mut start => break Ok(start),
                Some(news) = followed.recv() => {
                    lookout.hear(&news);
                    if !matches!(news, Followed::Failed(_)) {
                        self.take_live(news, node, say).await;
                    }
                }
                _ = looks.tick() => {
                    let phase = say.borrow().state.as_ref().map(|state| state.phase);
                    let newest = node.mesh.window().newest().map(|newest| newest.piece.ingest_ms);
                    let slate = newest.is_some_and(|newest_ms| self.figures.lock().0.is_slate(newest_ms));
                    let (cause, lasts) = lookout.look(node, phase, slate);
                    self.figures.lock().0.why = Some(cause.to_string());
                    let patience = if *cause == Cause::Ended { END_GRACE } else { FIND_TIMEOUT };
                    if !cause.is_passing() && began.elapsed() > patience && lasts > patience.min(END_GRACE) {
                        bail!("{cause}");
                    }
                    if began.elapsed() > self.options.give_up {
                        bail!("{cause}; gave up after {}", units::show(self.options.give_up));
                    }
                    lookout.say();
                }
            }
        }
    }

    /// Takes in what following brought.
    async fn take_live(&self, news: Followed, node: &LiveNode, say: &watch::Sender<Said>) {
        match news {
            Followed::State(new, teller) => {
                self.figures.lock().0.hear(new.get());
                node.mesh.state(&new).await;
                if let Some(teller) = teller {
                    node.mesh.set_origin(new.origin.clone(), teller).await;
                }
                say.send_modify(|said| said.state = Some(new));
            }
            Followed::Record(record) => {
                self.figures.lock().0.newest = Some(record.seq);
                say.send_modify(|said| said.newest = Some(record.clone()));
                node.record(record).await;
            }
            Followed::Joined(..) => {}
            Followed::Failed(failure) => {
                tracing::debug!(
                    "{}; trying again, the stream goes on",
                    tracker_fails(&failure.0, &failure.1)
                );
            }
        }
    }

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
        let (player, sink) = out.open(&title)?;
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

    /// What is done for others, in half a sentence.
    fn passes_on(&self) -> String {
        match (self.options.no_upload, self.options.common.upload_limit) {
            (true, _) => "nothing is passed on to other viewers".into(),
            (false, Some(limit)) => {
                format!("what is received is passed on to other viewers, at {limit} at most (--upload-limit)")
            }
            (false, None) => "what is received is passed on to other viewers, as far as the line allows \
                              (--upload-limit bounds it, --no-upload stops it)"
                .into(),
        }
    }

    fn title(&self, state: Option<&SignedState>) -> String {
        let said = state.map(|state| state.title.clone()).filter(|title| !title.is_empty());
        said.or_else(|| self.link.title.clone()).unwrap_or_else(|| "Minuet".into())
    }
}

/// Says so when this machine's clock and the source's differ: the delays that are shown then mean nothing.
fn check_clock(node: &LiveNode) {
    let Some(newest) = node.mesh.window().newest() else { return };
    let apart = Duration::from_millis(newest.piece.ingest_ms.abs_diff(now_ms()));
    if apart > CLOCK_TOLERANCE {
        tracing::warn!(
            "this machine's clock and the source's are {:.0} min apart: it plays all the same, but the delays that are shown \
             are wrong; set the clock if it is this one's fault",
            apart.as_secs_f64() / 60.0
        );
    }
}

/// Waits until the player is closed; for ever if there is none.
pub async fn until_closed(closed: Option<CancellationToken>) {
    match closed {
        Some(closed) => closed.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Ends the player as fits what became of playback.
async fn finish(end: anyhow::Result<End>, player: Option<sink::Player>) -> anyhow::Result<()> {
    match (end, player) {
        (Ok(End::Ended), player) => {
            tracing::info!("the broadcast has ended");
            match player {
                Some(mut player) => player.wait().await,
                None => Ok(()),
            }
        }
        (Ok(End::Closed), Some(player)) => player.stop().await,
        (Ok(End::Closed), None) => Ok(()),
        (Err(error), player) => {
            if let Some(player) = player {
                let _ = player.stop().await;
            }
            Err(error)
        }
    }
}
