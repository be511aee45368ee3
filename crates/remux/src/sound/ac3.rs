//! AC-3 and E-AC-3 (ETSI TS 102 366).

use minuet_media::Bits;
use mp4_atom::{Ac3, Ac3SpecificBox, Codec as SampleEntry, Eac3, Ec3IndependentSubstream, Ec3SpecificBox};

use super::{Coding, Found, Sample, audio};

const RATES: [u32; 3] = [48_000, 44_100, 32_000];
/// Kilobits a second by `frmsizecod` / 2 (table 4.13).
const KILOBITS: [u32; 19] =
    [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640];
/// Full channels by `acmod`.
const CHANNELS: [u16; 8] = [2, 1, 2, 3, 3, 4, 4, 5];
/// Bytes of a frame that hold all fields that are read here.
const HEAD: usize = 16;
/// Substreams that belong to one frame: eight independent ones with eight dependent ones each, of which broadcasts have one.
const MAX_SUBSTREAMS: usize = 16;

/// What a frame of AC-3 says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ac3Head {
    fscod: u8,
    bsid: u8,
    bsmod: u8,
    acmod: u8,
    lfe: bool,
    rate_code: u8,
}

/// What a frame of E-AC-3 says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eac3Head {
    fscod: u8,
    half_rate: bool,
    bsid: u8,
    acmod: u8,
    lfe: bool,
    dependents: u8,
    locations: u16,
}

impl Ac3Head {
    /// Sampling rate.
    pub fn rate(self) -> Option<u32> {
        RATES.get(usize::from(self.fscod)).copied()
    }

    /// Channels.
    pub fn channels(self) -> u16 {
        CHANNELS[usize::from(self.acmod & 7)].saturating_add(self.lfe.into())
    }

    /// The sample entry.
    pub fn entry(self) -> SampleEntry {
        let dac3 = Ac3SpecificBox {
            fscod: self.fscod,
            bsid: self.bsid,
            bsmod: self.bsmod,
            acmod: self.acmod,
            lfeon: self.lfe,
            bit_rate_code: self.rate_code,
        };
        Ac3 { audio: audio(self.rate().unwrap_or_default(), self.channels()), dac3 }.into()
    }
}

impl Eac3Head {
    /// Sampling rate.
    pub fn rate(self) -> Option<u32> {
        RATES.get(usize::from(self.fscod)).map(|rate| if self.half_rate { rate / 2 } else { *rate })
    }

    /// Channels of the independent substream.
    pub fn channels(self) -> u16 {
        CHANNELS[usize::from(self.acmod & 7)].saturating_add(self.lfe.into())
    }

    /// The sample entry.
    pub fn entry(self) -> SampleEntry {
        let substream = Ec3IndependentSubstream {
            fscod: self.fscod,
            bsid: self.bsid,
            asvc: false,
            bsmod: 0,
            acmod: self.acmod,
            lfeon: self.lfe,
            num_dep_sub: self.dependents,
            chan_loc: (self.dependents > 0).then_some(self.locations),
        };
        let dec3 = Ec3SpecificBox { data_rate: 0, substreams: vec![substream] };
        Eac3 { audio: audio(self.rate().unwrap_or_default(), self.channels()), dec3 }.into()
    }
}

/// What stands at the beginning of `bytes`.
pub fn find(bytes: &[u8]) -> Found {
    if bytes.len() < HEAD {
        let may_be =
            [0x0b, 0x77].starts_with(&bytes[..bytes.len().min(2)]) || bytes.starts_with(&[0x0b, 0x77]);
        return if may_be { Found::Short } else { Found::None };
    }
    if !bytes.starts_with(&[0x0b, 0x77]) {
        return Found::None;
    }
    let found = if bytes[5] >> 3 <= 10 { ac3(bytes) } else { eac3(bytes) };
    found.unwrap_or(Found::None)
}

fn ac3(bytes: &[u8]) -> Option<Found> {
    let mut bits = Bits::plain(bytes.get(4..)?);
    let (fscod, size) = (bits.bits(2)? as u8, bits.bits(6)?);
    let (bsid, bsmod, acmod) = (bits.bits(5)? as u8, bits.bits(3)? as u8, bits.bits(3)? as u8);
    // Mixing levels of the centre and the surround channels, or Dolby Surround in stereo.
    if acmod & 1 != 0 && acmod != 1 {
        bits.bits(2)?;
    }
    if acmod & 4 != 0 {
        bits.bits(2)?;
    }
    if acmod == 2 {
        bits.bits(2)?;
    }
    let lfe = bits.flag()?;
    let kilobits = *KILOBITS.get(size as usize / 2)?;
    let words = match fscod {
        0 => kilobits.saturating_mul(2),
        1 => (kilobits.saturating_mul(96_000) / 44_100).saturating_add(size & 1),
        2 => kilobits.saturating_mul(3),
        _ => return None,
    };
    let len = (words as usize).saturating_mul(2);
    if bytes.len() < len {
        return Some(Found::Short);
    }
    let head = Ac3Head { fscod, bsid, bsmod, acmod, lfe, rate_code: (size / 2) as u8 };
    Some(Found::Frame { len, sample: Sample::Part(0..len), duration: 1536, coding: Coding::Ac3(head) })
}

/// One frame of E-AC-3.
struct Syncframe {
    len: usize,
    kind: u32,
    substream: u32,
    fscod: u8,
    half_rate: bool,
    blocks: u32,
    bsid: u8,
    acmod: u8,
    lfe: bool,
    map: u16,
}

fn syncframe(bytes: &[u8]) -> Option<Syncframe> {
    if !bytes.starts_with(&[0x0b, 0x77]) {
        return None;
    }
    let mut bits = Bits::plain(bytes.get(2..)?);
    let (kind, substream, size) = (bits.bits(2)?, bits.bits(3)?, bits.bits(11)?);
    let mut fscod = bits.bits(2)? as u8;
    let half_rate = fscod == 3;
    let blocks = if half_rate {
        fscod = bits.bits(2).filter(|code| *code < 3)? as u8;
        6
    } else {
        [1, 2, 3, 6][bits.bits(2)? as usize]
    };
    let (acmod, lfe, bsid) = (bits.bits(3)? as u8, bits.flag()?, bits.bits(5)? as u8);
    let mut map = 0;
    if kind == 1 {
        for _ in 0..if acmod == 0 { 2 } else { 1 } {
            bits.bits(5)?;
            if bits.flag()? {
                bits.bits(8)?;
            }
        }
        if bits.flag()? {
            map = bits.bits(16)? as u16;
        }
    }
    let len = (size as usize).saturating_add(1).saturating_mul(2);
    (11..=16).contains(&bsid).then_some(Syncframe {
        len,
        kind,
        substream,
        fscod,
        half_rate,
        blocks,
        bsid,
        acmod,
        lfe,
        map,
    })
}

/// A frame with all the substreams that belong to it: they are one sample (annex F.3 of the standard).
fn eac3(bytes: &[u8]) -> Option<Found> {
    let first = syncframe(bytes)?;
    // What depends on a frame that is not here, and other programs' frames, come with the first substream.
    if first.kind == 1 || first.substream != 0 {
        return Some(if bytes.len() < first.len { Found::Short } else { Found::Skip(first.len) });
    }
    let mut len = first.len;
    let (mut dependents, mut locations) = (0u8, 0);
    for _ in 0..MAX_SUBSTREAMS {
        let Some(rest) = bytes.get(len..) else { return Some(Found::Short) };
        if rest.len() < HEAD {
            // A PES packet holds whole frames, so nothing depends on this one.
            break;
        }
        let Some(next) = syncframe(rest) else { break };
        if next.kind != 1 && next.substream == 0 {
            break;
        }
        if next.kind == 1 {
            dependents = dependents.saturating_add(1);
            // Bits 5 to 12 of the map, from the left, are locations 0 to 7; bit 15 is the second LFE channel.
            locations |= (0..8).filter(|bit| next.map << bit & 0x400 != 0).fold(0, |all, bit| all | 1 << bit);
            locations |= (next.map & 1) << 8;
        }
        len = len.saturating_add(next.len);
    }
    if bytes.len() < len {
        return Some(Found::Short);
    }
    let Syncframe { fscod, half_rate, bsid, acmod, lfe, .. } = first;
    let head = Eac3Head { fscod, half_rate, bsid, acmod, lfe, dependents: dependents.min(15), locations };
    let duration = first.blocks.saturating_mul(256);
    Some(Found::Frame { len, sample: Sample::Part(0..len), duration, coding: Coding::Eac3(head) })
}
