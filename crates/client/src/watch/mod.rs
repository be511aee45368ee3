//! `minuet watch`: join the live mesh, or each minute's swarm ahead of time, and play.

mod console;
mod figures;
mod flow;
mod folder;
mod live;
mod live_node;
mod minutes;
mod packets;
mod playback;
mod playout;
mod recording;
pub mod relay;
mod reporter;
mod seeder;
mod sink;

use std::{
    collections::VecDeque,
    fs::File,
    io::BufWriter,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow, bail};
use minuet_guard::tasks::{Fault, Tasks};
use minuet_node::{
    TrackerClient,
    follow::{Followed, Start, follow},
    tracker::nearest,
    units,
};
use minuet_proto::{ChannelId, ChannelLink, SignedState, mesh::Serial};
use minuet_swarm::{Role, Swarm, SwarmOptions, Upload};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::{
    console::Console,
    figures::{Figures, Traffic},
    folder::Folder,
    live::{LivePlayback, Said},
    live_node::LiveNode,
    minutes::Joiner,
    playback::{End, Playback},
    reporter::Reporter,
    sink::Out,
};
use crate::options::{Mode, Watch, What};

/// How long no tracker may know the channel before watching fails.
const FIND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long tasks may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// One thread runs all tasks of a viewer: they take a twentieth of a core, and waking each other across threads for every
/// packet took a tenth more (measured with ten viewers on one machine).
const WORKERS: usize = 1;
/// Before the thread waits for something to do it sleeps for so long, so that all that comes meanwhile is handled in one
/// wake-up (as a network card moderates its interrupts): a viewer would wake up 600 times a second for 2,200 packets. It
/// saves a fifth of the processor's time, and the mesh's times of some 100 ms do not show it (measured with twenty
/// viewers; 5 ms saves hardly more). A timer fires at most so much later, which the uplink makes good.
const GATHER: Duration = Duration::from_millis(3);

/// Watches.
pub fn main(options: Box<Watch>, verbose: u8) -> anyhow::Result<()> {
    let epoch = Instant::now();
    let console = Console::start(verbose);
    let link = match &options.what {
        What::Channel(link) => link.clone(),
        What::Recording(path) => return recording::main(&options, path, console),
    };
    let start = options.start.in_channel()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .on_thread_park(|| std::thread::sleep(GATHER))
        .enable_all()
        .build()
        .context("cannot start")?;
    let run = runtime.spawn(run(options, link, start, console, epoch));
    let done = runtime.block_on(run).context("watching has failed").flatten();
    // Whatever a library left behind must not keep us.
    runtime.shutdown_timeout(Duration::from_millis(500));
    done
}

async fn run(
    options: Box<Watch>,
    link: ChannelLink,
    start: Start,
    console: Console,
    epoch: Instant,
) -> anyhow::Result<()> {
    let trackers = trackers(&link, &options.common.tracker)?;
    let out = Out::choose(&options)?;
    let stats = open_stats(options.common.stats.as_deref())?;
    let folder = Folder::open(options.common.data.as_deref())?;
    let engine = Engine::start(&options, link.channel, start, &trackers, folder.path()).await?;
    let figures = Arc::new(Figures::new(epoch));
    // Reports to the end, so it has a set of its own.
    let reporting = Tasks::new();
    let reporter = Reporter { figures: Arc::clone(&figures), traffic: engine.traffic(), console, stats };
    reporter.start(&reporting);

    let session = Session { options, link, start, trackers, figures, tasks: Tasks::new() };
    let playing = async {
        match &engine {
            Engine::Live(node) => session.play_live(node, out).await,
            Engine::Minutes(swarm) => session.play_minutes(swarm, out).await,
        }
    };
    let done = tokio::select! {
        done = playing => done,
        interrupted = interrupted() => interrupted.map(|()| tracing::info!("interrupted: leaving the swarm")),
        fault = session.tasks.fault() => Err(fatal(fault)),
        fault = engine.fault() => Err(fatal(fault)),
        fault = reporting.fault() => Err(fatal(fault)),
    };

    reporting.stop().await;
    if tokio::time::timeout(END_TIMEOUT, session.tasks.stop()).await.is_err() {
        tracing::debug!("some tasks did not end in time");
    }
    engine.stop().await;
    drop(folder);
    done
}

/// Where the media comes from.
enum Engine {
    /// Pieces of the open minute, over the live mesh.
    Live(LiveNode),
    /// Finished minutes, over BitTorrent.
    Minutes(Arc<Swarm>),
}

impl Engine {
    async fn start(
        options: &Watch,
        channel: ChannelId,
        start: Start,
        trackers: &[TrackerClient],
        folder: &Path,
    ) -> anyhow::Result<Self> {
        // What was on air a while ago is in finished minutes.
        if options.mode == Mode::Live && start == Start::Live {
            let (delay, upload) = (Some(options.delay), !options.no_upload);
            let node = LiveNode::start(channel, &options.common, delay, upload, trackers, folder).await?;
            return Ok(Self::Live(node));
        }
        let upload = match (options.no_upload, options.common.upload_limit) {
            (true, _) => Upload::Never,
            (false, None) => Upload::Unlimited,
            (false, Some(rate)) => Upload::AtMost(u32::try_from(rate.bytes_per_s()).unwrap_or(u32::MAX)),
        };
        let swarm = SwarmOptions {
            data_dir: folder.to_owned(),
            listen: options.common.listen,
            upload,
            role: Role::Viewer,
            teller: nearest(trackers).await,
        };
        Ok(Self::Minutes(Arc::new(Swarm::start(swarm).await?)))
    }

    fn traffic(&self) -> Box<dyn Fn() -> Traffic + Send + Sync> {
        match self {
            Self::Live(node) => node.traffic(),
            Self::Minutes(swarm) => {
                // The reporter must not keep the swarm from ending.
                let swarm = Arc::downgrade(swarm);
                Box::new(move || swarm.upgrade().map(|swarm| swarm.stats().into()).unwrap_or_default())
            }
        }
    }

    /// The next fault of a part of it.
    async fn fault(&self) -> Fault {
        match self {
            Self::Live(node) => node.fault().await,
            // The engine's tasks are its own; what fails of a minute shows where the minute is played.
            Self::Minutes(_) => std::future::pending().await,
        }
    }

    async fn stop(self) {
        match self {
            Self::Live(node) => node.stop().await,
            Self::Minutes(swarm) => {
                if let Some(swarm) = Arc::into_inner(swarm) {
                    swarm.stop().await;
                }
            }
        }
    }
}

/// The file of `--stats`.
fn open_stats(path: Option<&Path>) -> anyhow::Result<Option<BufWriter<File>>> {
    let Some(path) = path else { return Ok(None) };
    let file = File::create(path)
        .with_context(|| format!("cannot write {}: choose another --stats", path.display()))?;
    Ok(Some(BufWriter::new(file)))
}

/// The trackers of link and options, each once.
fn trackers(link: &ChannelLink, more: &[url::Url]) -> anyhow::Result<Arc<[TrackerClient]>> {
    let mut urls = link.trackers.clone();
    for url in more {
        if !urls.contains(url) {
            urls.push(url.clone());
        }
    }
    if urls.is_empty() {
        bail!("the link names no tracker: ask for one that does, or name it with --tracker URL");
    }
    urls.into_iter().map(|url| TrackerClient::new(url).map_err(Into::into)).collect()
}

/// What a user is told when a part of the program has died.
fn fatal(fault: Fault) -> anyhow::Error {
    anyhow!("{fault}; start minuet again, and report this if it happens again")
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
    link: ChannelLink,
    start: Start,
    trackers: Arc<[TrackerClient]>,
    figures: Arc<Figures>,
    tasks: Tasks,
}

impl Session {
    async fn play_live(&self, node: &LiveNode, out: Out) -> anyhow::Result<()> {
        let (channel, delay) = (self.link.channel, self.options.delay);
        let mut followed = follow(channel, self.trackers.to_vec(), Start::Live, now_ms, self.tasks.spawner());
        let (say, said) = watch::channel(Said::default());
        self.figures.lock().0.playout().set_head_start(live::head_start(delay));
        let start = self.find_start(node, &mut followed, &say).await?;
        let title = self.title(said.borrow().state.as_ref());
        tracing::info!("{title}: playing {} behind the source", units::show(delay));
        let (player, sink) = out.open(&title)?;
        let closed = player.as_ref().map(|player| player.closed().clone());
        let mut playback = LivePlayback {
            mesh: Arc::clone(&node.mesh),
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

    /// Waits until the mesh knows where to begin; says why not when that takes too long.
    async fn find_start(
        &self,
        node: &LiveNode,
        followed: &mut mpsc::Receiver<Followed>,
        say: &watch::Sender<Said>,
    ) -> anyhow::Result<Serial> {
        let mut why =
            "no node of the channel could be reached: the source may be down, or a firewall may block UDP; \
                       --mode minute does without"
                .to_owned();
        let finding = async {
            let start = live::find_start(node.mesh.window());
            tokio::pin!(start);
            loop {
                tokio::select! {
                    start = &mut start => return start,
                    Some(news) = followed.recv() => {
                        match &news {
                            Followed::Failed(failure) => {
                                why = self.why(failure);
                                tracing::warn!("{why}; trying again");
                            }
                            _ => self.take_live(news, node, say).await,
                        }
                    }
                }
            }
        };
        match tokio::time::timeout(FIND_TIMEOUT, finding).await {
            Ok(start) => Ok(start),
            Err(_) => bail!("{why}"),
        }
    }

    /// Takes in what following brought.
    async fn take_live(&self, news: Followed, node: &LiveNode, say: &watch::Sender<Said>) {
        match news {
            Followed::State(new, teller) => {
                self.figures.lock().0.phase = Some(new.phase);
                let mut before = Some(new.clone());
                say.send_modify(|said| std::mem::swap(&mut said.state, &mut before));
                if before.and_then(|before| before.origin.clone()) != new.origin {
                    node.mesh.set_origin(new.origin.clone(), teller).await;
                }
            }
            Followed::Record(record) => {
                self.figures.lock().0.newest = Some(record.seq);
                say.send_modify(|said| said.newest = Some(record.clone()));
                node.record(record).await;
            }
            Followed::Joined(..) => {}
            Followed::Failed(failure) => {
                let (tracker, error) = &*failure;
                tracing::debug!("{tracker} {error}; trying again, the stream goes on");
            }
        }
    }

    async fn play_minutes(&self, swarm: &Arc<Swarm>, out: Out) -> anyhow::Result<()> {
        let (channel, start) = (self.link.channel, self.start);
        let mut followed = follow(channel, self.trackers.to_vec(), start, now_ms, self.tasks.spawner());
        let (mut joiner, minutes) =
            Joiner::new(Arc::clone(swarm), Arc::clone(&self.trackers), self.tasks.spawner().clone());
        let (say_state, state) = watch::channel(None);
        let first = self.find(&mut followed).await?;
        self.take(first, &mut joiner, &say_state).await;

        let title = self.title(state.borrow().as_ref());
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

    /// Why a tracker is of no use.
    fn why(&self, failure: &(String, minuet_node::Error)) -> String {
        let (tracker, error) = failure;
        match error {
            minuet_node::Error::Refused { status: 404, .. } => {
                format!("{tracker} does not know the channel: check the link, or wait until it is on air")
            }
            _ => format!("{tracker} {error}"),
        }
    }

    /// Waits until a tracker knows the channel; says why not when none does in time.
    async fn find(&self, followed: &mut mpsc::Receiver<Followed>) -> anyhow::Result<Followed> {
        let mut why = "no tracker answered".to_owned();
        let found = tokio::time::timeout(FIND_TIMEOUT, async {
            while let Some(news) = followed.recv().await {
                match news {
                    Followed::Failed(failure) => {
                        why = self.why(&failure);
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

    fn title(&self, state: Option<&SignedState>) -> String {
        let said = state.map(|state| state.title.clone()).filter(|title| !title.is_empty());
        said.or_else(|| self.link.title.clone()).unwrap_or_else(|| "Minuet".into())
    }
}

/// Waits until the player is closed; for ever if there is none.
async fn until_closed(closed: Option<CancellationToken>) {
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
