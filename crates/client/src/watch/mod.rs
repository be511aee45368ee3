//! `minuet watch`: join the live mesh, or each minute's swarm ahead of time, and play.

mod cause;
mod console;
mod figures;
mod filler;
mod flow;
mod folder;
pub mod gateway;
mod leap;
mod live;
pub mod live_node;
mod lookout;
mod minutes;
mod packets;
mod parts;
mod past;
mod place;
mod plain;
mod playback;
mod playout;
mod recording;
pub mod relay;
mod reporter;
mod said;
mod seeder;
mod session;
mod sink;
pub mod trackers;
mod wishes;

use std::{
    fs::File,
    io::BufWriter,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow};
use minuet_console::{Screen, Signals};
use minuet_guard::tasks::{Fault, Tasks};
use minuet_node::{TrackerClient, follow::Start, mesh::MeshStart, tracker::nearest};
use minuet_proto::{ChannelId, link::Reading};
use minuet_swarm::{Role, Swarm, SwarmOptions, Upload};

pub(crate) use self::figures::Traffic;
use self::{
    figures::Figures,
    folder::Folder,
    live_node::{Kind, LiveNode},
    reporter::Reporter,
    session::{Session, until_closed},
    sink::Out,
};
use crate::{
    options::{Mode, Watch, What},
    serve::Served,
};

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
    let screen = console::start(verbose);
    if options.what.len() > 1 && options.only_serves() {
        return gateway::watch(*options, screen);
    }
    let reading = match options.single()? {
        What::Channel(reading) => reading.clone(),
        What::Recording(path) => return recording::main(&options, path),
    };
    if options.seekable {
        return relay::seekable(*options, reading, screen);
    }
    let start = options.start.in_channel()?;
    let live = options.mode == Mode::Live && start == Start::Live;
    anyhow::ensure!(
        live || options.common.serve.serve.is_none(),
        "--serve serves what is live: leave --start and --mode out"
    );
    if options.only_serves() {
        return relay::serve_only(*options, reading, screen);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .on_thread_park(|| std::thread::sleep(GATHER))
        .enable_all()
        .build()
        .context("cannot start")?;
    let run = runtime.spawn(run(options, reading, start, screen, epoch));
    let done = runtime.block_on(run).context("watching has failed").flatten();
    // Whatever a library left behind must not keep us.
    runtime.shutdown_timeout(Duration::from_millis(500));
    done
}

async fn run(
    options: Box<Watch>,
    reading: Reading,
    start: Start,
    screen: Screen,
    epoch: Instant,
) -> anyhow::Result<()> {
    let mut signals = signals()?;
    let trackers = trackers::of_node(&reading, &options.common.tracker, &options.common)?;
    let link = reading.link;
    let out = Out::choose(&options)?;
    let stats = open_stats(options.common.stats.as_deref())?;
    let folder = Folder::open(options.common.data.as_deref())?;
    let engine = Engine::start(&options, link.channel, start, &trackers, folder.path()).await?;
    let figures = Arc::new(Figures::new(epoch));
    // Reporting goes on to the end, so it has a set of its own.
    let (tasks, reporting) = (Tasks::new(), Tasks::new());
    let served = match &engine {
        Engine::Live(node) => {
            Served::begin(&options.common.serve, &link, (&node.mesh, &trackers), folder.path(), &tasks)?
        }
        Engine::Minutes(_) => Served::default(),
    };
    let readers = Box::new(served.readers());
    let reporter =
        Reporter { figures: Arc::clone(&figures), traffic: engine.traffic(), screen, readers, stats };
    reporter.start(&reporting);
    let wishes = wishes::hear();
    let folder_path = folder.path().to_owned();
    let session =
        Session { options, link, start, trackers, figures, wishes, folder: folder_path, tasks, served };
    let playing = async {
        match &engine {
            Engine::Live(node) => session.play_mesh(node, out).await,
            Engine::Minutes(swarm) => session.play_minutes(swarm, out).await,
        }
    };
    let done = tokio::select! {
        done = playing => done,
        () = signals.next() => {
            tracing::info!("interrupted: leaving the swarm");
            end_at_once_if_told_again(signals);
            Ok(())
        }
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
        if options.mode == Mode::Live {
            let kind = Kind {
                delay: Some(options.delay),
                start: if start == Start::Live { MeshStart::Live } else { MeshStart::Told },
                recording: None,
                upload: !options.no_upload,
            };
            let node = LiveNode::start(channel, &options.common, kind, trackers, folder).await?;
            return Ok(Self::Live(node));
        }
        let upload = match (options.no_upload, options.common.upload_limit) {
            (true, _) => Upload::Never,
            (false, None) => Upload::Unlimited,
            (false, Some(rate)) => Upload::AtMost(u32::try_from(rate.bytes_per_s()).unwrap_or(u32::MAX)),
        };
        let swarm = SwarmOptions {
            data_dir: folder.to_owned(),
            listen: options.common.listen(),
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

/// What a user is told when a part of the program has died.
fn fatal(fault: Fault) -> anyhow::Error {
    anyhow!("{fault}; start minuet again, and report this if it happens again")
}

/// Hears of the signals that end the program. A second one ends it at once.
pub(crate) fn signals() -> anyhow::Result<Signals> {
    Signals::new().context("cannot listen for signals")
}

/// Signals within this time are one: a terminal and `timeout` signal a program and its group, one after the other.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// Once told to end, ends the process at once when it is told again.
fn end_at_once_if_told_again(mut signals: Signals) {
    let told = Instant::now();
    tokio::spawn(async move {
        while told.elapsed() < ONE_SIGNAL {
            signals.next().await;
        }
        minuet_console::complain("minuet: told to stop again: ending at once");
        std::process::exit(1);
    });
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
