//! Which pieces of a segment are there, as a bitmap: one bit each, most significant bit first, as on the wire.

/// See the module. Grows as bits are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PieceMap(Vec<u8>);

impl PieceMap {
    pub fn of(bits: Vec<u8>) -> Self {
        Self(bits)
    }

    pub fn get(&self, piece: u32) -> bool {
        self.0.get(piece as usize / 8).is_some_and(|byte| byte & bit(piece) != 0)
    }

    pub fn set(&mut self, piece: u32) {
        let byte = piece as usize / 8;
        if self.0.len() <= byte {
            self.0.resize(byte.saturating_add(1), 0);
        }
        self.0[byte] |= bit(piece);
    }

    pub fn clear(&mut self, piece: u32) {
        if let Some(byte) = self.0.get_mut(piece as usize / 8) {
            *byte &= !bit(piece);
        }
    }

    pub fn count(&self, pieces: u32) -> u32 {
        let count = (0..pieces).filter(|piece| self.get(*piece)).count();
        u32::try_from(count).unwrap_or(pieces)
    }

    pub fn bits(&self) -> &[u8] {
        &self.0
    }
}

fn bit(piece: u32) -> u8 {
    0x80 >> (piece % 8)
}
