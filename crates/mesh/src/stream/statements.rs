//! Signed statements of the source that pass from node to node: records of sealed segments, and what the source says of the
//! channel. The core does not read them. The host verifies each, and judges whether it is news.
//!
//! Rules:
//! 1. A node passes a statement on once, to all neighbours, after the host has given it.
//! 2. A node tells a new neighbour the statement of each kind that the host gave last, so the neighbour hears of the channel
//!    from whomever it meets.
//! 3. A node recognises the last [`REMEMBERED`] statements of each kind. One that it has forgotten may come to the host again.

use std::collections::VecDeque;

use minuet_proto::mesh::Message;

use crate::members::greeting::KNOWS_STATES;
use crate::members::neighbour::Slab;
use crate::node::Node;
use crate::{Output, Statement, Timestamp};

/// Statements of a kind that are remembered.
const REMEMBERED: usize = 8;

/// Statements that were passed on, the last given last.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    records: VecDeque<Statement>,
    states: VecDeque<Statement>,
}

impl Statements {
    fn of_kind(&mut self, statement: &Statement) -> &mut VecDeque<Statement> {
        match statement {
            Statement::Record(_) => &mut self.records,
            Statement::State(_) => &mut self.states,
        }
    }

    /// False if it is known.
    fn note(&mut self, statement: &Statement) -> bool {
        let kind = self.of_kind(statement);
        if kind.contains(statement) {
            return false;
        }
        if kind.len() == REMEMBERED {
            kind.pop_front();
        }
        kind.push_back(statement.clone());
        true
    }
}

impl Node {
    /// One that a neighbour sent.
    pub(crate) fn hear_statement(&mut self, statement: Statement) {
        if !self.statements.of_kind(&statement).contains(&statement) {
            self.out.push_back(Output::Statement(statement));
        }
    }

    /// One that the host has given.
    pub(crate) fn pass_on(&mut self, statement: Statement, now: Timestamp) {
        if self.statements.note(&statement) {
            for slab in self.neighbours.slabs() {
                self.tell_statement(slab, statement.clone(), now);
            }
        }
    }

    /// What a new neighbour is told.
    pub(crate) fn tell_statements(&mut self, to: Slab, now: Timestamp) {
        let newest = [self.statements.states.back(), self.statements.records.back()];
        let newest: Vec<Statement> = newest.into_iter().flatten().cloned().collect();
        for statement in newest {
            self.tell_statement(to, statement, now);
        }
    }

    /// A neighbour that has not greeted yet is told when it has.
    fn tell_statement(&mut self, to: Slab, statement: Statement, now: Timestamp) {
        let version = self.neighbours.get(to).map_or(0, |neighbour| neighbour.version);
        match statement {
            Statement::Record(record) if version > 0 => self.send(to, Message::Record(record), now),
            Statement::State(state) if version >= KNOWS_STATES => self.send(to, Message::State(state), now),
            Statement::Record(_) | Statement::State(_) => {}
        }
    }
}
