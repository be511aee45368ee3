//! The live mesh's part of the channel API: nodes join, the source leaves its heads. Shapes and limits are those of
//! `minuet_proto::channel_api::mesh`.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use minuet_proto::ChannelId;
use minuet_proto::channel_api::mesh::{
    CheckedHead, JoinProof, JoinRequest, MAX_JOIN_REQUEST_LENGTH, MAX_POSTED_HEADS_LENGTH, MeshJoin,
    PROOF_HEADER, first_head_in,
};

use super::body::Body;
use super::channel::{json, refuse, unknown_channel};
use super::client_addr::client_ip;
use super::front::Front;
use super::own_url::{is_own, own_url};
use super::request_body::{self, Look};
use super::{is_secure, text};
use crate::channel::PublishError;
use crate::fleet::news::{Kind, News};
use crate::mesh::Visit;
use crate::mesh::nodes::Seen;
use crate::mesh::select::OWN_RELAY;
use crate::state::State;

/// Answers a node that joins the mesh, says that it is still there, or leaves.
pub(super) async fn join(
    front: Arc<Front>,
    id: ChannelId,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Body> {
    let ip = client_ip(peer.ip(), request.headers(), |ip| front.state.config.http.trusts(ip));
    let secure = is_secure(&front.state.config.http, peer, &request);
    let trusted = front.state.config.http.trusts(peer.ip().to_canonical());
    let own_relay =
        front.relay.as_ref().and_then(|_| own_url(&front.state.config, request.headers(), secure, trusted));
    let proof = request.headers().get(PROOF_HEADER).and_then(|proof| proof.to_str().ok()?.parse().ok());
    let body = match request_body::read(&front.bodies, ip, request.into_body(), MAX_JOIN_REQUEST_LENGTH).await
    {
        Ok(body) => body,
        Err(response) => return response,
    };
    let mut request = match JoinRequest::decode(&body) {
        Ok(request) => request,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let Some(channel) = front.state.channels.get(&id) else { return unknown_channel() };
    let now_ms = front.state.clock.unix_ms();
    let proved = proof.is_some_and(|proof: JoinProof| {
        front.state.nonces.check(proof.nonce, ip, now_ms) && proof.holds(&request.about.node, &id, &body)
    });
    request.about.is_source = proved && request.about.is_source_of(&id);
    let interval = interval(&front.state);
    let (mut nodes, mut heads) = (Vec::new(), Vec::new());
    {
        let named = request.about.relay.as_deref();
        let seen = Seen {
            ip,
            own_relay: named.is_some_and(|url| is_own(url, own_relay.as_deref())),
            foreign: false,
        };
        let room = proved && front.state.channels.room_for(&channel, &request.about.node, ip);
        let (now, random) = (front.state.clock.uptime(), rand::random());
        let visit = Visit { request: &request, seen: &seen, proved, room, interval, now, random };
        let mut mesh = channel.mesh();
        // It may have been forgotten since it was looked up; then nobody would give the place back.
        if channel.is_gone() {
            return unknown_channel();
        }
        mesh.join(&visit, &front.state.config.mesh, front.state.channels.nodes(), &mut nodes);
        heads.extend(mesh.heads.newest(request.heads).map(str::to_owned));
    }
    for node in nodes.iter_mut().filter(|node| node.relay.as_deref() == Some(OWN_RELAY)) {
        node.relay = own_relay.clone();
    }
    front.state.metrics.mesh_joins.increment();
    let discovery = own_relay.as_ref().and(front.discovery.as_ref());
    json(&MeshJoin {
        nodes,
        heads,
        relay: own_relay,
        relay_quic_port: discovery.map(|discovery| discovery.addr.port()),
        relay_quic_cert: discovery.map(|discovery| discovery.fingerprint.clone()),
        observed: ip,
        interval_s: interval,
        nonce: Some(front.state.nonces.issue(ip, front.state.clock.unix_ms())),
        proved,
    })
}

/// The mean interval under the present load, moved by chance by up to an eighth either way, so that nodes which came
/// together do not come back together.
fn interval(state: &State) -> u32 {
    let mean = state.swarms.calm().stretched_seconds(state.config.mesh.interval.as_secs());
    mean - mean / 8 + rand::random_range(0..=mean / 4)
}

/// Takes in heads.
pub(super) async fn heads(
    front: Arc<Front>,
    id: ChannelId,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Body> {
    let from = client_ip(peer.ip(), request.headers(), |ip| front.state.config.http.trusts(ip));
    let signed = |first: &[u8]| match first_head_in(first) {
        Ok(None) => Look::TooLittle,
        Ok(Some(head)) => match CheckedHead::check(head, &id) {
            Ok(_) => Look::GoOn(MAX_POSTED_HEADS_LENGTH),
            Err(error) => Look::Refuse(Box::new(refuse(&front.state.channels, &id, &error.into()))),
        },
        // None at all is an error that its reader puts into words.
        Err(_) => Look::GoOn(request_body::UNCHECKED),
    };
    let body = request.into_body();
    let body =
        match request_body::read_checked(&front.bodies, from, body, MAX_POSTED_HEADS_LENGTH, signed).await {
            Ok(body) => body,
            Err(response) => return response,
        };
    // In a task of its own, so that a publisher who hangs up cannot stop it between memory and disk.
    let (publisher, told) = (Arc::clone(&front.state), body.clone());
    let task = front.running.tasks.spawn(async move {
        let now_ms = publisher.clock.unix_ms();
        publisher.channels.publish_heads(id, &body, Some(from), now_ms).await
    });
    match task.await.unwrap_or(Err(PublishError::ShuttingDown)) {
        Ok(news) => {
            front.state.metrics.heads.add(news as u64);
            if let Some(fleet) = front.state.fleet.as_ref().filter(|_| news > 0) {
                fleet.tell(News { channel: id, kind: Kind::Heads, body: told });
            }
            text(StatusCode::OK, if news > 0 { "accepted\n" } else { "known already\n" })
        }
        Err(error) => {
            front.state.metrics.publications_refused.increment();
            tracing::debug!(channel = %id, %error, "refused heads");
            refuse(&front.state.channels, &id, &error)
        }
    }
}
