//! One node: the session, and what its host must remember.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use minuet_mesh::{Config, PickOrder, Role, Start, Timestamp};
use minuet_proto::PieceId;
use minuet_proto::mesh::{self, HelloFlags, PeerInfo, Serial};
use minuet_session::{Dialability, Session, Settings, message_rate};

use super::{
    contacts::{Contacts, reach},
    hostile::{BOAST, Drip},
    media::ModelKey,
    past::PastReader,
};
use crate::{
    audience::target_delay,
    engine::{Micros, NodeId, SECOND, topology::Reach},
    plan::{Life, Part, Vice},
    scenario::Knows,
    stream::StreamSpec,
};

/// Neighbours that a node aims at which links with all.
const EVERYBODY: usize = 512;

/// What is tried in place of the core's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tuning {
    /// Neighbours aimed at.
    pub neighbours: Option<usize>,
    /// The source promises each piece and serves who asks.
    pub on_request: bool,
    /// Viewers that lack the stream stand back for others.
    pub stands_back: bool,
    /// Pieces are asked for in the order in which they are played.
    pub in_order: bool,
}

/// How often the player tells the core where it is.
pub const PLAYHEAD_EVERY: Micros = SECOND;
/// How often a hostile node does its worst.
pub const HARM_EVERY: Micros = SECOND / 5;
/// A node that lacks neighbours asks the tracker again after this long, then twice as long, …
pub const TRACKER_RETRY: Micros = SECOND;
/// … up to this, which is also how often a node announces itself.
pub const TRACKER_INTERVAL: Micros = 30 * SECOND;

/// A node and its driver's state.
pub struct Member {
    /// The real thing.
    pub session: Session,
    /// Its number.
    pub id: NodeId,
    /// Its life.
    pub life: Life,
    /// When the core next hears from the player.
    pub playhead_at: Option<Micros>,
    /// When it next does harm.
    pub harm_at: Option<Micros>,
    /// When it next asks the tracker, and how long it waits then.
    pub tracker_at: Micros,
    /// See `tracker_at`.
    pub tracker_wait: Micros,
    /// Whether its user was ever told that there is less than the stream.
    pub told: bool,
    /// When it next looks at what its links have sent, where nobody has said what its line can send.
    pub look_at: Option<Micros>,
    /// Links that are up, for those who use them without the core.
    pub links: Vec<crate::engine::network::LinkId>,
    /// Whom it may contact, and dials that lead nowhere.
    pub contacts: Contacts,
    /// Pieces that it drips.
    pub drips: Vec<Drip>,
    /// Its player, if that plays what was on air before, and when it next says where it is.
    pub past: Option<PastReader>,
    #[allow(missing_docs)]
    pub past_at: Option<Micros>,
    /// When its player pauses, or goes on.
    pub pause_at: Option<Micros>,
    /// Where it stood when it paused.
    pub paused: Option<Serial>,
    /// The live pieces that came, where its player pauses at all.
    pub has: BTreeMap<Serial, PieceId>,
}

impl Member {
    /// A node that begins its life now.
    pub fn new(id: NodeId, lives: &[Life], config: Config, at_once: bool, seed: u64, now: Micros) -> Self {
        let life = lives[id.index()];
        let role = match life.part {
            Part::Source => Role::Source,
            Part::Relay => Role::Relay,
            // A file that is there at once has no live edge to play at: everyone just fetches it.
            _ if at_once => Role::Relay,
            Part::Viewer | Part::LateViewer(_) | Part::Past(_) | Part::Hostile(_) => Role::Viewer,
        };
        let settings = Settings {
            core: config,
            role,
            reach: reach(id, lives),
            dialability: Dialability::Known(dialable(&life)),
            remembered: None,
            seed,
        };
        Self {
            session: Session::new(settings, Timestamp(now)),
            id,
            life,
            playhead_at: None,
            harm_at: matches!(life.part, Part::Hostile(_)).then_some(now + HARM_EVERY),
            tracker_at: now,
            tracker_wait: TRACKER_RETRY,
            told: false,
            look_at: (life.knows == Knows::Nothing && life.upload).then_some(now),
            links: Vec::new(),
            contacts: Contacts::default(),
            drips: Vec::new(),
            past: None,
            past_at: None,
            pause_at: life.pause.map(|(at, _)| at),
            paused: None,
            has: BTreeMap::new(),
        }
    }

    /// Whether it is to be served and measured as an honest viewer.
    pub fn is_audience(&self) -> bool {
        matches!(self.life.part, Part::Viewer | Part::LateViewer(_))
    }

    /// When the driver must look at this node again.
    pub fn wakes_at(&self) -> Option<Micros> {
        let session = self.session.poll_timeout().map(|at| at.0);
        let others = [
            self.playhead_at,
            self.past_at,
            self.pause_at,
            self.harm_at,
            self.look_at,
            Some(self.tracker_at),
            self.contacts.wakes_at(),
        ];
        session.into_iter().chain(others.into_iter().flatten()).min()
    }
}

/// What the tracker and peer exchange say of a node.
pub fn peer_info(id: NodeId, lives: &[Life]) -> PeerInfo {
    let life = &lives[id.index()];
    PeerInfo {
        node: core_id(id),
        flags: HelloFlags {
            dialable: dialable(life),
            no_upload: !life.upload,
            relay: life.part == Part::Relay,
            source: life.part == Part::Source,
            elsewhere: false,
        },
        upload_kbps: match life.knows {
            _ if matches!(life.part, Part::Hostile(_)) => BOAST,
            Knows::Nothing => 0,
            _ => (life.access.up.0 * 8 / 1_000) as u32,
        },
        address: reach(id, lives).encode(),
    }
}

/// Whether others may try to dial the node: directly, or with its help.
fn dialable(life: &Life) -> bool {
    life.access.reach != Reach::DialOnly
}

/// The channel's key, as its source and as others have it.
pub struct Keys {
    private: Arc<ModelKey>,
    public: Arc<ModelKey>,
}

impl Keys {
    /// Both halves of the key with this secret.
    pub fn new(secret: u64) -> Self {
        Self {
            private: Arc::new(ModelKey::new(secret, true)),
            public: Arc::new(ModelKey::new(secret, false)),
        }
    }

    /// What a node's core is told; `first_serial` is for a source.
    pub fn config(
        &self,
        id: NodeId,
        life: &Life,
        stream: &StreamSpec,
        tuning: Tuning,
        first_serial: Serial,
    ) -> Config {
        let key = if life.part == Part::Source { &self.private } else { &self.public };
        let mut config = Config::new(core_id(id), key.clone());
        config.upload = life.upload;
        config.target_delay = Duration::from_micros(target_delay(stream));
        config.first_serial = first_serial;
        config.source_pushes = !tuning.on_request;
        config.stands_back = tuning.stands_back;
        if tuning.in_order {
            config.pick_order = PickOrder::InOrder;
        }
        config.neighbours = tuning.neighbours.unwrap_or(config.neighbours);
        config.upload_limit = match life.knows {
            Knows::Exactly => Some(life.access.up.0),
            Knows::Limit(part) => Some(message_rate((life.access.up.0 as f64 * part) as u64)),
            Knows::Nothing => None,
        };
        if matches!(life.part, Part::Hostile(Vice::Idles | Vice::Crowds)) {
            config.neighbours = EVERYBODY;
        }
        if let Part::LateViewer(behind) = life.part {
            config.start = Start::Ago(Duration::from_micros(behind));
        }
        if let Part::Past(_) = life.part {
            config.start = Start::Told;
        }
        config
    }
}

/// A node's key: scattered, so that order of keys says nothing, with its number at the end.
pub fn core_id(id: NodeId) -> mesh::NodeId {
    let mut key = [0; 32];
    let scattered = u64::from(id.0 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key[..8].copy_from_slice(&scattered.to_le_bytes());
    key[28..].copy_from_slice(&id.0.to_be_bytes());
    mesh::NodeId(key)
}

/// The number in a node's key.
pub fn engine_id(id: mesh::NodeId) -> NodeId {
    let mut number = [0; 4];
    number.copy_from_slice(&id.0[28..]);
    NodeId(u32::from_be_bytes(number))
}
