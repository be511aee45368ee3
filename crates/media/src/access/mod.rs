//! Whether decoding can start at an access unit: by what its bytes are, not by what a flag says.
//!
//! A [`Scanner`] is fed the beginning of an access unit and answers as soon as the first coded slice
//! names the picture. It sees a few hundred bytes of most access units and never more than
//! [`SCAN_LIMIT`].

mod h264;
mod hevc;
mod mpeg2;
mod parameters;

use std::sync::LazyLock;

use memchr::memmem;

use crate::psi::Codec;

/// An access unit whose first slice does not come within this many bytes is not a place to start.
pub const SCAN_LIMIT: usize = 32 << 10;

/// What a decoder that starts here shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Pictures from the first on: all that is needed is in this access unit.
    Clean,
    /// Something, after a while or with parameter sets from elsewhere.
    Degraded,
    /// Nothing.
    None,
}

/// Judges access units one after the other.
#[derive(Debug)]
pub struct Scanner {
    codec: Codec,
    bytes: Vec<u8>,
    /// Where in `bytes` to look for the next start code.
    at: usize,
    seen: Seen,
    /// The parameter sets of the latest access unit that had all of its own, in byte stream format.
    parameters: Vec<u8>,
}

/// What has come before the first slice.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    /// VPS: HEVC only.
    video_parameters: bool,
    /// SPS, or the sequence header of MPEG-2.
    sequence: bool,
    /// PPS.
    picture: bool,
    /// `recovery_frame_cnt` of a recovery point SEI message.
    recovery: Option<u32>,
}

/// What one unit (a NAL unit, or an MPEG-2 start code's part) says.
enum Unit {
    /// Look at the next one.
    Next,
    /// More of this one is needed.
    Short,
    /// The access unit is judged.
    Judged(Access),
}

/// Finds start codes: 0, 0, 1.
pub static START_CODE: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(&[0, 0, 1]));

impl Scanner {
    /// A scanner for access units of `codec`.
    pub fn new(codec: Codec) -> Self {
        Self { codec, bytes: Vec::new(), at: 0, seen: Seen::default(), parameters: Vec::new() }
    }

    /// Forgets the access unit so far.
    pub fn restart(&mut self) {
        self.bytes.clear();
        self.at = 0;
        self.seen = Seen::default();
    }

    /// Whether parameter sets have come and no slice yet: what follows still belongs to the same place.
    pub fn parameters_only(&self) -> bool {
        self.seen.sequence || self.seen.picture || self.seen.video_parameters
    }

    /// The parameter sets that the access unit judged last needs and does not bring itself; empty when it brings
    /// them, or none are known.
    pub fn missing_parameters(&self) -> &[u8] {
        if self.has_parameters() { &[] } else { &self.parameters }
    }

    fn has_parameters(&self) -> bool {
        let Seen { video_parameters, sequence, picture, .. } = self.seen;
        sequence && picture && (video_parameters || self.codec != Codec::Hevc)
    }

    /// Takes the next bytes of the access unit; answers when they name its first picture.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Access> {
        let unit = match self.codec {
            Codec::H264 => h264::unit,
            Codec::Hevc => hevc::unit,
            Codec::Mpeg2 => mpeg2::unit,
            Codec::Audio => return Some(Access::Clean),
            Codec::OtherVideo | Codec::Private => return Some(Access::None),
        };
        self.bytes.extend_from_slice(bytes);
        while let Some(found) = START_CODE.find(&self.bytes[self.at..]) {
            let start = self.at + found + 3;
            let rest = &self.bytes[start..];
            let end = START_CODE.find(rest);
            match unit(&rest[..end.unwrap_or(rest.len())], end.is_some(), &mut self.seen) {
                Unit::Judged(access) => {
                    if self.has_parameters() {
                        parameters::collect(self.codec, &self.bytes[..start], &mut self.parameters);
                    }
                    return Some(access);
                }
                Unit::Next => self.at = start + end.unwrap_or(0),
                Unit::Short => {
                    self.at += found;
                    break;
                }
            }
        }
        (self.bytes.len() > SCAN_LIMIT).then_some(Access::None)
    }
}

/// Reads bits, the first in a byte first. Nothing once the bytes have ended.
#[derive(Debug, Clone)]
pub struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    bit: u8,
    zeros: u8,
    /// Whether emulation prevention bytes are passed over.
    escaped: bool,
}

impl<'a> Bits<'a> {
    /// Bits of a raw byte sequence payload: emulation prevention bytes are passed over (H.264, 7.4.1).
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, bit: 0, zeros: 0, escaped: true }
    }

    /// Bits of anything else.
    pub fn plain(bytes: &'a [u8]) -> Self {
        Self { escaped: false, ..Self::new(bytes) }
    }

    /// Where the next bit is: the byte, and the bit in it, 0 for the first.
    pub fn position(&self) -> (usize, u8) {
        (self.at, self.bit)
    }

    /// The next bit.
    pub fn bit(&mut self) -> Option<u32> {
        if self.escaped && self.bit == 0 && self.zeros >= 2 && self.bytes.get(self.at) == Some(&3) {
            self.at += 1;
            self.zeros = 0;
        }
        let byte = *self.bytes.get(self.at)?;
        let value = u32::from(byte >> (7 - self.bit) & 1);
        self.bit = (self.bit + 1) % 8;
        if self.bit == 0 {
            self.at += 1;
            self.zeros = if byte == 0 { self.zeros + 1 } else { 0 };
        }
        Some(value)
    }

    /// A flag.
    pub fn flag(&mut self) -> Option<bool> {
        self.bit().map(|bit| bit == 1)
    }

    /// The next `count` bits as a number; of more than 32 the last ones.
    pub fn bits(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value: u32, _| Some(value << 1 | self.bit()?))
    }

    /// The next eight bits.
    pub fn byte(&mut self) -> Option<u8> {
        (0..8).try_fold(0, |value, _| Some(value << 1 | self.bit()? as u8))
    }

    /// An unsigned Exp-Golomb code, ue(v): H.264 and H.265, 9.1. Codes beyond 32 bits are none.
    pub fn exp_golomb(&mut self) -> Option<u32> {
        let mut leading = 0;
        while self.bit()? == 0 {
            leading += 1;
            if leading > 31 {
                return None;
            }
        }
        let suffix = (0..leading).try_fold(0u32, |value, _| Some(value << 1 | self.bit()?))?;
        Some((1u32 << leading) - 1 + suffix)
    }

    /// A signed Exp-Golomb code, se(v).
    pub fn signed_exp_golomb(&mut self) -> Option<i32> {
        let code = i64::from(self.exp_golomb()?);
        i32::try_from(if code % 2 == 1 { (code + 1) / 2 } else { -(code / 2) }).ok()
    }
}

/// The `recovery_frame_cnt` (or `recovery_poc_cnt`, which is signed and only matters as zero or not) of
/// the recovery point message (payload type 6 in H.264 and H.265, annex D) in an SEI payload.
pub fn recovery_point(sei: &[u8]) -> Option<u32> {
    let mut bits = Bits::new(sei);
    loop {
        let kind = sei_number(&mut bits)?;
        let size = sei_number(&mut bits)?;
        if kind == 6 {
            return bits.exp_golomb();
        }
        for _ in 0..size {
            bits.byte()?;
        }
    }
}

/// A payload type or size: 255 for each full byte, then the rest.
fn sei_number(bits: &mut Bits<'_>) -> Option<u32> {
    let mut number = 0u32;
    loop {
        let byte = bits.byte()?;
        number = number.checked_add(u32::from(byte))?;
        if byte != 255 {
            return Some(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_codes() {
        // 1 | 010 | 011 | 00100 | 0001000 -> 0, 1, 2, 3, 7
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0001, 0b0000_0000]);
        let codes: Vec<_> = (0..5).map_while(|_| bits.exp_golomb()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 7]);
        assert_eq!(Bits::new(&[0; 9]).exp_golomb(), None);
    }

    #[test]
    fn emulation_prevention_bytes_are_passed_over() {
        let mut bits = Bits::new(&[0, 0, 3, 1, 0, 0, 3]);
        let bytes: Vec<_> = std::iter::from_fn(|| bits.byte()).collect();
        assert_eq!(bytes, [0, 0, 1, 0, 0]);
    }

    #[test]
    fn recovery_points_behind_other_messages() {
        // User data (type 5) of 258 bytes, then a recovery point with recovery_frame_cnt 2: 011.
        let mut sei = vec![5, 255, 3];
        sei.resize(3 + 258, 0xaa);
        sei.extend([6, 1, 0b0110_0000, 0x80]);
        assert_eq!(recovery_point(&sei), Some(2));
        assert_eq!(recovery_point(&sei[..200]), None);
    }

    /// Feeds `unit` byte by byte and at once; both must agree.
    fn judge(codec: Codec, unit: &[u8]) -> Option<Access> {
        let mut at_once = Scanner::new(codec);
        let expected = at_once.push(unit);
        let mut slowly = Scanner::new(codec);
        assert_eq!(unit.iter().find_map(|byte| slowly.push(&[*byte])), expected);
        expected
    }

    fn nals(nals: &[&[u8]]) -> Vec<u8> {
        nals.iter().flat_map(|nal| [&[0, 0, 0, 1], *nal].concat()).collect()
    }

    const AUD: &[u8] = &[9, 0xf0];
    const SPS: &[u8] = &[0x67, 0x64, 0, 0x1f];
    const PPS: &[u8] = &[0x68, 0xee];
    const IDR: &[u8] = &[0x65, 0x88, 0x84, 0];
    /// first_mb_in_slice 0, slice_type 7 (I): 1, 0001000.
    const I_SLICE: &[u8] = &[0x41, 0b1000_1000, 0, 0, 9];
    /// first_mb_in_slice 0, slice_type 5 (P): 1, 00110.
    const P_SLICE: &[u8] = &[0x41, 0b1001_1000, 0, 0, 9];
    /// Recovery point, recovery_frame_cnt 0.
    const RECOVERY: &[u8] = &[6, 6, 1, 0xc4, 0x80];
    /// Recovery point, recovery_frame_cnt 2: intra refresh.
    const REFRESH: &[u8] = &[6, 6, 1, 0b0110_0000, 0x80];

    #[test]
    fn h264() {
        use Access::*;
        for (unit, access) in [
            (&[AUD, SPS, PPS, IDR][..], Clean),
            (&[SPS, PPS, &[6, 5, 1, 0, 0x80], IDR], Clean),
            (&[AUD, IDR], Degraded),
            (&[AUD, SPS, IDR], Degraded),
            (&[AUD, SPS, PPS, RECOVERY, I_SLICE], Clean),
            (&[AUD, RECOVERY, I_SLICE], Degraded),
            (&[AUD, SPS, PPS, REFRESH, P_SLICE], Degraded),
            (&[AUD, SPS, PPS, I_SLICE], Degraded),
            (&[AUD, I_SLICE], Degraded),
            (&[AUD, P_SLICE], None),
            (&[AUD, SPS, PPS, P_SLICE], None),
        ] {
            assert_eq!(judge(Codec::H264, &nals(unit)), Some(access), "{unit:?}");
        }
        assert_eq!(judge(Codec::H264, &nals(&[AUD, SPS, PPS])), Option::None);
    }

    #[test]
    fn hevc() {
        use Access::*;
        let [vps, sps, pps, aud] = [32, 33, 34, 35].map(|kind: u8| [kind << 1, 1, 0xaa]);
        let slice = |kind: u8| [kind << 1, 1, 0x80];
        for kind in 16..=21 {
            assert_eq!(judge(Codec::Hevc, &nals(&[&aud, &vps, &sps, &pps, &slice(kind)])), Some(Clean));
            assert_eq!(judge(Codec::Hevc, &nals(&[&aud, &slice(kind)])), Some(Degraded));
            assert_eq!(judge(Codec::Hevc, &nals(&[&aud, &sps, &pps, &slice(kind)])), Some(Degraded));
        }
        assert_eq!(judge(Codec::Hevc, &nals(&[&aud, &vps, &sps, &pps, &slice(1)])), Some(None));
        // Gradual refresh: a recovery point before a slice that refers to others.
        let recovery = [39 << 1, 1, 6, 1, 0b0110_0000, 0x80];
        assert_eq!(judge(Codec::Hevc, &nals(&[&aud, &recovery, &slice(1)])), Some(Degraded));
        // A slice of an enhancement layer is not the picture.
        let layer = [21 << 1, 1 << 3 | 1, 0x80];
        assert_eq!(judge(Codec::Hevc, &nals(&[&aud, &layer])), Option::None);
    }

    #[test]
    fn mpeg2() {
        use Access::*;
        let sequence = [0, 0, 1, 0xb3, 0x2d, 0x02, 0x40, 0x33];
        let gop = [0, 0, 1, 0xb8, 0, 8, 0, 0x40];
        // temporal_reference 0, then the coding type.
        let picture = |kind: u8| [0, 0, 1, 0, 0, kind << 3, 0xff, 0xf8];
        assert_eq!(judge(Codec::Mpeg2, &[sequence, gop, picture(1)].concat()), Some(Clean));
        assert_eq!(judge(Codec::Mpeg2, &[sequence, picture(1)].concat()), Some(Clean));
        assert_eq!(judge(Codec::Mpeg2, &[gop, picture(1)].concat()), Some(Degraded));
        // Intra refresh: the header is repeated before a P picture.
        assert_eq!(judge(Codec::Mpeg2, &[sequence, picture(2)].concat()), Some(Degraded));
        assert_eq!(judge(Codec::Mpeg2, &[sequence, picture(3)].concat()), Some(None));
        assert_eq!(judge(Codec::Mpeg2, &picture(3)), Some(None));
    }

    #[test]
    fn a_unit_without_end_is_given_up() {
        let mut scanner = Scanner::new(Codec::H264);
        let mut pushed = 0;
        let answer = loop {
            pushed += 184;
            if let Some(answer) = scanner.push(&[6; 184]) {
                break answer;
            }
            assert!(pushed <= SCAN_LIMIT);
        };
        assert_eq!(answer, Access::None);
    }
}
