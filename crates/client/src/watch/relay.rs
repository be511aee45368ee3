//! `minuet relay`: the same node as a live viewer's, without a player; and `minuet watch --serve`, whose players come over
//! HTTP.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use minuet_console::{Screen, service};
use minuet_guard::tasks::Tasks;
use minuet_node::{
    TrackerClient,
    follow::{Followed, Start, follow},
    mesh::{MeshStart, Need, Reader},
    units,
};
use minuet_proto::{ChannelId, Phase, SegmentSeq, SignedState, link::Reading};
use url::form_urlencoded;

use super::{
    END_TIMEOUT,
    cause::{ended_for, show_ago},
    console, end_at_once_if_told_again, fatal,
    figures::Figures,
    folder::Folder,
    live_node::{Kind, LiveNode},
    lookout::{LOOK, Lookout},
    now_ms, open_stats,
    reporter::Reporter,
    signals,
    sink::{Out, Player},
    trackers,
};
use crate::{
    options::{Common, Relay, ServeAddress, Watch},
    serve::Served,
};

/// A node without a player.
struct Passing {
    reading: Reading,
    common: Common,
    /// A relay serves it as well.
    recording: Option<PathBuf>,
    /// What is kept is served when the broadcast is over, too.
    is_archive: bool,
    /// Of a viewer that only serves; a relay has none.
    delay: Option<Duration>,
    upload: bool,
    /// Plays from the gateway.
    player: Option<String>,
}

/// How far from the end of what is listed a player that seeks begins: three entries, as players do.
const NEAR: Duration = Duration::from_secs(12);
/// How long a player that seeks waits for something to play.
const FIND_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked what is missing of the newest minutes.
const FILL: Duration = Duration::from_secs(5);
/// So many of the newest minutes are made whole.
const FILLED: u64 = 4;

/// Has neighbours asked for what is missing of the newest minutes, in no hurry: an archive should be whole.
async fn fill(node: &LiveNode, filler: &Reader, newest: Option<SegmentSeq>) {
    let archive = node.mesh.archive();
    let Some(newest) = newest else { return };
    let numbers = (newest.0.saturating_sub(FILLED - 1)..=newest.0).map(SegmentSeq);
    let lacked = numbers.filter(|segment| archive.record(*segment).is_some() && !archive.is_whole(*segment));
    let needs = lacked.map(|segment| Need { segment, from: 0, due: Instant::now() + 2 * FILL, span: FILL });
    filler.plan(needs.collect()).await;
}

/// Relays.
pub fn main(options: Relay, verbose: u8) -> anyhow::Result<()> {
    let screen = console::start(verbose);
    if options.link.len() != 1 || !options.allow.is_empty() {
        return super::gateway::relay(options, screen);
    }
    let is_archive = options.is_archive();
    let Relay { mut link, common, recording, .. } = options;
    let reading = link.remove(0);
    pass(Passing { reading, common, recording, is_archive, delay: None, upload: true, player: None }, screen)
}

/// Watches for those who watch over HTTP alone.
pub fn serve_only(options: Watch, reading: Reading, screen: Screen) -> anyhow::Result<()> {
    let (delay, upload) = (Some(options.delay), !options.no_upload);
    let common = options.common;
    let player = None;
    pass(Passing { reading, common, recording: None, is_archive: false, delay, upload, player }, screen)
}

/// Watches in a player that plays from the gateway of this node, on loopback unless `--serve` names another place.
pub fn seekable(options: Watch, reading: Reading, screen: Screen) -> anyhow::Result<()> {
    let (delay, upload) = (Some(options.delay), !options.no_upload);
    let player = Some(Out::player(options.player.as_deref())?);
    let mut common = options.common;
    let loopback = ServeAddress(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    common.serve.serve.get_or_insert(loopback);
    // What is left of the broadcast can be gone back to when it is over.
    pass(Passing { reading, common, recording: None, is_archive: true, delay, upload, player }, screen)
}

fn pass(options: Passing, screen: Screen) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(run(options, screen))
}

async fn run(options: Passing, screen: Screen) -> anyhow::Result<()> {
    let mut signals = signals()?;
    let Passing { reading, common, recording, is_archive, delay, upload, player } = options;
    let trackers = trackers::of_node(&reading, &common.tracker, &common)?;
    let stats = open_stats(common.stats.as_deref())?;
    let folder = Folder::open(common.data.as_deref())?;
    let channel = reading.link.channel;
    let kind = Kind { delay, start: MeshStart::Live, recording: recording.as_deref(), upload };
    let node = LiveNode::start(channel, &common, kind, &trackers, folder.path()).await?;
    if recording.is_some() {
        let count = node.mesh.archive().records().len();
        anyhow::ensure!(
            count > 0,
            "--recording: there are no segments of this channel in that folder, with their .torrent and .record"
        );
        tracing::info!("serving {} of a recording", units::count(count as u64, "segment", "segments"));
    }
    if delay.is_none() {
        tracing::info!("relaying; viewers connect to {:?} by UDP; Ctrl-C ends", node.mesh.listen_addrs());
    }
    let figures = Arc::new(Figures::new(Instant::now()));
    let (tasks, reporting) = (Tasks::new(), Tasks::new());
    let link = &reading.link;
    let served = Served::begin(&common.serve, link, (&node.mesh, &trackers), folder.path(), &tasks)?;
    service::ready();
    let readers = Box::new(served.readers());
    let reporter =
        Reporter { figures: Arc::clone(&figures), traffic: node.traffic(), screen, readers, stats };
    reporter.start(&reporting);

    let carrying = Carrying {
        node: &node,
        served: &served,
        figures: &figures,
        fills: recording.is_none() && delay.is_none(),
        is_archive,
    };
    let following = carrying.follow(channel, &trackers, &tasks);
    let playing = async {
        match &player {
            Some(player) => play(player, &served, &common).await,
            None => std::future::pending().await,
        }
    };
    let done = tokio::select! {
        () = following => Ok(()),
        played = playing => played,
        () = signals.next() => {
            tracing::info!("interrupted: leaving the mesh");
            service::stopping();
            end_at_once_if_told_again(signals);
            Ok(())
        }
        never = service::live() => match never {},
        fault = tasks.fault() => Err(fatal(fault)),
        fault = node.fault() => Err(fatal(fault)),
        fault = reporting.fault() => Err(fatal(fault)),
    };
    reporting.stop().await;
    let _ = tokio::time::timeout(END_TIMEOUT, tasks.stop()).await;
    node.stop().await;
    drop(folder);
    done
}

/// Plays in `player` from the gateway, until it is closed.
async fn play(player: &str, served: &Served, common: &Common) -> anyhow::Result<()> {
    let Some(bound) = served.bound else { return std::future::pending().await };
    if tokio::time::timeout(FIND_TIMEOUT, served.has_some()).await.is_err() {
        anyhow::bail!("nothing has come in for {}: the lines above say why", units::show(FIND_TIMEOUT));
    }
    let scheme = if common.serve.tls_cert.is_some() { "https" } else { "http" };
    let ip = if bound.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { bound.ip() };
    let (path, lasts) = served.whole().context("nothing has come in")?;
    let mut address = format!("{scheme}://{}/{path}", SocketAddr::new(ip, bound.port()));
    if let Some(word) = &common.serve.serve_password {
        address.extend(["&key=", &form_urlencoded::byte_serialize(word.as_bytes()).collect::<String>()]);
    }
    let title = served.title();
    tracing::info!("{title}: {} seeks over all that others keep", Out::Player(player.to_owned()).name());
    Player::play(player, &title, &address, lasts.saturating_sub(NEAR))?.wait().await
}

/// A node without a player that follows its channel.
pub struct Carrying<'a> {
    /// The node.
    pub node: &'a LiveNode,
    /// Those who watch over HTTP.
    pub served: &'a Served,
    /// The counts.
    pub figures: &'a Figures,
    /// What is missing of the newest minutes is made good.
    pub fills: bool,
    /// It goes on when the broadcast is over.
    pub is_archive: bool,
}

impl Carrying<'_> {
    /// Follows the channel until it ends.
    pub async fn follow(&self, channel: ChannelId, trackers: &Arc<[TrackerClient]>, tasks: &Tasks) {
        let Self { node, served, figures, .. } = self;
        let heard = Some(node.mesh.heard());
        let mut followed = follow(channel, trackers.to_vec(), heard, Start::Live, now_ms, tasks.spawner());
        let mut lookout = Lookout::new(trackers);
        let mut looks = tokio::time::interval(LOOK);
        let mut has_media = false;
        let mut said: Option<SignedState> = None;
        let (filler, mut fills, mut has_ended) = (node.mesh.reader(), tokio::time::interval(FILL), false);
        loop {
            let news = tokio::select! {
                news = followed.recv() => news,
                _ = fills.tick(), if self.fills => {
                    let newest = figures.lock().0.newest;
                    fill(node, &filler, newest).await;
                    continue;
                }
                _ = looks.tick(), if !has_media && !has_ended => {
                    lookout.look(node, said.as_ref().map(SignedState::get), false);
                    lookout.say();
                    has_media = node.mesh.window().has_media();
                    if has_media {
                        tracing::info!("the stream comes in, and is passed on to viewers");
                    }
                    continue;
                }
            };
            // Who brings the news has died: that is a fault, which is waited for elsewhere.
            let Some(news) = news else { return std::future::pending().await };
            lookout.hear(&news);
            match news {
                Followed::State(state, _) => {
                    figures.lock().0.hear(state.get());
                    served.hear(&state);
                    node.mesh.state(&state).await;
                    said = Some(state.clone());
                    if state.phase == Phase::Ended {
                        let ago = show_ago(ended_for(state.get(), now_ms()));
                        if self.is_archive {
                            if !std::mem::replace(&mut has_ended, true) {
                                tracing::info!(
                                    "the broadcast ended {ago}: what is kept of it is served until Ctrl-C"
                                );
                            }
                            continue;
                        }
                        tracing::info!("the broadcast ended {ago}");
                        // Viewers get its last pieces after this news.
                        node.mesh.linger().await;
                        return;
                    }
                }
                Followed::Record(record) => {
                    figures.lock().0.newest = Some(record.seq);
                    served.record(&record);
                    node.record(record).await;
                }
                Followed::Joined(..) | Followed::Failed(_) => {}
            }
        }
    }
}
