//! Meeting other nodes: tells one tracker where this node is, again and again, and is told of others.
//!
//! The mesh lives without it once it stands: a tracker that is away costs retries, and newcomers who know only it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use minuet_guard::net::household;
use minuet_mesh::Role;
use minuet_proto::{
    ChannelId, SegmentSeq,
    channel_api::mesh::{
        CheckedHead, JoinRequest, MAX_JOIN_HEAD_PIECES, MAX_NODE_ADDRS, MAX_POSTED_HEADS, MeshNode,
        SourceProof,
    },
    mask::mask,
    mesh::SignedHead,
};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use minuet_session::Reach;

use super::{
    MeshOptions,
    driver::Command,
    known::peer_info,
    met::Met,
    transport::{RelayServer, Transport},
};
use crate::{
    Backoff, TrackerClient,
    contact::{Teller, literal, nameable},
    tracker::{CONNECT_TIMEOUT, MeshSnapshot},
};

/// The first wait after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// When a node asks again that has found a tracker back: it knows nobody yet if it was started again.
const SOON: [Duration; 3] = [Duration::from_secs(4), Duration::from_secs(8), Duration::from_secs(16)];
/// Nodes asked for.
const WANT: u8 = 32;
/// The tracker is not asked more often than this, whatever it says and however addresses change.
const SHORTEST: Duration = Duration::from_secs(2);
/// The same for who seeks a finished segment, which it does once a segment at most.
const SOUGHT: Duration = Duration::from_millis(200);
/// How long taking leave may take.
const LEAVE: Duration = Duration::from_secs(1);
/// Heads are posted together that come within this time.
const GATHER: Duration = Duration::from_millis(300);
/// A tracker names another relay server than before at most this often: each is contacted again and again.
const RELAY_CHANGE: Duration = Duration::from_secs(600);
/// It may name another certificate or port on the same server more often: it was restarted.
const RELAY_RENEWAL: Duration = Duration::from_secs(30);
/// Heads that wait for a tracker that is away; older ones are of no use to a newcomer.
const MAX_WAITING: usize = 256;

/// One node's dealings with one tracker.
pub(super) struct Rendezvous {
    tracker: TrackerClient,
    channel: ChannelId,
    request: JoinRequest,
    transport: Arc<dyn Transport>,
    reach: watch::Receiver<Reach>,
    dialable: watch::Receiver<bool>,
    /// The oldest segment that this node keeps, and one that it seeks.
    kept: (watch::Receiver<Option<SegmentSeq>>, watch::Receiver<Option<SegmentSeq>>),
    commands: mpsc::Sender<Command>,
    met: watch::Sender<Met>,
    relay: Option<(RelayServer, Instant)>,
    /// It was said that no relay server is where the tracker says.
    told_of_relay: bool,
}

/// What a tracker is told of this node, as it changes.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub reach: watch::Receiver<Reach>,
    pub dialable: watch::Receiver<bool>,
    /// The oldest segment that it keeps.
    pub keeps_from: watch::Receiver<Option<SegmentSeq>>,
    /// One that it seeks.
    pub seeks: watch::Receiver<Option<SegmentSeq>>,
}

impl Rendezvous {
    pub fn new(
        tracker: TrackerClient,
        options: &MeshOptions,
        transport: Arc<dyn Transport>,
        own: Own,
        commands: mpsc::Sender<Command>,
        met: watch::Sender<Met>,
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
        Self {
            tracker,
            channel: options.channel,
            request,
            transport,
            reach: own.reach,
            dialable: own.dialable,
            kept: (own.keeps_from, own.seeks),
            commands,
            met,
            relay: None,
            told_of_relay: false,
        }
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
        let mut soon = SOON.len();
        loop {
            let reach = self.reach.borrow_and_update().clone();
            // What is nearer than the tracker is of no use to those whom it tells.
            self.request.about.addrs = nameable(&reach.addrs, self.tracker.find().await).collect();
            self.request.about.addrs.truncate(MAX_NODE_ADDRS);
            self.request.about.relay = reach.relay;
            self.request.about.dialable = *self.dialable.borrow_and_update();
            self.request.about.keeps_from = *self.kept.0.borrow_and_update();
            self.request.seeks = *self.kept.1.borrow_and_update();
            let asked = Instant::now();
            let sign = |bytes: &[u8]| self.transport.sign(bytes);
            let wait = match self.tracker.join_mesh(self.channel, &self.request, sign).await {
                Ok(answer) => {
                    if std::mem::take(&mut complained) {
                        tracing::debug!("tracker {} is back", self.tracker.name());
                        soon = 0;
                    }
                    backoff.succeeded();
                    let name = self.tracker.base().as_str();
                    self.met.send_modify(|met| met.answered(name, answer.nodes.len(), answer.barred));
                    let (interval, proved) = (answer.interval.max(SHORTEST), answer.proved);
                    self.take(answer).await;
                    repeated = !proved && !repeated;
                    if repeated {
                        continue;
                    }
                    // Whoever else comes back to it, the source above all, it may not know yet.
                    let again = SOON.get(soon).map(|wait| wait.mul_f64(rand::random_range(0.75..1.25)));
                    soon += usize::from(again.is_some());
                    again.unwrap_or(interval).min(interval)
                }
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::debug!("tracker {} {error}; the mesh goes on", self.tracker.base());
                    }
                    let name = self.tracker.base().as_str();
                    self.met.send_modify(|met| met.failed(name, error));
                    backoff.failed(rand::random())
                }
            };
            // A new address is worth telling at once, but not again and again.
            let news = async {
                let (changed, soonest) = tokio::select! {
                    changed = self.reach.changed() => (changed, SHORTEST),
                    changed = self.dialable.changed() => (changed, SHORTEST),
                    // A reader waits for it.
                    changed = self.kept.1.changed() => (changed, SOUGHT),
                };
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep_until(asked + soonest).await;
            };
            let _ = tokio::time::timeout(wait, news).await;
        }
    }

    async fn take(&mut self, answer: MeshSnapshot) {
        let heads = answer.heads.into_iter().map(CheckedHead::into_signed).collect();
        let _ = self.commands.send(Command::Heads(heads)).await;
        // Their addresses were judged when the answer came in.
        let peers = answer.nodes.into_iter().map(peer_info).collect();
        let _ = self.commands.send(Command::Peers(peers, minuet_mesh::Discovery::Tracker)).await;
        // A relay server takes nodes that have joined.
        let relay = answer.relay.filter(|_| answer.proved).map(|url| RelayServer {
            url,
            discovery_port: answer.relay_quic_port,
            discovery_cert: answer.relay_quic_cert,
        });
        if let Some(relay) = relay
            && self.may_use(&relay).await
        {
            match self.transport.use_relay(self.tracker.base().as_str(), &relay).await {
                Ok(()) => self.relay = Some((relay, Instant::now())),
                Err(error) => tracing::debug!("{error}"),
            }
        }
    }

    /// Whether a relay server is the tracker's own, and new, and not the next of too many.
    async fn may_use(&mut self, relay: &RelayServer) -> bool {
        let wait = match &self.relay {
            Some((before, _)) if before == relay => return false,
            Some((before, since)) if before.url == relay.url => since.elapsed() < RELAY_RENEWAL,
            Some((_, since)) => since.elapsed() < RELAY_CHANGE,
            None => false,
        };
        if wait {
            tracing::debug!("tracker {} names another relay server too soon", self.tracker.name());
            return false;
        }
        let own = is_own(&self.tracker, &relay.url).await;
        if !own {
            tracing::debug!(
                "the relay server {} is not used: it is not where tracker {} is",
                relay.url,
                self.tracker.name()
            );
            return false;
        }
        // Without an answer it may yet come; with another answer it is not there.
        let error = match self.tracker.find_relay(&relay.url).await {
            Err(error) if !error.is_passing() => error,
            _ => return true,
        };
        if !self.told_of_relay {
            self.told_of_relay = true;
            tracing::warn!(
                "there is no relay server at {}, where tracker {} says ({error}), so viewers whom nobody can dial get \
                 nothing live; if the tracker is below a path of a proxy, it needs --public-url, or --relay-url",
                mask(&relay.url),
                self.tracker.name()
            );
        }
        false
    }
}

/// Whether a relay server is where the tracker is: on its host, or under another name in its household. Anything else
/// could be a victim, to be contacted by all nodes of all channels for ever.
async fn is_own(tracker: &TrackerClient, relay: &str) -> bool {
    let Ok(url) = relay.parse::<reqwest::Url>() else { return false };
    if !matches!(url.scheme(), "http" | "https") {
        return false;
    }
    let Some(host) = url.host_str() else { return false };
    if Some(host) == tracker.base().host_str() {
        return true;
    }
    let Teller::At(home) = tracker.teller() else { return false };
    let found = match literal(&url) {
        Some(ip) => vec![ip],
        None => match tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((host, 0))).await {
            Ok(Ok(found)) => found.map(|addr| addr.ip()).collect(),
            _ => return false,
        },
    };
    !found.is_empty() && found.into_iter().any(|ip| household(ip) == household(home))
}

/// Leaves a source's newest heads at a tracker, for newcomers, as they come.
pub(super) async fn post_heads(
    tracker: TrackerClient,
    channel: ChannelId,
    mut heads: broadcast::Receiver<Arc<SignedHead>>,
) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut waiting: VecDeque<Arc<SignedHead>> = VecDeque::new();
    loop {
        match heads.recv().await {
            Ok(head) => waiting.push_back(head),
            Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return,
        }
        tokio::time::sleep(GATHER).await;
        while let Ok(head) = heads.try_recv() {
            waiting.push_back(head);
        }
        let surplus = waiting.len().saturating_sub(MAX_WAITING);
        waiting.drain(..surplus);
        while !waiting.is_empty() {
            let batch: Vec<_> =
                waiting.iter().take(MAX_POSTED_HEADS).map(|head| SignedHead::clone(head)).collect();
            match tracker.publish_heads(channel, &batch).await {
                Ok(()) => {
                    waiting.drain(..batch.len());
                    backoff.succeeded();
                }
                Err(error) => {
                    tracing::debug!("tracker {} takes no heads: {error}", tracker.name());
                    tokio::time::sleep(backoff.failed(rand::random())).await;
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_relay_server_is_where_its_tracker_is() {
        let tracker = TrackerClient::new("http://127.0.0.1:7070/".parse().unwrap()).unwrap();
        for own in ["http://127.0.0.1:7070/", "https://127.0.0.1/", "http://localhost:7070/"] {
            assert!(is_own(&tracker, own).await, "{own}");
        }
        for foreign in [
            "http://169.254.169.254/latest/",
            "http://192.168.1.1/",
            "http://203.0.113.9:443/",
            "http://127.0.0.2:7070/",
            "ftp://127.0.0.1/",
            "nonsense",
        ] {
            assert!(!is_own(&tracker, foreign).await, "{foreign}");
        }
    }
}
