//! Pictures: from NAL units in byte stream format to samples with lengths (ISO/IEC 14496-15).
//!
//! Parameter sets stand in the init segment, those of the newest place where decoding can start; what changes between
//! two of these stays in the samples. Delimiters, filler and ends of sequences are left out.

mod avc;
mod hevc;

use std::{collections::BTreeMap, sync::Arc};

use minuet_media::START_CODE;
pub use {avc::Avc, hevc::Hevc};

use crate::{
    frame::{Config, Entry, Frame},
    pes::Pes,
};

/// Ticks a second of pictures: those of MPEG-TS, so that no time is rounded.
const TIMESCALE: u32 = 90_000;
/// A parameter set of more bytes is not kept: real ones have some dozens, and few hundreds with scaling lists.
const MAX_SET: usize = 4 << 10;
/// Parameter sets of one kind that are kept. Encoders use one or two.
const MAX_SETS: usize = 16;
/// NAL units before a picture, in bytes: messages and parameter sets.
const MAX_PREFIX: usize = 1 << 20;

/// The NAL units of a byte stream.
fn nal_units(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = START_CODE.find(bytes).map(|at| &bytes[at.saturating_add(3)..]);
    std::iter::from_fn(move || {
        let unit = rest?;
        let end = START_CODE.find(unit);
        rest = end.map(|at| &unit[at.saturating_add(3)..]);
        let unit = &unit[..end.unwrap_or(unit.len())];
        // Zeros before the next start code belong to that, and no NAL unit ends with one.
        let len = unit.iter().rposition(|&byte| byte != 0).map_or(0, |last| last.saturating_add(1));
        Some(&unit[..len])
    })
    .filter(|unit| !unit.is_empty())
}

fn append(data: &mut Vec<u8>, unit: &[u8]) {
    let length = u32::try_from(unit.len()).unwrap_or(u32::MAX);
    data.extend(length.to_be_bytes());
    data.extend_from_slice(unit);
}

/// Parameter sets of one kind, by their number.
#[derive(Debug, Default, Clone)]
struct Sets(BTreeMap<u32, Vec<u8>>);

impl Sets {
    fn keep(&mut self, number: u32, set: &[u8]) {
        if set.len() > MAX_SET {
            return;
        }
        if self.0.len() >= MAX_SETS && !self.0.contains_key(&number) {
            self.0.clear();
        }
        self.0.insert(number, set.to_vec());
    }

    fn all(&self) -> Vec<Vec<u8>> {
        self.0.values().cloned().collect()
    }
}

/// A picture that is being put together.
#[derive(Debug)]
struct Picture {
    times: (Option<minuet_media::Timestamp>, Option<minuet_media::Timestamp>),
    position: u64,
    data: Vec<u8>,
    entry: Entry,
    disposable: bool,
    damaged: bool,
}

/// What precedes the next picture.
#[derive(Debug, Default)]
struct Prefix {
    /// Messages, as they stand in the sample.
    messages: Vec<u8>,
    /// Parameter sets, the same.
    sets: Vec<u8>,
}

impl Prefix {
    fn add(part: &mut Vec<u8>, unit: &[u8]) {
        if part.len().saturating_add(unit.len()) <= MAX_PREFIX {
            append(part, unit);
        }
    }
}

/// What became of a PES packet's pictures, in order.
#[derive(Debug, Default)]
pub struct Pictures(pub Vec<Seen>);

/// One step of it.
#[derive(Debug)]
pub enum Seen {
    /// A whole picture.
    Frame(Frame),
    /// A picture is missing that others refer to: what follows cannot be decoded up to the next clean entry.
    Broken,
}

impl Pictures {
    fn push(&mut self, picture: Picture, config: Option<&Arc<Config>>) {
        if picture.damaged {
            if !picture.disposable {
                self.broken();
            }
            return;
        }
        let Some(config) = config else { return };
        let (pts, dts) = picture.times;
        self.0.push(Seen::Frame(Frame {
            pts,
            dts,
            data: picture.data,
            entry: picture.entry,
            disposable: picture.disposable,
            duration: None,
            config: Some(Arc::clone(config)),
            position: picture.position,
        }));
    }

    fn broken(&mut self) {
        self.0.push(Seen::Broken);
    }
}

/// The times of a PES packet, for the first picture that begins in it.
fn times(pes: &Pes) -> (Option<minuet_media::Timestamp>, Option<minuet_media::Timestamp>) {
    (pes.pts, pes.dts)
}
