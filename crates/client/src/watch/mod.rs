//! `minuet watch`: follow the channel, join each minute's swarm ahead of time, play.

mod console;
mod figures;
mod folder;
mod minutes;
mod playback;
mod playout;
mod reporter;
mod sink;

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufWriter, IsTerminal as _},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use minuet_node::{
    TrackerClient,
    follow::{Followed, Start, follow},
};
use minuet_proto::SignedState;
use minuet_swarm::{Role, Swarm, SwarmOptions, Upload};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    console::Console,
    figures::Figures,
    folder::Folder,
    minutes::Joiner,
    playback::{End, Playback},
    reporter::Reporter,
    sink::{Player, Sink},
};
use crate::options::{Mode, Watch};

/// How long no tracker may know the channel before watching fails.
const FIND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long tasks may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// Watches.
pub fn main(options: Box<Watch>, verbose: u8) -> anyhow::Result<()> {
    let epoch = Instant::now();
    let console = Console::start(verbose);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let done = runtime.block_on(run(options, console, epoch));
    // Whatever a library left behind must not keep us.
    runtime.shutdown_timeout(Duration::from_millis(500));
    done
}

async fn run(options: Box<Watch>, console: Console, epoch: Instant) -> anyhow::Result<()> {
    let Mode::Minute = options.mode;
    let trackers = trackers(&options)?;
    let to_player = !options.stdout && std::io::stdout().is_terminal();
    let stats = options.stats.as_deref().map(|path| {
        let file = File::create(path)
            .with_context(|| format!("cannot write {}: choose another --stats", path.display()))?;
        anyhow::Ok(BufWriter::new(file))
    });
    let stats = stats.transpose()?;
    let folder = Folder::open(options.data.as_deref())?;
    let upload = match (options.no_upload, options.upload_limit) {
        (true, _) => Upload::Never,
        (false, None) => Upload::Unlimited,
        (false, Some(rate)) => Upload::AtMost(u32::try_from(rate.bytes_per_s()).unwrap_or(u32::MAX)),
    };
    let swarm = SwarmOptions {
        data_dir: folder.path().to_owned(),
        listen: options.listen,
        upload,
        role: Role::Viewer,
    };
    let swarm = Arc::new(Swarm::start(swarm).await?);
    let figures = Arc::new(Figures::new(epoch));
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    // Reports to the end, so it has a token of its own.
    let reporting = CancellationToken::new();
    let reporter = Reporter { figures: Arc::clone(&figures), swarm: Arc::clone(&swarm), console, stats };
    let reporter = tokio::spawn(reporter.run(reporting.clone()));

    let session = Session {
        options,
        trackers,
        to_player,
        swarm: Arc::clone(&swarm),
        figures,
        tasks: tasks.clone(),
        cancel: cancel.clone(),
    };
    let done = tokio::select! {
        done = session.play() => done,
        interrupted = interrupted() => interrupted.map(|()| tracing::info!("interrupted: leaving the swarm")),
    };

    reporting.cancel();
    let _ = reporter.await;
    cancel.cancel();
    tasks.close();
    if tokio::time::timeout(END_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::debug!("some tasks did not end in time");
    }
    if let Some(swarm) = Arc::into_inner(swarm) {
        swarm.stop().await;
    }
    drop(folder);
    done
}

/// The trackers of link and options, each once.
fn trackers(options: &Watch) -> anyhow::Result<Arc<[TrackerClient]>> {
    let mut urls = options.link.trackers.clone();
    for url in &options.tracker {
        if !urls.contains(url) {
            urls.push(url.clone());
        }
    }
    if urls.is_empty() {
        bail!("the link names no tracker: ask for one that does, or name it with --tracker URL");
    }
    urls.into_iter().map(|url| TrackerClient::new(url).map_err(Into::into)).collect()
}

/// Ctrl-C, or a polite kill.
async fn interrupted() -> anyhow::Result<()> {
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("cannot listen for signals")?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done.context("cannot listen for Ctrl-C"),
        _ = term.recv() => Ok(()),
    }
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

struct Session {
    options: Box<Watch>,
    trackers: Arc<[TrackerClient]>,
    to_player: bool,
    swarm: Arc<Swarm>,
    figures: Arc<Figures>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Session {
    async fn play(self) -> anyhow::Result<()> {
        let (channel, start) = (self.options.link.channel, self.options.start);
        let mut followed =
            follow(channel, self.trackers.to_vec(), start, now_ms, &self.tasks, self.cancel.clone());
        let (mut joiner, minutes) = Joiner::new(
            Arc::clone(&self.swarm),
            Arc::clone(&self.trackers),
            self.tasks.clone(),
            self.cancel.clone(),
        );
        let (say_state, state) = watch::channel(None);
        let first = self.find(&mut followed).await?;
        self.take(first, &mut joiner, &say_state).await;

        let title = self.title(&state);
        let closed = CancellationToken::new();
        let (mut player, sink) = if self.to_player {
            let (player, sink) = Player::start(&self.options.player, &title, closed.clone())?;
            (Some(player), sink)
        } else {
            (None, Sink::stdout()?)
        };
        let mut playback = Playback {
            minutes,
            state,
            sink,
            swarm: Arc::clone(&self.swarm),
            figures: Arc::clone(&self.figures),
            passes_on: !self.options.no_upload,
            live: start == Start::Live,
            give_up: self.options.give_up,
            played: VecDeque::new(),
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
            () = closed.cancelled() => Ok(End::Closed),
        };
        // Nothing more for the player: it sees the end of its input.
        drop(playback);
        match (end, player.take()) {
            (Ok(End::Ended), Some(mut player)) => {
                tracing::info!("the broadcast has ended");
                player.wait().await
            }
            (Ok(End::Ended), None) => {
                tracing::info!("the broadcast has ended");
                Ok(())
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

    /// Waits until a tracker knows the channel; says why not when none does in time.
    async fn find(&self, followed: &mut mpsc::Receiver<Followed>) -> anyhow::Result<Followed> {
        let mut why = "no tracker answered".to_owned();
        let found = tokio::time::timeout(FIND_TIMEOUT, async {
            while let Some(news) = followed.recv().await {
                match news {
                    Followed::Failed(failure) => {
                        let (tracker, error) = &*failure;
                        why = match error {
                            minuet_node::Error::Refused { status: 404, .. } => {
                                format!(
                                    "{tracker} does not know the channel: check the link, or wait until it is on air"
                                )
                            }
                            _ => format!("{tracker} {error}"),
                        };
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
            Followed::State(new) => {
                self.figures.lock().0.phase = Some(new.phase);
                state.send_replace(Some(new));
            }
            Followed::Record(record) => {
                self.figures.lock().0.newest = Some(record.seq);
                return joiner.join(record).await;
            }
            Followed::Failed(failure) => {
                let (tracker, error) = &*failure;
                tracing::warn!("{tracker} {error}; trying again, the stream goes on");
            }
        }
        true
    }

    fn title(&self, state: &watch::Receiver<Option<SignedState>>) -> String {
        let said = state.borrow().as_ref().map(|state| state.title.clone()).filter(|title| !title.is_empty());
        said.or_else(|| self.options.link.title.clone()).unwrap_or_else(|| "Minuet".into())
    }
}
