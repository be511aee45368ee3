//! What one node was told and did, a line each on standard error, for replaying a run.

use minuet_mesh::{Input, Output};

use crate::engine::{Micros, NodeId};

/// Prints what a node is told.
pub fn input(node: NodeId, now: Micros, input: &Input) {
    match input {
        Input::Message { link, message, .. } => line(node, now, "<", &format_args!("{link:?} {message:?}")),
        Input::Drained { .. } | Input::Timeout => {}
        other => line(node, now, "<", &format_args!("{other:?}")),
    }
}

/// Prints what a node does.
pub fn output(node: NodeId, now: Micros, output: &Output) {
    match output {
        Output::Verify { piece, .. } => line(node, now, ">", &format_args!("Verify {:?}", piece.serial)),
        Output::Send { link, message } => line(node, now, ">", &format_args!("{link:?} {message:?}")),
        other => line(node, now, ">", &format_args!("{other:?}")),
    }
}

fn line(node: NodeId, now: Micros, sign: &str, what: &std::fmt::Arguments<'_>) {
    eprintln!("{:>12.6} {} {sign} {what}", now as f64 / 1e6, node.0);
}
