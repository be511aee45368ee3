//! What trackers said of the mesh's nodes, for whoever tells a user why there is no stream.

use std::{collections::BTreeMap, sync::Arc};

use crate::Error;

/// What one tracker answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named {
    nodes: usize,
    /// Of these, how many without an address that it may name.
    barred: usize,
}

/// What the trackers last answered to this node. One entry a tracker, of which there are few.
#[derive(Debug, Clone, Default)]
pub struct Met {
    /// By the tracker's base URL: how many other nodes it named last, or why it named none.
    answers: BTreeMap<String, Result<Named, Arc<Error>>>,
}

impl Met {
    pub(super) fn answered(&mut self, tracker: &str, nodes: usize, barred: usize) {
        self.answers.insert(tracker.to_owned(), Ok(Named { nodes, barred }));
    }

    pub(super) fn failed(&mut self, tracker: &str, why: Error) {
        self.answers.insert(tracker.to_owned(), Err(Arc::new(why)));
    }

    /// The most nodes that a tracker named; `None` where no tracker has answered.
    pub fn nodes(&self) -> Option<usize> {
        self.named().map(|named| named.nodes).max()
    }

    /// Whether trackers named nodes, and none of them with an address that they may name.
    pub fn all_barred(&self) -> bool {
        let with_nodes = || self.named().filter(|named| named.nodes > 0);
        with_nodes().next().is_some() && with_nodes().all(|named| named.barred == named.nodes)
    }

    fn named(&self) -> impl Iterator<Item = &Named> {
        self.answers.values().filter_map(|answer| answer.as_ref().ok())
    }

    /// A tracker that fails, and why, unless another one answers.
    pub fn failure(&self) -> Option<(&str, &Error)> {
        if self.nodes().is_some() {
            return None;
        }
        self.answers.iter().find_map(|(tracker, answer)| Some((&**tracker, &**answer.as_ref().err()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tracker_that_answers_is_enough() {
        let mut met = Met::default();
        assert!(met.nodes().is_none() && met.failure().is_none());
        met.failed("http://a/", Error::Refused { status: 405, said: String::new() });
        assert!(met.nodes().is_none());
        assert!(matches!(met.failure(), Some(("http://a/", Error::Refused { status: 405, .. }))));
        met.answered("http://b/", 0, 0);
        assert!(met.nodes() == Some(0) && met.failure().is_none());
        met.answered("http://a/", 3, 1);
        assert_eq!(met.nodes(), Some(3));
    }

    #[test]
    fn nodes_that_nobody_may_name_are_told_from_others() {
        let mut met = Met::default();
        assert!(!met.all_barred());
        met.answered("http://a/", 0, 0);
        assert!(!met.all_barred());
        met.answered("http://b/", 2, 2);
        assert!(met.all_barred());
        met.answered("http://a/", 2, 1);
        assert!(!met.all_barred());
    }
}
