//! `minuet relay`: the same node as a live viewer's, without a player.

use std::{sync::Arc, time::Instant};

use anyhow::Context as _;
use minuet_console::Screen;
use minuet_guard::tasks::Tasks;
use minuet_node::follow::{Followed, Start, follow};
use minuet_proto::Phase;

use super::{
    END_TIMEOUT, console, end_at_once_if_told_again, fatal,
    figures::Figures,
    folder::Folder,
    live_node::LiveNode,
    lookout::{LOOK, Lookout},
    now_ms, open_stats,
    reporter::Reporter,
    signals,
    trackers::trackers,
};
use crate::options::Relay;

/// Relays.
pub fn main(options: Relay, verbose: u8) -> anyhow::Result<()> {
    let screen = console::start(verbose);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(run(options, screen))
}

async fn run(options: Relay, screen: Screen) -> anyhow::Result<()> {
    let mut signals = signals()?;
    let trackers = trackers(&options.link, &options.common.tracker)?;
    let stats = open_stats(options.common.stats.as_deref())?;
    let folder = Folder::open(options.common.data.as_deref())?;
    let channel = options.link.link.channel;
    let node = LiveNode::start(channel, &options.common, None, true, &trackers, folder.path()).await?;
    tracing::info!("relaying; viewers connect to {:?} by UDP; Ctrl-C ends", node.mesh.listen_addrs());
    let figures = Arc::new(Figures::new(Instant::now()));
    let (tasks, reporting) = (Tasks::new(), Tasks::new());
    let reporter = Reporter { figures: Arc::clone(&figures), traffic: node.traffic(), screen, stats };
    reporter.start(&reporting);

    let heard = Some(node.mesh.heard());
    let mut followed = follow(channel, trackers.to_vec(), heard, Start::Live, now_ms, tasks.spawner());
    let following = async {
        let mut lookout = Lookout::new();
        let mut looks = tokio::time::interval(LOOK);
        let mut has_media = false;
        loop {
            let news = tokio::select! {
                news = followed.recv() => news,
                _ = looks.tick(), if !has_media => {
                    let phase = figures.lock().0.phase;
                    lookout.look(&node, phase, false);
                    lookout.say();
                    has_media = node.mesh.window().newest().is_some();
                    if has_media {
                        tracing::info!("the stream comes in, and is passed on to viewers");
                    }
                    continue;
                }
            };
            // Who brings the news has died: that is a fault, which is waited for below.
            let Some(news) = news else { return std::future::pending().await };
            lookout.hear(&news);
            match news {
                Followed::State(state, _) => {
                    figures.lock().0.hear(state.get());
                    node.mesh.state(&state).await;
                    if state.phase == Phase::Ended {
                        tracing::info!("the broadcast has ended");
                        // Viewers get its last pieces after this news.
                        node.mesh.linger().await;
                        return;
                    }
                }
                Followed::Record(record) => {
                    figures.lock().0.newest = Some(record.seq);
                    node.record(record).await;
                }
                Followed::Joined(..) | Followed::Failed(_) => {}
            }
        }
    };
    let done = tokio::select! {
        () = following => Ok(()),
        () = signals.next() => {
            tracing::info!("interrupted: leaving the mesh");
            end_at_once_if_told_again(signals);
            Ok(())
        }
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
