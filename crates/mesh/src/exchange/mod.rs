//! The exchange: which neighbour has which piece of the window, and what is coming in from whom.
//!
//! How many neighbours have a piece, and how many are asked for it, is looked up for every choice, so it is counted. A
//! neighbour's own part of this is its [`Side`]. Both change here alone, together, so the counts cannot part from what they
//! count. Invariants, which [`Exchange::check`] looks at after each step of the tests:
//! 1. The copies of a piece are the neighbours that have it.
//! 2. Its requests are the neighbours from which it is coming in, asked for or pushed, each once.
//! 3. A piece is wanted only if it is neither held, nor being hashed, nor coming in from anybody.
//! 4. What is held is not coming in from anybody.
//! 5. Each piece that is being hashed is so once, and its sender is known.
//! 6. All of this is within the window.

mod side;

use minuet_proto::mesh::NodeId;

use crate::Timestamp;
use crate::stream::bits::Bits;
use crate::stream::window::PieceWindow;

pub(crate) use self::side::{Incoming, Side};

/// What is counted of one piece.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    /// Neighbours that have it.
    copies: u16,
    /// Neighbours from which it is coming in.
    requests: u8,
    /// All bytes are in, the driver is hashing them.
    verifying: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// A ring like the window's: the caller asks only for what the window contains.
    counts: Box<[Count]>,
    /// Pieces to get that nobody is asked for right now.
    wanted: Bits,
    /// Pieces that the driver is hashing, and who sent them.
    verifying: Vec<(u64, NodeId)>,
}

impl Exchange {
    pub fn new(window: &PieceWindow) -> Self {
        // A window's length came from a `usize`.
        let len = window.len() as usize;
        Self {
            counts: vec![Count::default(); len].into_boxed_slice(),
            wanted: Bits::new(len),
            verifying: Vec::new(),
        }
    }

    /// The length is a power of two.
    fn index(&self, serial: u64) -> usize {
        serial as usize & self.counts.len().saturating_sub(1)
    }

    fn count(&self, serial: u64) -> &Count {
        &self.counts[self.index(serial)]
    }

    fn count_mut(&mut self, serial: u64) -> &mut Count {
        let index = self.index(serial);
        &mut self.counts[index]
    }

    /// Neighbours that hold or promise a piece.
    pub fn copies(&self, serial: u64) -> u16 {
        self.count(serial).copies
    }

    /// Neighbours that are asked for a piece or are sending it.
    pub fn requests(&self, serial: u64) -> u8 {
        self.count(serial).requests
    }

    /// Whether all bytes of a piece are in, and the driver is hashing them.
    pub fn is_verifying(&self, serial: u64) -> bool {
        self.count(serial).verifying
    }

    /// Number of pieces that the driver is hashing.
    pub fn verifying(&self) -> usize {
        self.verifying.len()
    }

    /// Pieces to get that nobody is asked for right now.
    pub fn wanted(&self) -> &Bits {
        &self.wanted
    }

    /// A piece is to be got: nobody is asked for it, and it is not here.
    pub fn want(&mut self, serial: u64) {
        self.wanted.set(serial);
    }

    /// A piece is not to be got any more.
    pub fn drop_wish(&mut self, serial: u64) {
        self.wanted.clear(serial);
    }

    /// Nothing is to be got any more.
    pub fn drop_wishes(&mut self) {
        self.wanted.clear_all();
    }

    /// A neighbour has a piece.
    pub fn add_copy(&mut self, side: &mut Side, serial: u64) {
        if !side.has.get(serial) {
            side.has.set(serial);
            let count = self.count_mut(serial);
            count.copies = count.copies.saturating_add(1);
        }
    }

    /// A neighbour does not have a piece, whatever it said.
    pub fn drop_copy(&mut self, side: &mut Side, serial: u64) {
        if side.has.get(serial) {
            side.has.clear(serial);
            let count = self.count_mut(serial);
            count.copies = count.copies.saturating_sub(1);
        }
    }

    /// A neighbour is asked for a piece, or pushes it unasked. It is not asked for it yet.
    pub fn open(&mut self, side: &mut Side, serial: u64, solicited: bool, now: Timestamp) {
        side.incoming.push(Incoming::new(serial, solicited, now));
        let count = self.count_mut(serial);
        count.requests = count.requests.saturating_add(1);
        self.wanted.clear(serial);
    }

    /// A request or a push has ended, well or not; `None` if there is none.
    pub fn close(&mut self, side: &mut Side, serial: u64) -> Option<Incoming> {
        let index = side.incoming.iter().position(|incoming| incoming.serial() == serial)?;
        let closed = side.incoming.swap_remove(index);
        let count = self.count_mut(serial);
        count.requests = count.requests.saturating_sub(1);
        Some(closed)
    }

    /// A piece is whole, and goes to the driver to be hashed.
    pub fn whole(&mut self, side: &mut Side, serial: u64, sender: NodeId) -> Option<Incoming> {
        let whole = self.close(side, serial)?;
        self.count_mut(serial).verifying = true;
        self.verifying.push((serial, sender));
        Some(whole)
    }

    /// The driver has hashed a piece: who sent it, if it was waited for.
    pub fn verified(&mut self, serial: u64) -> Option<NodeId> {
        let index = self.verifying.iter().position(|(verifying, _)| *verifying == serial)?;
        let (_, sender) = self.verifying.swap_remove(index);
        self.count_mut(serial).verifying = false;
        Some(sender)
    }

    /// A neighbour is gone: nothing is expected of it any more. Returns the pieces that were coming in from it.
    pub fn leave(&mut self, side: &mut Side, window: &PieceWindow) -> Vec<u64> {
        for serial in side.has.iter(window.base(), window.end()) {
            let count = self.count_mut(serial);
            count.copies = count.copies.saturating_sub(1);
        }
        side.has.clear_all();
        let serials: Vec<u64> = side.incoming.iter().map(Incoming::serial).collect();
        for serial in &serials {
            self.close(side, *serial);
        }
        serials
    }

    /// The window is about to slide to `base`: forgets what leaves it.
    pub fn slide<'a>(&mut self, sides: impl Iterator<Item = &'a mut Side>, window: &PieceWindow, base: u64) {
        let leaving = window.leaving(base);
        sides.for_each(|side| side.slide(leaving.clone()));
        for serial in leaving.clone() {
            *self.count_mut(serial) = Count::default();
            self.wanted.clear(serial);
        }
        // What the driver says of these makes no difference any more.
        self.verifying.retain(|(serial, _)| !leaving.contains(serial));
    }

    /// Looks at the invariants of the module, for all neighbours' sides: an error names the one that is broken. For tests.
    pub fn check(&self, sides: &[&Side], window: &PieceWindow) -> Result<(), String> {
        for serial in window.base()..window.end() {
            let copies = sides.iter().filter(|side| side.has(serial)).count();
            let requests: usize = sides.iter().map(|side| side.count(serial)).sum();
            let most = sides.iter().map(|side| side.count(serial)).max().unwrap_or(0);
            let hashed = self.verifying.iter().filter(|(verifying, _)| *verifying == serial).count();
            let count = *self.count(serial);
            let (held, wanted) = (window.held.get(serial), self.wanted.get(serial));
            let broken = if usize::from(count.copies) != copies {
                "the copies are the neighbours that have it"
            } else if usize::from(count.requests) != requests || most > 1 {
                "the requests are the neighbours it comes from, each once"
            } else if wanted && (held || count.verifying || requests > 0) {
                "what is wanted is neither here nor coming"
            } else if held && requests > 0 {
                "what is held is not coming in"
            } else if hashed != usize::from(count.verifying) {
                "what is being hashed is so once"
            } else {
                continue;
            };
            return Err(format!(
                "piece {serial}: {broken}: {count:?}, {copies} have it, {requests} send it, held {held}, wanted {wanted}, \
                 hashed {hashed}"
            ));
        }
        let coming = sides.iter().flat_map(|side| side.incoming()).map(Incoming::serial);
        let hashed = self.verifying.iter().map(|(serial, _)| *serial);
        match coming.chain(hashed).find(|serial| !window.contains(*serial)) {
            Some(serial) => Err(format!("piece {serial} is outside of the window")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);
    const SENDER: NodeId = NodeId([7; 32]);

    struct Fixture {
        window: PieceWindow,
        exchange: Exchange,
        sides: [Side; 2],
    }

    impl Fixture {
        /// Piece 1 is at both neighbours and comes from one; piece 2 is being hashed; piece 3 is wanted; piece 4 is held.
        fn new() -> Self {
            let mut window = PieceWindow::new(256);
            let mut exchange = Exchange::new(&window);
            let mut sides = [Side::new(256), Side::new(256)];
            exchange.want(1);
            sides.iter_mut().for_each(|side| exchange.add_copy(side, 1));
            exchange.open(&mut sides[0], 1, true, NOW);
            exchange.open(&mut sides[1], 2, false, NOW);
            exchange.whole(&mut sides[1], 2, SENDER).unwrap();
            exchange.want(3);
            window.held.set(4);
            Self { window, exchange, sides }
        }

        fn check(&self) -> Result<(), String> {
            self.exchange.check(&self.sides.iter().collect::<Vec<_>>(), &self.window)
        }
    }

    #[test]
    fn counts_are_what_neighbours_have_and_send() {
        let mut f = Fixture::new();
        assert_eq!(f.check(), Ok(()));
        let counted = |f: &Fixture, serial| (f.exchange.copies(serial), f.exchange.requests(serial));
        assert_eq!([counted(&f, 1), counted(&f, 2)], [(2, 1), (0, 0)]);
        assert!(!f.exchange.wanted().get(1) && f.exchange.is_verifying(2));
        // Twice the same word is one copy.
        f.exchange.add_copy(&mut f.sides[0], 1);
        f.exchange.drop_copy(&mut f.sides[1], 1);
        f.exchange.drop_copy(&mut f.sides[1], 1);
        assert_eq!(counted(&f, 1), (1, 1));
        assert!(f.exchange.close(&mut f.sides[1], 1).is_none(), "it was not asked");
        assert_eq!(f.exchange.leave(&mut f.sides[0], &f.window), [1]);
        assert_eq!(counted(&f, 1), (0, 0));
        assert_eq!((f.exchange.verified(2), f.exchange.verified(2)), (Some(SENDER), None));
        assert_eq!(f.check(), Ok(()));
    }

    #[test]
    fn what_leaves_the_window_is_forgotten() {
        for base in [2, 3, 255, 256, 1 << 40] {
            let mut f = Fixture::new();
            f.exchange.slide(f.sides.iter_mut(), &f.window, base);
            f.window.slide(base);
            assert_eq!(f.check(), Ok(()), "{base}");
            assert_eq!(f.exchange.verifying(), usize::from(base <= 2), "{base}");
            // The place of piece 1 is that of a newer one now, which nobody has.
            assert_eq!(f.exchange.copies(257), 0, "{base}");
        }
    }

    #[test]
    fn each_broken_invariant_is_found() {
        type Break = fn(&mut Fixture);
        let breaks: [(&str, Break); 7] = [
            ("copies", |f| f.exchange.count_mut(1).copies = 1),
            ("copies", |f| f.sides[0].has.set(9)),
            ("each once", |f| f.exchange.count_mut(1).requests = 2),
            ("each once", |f| f.exchange.open(&mut f.sides[0], 1, false, NOW)),
            ("wanted", |f| f.exchange.want(1)),
            ("held", |f| f.window.held.set(1)),
            ("hashed", |f| f.exchange.verifying.clear()),
        ];
        for (name, spoil) in breaks {
            let mut f = Fixture::new();
            spoil(&mut f);
            let broken = f.check().expect_err(name);
            assert!(broken.contains(name), "{name}: {broken}");
        }
        let mut f = Fixture::new();
        f.exchange.open(&mut f.sides[0], 5000, true, NOW);
        f.exchange.count_mut(5000).requests = 0;
        assert!(f.check().is_err_and(|broken| broken.contains("5000")), "outside of the window");
    }
}
