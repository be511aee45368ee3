//! What one node was told and did, a line each on standard error, for replaying a run.

use std::io::Write;

use minuet_proto::mesh::{Head, Message};
use minuet_session::{Effect, Event};

use crate::engine::{Micros, NodeId};

/// Prints what a node is told.
pub fn event(node: NodeId, now: Micros, event: &Event) {
    match event {
        Event::Frame { link, message, .. } => {
            line(node, now, "<", &format_args!("{link:?} {}", short(message)));
        }
        Event::Head(head) => line(node, now, "<", &format_args!("{}", short(&Message::Head(head.clone())))),
        Event::Drained { .. } | Event::Timeout | Event::Line { .. } => {}
        other => line(node, now, "<", &format_args!("{other:?}")),
    }
}

/// Prints what a node does.
pub fn effect(node: NodeId, now: Micros, effect: &Effect) {
    match effect {
        Effect::Send { link, message, .. } => {
            line(node, now, ">", &format_args!("{link:?} {}", short(message)));
        }
        other => line(node, now, ">", &format_args!("{other:?}")),
    }
}

/// A message without its hashes, signatures and addresses.
fn short(message: &Message) -> String {
    match message {
        Message::Head(signed) => match Head::decode(&signed.body) {
            Ok(head) => format!("Head {:?} and {} more", head.first, head.pieces.len() - 1),
            Err(error) => format!("Head that does not decode: {error}"),
        },
        Message::Bitfield(window) => {
            format!("Bitfield of {} bytes from {:?}", window.bits.len(), window.first)
        }
        Message::Peers(peers) => format!("Peers, {}", peers.len()),
        Message::Record(record) => format!("Record, {} bytes", record.len()),
        Message::State(state) => format!("State, {} bytes", state.len()),
        other => format!("{other:?}"),
    }
}

fn line(node: NodeId, now: Micros, sign: &str, what: &std::fmt::Arguments<'_>) {
    // Whoever reads may have seen enough (`2>&1 | head`): the run's figures are wanted all the same.
    let _ = writeln!(std::io::stderr(), "{:>12.6} {} {sign} {what}", now as f64 / 1e6, node.0);
}
