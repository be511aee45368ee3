//! Puts the parts together, runs them, and ends them in order.
//!
//! Rule: no part dies unnoticed. What can begin anew is started again, with a sentence: publishers, servers, the status
//! line, the live mesh. When the recorder, the seeding or what makes segments durable dies, the segmenter seals what is
//! open and ends with one sentence.

mod ending;
mod recording;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicBool, mpsc::sync_channel},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::Router;
use minuet_console::{Screen, Signals, service};
use minuet_guard::{
    pool::Pool,
    tasks::{Fault, Spawner, Tasks},
};
use minuet_media::CutterConfig;
use minuet_node::{
    TrackerClient,
    mesh::Uplink,
    tracker::{Begin, nearest},
};
use minuet_proto::{ChannelId, ChannelKey, ChannelLink, PeerId, SegmentSeq, SignedRecord};
use minuet_serve::{
    Limits,
    files::{self, Spare},
    listen,
};
use minuet_store::{Recovered, Retention, Store};
use minuet_swarm::{Role, Swarm, SwarmOptions};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};

use self::{
    ending::{Told, offered},
    recording::Recording,
};
use crate::{
    archive::Archive,
    budget::Budget,
    dashboard::Dashboard,
    input::{Feed, Source},
    keeper::{Keeper, Room},
    key,
    live::{self, Join, Live},
    meters::Meters,
    options::Options,
    publisher::Publisher,
    recorder::{Recorder, TorrentHead},
    share::Share,
    shelf::Shelf,
    state::{About, Announcer},
    status,
    web::{self, Web},
};

/// Worker threads: the hot path has a thread of its own.
const WORKERS: usize = 2;
/// Segments that may wait to be made durable, each once begun and once sealed, before the recorder waits too.
const UNSYNCED: usize = 16;
/// How long trackers are asked for the channel's history when the folder has none.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(3);
/// Open files that are nobody's but the segmenter's own: the recording and the archive, inputs and ffmpeg, trackers, the
/// mesh, the runtime.
const OWN_FILES: u64 = 192;
/// The most connections of web seed clients, and which part of the open files they may take.
const WEB_PLACES: (u64, u64) = (1024, 3);
/// The same for the status page.
const STATUS_PLACES: (u64, u64) = (64, 8);
/// With fewer open files than this BitTorrent peers may take all that there are.
const ENOUGH_FILES: u64 = 4096;

/// Runs the segmenter until its feed ends or it is told to stop.
pub fn run(options: Options, screen: Screen) -> Result<()> {
    options.check()?;
    screen.keep_secret(options.secrets());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(segment(options, screen));
    // A thread that waits for an input that never comes does not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn segment(options: Options, screen: Screen) -> Result<()> {
    let mut told = Told::new(Signals::new().context("cannot listen for signals")?);
    let starting = async {
        let opened = Opened::open(&options).await?;
        Running::start(opened, &options, screen).await
    };
    let Some(started) = told.unless(starting).await else { return Ok(()) };
    let running = started?;
    // A viewer with the link finds what an earlier run recorded.
    if told.unless(offered(&running.shelf)).await.is_some() {
        print_link(running.channel, &options);
    }
    service::ready();
    let running = running.run(options.exit_at_end, told);
    tokio::select! {
        done = running => done,
        never = service::live() => match never {},
    }
}

/// What must be there before anything runs.
struct Opened {
    key: ChannelKey,
    store: Arc<Store>,
    recovered: Vec<SignedRecord>,
    trackers: Vec<TrackerClient>,
    /// The newest record, and the number of the next segment.
    newest: Option<SignedRecord>,
    next: SegmentSeq,
    web: TcpListener,
    status: Option<TcpListener>,
    files: files::Budget,
    swarm: Swarm,
    archive: Option<Archive>,
    feed: Feed,
}

impl Opened {
    async fn open(options: &Options) -> Result<Self> {
        let most = files::raise();
        if most < ENOUGH_FILES {
            tracing::warn!(
                "this process may have only {most} files open, so few viewers can connect at once; raise the limit, with \
                 `ulimit -Hn 65536` or LimitNOFILE=65536 in its service"
            );
        }
        let (key, key_made) = key::load_or_make(&options.key_file())?;
        let channel = key.channel();
        let (store, recovered) = Store::open(&options.data, channel)?;
        if !recovered.segments.is_empty() || recovered.removed > 0 {
            tracing::info!(
                "found {} finished segments; removed {} that were not finished",
                recovered.segments.len(),
                recovered.removed
            );
        }
        let trackers: Vec<TrackerClient> =
            options.trackers.iter().cloned().map(TrackerClient::new).collect::<Result<_, _>>()?;
        if trackers.is_empty() && !options.dht {
            tracing::warn!(
                "neither --tracker nor --dht is given, so viewers cannot find the channel by its link"
            );
        }
        let (newest, next) = place_in_history(&recovered, key_made, &trackers, channel).await;
        let web = listen(options.listen).with_context(|| {
            format!("cannot serve HTTP on {}; choose another address and port with --listen", options.listen)
        })?;
        let status = options.status.map(|address| {
            listen(address).with_context(|| {
                format!(
                    "cannot serve the status page on {address}; choose another address and port with --status"
                )
            })
        });
        let status = status.transpose()?;
        if let Some(address) = status.as_ref().and_then(|listener| listener.local_addr().ok()) {
            tracing::info!("status page: http://{address}/, metrics: http://{address}/metrics");
        }
        let swarm = Swarm::start(SwarmOptions {
            data_dir: options.data.join("swarm"),
            listen: same_family(options.bt_listen(), web.local_addr()?),
            upload: options.upload(),
            role: Role::Source,
            teller: nearest(&trackers).await,
        })
        .await
        .context("cannot start BitTorrent (see --bt-listen)")?;
        let announce = trackers.iter().map(TrackerClient::announce_url).collect();
        let archive = options.record.as_ref().map(|dir| {
            Archive::open(dir, announce)
                .context("the recording's folder cannot be made; choose another --record")
        });
        let base = web::public_base(options.public_url.as_ref(), web.local_addr()?, &options.trackers);
        tracing::info!("BitTorrent peers connect to {}, web seed clients to {base}", swarm.listen_addr());
        let archive = archive.transpose()?;
        let (input, input_options) = (options.input.clone(), options.input_options());
        let opening = tokio::task::spawn_blocking(move || Source::open(&input, &input_options));
        let source = opening.await.context("the input cannot be opened")??;
        let feed = Feed::new(options.input.clone(), options.input_options(), source, options.feed_options());
        Ok(Self {
            key,
            store: Arc::new(store),
            recovered: recovered.segments,
            trackers,
            newest,
            next,
            web,
            status,
            files: files::Budget::new(most, OWN_FILES + Spare::COUNT as u64),
            swarm,
            archive,
            feed,
        })
    }
}

/// An address with the family that another could have: `[::]` becomes `0.0.0.0` where the system has no IPv6.
fn same_family(wanted: SocketAddr, got: SocketAddr) -> SocketAddr {
    let any = wanted.is_ipv6() && wanted.ip().is_unspecified();
    match any && got.ip() == Ipv4Addr::UNSPECIFIED {
        true => (got.ip(), wanted.port()).into(),
        false => wanted,
    }
}

/// A segmenter at work.
struct Running {
    channel: ChannelId,
    tasks: Tasks,
    recording: Recording,
    shelf: Arc<Shelf>,
    meters: Arc<Meters>,
    announcer: Arc<Announcer>,
}

impl Running {
    async fn start(opened: Opened, options: &Options, screen: Screen) -> Result<Self> {
        let Opened { key, store, recovered, trackers, newest, next, web, status, mut files, .. } = opened;
        let (channel, web_addr) = (key.channel(), web.local_addr()?);
        let shelf = Arc::new(Shelf::new(recovered));
        let meters = Arc::new(Meters::default());
        let uplink = Uplink::default();
        let budget =
            Arc::new(Budget::new(options.upload_bytes_per_s(), options.origin_bytes_per_s(), uplink.clone()));
        meters.set_upload_limit(options.upload_bytes_per_s().unwrap_or(0));
        let base = web::public_base(options.public_url.as_ref(), web_addr, &options.trackers);
        let segments_url = base.join(web::SEGMENTS).context("the HTTP server's URL cannot be used")?;
        let origin = (!options.no_live && !options.no_origin).then(|| segments_url.clone());
        let about = About {
            title: options.channel.clone(),
            listed: options.listed,
            segment: options.segment,
            next,
            origin,
        };
        let announcer = Arc::new(Announcer::new(key.clone(), about));
        let tasks = Tasks::new();
        let spawner = tasks.spawner();

        let mut live: Option<Live> = None;
        if !options.no_live {
            let join = Join {
                key: key.clone(),
                listen: same_family(options.mesh_listen(), web_addr),
                upload_limit: options.upload_bytes_per_s().map(Share::of_mesh),
                folder: options.data.clone(),
                uplink,
                trackers: trackers.clone(),
                dht: options.dht(),
                local: options.local,
            };
            let joined = live::Source::start(join, newest.as_ref()).await;
            let (source, seen) =
                joined.context("live viewers cannot connect (see --listen and --no-live)")?;
            tracing::info!("live viewers connect to {:?} by UDP", source.listen_addrs());
            spawner.spawn_to_end(
                "the watch over the live mesh",
                source.run(Arc::clone(&shelf), announcer.subscribe(), spawner.token().clone()),
            );
            live = Some(seen);
        }

        let spare = Arc::new(Spare::default());
        let (room, requests) = Room::new(Arc::clone(&spare));
        let (peer_id, port) = (new_peer_id(), opened.swarm.listen_addr().port());
        let keeper = Keeper {
            store: Arc::clone(&store),
            shelf: Arc::clone(&shelf),
            swarm: opened.swarm,
            retention: Retention { duration: options.keep, bytes: options.keep_bytes.unwrap_or(u64::MAX) },
            meters: Arc::clone(&meters),
            budget: Arc::clone(&budget),
            live: live.clone(),
            share: options.upload_bytes_per_s().filter(|_| live.is_some()).map(Share::new),
            requests,
            spare,
        };
        spawner.spawn_to_end("seeding", keeper.run(spawner.token().clone()));
        for tracker in &trackers {
            let publisher = Publisher {
                tracker: tracker.clone(),
                channel,
                store: Arc::clone(&store),
                shelf: Arc::clone(&shelf),
                state: announcer.subscribe(),
                announcer: Arc::clone(&announcer),
                peer_id,
                port,
            };
            let token = spawner.token().clone();
            spawner.spawn_again("publishing", begins_anew, move || publisher.clone().run(token.clone()));
        }

        let history = Arc::new(status::History::default());
        let (figures, kept, token) = (Arc::clone(&meters), Arc::clone(&history), spawner.token().clone());
        spawner.spawn_again("the status line", begins_anew, move || {
            status::run(screen.clone(), Arc::clone(&figures), Arc::clone(&kept), token.clone())
        });
        let origin = live.clone().filter(|_| !options.no_origin);
        let served = Web {
            channel,
            store: Arc::clone(&store),
            shelf: Arc::clone(&shelf),
            budget,
            meters: Arc::clone(&meters),
            live: origin,
        };
        let places = Pool::new(files.connections(WEB_PLACES.0, WEB_PLACES.1));
        serve(spawner, "the HTTP server", web, served.router(), places)?;
        if let Some(listener) = status {
            let page = Dashboard::new(
                options.channel.clone(),
                Arc::clone(&store),
                Arc::clone(&shelf),
                history,
                announcer.subscribe(),
            );
            let places = Pool::new(files.connections(STATUS_PLACES.0, STATUS_PLACES.1));
            serve(spawner, "the status page", listener, page.router(), places)?;
        }

        let (out, sealed) = sync_channel(UNSYNCED);
        let recorder = Recorder {
            store,
            key,
            head: TorrentHead {
                announce: trackers.iter().map(TrackerClient::announce_url).collect(),
                web_seed: segments_url.into(),
            },
            newest,
            next,
            out,
            room,
            meters: Arc::clone(&meters),
            announcer: Arc::clone(&announcer),
            stop: Arc::new(AtomicBool::new(false)),
            cutting: CutterConfig {
                program: options.program,
                strip_nulls: options.strip_nulls,
                ..CutterConfig::new(options.segment)
            },
            live,
        };
        let (on, state) = (Arc::clone(&shelf), Arc::clone(&announcer));
        let recording = Recording::start(recorder, opened.feed, sealed, on, state, opened.archive)?;
        Ok(Self { channel, tasks, recording, shelf, meters, announcer })
    }
}

/// Serves on a listener, and on another one in its place when the server has died.
fn serve(
    spawner: &Spawner,
    name: &'static str,
    listener: TcpListener,
    router: Router,
    places: Pool,
) -> io::Result<()> {
    let (address, stop) = (listener.local_addr()?, spawner.token().clone());
    let mut first = Some(listener);
    spawner.spawn_again(name, begins_anew, move || {
        let (listener, router, places, stop) = (first.take(), router.clone(), places.clone(), stop.clone());
        async move {
            let listener = match listener {
                Some(listener) => listener,
                None => listen(address)?,
            };
            minuet_serve::serve(listener, router, Limits::default(), places, None, stop).await?;
            Ok::<_, anyhow::Error>(())
        }
    });
    Ok(())
}

/// What is said of a part that has died and is started again.
fn begins_anew(fault: &Fault) {
    tracing::error!("{fault}; starting it again; please report this");
}

/// The newest record that the channel has, as far as is known, and the number to go on with.
async fn place_in_history(
    recovered: &Recovered,
    key_made: bool,
    trackers: &[TrackerClient],
    channel: ChannelId,
) -> (Option<SignedRecord>, SegmentSeq) {
    let next = first_number(recovered.newest.as_ref(), recovered.begun);
    if recovered.newest.is_some() || recovered.begun.is_some() || key_made {
        return (recovered.newest.clone(), next);
    }
    let newest = history(trackers, channel).await;
    // The segment after it may have been begun, too.
    let next = newest.as_ref().map_or(next, |newest| newest.seq.next().next());
    (newest, next)
}

/// A tracker's address as it may be published: whoever has the link, or a torrent, would have the password as well.
fn without_password(mut tracker: url::Url) -> url::Url {
    if !tracker.username().is_empty() || tracker.password().is_some() {
        tracing::warn!(
            "the name and password of a tracker are left out of the link and of torrents: viewers need another way in"
        );
    }
    // Fails only for addresses that cannot have any.
    let _ = tracker.set_username("");
    let _ = tracker.set_password(None);
    tracker
}

/// The one line on standard output.
fn print_link(channel: ChannelId, options: &Options) {
    let title = Some(options.channel.clone()).filter(|title| !title.is_empty());
    let trackers = options.trackers.iter().cloned().map(without_password).collect();
    let link = ChannelLink { channel, title, trackers };
    // No broadcast depends on who reads it.
    if let Err(error) = minuet_console::print(&format!("{link}\n")) {
        tracing::warn!("the channel link cannot be written to standard output ({error}); it is {link}");
    }
}

/// An id as BEP 20 has it: client, version, and what tells this run from others.
fn new_peer_id() -> PeerId {
    let mut id = *b"-MN0100-............";
    rand::fill(&mut id[8..]);
    PeerId::new(id)
}

/// The number to go on with: above that of every segment that was begun, since its pieces may have been seen live.
fn first_number(newest: Option<&SignedRecord>, begun: Option<SegmentSeq>) -> SegmentSeq {
    let sealed = newest.map(|newest| newest.seq);
    sealed.max(begun).map_or(SegmentSeq(0), SegmentSeq::next)
}

/// The channel's newest record as trackers know it: where a key goes on that has lost its folder.
async fn history(trackers: &[TrackerClient], channel: ChannelId) -> Option<SignedRecord> {
    let mut asking: JoinSet<_> = trackers
        .iter()
        .cloned()
        .map(|tracker| async move { timeout(HISTORY_TIMEOUT, tracker.join(channel, Begin::Newest)).await })
        .collect();
    let mut newest: Option<SignedRecord> = None;
    while let Some(answer) = asking.join_next().await {
        let Ok(Ok(Ok(known))) = answer else { continue };
        newest = newest.into_iter().chain(known.records).max_by_key(|record| record.seq);
    }
    if let Some(newest) = &newest {
        tracing::info!("the folder has no segments of this channel; going on after segment {}", newest.seq);
    }
    newest
}
