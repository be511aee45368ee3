//! Puts the parts together, runs them, and ends them in order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use minuet_media::CutterConfig;
use minuet_node::{
    TrackerClient,
    tracker::{Begin, nearest},
};
use minuet_proto::{ChannelId, ChannelLink, PeerId, Phase, SegmentSeq, SignedRecord};
use minuet_store::{Retention, Store};
use minuet_swarm::{Role, Swarm, SwarmOptions};
use tokio::{net::TcpListener, signal::unix::SignalKind, sync::oneshot, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    archive::{Archive, Keeping},
    budget::Budget,
    dashboard::Dashboard,
    input::{Feed, Source},
    keeper::{Keeper, Room},
    key, live,
    log::Screen,
    meters::Meters,
    options::Options,
    publisher::Publisher,
    recorder::{Failure, Recorded, Recorder, TorrentHead, Unsynced},
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
/// How long the seeding of what is on the shelf is waited for.
const OFFER_TIMEOUT: Duration = Duration::from_secs(6);
/// How long everything may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(8);

/// How long an ending segmenter goes on to seed, so that viewers get the last segment from it.
const PASS_ON_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the segmenter until its feed ends or it is told to stop.
pub fn run(options: Options, screen: Screen) -> Result<()> {
    options.check()?;
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
    let mut signals = Signals::new()?;
    let (key, key_made) = key::load_or_make(&options.key_file())?;
    let channel = key.channel();
    let (store, recovered) = Store::open(&options.data, channel)?;
    let store = Arc::new(store);
    if !recovered.segments.is_empty() || recovered.removed > 0 {
        tracing::info!(
            "found {} finished segments; removed {} that were not finished",
            recovered.segments.len(),
            recovered.removed
        );
    }
    let trackers: Vec<TrackerClient> =
        options.trackers.iter().cloned().map(TrackerClient::new).collect::<Result<_, _>>()?;
    if trackers.is_empty() {
        tracing::warn!("no --tracker is given, so viewers cannot find the channel by its link");
    }
    let next = first_number(recovered.newest.as_ref(), recovered.begun);
    let (newest, next) = match recovered.newest {
        None if !key_made && recovered.begun.is_none() => {
            let newest = history(&trackers, channel).await;
            // The segment after it may have been begun, too.
            let next = newest.as_ref().map_or(next, |newest| newest.seq.next().next());
            (newest, next)
        }
        newest => (newest, next),
    };

    let web_listener = TcpListener::bind(options.listen).await.with_context(|| {
        format!("cannot serve HTTP on {}; choose another address and port with --listen", options.listen)
    })?;
    let status_listener = match options.status {
        Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!(
                "cannot serve the status page on {address}; choose another address and port with --status"
            )
        })?),
        None => None,
    };
    if let Some(address) = status_listener.as_ref().and_then(|listener| listener.local_addr().ok()) {
        tracing::info!("status page: http://{address}/, metrics: http://{address}/metrics");
    }
    let swarm = Swarm::start(SwarmOptions {
        data_dir: options.data.join("swarm"),
        listen: options.bt_listen(),
        upload: options.upload(),
        role: Role::Source,
        teller: nearest(&trackers).await,
    })
    .await
    .context("cannot start BitTorrent (see --bt-listen)")?;
    let web_addr = web_listener.local_addr()?;
    let base = web::public_base(options.public_url.as_ref(), web_addr, &options.trackers);
    tracing::info!("BitTorrent peers connect to {}, web seed clients to {base}", swarm.listen_addr());

    let announce: Vec<String> = trackers.iter().map(TrackerClient::announce_url).collect();
    let archive = match &options.record {
        Some(dir) => Some(
            Archive::open(dir, announce.clone())
                .context("the recording's folder cannot be made; choose another --record")?,
        ),
        None => None,
    };
    let input = options.input.clone();
    let input_options = options.input_options();
    let opening = tokio::task::spawn_blocking(move || Source::open(&input, &input_options));
    let source = tokio::select! {
        opened = opening => opened.context("the input cannot be opened")??,
        () = signals.next() => return Ok(()),
    };
    let feed = Feed::new(options.input.clone(), options.input_options(), source, options.feed_options());

    let shelf = Arc::new(Shelf::new(recovered.segments));
    let meters = Arc::new(Meters::default());
    let budget = Arc::new(Budget::new(options.upload_bytes_per_s(), options.origin_bytes_per_s()));
    meters.set_upload_limit(options.upload_bytes_per_s().unwrap_or(0));
    let segments_url = base.join(web::SEGMENTS).context("the HTTP server's URL cannot be used")?;
    let origin = (!options.no_live && !options.no_origin).then(|| segments_url.clone());
    let announcer = Arc::new(Announcer::new(
        key.clone(),
        About {
            title: options.channel.clone(),
            listed: options.listed,
            segment: options.segment,
            next,
            origin,
        },
    ));
    let (room, requests) = Room::new();
    let mesh = match options.no_live {
        true => None,
        false => {
            let mesh = live::start(
                &key,
                newest.as_ref(),
                options.mesh_listen(),
                options.upload_bytes_per_s().map(Share::of_mesh),
                &options.data,
                trackers.clone(),
            );
            let mesh = mesh.await.context("live viewers cannot connect (see --listen and --no-live)")?;
            tracing::info!("live viewers connect to {:?} by UDP", mesh.listen_addrs());
            budget.share(mesh.uplink());
            Some(Arc::new(mesh))
        }
    };

    let (peer_id, port) = (new_peer_id(), swarm.listen_addr().port());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let retention = Retention { duration: options.keep, bytes: options.keep_bytes.unwrap_or(u64::MAX) };
    let keeper = Keeper {
        store: Arc::clone(&store),
        shelf: Arc::clone(&shelf),
        swarm,
        retention,
        meters: Arc::clone(&meters),
        budget: Arc::clone(&budget),
        live: mesh.as_ref().map(|mesh| mesh.watch_stats()),
        share: options.upload_bytes_per_s().filter(|_| mesh.is_some()).map(Share::new),
        requests,
    };
    tasks.spawn(keeper.run(stop.clone()));
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
        tasks.spawn(publisher.run(stop.clone()));
    }
    let web = Web {
        channel,
        store: Arc::clone(&store),
        shelf: Arc::clone(&shelf),
        budget,
        meters: Arc::clone(&meters),
        live: mesh.as_ref().filter(|_| !options.no_origin).map(|mesh| Arc::clone(mesh.window())),
    };
    if let Some(mesh) = &mesh {
        tasks.spawn(live::pass_records_on(Arc::clone(mesh), Arc::clone(&shelf), stop.clone()));
    }
    tasks.spawn(serve(web_listener, web.router(), stop.clone()));
    let history = Arc::new(status::History::default());
    tasks.spawn(status::run(screen, Arc::clone(&meters), Arc::clone(&history), stop.clone()));
    if let Some(listener) = status_listener {
        let dashboard = Dashboard::new(
            options.channel.clone(),
            Arc::clone(&store),
            Arc::clone(&shelf),
            history,
            announcer.subscribe(),
        );
        tasks.spawn(serve(listener, dashboard.router(), stop.clone()));
    }

    let cutting = CutterConfig {
        program: options.program,
        strip_nulls: options.strip_nulls,
        ..CutterConfig::new(options.segment)
    };
    let head = TorrentHead { announce, web_seed: segments_url.into() };
    let stop_recording = Arc::new(AtomicBool::new(false));
    let (out, sealed) = sync_channel(UNSYNCED);
    let meters_now = Arc::clone(&meters);
    let recorder = Recorder {
        store,
        key,
        head,
        newest,
        next,
        out,
        room,
        meters,
        announcer: Arc::clone(&announcer),
        stop: Arc::clone(&stop_recording),
        cutting,
        live: mesh.as_ref().map(|mesh| mesh.publisher()),
    };
    let mut recording =
        Recording::start(recorder, feed, sealed, Arc::clone(&shelf), Arc::clone(&announcer), archive)?;
    // Whoever has the link finds what an earlier run recorded.
    offered(&shelf).await;
    print_link(channel, &options)?;

    let mut told = false;
    let result = tokio::select! {
        result = &mut recording.ended => result,
        () = signals.next() => {
            told = true;
            stop_recording.store(true, Ordering::Relaxed);
            tracing::info!("sealing the open segment, then ending");
            (&mut recording.ended).await
        }
    };
    let result = result.map_err(|_| anyhow!("the recorder failed; this is a defect, please report it"))?;
    // Everything sealed is durable once the second thread has ended too.
    let _ = (&mut recording.durable).await;
    announcer.set_phase(Phase::Ended);
    // Published once it is seeded; ends with the keeper if that fails.
    offered(&shelf).await;
    if result.is_ok() && !told && !options.exit_at_end {
        tracing::info!("the feed has ended; its segments stay seeded until Ctrl-C");
        signals.next().await;
    } else if result.is_ok() && meters_now.read().sent_to_peers > 0 {
        tracing::info!("passing the last segment on to viewers; Ctrl-C ends at once");
        tokio::select! {
            () = passed_on(&meters_now, &shelf) => {}
            () = signals.next() => {}
        }
    }
    stop.cancel();
    if let Some(mesh) = mesh {
        tasks.spawn(live::end(mesh));
    }
    tokio::select! {
        ended = timeout(END_TIMEOUT, tasks.join_all()) => {
            if ended.is_err() {
                tracing::warn!("not everything ended in time");
            }
        }
        () = signals.next() => tracing::warn!("told to stop again: ending at once"),
    }
    result.map_err(anyhow::Error::from)
}

/// Waits until all that is on the shelf is offered to others, but not for ever.
async fn offered(shelf: &Shelf) {
    let newest = shelf.newest();
    let _ = timeout(OFFER_TIMEOUT, shelf.watch_offered().wait_for(|offered| *offered >= newest)).await;
}

/// Waits until the last segment's bytes have gone out once, so that viewers have it among them, but not for ever.
async fn passed_on(meters: &Meters, shelf: &Shelf) {
    let Some(newest) = shelf.newest_record() else { return };
    let mut sent = meters.watch_newest_sent();
    let passed = sent.wait_for(|(seq, sent)| *seq == newest.seq && *sent >= newest.length);
    let _ = timeout(PASS_ON_TIMEOUT, passed).await;
}

/// The one line on standard output.
#[allow(clippy::print_stdout, reason = "the link is what scripts read")]
fn print_link(channel: ChannelId, options: &Options) -> Result<()> {
    use std::io::Write as _;
    let title = Some(options.channel.clone()).filter(|title| !title.is_empty());
    let link = ChannelLink { channel, title, trackers: options.trackers.clone() };
    writeln!(std::io::stdout(), "{link}").context("cannot write the channel link to standard output")
}

/// An id as BEP 20 has it: client, version, and what tells this run from others.
fn new_peer_id() -> PeerId {
    let mut id = *b"-MN0100-............";
    rand::fill(&mut id[8..]);
    PeerId::new(id)
}

async fn serve(listener: TcpListener, router: axum::Router, stop: CancellationToken) {
    let stopped = stop.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    let server = async move { server.await };
    tokio::select! {
        ended = server => {
            if let Err(error) = ended {
                tracing::error!("an HTTP server failed: {error}; start the segmenter again");
            }
        }
        // Downloads under way do not hold up the end.
        () = stopped.cancelled() => {}
    }
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

/// The two threads of a recording, joined through their results.
struct Recording {
    ended: oneshot::Receiver<Result<(), Failure>>,
    durable: oneshot::Receiver<()>,
}

impl Recording {
    fn start(
        recorder: Recorder,
        mut feed: Feed,
        sealed: Receiver<Unsynced>,
        shelf: Arc<Shelf>,
        announcer: Arc<Announcer>,
        archive: Option<Archive>,
    ) -> Result<Self> {
        let store = Arc::clone(&recorder.store);
        let (end, ended) = oneshot::channel();
        let (synced, durable) = oneshot::channel();
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let no_thread = "the system gives no thread";
        let runtime = tokio::runtime::Handle::current();
        named("recorder")
            .spawn(move || {
                // Inputs over HTTP read on the runtime.
                let _entered = runtime.enter();
                let result = recorder.run(&mut feed);
                let _ = end.send(result);
            })
            .context(no_thread)?;
        named("sync")
            .spawn(move || {
                make_durable(&sealed, &store, &shelf, &announcer, Keeping::new(archive));
                let _ = synced.send(());
            })
            .context(no_thread)?;
        Ok(Self { ended, durable })
    }
}

/// Waits for the disk, segment by segment, and only then lets others have the segment.
fn make_durable(
    unsynced: &Receiver<Unsynced>,
    store: &Store,
    shelf: &Shelf,
    announcer: &Announcer,
    mut keeping: Keeping,
) {
    for work in unsynced {
        let Unsynced::Sealed(recorded) = work else {
            if let Err(error) = store.sync_begun() {
                tracing::error!("{error}");
            }
            continue;
        };
        let Recorded { record, sealed } = *recorded;
        if let Err(error) = sealed.sync() {
            // It is complete in memory; only a power cut now would lose it.
            tracing::error!("segment {} may not survive a power cut: {error}", record.seq);
        }
        keeping.keep(store, &record);
        announcer.set_next(record.seq.next());
        shelf.push(record);
    }
    keeping.finish();
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| tokio::signal::unix::signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
