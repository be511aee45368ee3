//! What the mesh gives to the network: messages, and things to come back to.

use bytes::Bytes;
use minuet_mesh::LinkId as CoreLink;
use minuet_proto::mesh::{Frame, Message};
use minuet_session::Event;

/// A message on the wire.
pub(super) enum Packet {
    /// As the sender's core made it: in large runs nothing is encoded but its length is charged.
    Plain(Message, Bytes),
    /// Encoded, with a block's payload beside it.
    Encoded(Bytes, Bytes),
}

/// What was scheduled, packed into the network's token.
#[derive(Clone, Copy)]
pub(super) enum Token {
    Join(u32),
    Leave(u32),
    Close,
    Forget(u32),
    TrackerAnswer(u32),
}

impl Token {
    /// As a number.
    pub(super) fn pack(self) -> u64 {
        let (kind, number) = match self {
            Self::Join(life) => (0, life),
            Self::Leave(node) => (1, node),
            Self::Close => (2, 0),
            Self::Forget(node) => (3, node),
            Self::TrackerAnswer(node) => (4, node),
        };
        kind << 32 | u64::from(number)
    }

    /// What `pack` made the number of.
    pub(super) fn unpack(token: u64) -> Self {
        let number = token as u32;
        match token >> 32 {
            0 => Self::Join(number),
            1 => Self::Leave(number),
            2 => Self::Close,
            3 => Self::Forget(number),
            _ => Self::TrackerAnswer(number),
        }
    }
}

/// A message as the session gets it.
pub(super) fn received(link: CoreLink, packet: Packet) -> Event {
    match packet {
        Packet::Plain(message, payload) => Event::Frame { link, message, payload },
        Packet::Encoded(header, payload) => match Frame::decode_split(&header, payload) {
            Ok(Frame { message: Some(message), payload, .. }) => Event::Frame { link, message, payload },
            Ok(Frame { len, .. }) => Event::Unknown { link, bytes: len },
            Err(_) => Event::Malformed { link },
        },
    }
}
