//! A ring of bits over the piece window: one bit for each serial of the window, at the serial modulo its length.
//!
//! The window slides; whoever slides it clears the bits of the serials that leave ([`Bits::clear`]), so a bit
//! always speaks of the one serial in the window that maps to it.

/// See the module. The length is a power of two of at least 64.
#[derive(Debug, Clone)]
pub(crate) struct Bits {
    words: Box<[u64]>,
}

impl Bits {
    pub fn new(len: usize) -> Self {
        debug_assert!(len.is_power_of_two() && len >= 64);
        Self { words: vec![0; len / 64].into_boxed_slice() }
    }

    fn locate(&self, serial: u64) -> (usize, u64) {
        let index = serial as usize & mask(self.words.len());
        (index / 64, 1 << (index % 64))
    }

    pub fn get(&self, serial: u64) -> bool {
        let (word, bit) = self.locate(serial);
        self.words[word] & bit != 0
    }

    pub fn set(&mut self, serial: u64) {
        let (word, bit) = self.locate(serial);
        self.words[word] |= bit;
    }

    pub fn clear(&mut self, serial: u64) {
        let (word, bit) = self.locate(serial);
        self.words[word] &= !bit;
    }

    pub fn clear_all(&mut self) {
        self.words.fill(0);
    }

    /// The serials of `from..to`, at most one turn of the ring, that are set here.
    pub fn iter(&self, from: u64, to: u64) -> impl Iterator<Item = u64> + '_ {
        Runs::new(self.words.len(), from, to).flat_map(|run| run.ones(self.words[run.word]))
    }

    /// The serials of `from..to` that are set here but not in `other`, which has the same length.
    pub fn iter_without<'a>(&'a self, other: &'a Self, from: u64, to: u64) -> impl Iterator<Item = u64> + 'a {
        Runs::new(self.words.len(), from, to)
            .flat_map(|run| run.ones(self.words[run.word] & !other.words[run.word]))
    }

    /// The serials of `from..to` that are set here and in `other`, which has the same length.
    pub fn iter_both<'a>(&'a self, other: &'a Self, from: u64, to: u64) -> impl Iterator<Item = u64> + 'a {
        Runs::new(self.words.len(), from, to)
            .flat_map(|run| run.ones(self.words[run.word] & other.words[run.word]))
    }
}

/// What a serial has for an index in a ring of so many words: a power of two.
fn mask(words: usize) -> usize {
    words.saturating_mul(64).saturating_sub(1)
}

/// Part of a range of serials that lies in one word.
struct Run {
    word: usize,
    first: u64,
    shift: u32,
    mask: u64,
}

impl Run {
    fn ones(&self, word: u64) -> impl Iterator<Item = u64> + use<> {
        let (first, mut rest) = (self.first, (word >> self.shift) & self.mask);
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let bit = rest.trailing_zeros();
            rest &= rest.saturating_sub(1);
            Some(first.saturating_add(bit.into()))
        })
    }
}

/// Splits a range of serials at word boundaries.
struct Runs {
    words: usize,
    next: u64,
    end: u64,
}

impl Runs {
    fn new(words: usize, from: u64, to: u64) -> Self {
        debug_assert!(to.saturating_sub(from) <= mask(words).saturating_add(1) as u64);
        Self { words, next: from, end: to }
    }
}

impl Iterator for Runs {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.next >= self.end {
            return None;
        }
        let index = self.next as usize & mask(self.words);
        let shift = (index % 64) as u32;
        let count = u64::from(64u32.saturating_sub(shift)).min(self.end.saturating_sub(self.next));
        let run = Run {
            word: index / 64,
            first: self.next,
            shift,
            mask: if count == 64 { u64::MAX } else { (1u64 << count).saturating_sub(1) },
        };
        self.next = self.next.saturating_add(count);
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_wrap_around_the_ring() {
        let mut bits = Bits::new(128);
        let set = [100, 127, 128, 150, 199, 227];
        for serial in set {
            bits.set(serial);
        }
        assert_eq!(bits.iter(100, 228).collect::<Vec<_>>(), set);
        assert_eq!(bits.iter(101, 227).collect::<Vec<_>>(), &set[1..5]);
        let mut other = Bits::new(128);
        other.set(128);
        other.set(151);
        assert_eq!(bits.iter_both(&other, 100, 228).collect::<Vec<_>>(), [128]);
        bits.clear(128);
        assert_eq!(bits.iter_both(&other, 100, 228).count(), 0);
    }
}
