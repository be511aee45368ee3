//! Meeting other nodes: tells one tracker where this node is, again and again, and is told of others.
//!
//! The mesh lives without it once it stands: a tracker that is away costs retries, and newcomers who know only it.

use std::{collections::VecDeque, time::Duration};

use minuet_mesh::Role;
use minuet_proto::{
    ChannelId, ChannelKey,
    channel_api::mesh::{
        CheckedHead, JoinRequest, MAX_JOIN_HEAD_PIECES, MAX_NODE_ADDRS, MAX_POSTED_HEADS, MeshNode,
        SourceProof,
    },
    mesh::Head,
};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    MeshOptions,
    driver::Command,
    endpoint::{RelayServer, Transport},
    known::peer_info,
    reach::Reach,
};
use crate::{Backoff, TrackerClient, tracker::MeshSnapshot};

/// The first wait after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Nodes asked for.
const WANT: u8 = 32;
/// The tracker is not asked more often than this, whatever it says and however addresses change.
const SHORTEST: Duration = Duration::from_secs(2);
/// How long taking leave may take.
const LEAVE: Duration = Duration::from_secs(1);
/// Heads are posted together that come within this time.
const GATHER: Duration = Duration::from_millis(300);
/// Heads that wait for a tracker that is away; older ones are of no use to a newcomer.
const MAX_WAITING: usize = 256;

/// One node's dealings with one tracker.
pub(super) struct Rendezvous {
    tracker: TrackerClient,
    channel: ChannelId,
    request: JoinRequest,
    transport: Transport,
    reach: watch::Receiver<Reach>,
    dialable: watch::Receiver<bool>,
    commands: mpsc::Sender<Command>,
    relay: Option<RelayServer>,
}

impl Rendezvous {
    pub fn new(
        tracker: TrackerClient,
        options: &MeshOptions,
        transport: Transport,
        reach: watch::Receiver<Reach>,
        dialable: watch::Receiver<bool>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        let kbps = options.upload_limit.unwrap_or(0).saturating_mul(8) / 1000;
        let about = MeshNode {
            dialable: true,
            no_upload: !options.upload,
            is_relay: options.role == Role::Relay,
            is_source: options.role == Role::Source,
            source_proof: options.key.as_ref().map(|key| SourceProof::sign(key, &transport.id())),
            upload_kbps: u32::try_from(kbps).unwrap_or(u32::MAX),
            ..MeshNode::new(transport.id())
        };
        let heads = if options.role == Role::Source { 0 } else { MAX_JOIN_HEAD_PIECES };
        let request = JoinRequest { want: WANT, heads, ..JoinRequest::new(about) };
        Self { tracker, channel: options.channel, request, transport, reach, dialable, commands, relay: None }
    }

    /// Announces the node until cancelled, then takes leave.
    pub async fn run(mut self, cancel: CancellationToken) {
        tokio::select! {
            () = self.announce() => {}
            () = cancel.cancelled() => {}
        }
        let farewell = JoinRequest { leaving: true, want: 0, heads: 0, ..self.request.clone() };
        let sign = |bytes: &[u8]| self.transport.sign(bytes);
        let _ = tokio::time::timeout(LEAVE, self.tracker.join_mesh(self.channel, &farewell, sign)).await;
    }

    async fn announce(&mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut complained = false;
        // Whether the join before was repeated at once for want of a nonce, so that no tracker has it go on for ever.
        let mut repeated = false;
        loop {
            let reach = self.reach.borrow_and_update().clone();
            self.request.about.addrs = reach.addrs;
            self.request.about.addrs.truncate(MAX_NODE_ADDRS);
            self.request.about.relay = reach.relay;
            self.request.about.dialable = *self.dialable.borrow_and_update();
            let asked = Instant::now();
            let sign = |bytes: &[u8]| self.transport.sign(bytes);
            let wait = match self.tracker.join_mesh(self.channel, &self.request, sign).await {
                Ok(answer) => {
                    if std::mem::take(&mut complained) {
                        tracing::debug!("tracker {} is back", self.tracker.base());
                    }
                    backoff.succeeded();
                    let (interval, proved) = (answer.interval.max(SHORTEST), answer.proved);
                    self.take(answer).await;
                    repeated = !proved && !repeated;
                    if repeated {
                        continue;
                    }
                    interval
                }
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::debug!("tracker {} {error}; the mesh goes on", self.tracker.base());
                    }
                    backoff.failed(rand::random())
                }
            };
            // A new address is worth telling at once, but not again and again.
            let news = async {
                let changed = tokio::select! {
                    changed = self.reach.changed() => changed,
                    changed = self.dialable.changed() => changed,
                };
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep_until(asked + SHORTEST).await;
            };
            let _ = tokio::time::timeout(wait, news).await;
        }
    }

    async fn take(&mut self, answer: MeshSnapshot) {
        let heads = answer.heads.into_iter().map(CheckedHead::into_signed).collect();
        let _ = self.commands.send(Command::Heads(heads)).await;
        let peers = answer.nodes.into_iter().map(peer_info).collect();
        let _ = self.commands.send(Command::Peers(peers)).await;
        // A relay server takes nodes that have joined.
        let relay = answer.relay.filter(|_| answer.proved).map(|url| RelayServer {
            url,
            discovery_port: answer.relay_quic_port,
            discovery_cert: answer.relay_quic_cert,
        });
        if let Some(relay) = relay
            && self.relay.as_ref() != Some(&relay)
        {
            match self.transport.use_relay(&relay).await {
                Ok(()) => self.relay = Some(relay),
                Err(error) => tracing::debug!("{error}"),
            }
        }
    }
}

/// Leaves a source's newest heads at a tracker, for newcomers, as they come.
pub(super) async fn post_heads(
    tracker: TrackerClient,
    key: ChannelKey,
    mut heads: broadcast::Receiver<Head>,
    cancel: CancellationToken,
) {
    let channel = key.channel();
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut waiting: VecDeque<CheckedHead> = VecDeque::new();
    let posting = async {
        loop {
            match heads.recv().await {
                Ok(head) => waiting.push_back(CheckedHead::sign(&key, head)),
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            }
            tokio::time::sleep(GATHER).await;
            while let Ok(head) = heads.try_recv() {
                waiting.push_back(CheckedHead::sign(&key, head));
            }
            let surplus = waiting.len().saturating_sub(MAX_WAITING);
            waiting.drain(..surplus);
            while !waiting.is_empty() {
                let batch: Vec<_> =
                    waiting.iter().take(MAX_POSTED_HEADS).map(CheckedHead::signed).cloned().collect();
                match tracker.publish_heads(channel, &batch).await {
                    Ok(()) => {
                        waiting.drain(..batch.len());
                        backoff.succeeded();
                    }
                    Err(error) => {
                        tracing::debug!("tracker {} takes no heads: {error}", tracker.base());
                        tokio::time::sleep(backoff.failed(rand::random())).await;
                        break;
                    }
                }
            }
        }
    };
    let _ = cancel.run_until_cancelled(posting).await;
}
