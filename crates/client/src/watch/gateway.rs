//! A gateway of several channels: `minuet watch LINK LINK … --serve`, and `minuet relay --serve` with several links or
//! `--allow`.
//!
//! Each channel has a node of its own while it is carried: endpoint, window, shelf. A relay's channels are carried all the
//! time; others as [`serve::House`] says.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use minuet_console::{Screen, service};
use minuet_guard::tasks::{Spawner, Tasks};
use minuet_node::{TrackerClient, mesh::MeshStart, units, units::Rate};
use minuet_proto::{ChannelId, ChannelLink, link::Reading};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    END_TIMEOUT, end_at_once_if_told_again, fatal,
    figures::Figures,
    folder::Folder,
    live_node::{self, Kind, LiveNode},
    relay::Carrying,
    signals, trackers,
};
use crate::{
    options::{Allow, Common, Relay, Watch, What},
    serve::{self, Channel, House, MAX_CHANNELS, Served},
};

/// How often trackers are asked what they list.
const LIST: Duration = Duration::from_secs(60);
/// How long after a failure a relay's channel is joined again.
const AGAIN: Duration = Duration::from_secs(10);
/// Those who share an upload limit: as many channels as are carried at a time because somebody asks.
const SHARERS: u64 = 8;

/// What all channels have in common.
struct Options {
    common: Common,
    /// Of viewers; a relay has none.
    delay: Option<Duration>,
    upload: bool,
    folder: PathBuf,
    /// Trackers of channels whose links name none.
    trackers: Vec<Url>,
    /// Channels of the command line. Of others nothing is kept once they are left.
    named: Vec<ChannelId>,
}

/// Serves the channels of a viewer's command line, each when somebody watches it.
pub fn watch(options: Watch, screen: Screen) -> anyhow::Result<()> {
    let (delay, upload) = (Some(options.delay), !options.no_upload);
    let readings = options.what.into_iter().map(|what| match what {
        What::Channel(reading) => Ok(reading),
        What::Recording(path) => {
            anyhow::bail!(
                "{} is a recording, which --serve does not take: name channel links",
                path.display()
            )
        }
    });
    let readings = readings.collect::<anyhow::Result<Vec<Reading>>>()?;
    pass(readings, 0, false, options.common, (delay, upload), screen)
}

/// Relays the channels of the command line, and serves those of `--allow` when somebody watches them.
pub fn relay(options: Relay, screen: Screen) -> anyhow::Result<()> {
    ensure!(
        options.common.serve.serve.is_some(),
        "several channels are for --serve: start a relay for each without it"
    );
    ensure!(
        options.recording.is_none(),
        "--recording is of one channel: name that one alone, without --allow"
    );
    let staying = options.link.len();
    let listed = options.allow.contains(&Allow::Listed);
    let allowed = options.allow.into_iter().filter_map(|allow| match allow {
        Allow::Channel(reading) => Some(reading),
        Allow::Listed => None,
    });
    let readings = options.link.into_iter().chain(allowed).collect();
    pass(readings, staying, listed, options.common, (None, true), screen)
}

fn pass(
    readings: Vec<Reading>,
    staying: usize,
    listed: bool,
    common: Common,
    kind: (Option<Duration>, bool),
    screen: Screen,
) -> anyhow::Result<()> {
    ensure!(
        common.listen.is_none_or(|listen| listen.port() == 0),
        "--listen: each channel has a port of its own, so name port 0 or leave it out"
    );
    ensure!(common.stats.is_none(), "--stats is of one channel: /metrics has the figures of all");
    ensure!(readings.len() <= MAX_CHANNELS, "a gateway carries {MAX_CHANNELS} channels at most");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(run(readings, staying, listed, common, kind, screen))
}

async fn run(
    readings: Vec<Reading>,
    staying: usize,
    listed: bool,
    common: Common,
    (delay, upload): (Option<Duration>, bool),
    screen: Screen,
) -> anyhow::Result<()> {
    let mut signals = signals()?;
    let mut known = common.tracker.clone();
    for url in readings.iter().flat_map(|reading| &reading.link.trackers) {
        if !known.contains(url) {
            known.push(url.clone());
        }
    }
    ensure!(
        !known.is_empty() || common.dht || common.local,
        "neither the links nor the command line name a tracker: name one with --tracker URL, or look for the channels in \
         BitTorrent's DHT with --dht"
    );
    let folder = Folder::open(common.data.as_deref())?;
    let links: Vec<ChannelLink> = readings.into_iter().map(|reading| reading.link).collect();
    let named: Vec<ChannelId> = links.iter().map(|link| link.channel).collect();
    let (house, mut wanted) = House::new(links, staying, true, common.serve.serve_password.clone());
    let tasks = Tasks::new();
    serve::open(&common.serve, &house, &tasks)?;
    let count = house.channels().len() as u64;
    tracing::info!(
        "serving {}{}: a channel is joined when somebody watches it; Ctrl-C ends",
        units::count(count, "channel", "channels"),
        if listed { ", and those that the trackers list" } else { "" }
    );
    drop(screen);
    service::ready();
    if listed {
        // Left by a run that was killed.
        if let Some(data) = &common.data {
            forget_listed(data, &named);
        }
        let list = list(house.clone(), clients(&known)?, named.clone());
        tasks.spawner().spawn("asking trackers what they list", async {
            list.await;
            Ok::<_, Infallible>(())
        });
    }
    let options =
        Arc::new(Options { common, delay, upload, folder: folder.path().to_owned(), trackers: known, named });
    let spawner = tasks.spawner();
    for channel in house.channels().into_iter().filter(|channel| channel.stays) {
        attend(channel, &house, &options, spawner);
    }
    let joining = async {
        while let Some(channel) = wanted.recv().await {
            attend(channel, &house, &options, spawner);
        }
        std::future::pending().await
    };
    let done = tokio::select! {
        () = joining => Ok(()),
        () = signals.next() => {
            tracing::info!("interrupted: leaving the mesh of each channel");
            service::stopping();
            end_at_once_if_told_again(signals);
            Ok(())
        }
        never = service::live() => match never {},
        fault = tasks.fault() => Err(fatal(fault)),
    };
    if tokio::time::timeout(END_TIMEOUT, tasks.stop()).await.is_err() {
        tracing::debug!("some tasks did not end in time");
    }
    drop(folder);
    done
}

fn clients(urls: &[Url]) -> anyhow::Result<Vec<TrackerClient>> {
    urls.iter().map(|url| TrackerClient::new(url.clone()).map_err(Into::into)).collect()
}

/// Removes what was kept of channels that nobody named here: trackers list as many as strangers make, and each may fill
/// `--keep-bytes`.
fn forget_listed(data: &Path, named: &[ChannelId]) {
    let Ok(entries) = std::fs::read_dir(data) else { return };
    for entry in entries.flatten() {
        let channel = entry.file_name().to_str().and_then(|name| name.parse::<ChannelId>().ok());
        if let Some(channel) = channel.filter(|channel| !named.contains(channel)) {
            live_node::forget(&entry.path(), channel);
        }
    }
}

/// Keeps the house up to date with what trackers list, for ever.
async fn list(house: House, trackers: Vec<TrackerClient>, named: Vec<ChannelId>) {
    let mut asks = tokio::time::interval(LIST);
    loop {
        asks.tick().await;
        let mut links: Vec<ChannelLink> = Vec::new();
        let mut answered = false;
        for tracker in &trackers {
            let listed = match tracker.listed().await {
                Ok(listed) => listed,
                Err(error) => {
                    tracing::debug!("{} does not say what it lists: {error}", tracker.name());
                    continue;
                }
            };
            answered = true;
            for (channel, title) in listed {
                match links.iter_mut().find(|link| link.channel == channel) {
                    Some(link) => link.trackers.push(tracker.base().clone()),
                    None => links.push(ChannelLink {
                        channel,
                        title: (!title.is_empty()).then_some(title),
                        trackers: vec![tracker.base().clone()],
                    }),
                }
            }
        }
        // A tracker that is away takes no channel with it.
        if answered {
            house.list(links, &named);
        }
    }
}

/// Carries a channel until it is unwanted, beside everything else.
fn attend(channel: Arc<Channel>, house: &House, options: &Arc<Options>, spawner: &Spawner) {
    let (house, options, stop) = (house.clone(), Arc::clone(options), spawner.token().clone());
    spawner.errand_to_end("carrying a channel", async move {
        loop {
            let done = carry(&channel, &house, &options, &stop).await;
            let why = done.as_ref().err().map(|error| format!("{error:#}"));
            if let Some(why) = &why {
                tracing::warn!("{}: {why}", channel.station.title());
            }
            channel.leave(why);
            if stop.is_cancelled() || !channel.stays {
                return;
            }
            if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                return;
            }
        }
    });
}

async fn carry(
    channel: &Arc<Channel>,
    house: &House,
    options: &Options,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (id, title) = (channel.link.channel, channel.station.title());
    let Options { delay, upload, .. } = *options;
    // What is kept of a channel, and its window, lie in a folder of its own.
    let name = id.to_string();
    let mut common = options.common.clone();
    common.data = common.data.map(|folder| folder.join(&name));
    common.upload_limit =
        common.upload_limit.map(|limit| Rate::from_bytes_per_s(limit.bytes_per_s() / SHARERS));
    let folder = options.folder.join(&name);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}: choose another --data", folder.display()))?;
    let reading = Reading { link: channel.link.clone(), passed_over: Vec::new(), ends_after_key: false };
    let trackers = trackers::of_node(&reading, &options.trackers, &options.common)?;
    let kind = Kind { delay, start: MeshStart::Live, recording: None, upload };
    let node = LiveNode::start(id, &common, kind, &trackers, &folder).await?;
    tracing::info!("{title}: joined");
    let tasks = Tasks::new();
    let carried = async {
        let past = serve::carry(&common.serve, house, channel, (&node.mesh, &trackers), &folder, &tasks)?;
        let (served, figures) = (Served::of(channel, past), Figures::new(std::time::Instant::now()));
        let carrying = Carrying {
            node: &node,
            served: &served,
            figures: &figures,
            fills: delay.is_none(),
            is_archive: true,
        };
        tokio::select! {
            () = carrying.follow(id, &trackers, &tasks) => {}
            () = house.unwanted(channel) => tracing::info!("{title}: nobody watches it any more: left"),
            () = stop.cancelled() => {}
            fault = tasks.fault() => anyhow::bail!("{fault}"),
            fault = node.fault() => anyhow::bail!("{fault}"),
        }
        Ok(())
    };
    let done = carried.await;
    // No request finds it any more; its place is free once the node has left.
    channel.close();
    let _ = tokio::time::timeout(END_TIMEOUT, tasks.stop()).await;
    node.stop().await;
    let _ = tokio::fs::remove_dir_all(&folder).await;
    if !options.named.contains(&id)
        && let Some(data) = common.data
    {
        let _ = tokio::task::spawn_blocking(move || live_node::forget(&data, id)).await;
    }
    done
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn of_channels_that_nobody_named_nothing_is_left_and_of_all_else_everything() {
        let dir = tempfile::tempdir().unwrap();
        let channel = |digit: &str| digit.repeat(64).parse::<ChannelId>().unwrap();
        let (named, listed) = (channel("1"), channel("2"));
        let put = |folder: &str, name: &str| {
            let path = dir.path().join(folder).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            path
        };
        let gone = put(&listed.to_string(), "kept/1/piece");
        let nodes = put(&listed.to_string(), &format!("nodes-{listed}.json"));
        let stays = [
            put(&named.to_string(), "kept/1/piece"),
            put("photographs", "kept/1/piece"),
            put(&"3".repeat(64), "a film of mine.ts"),
        ];
        forget_listed(dir.path(), &[named]);
        assert!(!gone.exists() && !nodes.exists() && !dir.path().join(listed.to_string()).exists());
        assert!(stays.iter().all(|path| path.exists()));
    }
}
