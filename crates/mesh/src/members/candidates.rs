//! Nodes that may be dialled, and who told of them.
//!
//! Rules:
//! 1. What a node says of itself, on a link that proves its key, counts more than what a tracker says, and that more than what is
//!    known from before, found in public places, or said by a neighbour of others: a lesser word never overwrites a greater one
//!    ([`Word`]). Among neighbours the word of the first one stands until a dial has shown it to be wrong.
//! 2. Each kind of word has places of its own, so gossip cannot flush what trackers and the nodes themselves have said. Where the
//!    places for gossip are full, the neighbour that fills most gives way: made-up keys cost their teller its own words.
//! 3. Half of all dials follow gossip, and each neighbour that gossips has an equal say in these, however many nodes it names. The
//!    node no longer listens to a neighbour whose words fail again and again. The other dials go to each [`Discovery`] alike.
//! 4. Gossip is not passed on: a made-up key goes no further than one hop.

use std::time::Duration;

use minuet_proto::mesh::{NodeId, PeerInfo};
use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use smallvec::SmallVec;

use crate::{Discovery, Timestamp};

/// Most nodes known by each kind of word.
const MAX_BY_ITSELF: usize = 64;
const MAX_BY_TRACKER: usize = 128;
const MAX_BY_OTHERS: usize = 64;
const MAX_BY_GOSSIP: usize = 64;
/// A dial without an answer is forgotten after this time.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that could not be reached is not dialled again before this time, …
const DIAL_AGAIN: Duration = Duration::from_secs(20);
/// … and after so many dials in a row not at all, unless a greater word comes.
const MAX_FAILED: u8 = 3;
/// Neighbours whose words are judged; beyond it the one that is blamed least is forgotten.
const MAX_TELLERS: usize = 64;
/// A neighbour is not listened to while more of its words have failed than this, and so many times more than came true.
const FORGIVEN: u16 = 3;
/// A neighbour lies if so many of its words in a row have failed and none has come true.
const LIES: u16 = 12;

/// Who told of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// A neighbour, of others.
    Gossip(NodeId),
    /// A way other than the mesh.
    Found(Discovery),
    /// The node itself, on a link.
    Itself,
}

/// How much a word counts: the last of these most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Credit {
    /// A neighbour can make up any number of nodes.
    Gossip,
    /// Anybody can write in a public place, but each entry costs its writer some work.
    Public,
    /// This node has had a link to it, but some time ago.
    Remembered,
    /// The tracker has seen a proof of its key.
    Tracker,
    /// Its key is proved by the link, and it knows best where it is.
    Itself,
}

impl Word {
    fn credit(self) -> Credit {
        match self {
            Self::Gossip(_) => Credit::Gossip,
            Self::Found(Discovery::Public) => Credit::Public,
            Self::Found(Discovery::Remembered) => Credit::Remembered,
            Self::Found(Discovery::Tracker) => Credit::Tracker,
            Self::Itself => Credit::Itself,
        }
    }

    fn most(self) -> usize {
        match self {
            Self::Gossip(_) => MAX_BY_GOSSIP,
            Self::Found(Discovery::Public | Discovery::Remembered) => MAX_BY_OTHERS,
            Self::Found(Discovery::Tracker) => MAX_BY_TRACKER,
            Self::Itself => MAX_BY_ITSELF,
        }
    }
}

#[derive(Debug)]
struct Candidate {
    info: PeerInfo,
    word: Word,
    /// Not dialled before.
    after: Timestamp,
    /// Dials in a row that led nowhere.
    failed: u8,
}

#[derive(Debug)]
struct Dialling {
    node: NodeId,
    since: Timestamp,
    word: Word,
    /// A neighbour is to go once the link stands.
    replaces: bool,
}

/// How a neighbour's words about others have turned out.
#[derive(Debug)]
struct Teller {
    node: NodeId,
    failed: u16,
    came_true: u16,
}

impl Teller {
    fn is_heard(&self) -> bool {
        self.failed <= FORGIVEN.max(self.came_true.saturating_mul(FORGIVEN))
    }
}

/// What became of a dial that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blame {
    /// Who had told of the node.
    pub teller: NodeId,
    /// Nothing that it told has ever come true.
    pub lies: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    list: Vec<Candidate>,
    dialling: SmallVec<[Dialling; 8]>,
    tellers: Vec<Teller>,
    pub review_at: Timestamp,
    pub tell_at: Timestamp,
}

impl Candidates {
    /// Takes in what was told of a node.
    pub fn learn(&mut self, info: PeerInfo, word: Word, now: Timestamp, rng: &mut SmallRng) {
        let Some(known) = self.list.iter_mut().find(|c| c.info.node == info.node) else {
            // What a node says of itself it says on a link: it need not be dialled now.
            let after = if word == Word::Itself { now + DIAL_AGAIN } else { now };
            self.list.push(Candidate { info, word, after, failed: 0 });
            return self.make_room(word, rng);
        };
        let beats = match word.credit().cmp(&known.word.credit()) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => word == known.word || known.failed > 0,
        };
        if !beats {
            return;
        }
        if word.credit() > known.word.credit() {
            known.failed = 0;
        }
        (known.info, known.word) = (info, word);
        self.make_room(word, rng);
    }

    /// Forgets one node if too many are known by this kind of word: one that could not be reached, else one of the
    /// neighbour that told of most, else any.
    fn make_room(&mut self, word: Word, rng: &mut SmallRng) {
        let alike = |c: &Candidate| c.word.credit() == word.credit();
        if self.list.iter().filter(|c| alike(c)).count() <= word.most() {
            return;
        }
        let failed = self.list.iter().position(|c| alike(c) && c.failed > 0);
        let most =
            self.list.iter().filter(|c| alike(c)).map(|c| c.word).max_by_key(|word| self.told_by(*word));
        let any = |list: &[Candidate], rng: &mut SmallRng| {
            list.iter().enumerate().filter(|(_, c)| Some(c.word) == most).map(|(i, _)| i).choose(rng)
        };
        if let Some(index) = failed.or_else(|| any(&self.list, rng)) {
            self.list.swap_remove(index);
        }
    }

    fn told_by(&self, word: Word) -> usize {
        self.list.iter().filter(|c| c.word == word).count()
    }

    /// Chooses a node to dial of those that `fit`: one that can be dialled, or, if there is none, `hidden_too` one that
    /// says it cannot be. The dial `replaces` a neighbour.
    pub fn choose(
        &mut self,
        hidden_too: bool,
        replaces: bool,
        fit: impl Fn(&NodeId) -> bool,
        now: Timestamp,
        rng: &mut SmallRng,
    ) -> Option<PeerInfo> {
        let index = self.pick(true, &fit, now, rng);
        let index = index.or_else(|| if hidden_too { self.pick(false, &fit, now, rng) } else { None })?;
        let chosen = self.list.get_mut(index)?;
        chosen.after = now + DIAL_AGAIN;
        let (node, word) = (chosen.info.node, chosen.word);
        let info = chosen.info.clone();
        self.dialling.push(Dialling { node, since: now, word, replaces });
        Some(info)
    }

    fn pick(
        &self,
        dialable: bool,
        fit: &impl Fn(&NodeId) -> bool,
        now: Timestamp,
        rng: &mut SmallRng,
    ) -> Option<usize> {
        let heard =
            |node: &NodeId| self.tellers.iter().find(|t| t.node == *node).is_none_or(Teller::is_heard);
        // By trackers and the nodes themselves, from an earlier run, from where anybody may write.
        let mut told: [SmallVec<[usize; 64]>; 3] = Default::default();
        let mut gossip = SmallVec::<[(NodeId, usize); 64]>::new();
        for (index, candidate) in self.list.iter().enumerate() {
            let node = &candidate.info.node;
            if candidate.after > now
                || candidate.failed >= MAX_FAILED
                || candidate.info.flags.dialable != dialable
                || self.is_dialling(node)
                || !fit(node)
            {
                continue;
            }
            match candidate.word {
                Word::Gossip(teller) if heard(&teller) => gossip.push((teller, index)),
                Word::Gossip(_) => {}
                Word::Found(Discovery::Tracker) | Word::Itself => told[0].push(index),
                Word::Found(Discovery::Remembered) => told[1].push(index),
                Word::Found(Discovery::Public) => told[2].push(index),
            }
        }
        let mut ways: SmallVec<[SmallVec<[usize; 64]>; 3]> =
            told.into_iter().filter(|way| !way.is_empty()).collect();
        let way = if ways.len() > 1 { rng.random_range(0..ways.len()) } else { 0 };
        let told = if ways.is_empty() { SmallVec::new() } else { ways.swap_remove(way) };
        if !told.is_empty() && (gossip.is_empty() || rng.random()) {
            return told.choose(rng).copied();
        }
        let mut tellers: SmallVec<[NodeId; 32]> = gossip.iter().map(|(teller, _)| *teller).collect();
        tellers.sort_unstable();
        tellers.dedup();
        let teller = tellers.choose(rng)?;
        gossip.iter().filter(|(by, _)| by == teller).map(|(_, index)| *index).choose(rng)
    }

    /// A link to a node stands. Returns whether this node was dialling it, and whether a neighbour is to go for it.
    pub fn linked(&mut self, node: &NodeId, dialled: bool) -> (bool, bool) {
        let Some(index) = self.dialling.iter().position(|d| d.node == *node) else { return (false, false) };
        let Dialling { word, replaces, .. } = self.dialling.swap_remove(index);
        if let Some(candidate) = self.list.iter_mut().find(|c| c.info.node == *node) {
            candidate.failed = 0;
        }
        if let (Word::Gossip(teller), true) = (word, dialled) {
            let teller = self.teller(teller);
            teller.came_true = teller.came_true.saturating_add(1);
        }
        (true, replaces)
    }

    /// A dial has led nowhere. `blamed` is whether that can be held against who told: not if this node itself is cut off.
    pub fn failed(&mut self, node: &NodeId, blamed: bool, now: Timestamp) -> Option<Blame> {
        let index = self.dialling.iter().position(|d| d.node == *node)?;
        let Dialling { word, .. } = self.dialling.swap_remove(index);
        if !blamed {
            return None;
        }
        if let Some(candidate) = self.list.iter_mut().find(|c| c.info.node == *node) {
            candidate.failed = candidate.failed.saturating_add(1);
            candidate.after =
                now + DIAL_AGAIN.saturating_mul(1 << u32::from(candidate.failed.min(MAX_FAILED)));
        }
        // A tracker names nobody: the next answer has those who are there.
        self.list.retain(|c| c.failed < MAX_FAILED || matches!(c.word, Word::Gossip(_)));
        let Word::Gossip(teller) = word else { return None };
        let judged = self.teller(teller);
        judged.failed = judged.failed.saturating_add(1);
        Some(Blame { teller, lies: judged.came_true == 0 && judged.failed >= LIES })
    }

    fn teller(&mut self, node: NodeId) -> &mut Teller {
        let index = self.tellers.iter().position(|t| t.node == node).unwrap_or_else(|| {
            if self.tellers.len() >= MAX_TELLERS {
                let least = self.tellers.iter().enumerate().min_by_key(|(_, t)| t.failed).map(|(i, _)| i);
                self.tellers.swap_remove(least.unwrap_or(0));
            }
            self.tellers.push(Teller { node, failed: 0, came_true: 0 });
            self.tellers.len().saturating_sub(1)
        });
        &mut self.tellers[index]
    }

    /// Dials that never ended have failed.
    pub fn expire(&mut self, now: Timestamp) {
        self.dialling.retain(|d| d.since + DIAL_TIMEOUT > now);
    }

    /// Forgets a node, and what it told.
    pub fn forget(&mut self, node: &NodeId) {
        self.list.retain(|c| c.info.node != *node && c.word != Word::Gossip(*node));
    }

    /// Number of dials under way.
    pub fn dialling(&self) -> usize {
        self.dialling.len()
    }

    pub fn is_dialling(&self, node: &NodeId) -> bool {
        self.dialling.iter().any(|d| d.node == *node)
    }

    /// Number of nodes known.
    pub fn len(&self) -> usize {
        self.list.len()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use minuet_proto::mesh::HelloFlags;
    use rand::SeedableRng;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn node(number: u32) -> NodeId {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        NodeId(key)
    }

    fn info(number: u32, address: &'static str) -> PeerInfo {
        let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
        PeerInfo {
            node: node(number),
            flags,
            upload_kbps: 0,
            address: Bytes::from_static(address.as_bytes()),
        }
    }

    struct Fixture {
        candidates: Candidates,
        rng: SmallRng,
    }

    impl Fixture {
        fn new() -> Self {
            Self { candidates: Candidates::default(), rng: SmallRng::seed_from_u64(1) }
        }

        fn learn(&mut self, info: PeerInfo, word: Word) {
            self.candidates.learn(info, word, NOW, &mut self.rng);
        }

        fn address(&self, number: u32) -> Option<Bytes> {
            let known = self.candidates.list.iter().find(|c| c.info.node == node(number));
            known.map(|c| c.info.address.clone())
        }

        fn choose(&mut self, now: Timestamp) -> Option<PeerInfo> {
            self.candidates.choose(true, false, |_| true, now, &mut self.rng)
        }
    }

    #[test]
    fn a_lesser_word_never_overwrites_a_greater_one() {
        let (liar, other) = (Word::Gossip(node(100)), Word::Gossip(node(101)));
        let words = [liar, Word::Found(Discovery::Tracker), Word::Itself];
        for (index, first) in words.into_iter().enumerate() {
            for (later, second) in words.into_iter().enumerate() {
                let mut fixture = Fixture::new();
                fixture.learn(info(1, "first"), first);
                fixture.learn(info(1, "second"), second);
                let expected: &[u8] = if later >= index { b"second" } else { b"first" };
                assert_eq!(fixture.address(1).as_deref(), Some(expected), "{first:?} {second:?}");
            }
        }
        // Another neighbour's word counts once the first one's has failed.
        let mut fixture = Fixture::new();
        fixture.learn(info(1, "first"), liar);
        fixture.learn(info(1, "second"), other);
        assert_eq!(fixture.address(1).as_deref(), Some(&b"first"[..]));
        fixture.choose(NOW).unwrap();
        fixture.candidates.failed(&node(1), true, NOW);
        fixture.learn(info(1, "second"), other);
        assert_eq!(fixture.address(1).as_deref(), Some(&b"second"[..]));
    }

    #[test]
    fn made_up_keys_flush_nobody_elses_words() {
        let mut fixture = Fixture::new();
        for number in 0..MAX_BY_TRACKER as u32 {
            fixture.learn(info(number, "honest"), Word::Found(Discovery::Tracker));
        }
        for teller in 0..5 {
            for number in 0..12 {
                fixture.learn(info(1000 + 12 * teller + number, "honest"), Word::Gossip(node(900 + teller)));
            }
        }
        for number in 0..100_000 {
            fixture.learn(info(10_000 + number, "made up"), Word::Gossip(node(999)));
        }
        let list = &fixture.candidates.list;
        assert_eq!(list.len(), MAX_BY_TRACKER + MAX_BY_GOSSIP);
        let honest = list.iter().filter(|c| c.info.address == "honest").count();
        assert!(honest >= MAX_BY_TRACKER + 50, "{honest}");
    }

    #[test]
    fn each_way_to_know_of_a_node_has_places_of_its_own_and_no_more() {
        let mut fixture = Fixture::new();
        let words = [
            Word::Gossip(node(999)),
            Word::Found(Discovery::Public),
            Word::Found(Discovery::Remembered),
            Word::Found(Discovery::Tracker),
            Word::Itself,
        ];
        for (way, word) in (0..).zip(words) {
            (0..300).for_each(|number| fixture.learn(info(1000 * way + number, "there"), word));
        }
        // What `Load` says of it.
        assert_eq!(fixture.candidates.len(), 384);
        // A node that speaks for itself takes a place of those who do.
        (0..300).for_each(|number| fixture.learn(info(3000 + number, "there"), Word::Itself));
        assert!(fixture.candidates.len() <= 384);
    }

    #[test]
    fn who_tells_of_nobody_is_not_listened_to_and_found_out() {
        let mut fixture = Fixture::new();
        let (liar, honest) = (Word::Gossip(node(999)), Word::Gossip(node(998)));
        let mut wasted = 0;
        let mut lies = false;
        for round in 0..200u32 {
            fixture.learn(info(10_000 + round, "made up"), liar);
            fixture.learn(info(20_000 + round, "honest"), honest);
            let chosen = fixture.choose(NOW).unwrap();
            if chosen.address == "honest" {
                assert_eq!(fixture.candidates.linked(&chosen.node, true), (true, false));
                fixture.candidates.list.retain(|c| c.info.node != chosen.node);
            } else {
                wasted += 1;
                let blame = fixture.candidates.failed(&chosen.node, true, NOW).unwrap();
                assert_eq!(blame.teller, node(999));
                lies |= blame.lies;
            }
        }
        assert_eq!(wasted, usize::from(FORGIVEN) + 1);
        assert!(!lies, "it was not dialled for often enough to be called a liar");
        // A node that is cut off blames nobody.
        let mut fixture = Fixture::new();
        for number in 0..50 {
            fixture.learn(info(number, "far"), liar);
            let chosen = fixture.choose(NOW).unwrap();
            assert_eq!(fixture.candidates.failed(&chosen.node, false, NOW), None);
        }
    }

    #[test]
    fn no_way_to_become_known_crowds_out_another() {
        let mut fixture = Fixture::new();
        let ways = [Discovery::Public, Discovery::Remembered, Discovery::Tracker];
        for number in 0..300 {
            fixture.candidates.learn(
                info(number, "a"),
                Word::Found(Discovery::Public),
                NOW,
                &mut fixture.rng,
            );
        }
        for (way, first) in ways.into_iter().zip([0, 1000, 2000]).skip(1) {
            fixture.candidates.learn(info(first, "a"), Word::Found(way), NOW, &mut fixture.rng);
        }
        assert_eq!(fixture.candidates.len(), MAX_BY_OTHERS + 2);
        let dialled: Vec<NodeId> = (0..12)
            .filter_map(|_| fixture.candidates.choose(true, false, |_| true, NOW, &mut fixture.rng))
            .map(|info| info.node)
            .collect();
        assert!(dialled.contains(&node(1000)) && dialled.contains(&node(2000)), "{dialled:?}");

        // The word of a greater one stands.
        fixture.candidates.learn(info(2000, "b"), Word::Found(Discovery::Public), NOW, &mut fixture.rng);
        fixture.candidates.learn(info(1000, "b"), Word::Found(Discovery::Tracker), NOW, &mut fixture.rng);
        let address = |number| {
            let of = fixture.candidates.list.iter().find(|c| c.info.node == node(number));
            of.map(|c| c.info.address.clone())
        };
        assert_eq!([1000, 2000].map(address), [Some("b".into()), Some("a".into())]);
    }
}
