//! The gateway (`--serve`): the stream for whatever plays HTTP.
//!
//! ```text
//! live window ─► feed ─► remuxer ─► shelf ─► HTTP: page, HLS with and without low latency, MPEG-TS, sound for radios
//! ```
//!
//! The feed is a reader of the mesh with a clock of its own. The shelf keeps some minutes of what was remuxed, the newest
//! segments in memory and all on disk, within `--serve-keep` and [`shelf::MAX_DISK`]. What is older, and kept by anybody in
//! the mesh, is served as it was on air: see [`past`].
//!
//! A gateway has a [`House`] of one channel or several, each with a shelf of its own while this machine is in its mesh.

// A panic here is the end of a program. Numbers and times come from addresses that strangers ask for, and from what a source signs: only by methods that cannot
// overflow.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod about;
mod access;
mod answer;
mod back;
mod feed;
mod house;
mod http;
mod listeners;
mod page;
mod past;
mod radio;
mod reading;
mod rooms;
mod shelf;
mod station;
mod tls;

use std::{convert::Infallible, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use minuet_guard::{pool::Pool, tasks::Tasks};
use minuet_node::{TrackerClient, mesh::Mesh};
use minuet_proto::{ChannelLink, Phase, SegmentSeq, SignedRecord, SignedState};
use minuet_serve::{Limits, files};
use serde_json::{Value, json};

pub use house::{Channel, House, MAX_CHANNELS};
pub use past::Past;
pub use station::Station;

use self::{feed::Feed, http::Gateway, past::Fare, shelf::Shelf};
use crate::options::Serve;

/// Connections at a time: some two hundred players, with up to six each.
const PLACES: u64 = 1024;
/// Descriptors that a node needs for itself: links, logs, the ring file, minutes that are seeded.
const RESERVED: u64 = 256;

/// Listens and answers, until the tasks are stopped. Where it can be reached from this machine; nothing without `--serve`.
pub fn open(options: &Serve, house: &House, tasks: &Tasks) -> anyhow::Result<Option<SocketAddr>> {
    let Some(address) = options.serve else { return Ok(None) };
    let listener = minuet_serve::listen(address.0)
        .with_context(|| format!("cannot listen on {}: choose another address with --serve", address.0))?;
    let tls = tls::load(options)?;
    let bound = listener.local_addr().unwrap_or(address.0);
    tracing::info!("watch at {}", listeners::address(bound, tls.is_some(), options.serve_password.is_some()));
    if !bound.ip().is_loopback() && options.serve_password.is_none() {
        tracing::info!("everybody who reaches this address can watch; --serve-password asks for a word");
    }
    let spawner = tasks.spawner();
    let places = files::Budget::new(files::raise(), RESERVED).connections(PLACES, 1);
    let stop = spawner.token().clone();
    if let Some(tls) = &tls {
        let tls = Arc::clone(tls);
        let files = options.tls_cert.clone().into_iter().chain(options.tls_key.clone()).collect();
        spawner.spawn("reading the certificate again", async move {
            tls::follow(&tls, files).await;
            Ok::<_, Infallible>(())
        });
    }
    let router = http::router(house.clone());
    let serving = minuet_serve::serve(listener, router, Limits::default(), Pool::new(places), tls, stop);
    spawner.spawn("serving HTTP", serving);
    Ok(Some(bound))
}

/// Serves what the mesh of a channel brings, until the tasks are stopped. What is to be told of its records.
pub fn carry(
    options: &Serve,
    house: &House,
    channel: &Channel,
    (mesh, trackers): (&Arc<Mesh>, &Arc<[TrackerClient]>),
    folder: &Path,
    tasks: &Tasks,
) -> anyhow::Result<Arc<Past>> {
    let folder = folder.join("serve");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}: choose another --data", folder.display()))?;
    let shelf = Arc::new(Shelf::new(folder, options.serve_keep, crate::watch::now_ms() / 1000));
    let (station, past) = (Arc::clone(&channel.station), Arc::new(Past::new(mesh)));
    let spawner = tasks.spawner();
    let feed = Feed::new(mesh, Arc::clone(&shelf), Arc::clone(&past), Arc::clone(&station));
    spawner.spawn("remuxing for --serve", async move {
        feed.run().await;
        Ok::<_, Infallible>(())
    });
    let fetching = Arc::clone(&past).fetch(Arc::downgrade(mesh));
    spawner.errand("fetching what was on air before", fetching);
    spawner.errand("asking who keeps what was on air before", Arc::clone(&past).look(Arc::downgrade(mesh)));
    let learning = Arc::clone(&past).learn(channel.link.channel, Arc::clone(trackers));
    spawner.errand("learning what was on air before", learning);
    let access = house.access().clone();
    let gateway = Gateway::new(shelf, station, Arc::clone(&past), mesh.watch_stats(), access);
    channel.set_gateway(gateway);
    Ok(past)
}

/// Those who watch a channel over HTTP, if anybody does: what is said of it reaches them.
#[derive(Default)]
pub struct Served {
    channel: Option<Arc<Channel>>,
    past: Option<Arc<Past>>,
    /// Where the gateway listens.
    pub bound: Option<SocketAddr>,
}

impl Served {
    /// A gateway of one channel, which this machine is in the mesh of.
    pub fn begin(
        options: &Serve,
        link: &ChannelLink,
        node: (&Arc<Mesh>, &Arc<[TrackerClient]>),
        folder: &Path,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        if options.serve.is_none() {
            return Ok(Self::default());
        }
        let (house, channel) = House::of_one(link.clone(), options.serve_password.clone());
        let past = carry(options, &house, &channel, node, folder, tasks)?;
        let bound = open(options, &house, tasks)?;
        Ok(Self { channel: Some(channel), past: Some(past), bound })
    }

    /// A channel of a gateway of several.
    pub fn of(channel: &Arc<Channel>, past: Arc<Past>) -> Self {
        Self { channel: Some(Arc::clone(channel)), past: Some(past), bound: None }
    }

    /// How everybody fares who goes back over HTTP, for `--stats`; none without a gateway.
    pub fn readers(&self) -> impl Fn() -> Option<Value> + Send + Sync + use<> {
        let past = self.past.clone();
        move || {
            let (each, _) = past.as_ref()?.fares();
            let reader = |(segment, fare): &(SegmentSeq, Fare)| {
                json!({
                    "segment": segment.0,
                    "stalls": fare.stalls,
                    "stall_ms": u64::try_from(fare.stalled.as_millis()).unwrap_or(u64::MAX),
                    "skipped": fare.skipped,
                })
            };
            Some(each.iter().map(reader).collect())
        }
    }

    /// Waits until there is something to go back to.
    pub async fn has_some(&self) {
        match &self.past {
            Some(past) => past.has_some().await,
            None => std::future::pending().await,
        }
    }

    /// What a player of this machine seeks over: the address below the gateway's, and how long it is.
    pub fn whole(&self) -> Option<(String, Duration)> {
        let (from_ms, lasts) = self.past.as_ref()?.reel().whole()?;
        Some((format!("past.m3u8?start={from_ms}"), lasts))
    }

    /// What the channel is called.
    pub fn title(&self) -> String {
        self.channel.as_ref().map_or_else(String::new, |channel| channel.station.title())
    }

    /// The source has said something.
    pub fn hear(&self, state: &SignedState) {
        if let Some(channel) = &self.channel {
            channel.station.hear(state);
        }
        if let Some(past) = &self.past {
            past.set_ended(state.phase == Phase::Ended);
        }
    }

    /// A minute is finished.
    pub fn record(&self, record: &SignedRecord) {
        if let Some(past) = &self.past {
            past.record(record);
        }
    }
}
