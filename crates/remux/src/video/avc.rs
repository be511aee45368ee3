//! H.264 (ITU-T H.264; ISO/IEC 14496-15, 5).

use std::sync::Arc;

use minuet_media::{Bits, recovery_point};
use mp4_atom::{Avc1, Avcc, AvccExt, Visual};

use super::{Picture, Pictures, Prefix, Sets, TIMESCALE, append, nal_units, times};
use crate::{
    frame::{Config, Entry, Kind},
    pes::Pes,
};

const SLICE: u8 = 1;
const PARTITION_A: u8 = 2;
const IDR: u8 = 5;
const SEI: u8 = 6;
const SPS: u8 = 7;
const PPS: u8 = 8;
const SPS_EXTENSION: u8 = 13;
/// Bytes that surely hold the fields of a slice's header that are read here.
const SLICE_HEAD: usize = 32;
/// No picture is larger, in macroblocks along an edge (level 6.2 has fewer).
const MAX_EDGE: u32 = 1 << 11;

/// Takes H.264 apart.
#[derive(Debug, Default)]
pub struct Avc {
    sps: Sets,
    pps: Sets,
    /// Number of the SPS that a PPS names.
    config: Option<Arc<Config>>,
    /// The parameter sets that `config` was made of.
    made_of: (Vec<Vec<u8>>, Vec<Vec<u8>>),
    open: Option<Open>,
    prefix: Prefix,
    recovery: Option<u32>,
    /// SPS and PPS in front of the next picture.
    fresh: (Sets, Sets),
}

#[derive(Debug)]
struct Open {
    picture: Picture,
    slice: Slice,
    /// The other field of the frame may follow.
    first_field: bool,
}

/// What a slice's header says of its picture.
#[derive(Debug, Clone, Copy)]
struct Slice {
    first: bool,
    intra: bool,
    frame_num: u32,
    field: bool,
    bottom: bool,
}

impl Avc {
    /// Takes a PES packet.
    pub fn push(&mut self, pes: &Pes, out: &mut Pictures) {
        if pes.others_lost && !pes.damaged {
            self.finish(out);
            out.broken();
        }
        let mut stamp = Some(times(pes));
        for unit in nal_units(&pes.body) {
            self.unit(unit, pes, &mut stamp, out);
        }
        if let Some(open) = &mut self.open {
            open.picture.damaged |= pes.damaged;
            if !open.first_field {
                self.finish(out);
            }
        } else if pes.damaged {
            out.broken();
        }
        if pes.damaged && pes.others_lost {
            out.broken();
        }
    }

    /// The stream has ended, or breaks here.
    pub fn flush(&mut self, out: &mut Pictures) {
        self.finish(out);
        self.prefix = Prefix::default();
        self.fresh = (Sets::default(), Sets::default());
        self.recovery = None;
    }

    fn finish(&mut self, out: &mut Pictures) {
        if let Some(open) = self.open.take() {
            out.push(open.picture, self.config.as_ref());
        }
    }

    fn unit(
        &mut self,
        unit: &[u8],
        pes: &Pes,
        stamp: &mut Option<(Option<minuet_media::Timestamp>, Option<minuet_media::Timestamp>)>,
        out: &mut Pictures,
    ) {
        let kind = unit[0] & 0x1f;
        match kind {
            SPS => {
                if let Some(number) = sps_number(unit) {
                    self.fresh.0.keep(number, unit);
                }
                Prefix::add(&mut self.prefix.sets, unit);
            }
            PPS => {
                if let Some(number) = Bits::new(&unit[1..]).exp_golomb() {
                    self.fresh.1.keep(number, unit);
                }
                Prefix::add(&mut self.prefix.sets, unit);
            }
            SPS_EXTENSION => Prefix::add(&mut self.prefix.sets, unit),
            SEI => {
                self.recovery = self.recovery.or(recovery_point(&unit[1..]));
                Prefix::add(&mut self.prefix.messages, unit);
            }
            SLICE | PARTITION_A | IDR => {
                let Some(slice) = self.slice(unit) else { return };
                if slice.first || self.open.is_none() {
                    self.begin(kind, unit, slice, pes, stamp, out);
                }
                if let Some(open) = &mut self.open {
                    append(&mut open.picture.data, unit);
                }
            }
            // The other partitions of slices.
            3 | 4 => {
                if let Some(open) = &mut self.open {
                    append(&mut open.picture.data, unit);
                }
            }
            _ => {}
        }
    }

    /// A picture begins.
    fn begin(
        &mut self,
        kind: u8,
        unit: &[u8],
        slice: Slice,
        pes: &Pes,
        stamp: &mut Option<(Option<minuet_media::Timestamp>, Option<minuet_media::Timestamp>)>,
        out: &mut Pictures,
    ) {
        let prefix = std::mem::take(&mut self.prefix);
        if let Some(open) = &mut self.open
            && open.first_field
            && slice.field
            && slice.bottom != open.slice.bottom
            && slice.frame_num == open.slice.frame_num
        {
            open.first_field = false;
            open.picture.data.extend(prefix.sets);
            open.picture.data.extend(prefix.messages);
            // Its times are those of the frame.
            stamp.take();
            self.recovery = None;
            return;
        }
        self.finish(out);
        let entry = match (kind, self.recovery.take()) {
            (IDR, _) => Entry::Clean,
            (_, Some(0)) if slice.intra => Entry::Clean,
            (_, Some(_)) => Entry::Slow,
            _ => Entry::None,
        };
        let mut data = Vec::with_capacity(pes.body.len().saturating_add(64));
        let (sps, pps) = std::mem::take(&mut self.fresh);
        if kind == IDR && !sps.0.is_empty() && !pps.0.is_empty() {
            // All that the pictures from here on need, unless they bring it.
            (self.sps, self.pps) = (sps, pps);
        } else {
            self.sps.0.extend(sps.0);
            self.pps.0.extend(pps.0);
        }
        if entry == Entry::None || !self.configure() {
            data.extend(prefix.sets);
        }
        data.extend(prefix.messages);
        let picture = Picture {
            times: stamp.take().unwrap_or_default(),
            position: pes.position,
            data,
            entry,
            disposable: unit[0] & 0x60 == 0,
            damaged: false,
        };
        self.open = Some(Open { picture, slice, first_field: slice.field });
    }

    /// Makes a config of the parameter sets in force. False if there is none of them all.
    fn configure(&mut self) -> bool {
        let (sps, pps) = (self.sps.all(), self.pps.all());
        if self.config.is_some() && (&self.made_of.0, &self.made_of.1) == (&sps, &pps) {
            return true;
        }
        let Some(first) = sps.first().and_then(|sps| Sps::parse(sps)) else { return false };
        if pps.is_empty() {
            return false;
        }
        self.made_of = (sps.clone(), pps.clone());
        let ext = matches!(first.profile, 100 | 110 | 122 | 144 | 244).then_some(AvccExt {
            chroma_format: first.chroma_format,
            bit_depth_luma: first.depth_luma,
            bit_depth_chroma: first.depth_chroma,
            sequence_parameter_sets_ext: Vec::new(),
        });
        let avcc = Avcc {
            configuration_version: 1,
            avc_profile_indication: first.profile,
            profile_compatibility: first.compatibility,
            avc_level_indication: first.level,
            length_size: 4,
            sequence_parameter_sets: sps,
            picture_parameter_sets: pps,
            ext,
        };
        let visual =
            Visual { data_reference_index: 1, width: first.width, height: first.height, ..Visual::default() };
        let entry =
            Avc1 { visual, avcc, btrt: None, colr: None, pasp: None, taic: None, fiel: None, spatial: None };
        self.config = Some(Arc::new(Config {
            entry: entry.into(),
            codecs: format!("avc1.{:02X}{:02X}{:02X}", first.profile, first.compatibility, first.level),
            timescale: TIMESCALE,
            kind: Kind::Video { width: first.width, height: first.height },
        }));
        true
    }

    /// Reads the header of a slice (7.3.3), as far as the SPS is known.
    fn slice(&self, unit: &[u8]) -> Option<Slice> {
        let mut bits = Bits::new(unit.get(1..unit.len().min(SLICE_HEAD))?);
        let first = bits.exp_golomb()? == 0;
        let kind = bits.exp_golomb()?;
        let pps = bits.exp_golomb()?;
        let mut slice =
            Slice { first, intra: matches!(kind % 5, 2 | 4), frame_num: 0, field: false, bottom: false };
        let pps = self.fresh.1.0.get(&pps).or_else(|| self.pps.0.get(&pps));
        let number = pps.and_then(|pps| pps_sps(pps));
        let sps = number.and_then(|number| self.fresh.0.0.get(&number).or_else(|| self.sps.0.get(&number)));
        let Some(sps) = sps.and_then(|sps| Sps::parse(sps)) else { return Some(slice) };
        if sps.separate_planes {
            bits.bits(2)?;
        }
        slice.frame_num = bits.bits(sps.frame_num_bits)?;
        if !sps.frames_only {
            slice.field = bits.flag()?;
            slice.bottom = slice.field && bits.flag()?;
        }
        Some(slice)
    }
}

fn sps_number(sps: &[u8]) -> Option<u32> {
    Bits::new(sps.get(4..)?).exp_golomb()
}

/// Number of the SPS that a PPS names.
fn pps_sps(pps: &[u8]) -> Option<u32> {
    let mut bits = Bits::new(pps.get(1..)?);
    bits.exp_golomb()?;
    bits.exp_golomb()
}

/// What is read of an SPS (7.3.2.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sps {
    profile: u8,
    compatibility: u8,
    level: u8,
    chroma_format: u8,
    depth_luma: u8,
    depth_chroma: u8,
    separate_planes: bool,
    frame_num_bits: u32,
    frames_only: bool,
    width: u16,
    height: u16,
}

impl Sps {
    fn parse(sps: &[u8]) -> Option<Self> {
        let [_, profile, compatibility, level, rest @ ..] = sps else { return None };
        let mut bits = Bits::new(rest);
        bits.exp_golomb()?;
        let (mut chroma_format, mut depths, mut separate_planes) = (1, (8, 8), false);
        if matches!(profile, 44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 134 | 135 | 138 | 139 | 244) {
            chroma_format = bits.exp_golomb().filter(|format| *format <= 3)?;
            separate_planes = chroma_format == 3 && bits.flag()?;
            let mut depth =
                || bits.exp_golomb().filter(|more| *more <= 6).map(|more| (more as u8).saturating_add(8));
            depths = (depth()?, depth()?);
            bits.flag()?;
            if bits.flag()? {
                for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                    if bits.flag()? {
                        skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        let frame_num_bits = bits.exp_golomb().filter(|more| *more <= 12)?.saturating_add(4);
        match bits.exp_golomb()? {
            0 => {
                bits.exp_golomb()?;
            }
            1 => {
                bits.flag()?;
                bits.signed_exp_golomb()?;
                bits.signed_exp_golomb()?;
                for _ in 0..bits.exp_golomb().filter(|count| *count <= 255)? {
                    bits.signed_exp_golomb()?;
                }
            }
            _ => {}
        }
        bits.exp_golomb()?;
        bits.flag()?;
        let mut edge = || {
            bits.exp_golomb()
                .filter(|edge| *edge < MAX_EDGE)
                .map(|edge| edge.saturating_add(1).saturating_mul(16))
        };
        let (width, height) = (edge()?, edge()?);
        let frames_only = bits.flag()?;
        let height = if frames_only { height } else { height.saturating_mul(2) };
        if !frames_only {
            bits.flag()?;
        }
        bits.flag()?;
        let (mut across, mut down) = (0, 0);
        if bits.flag()? {
            let unit_x = if matches!(chroma_format, 1 | 2) && !separate_planes { 2 } else { 1 };
            let unit_y = match (chroma_format, frames_only) {
                (1, false) => 4,
                (1, true) | (_, false) => 2,
                (_, true) => 1,
            };
            let mut two = || bits.exp_golomb()?.checked_add(bits.exp_golomb()?);
            across = two()?.checked_mul(unit_x)?;
            down = two()?.checked_mul(unit_y)?;
        }
        Some(Self {
            profile: *profile,
            compatibility: *compatibility,
            level: *level,
            chroma_format: chroma_format as u8,
            depth_luma: depths.0,
            depth_chroma: depths.1,
            separate_planes,
            frame_num_bits,
            frames_only,
            width: u16::try_from(width.checked_sub(across)?).ok()?,
            height: u16::try_from(height.checked_sub(down)?).ok()?,
        })
    }
}

/// A scaling list (7.3.2.1.1.1).
fn skip_scaling_list(bits: &mut Bits<'_>, size: u32) -> Option<()> {
    let (mut last, mut next) = (8i32, 8i32);
    for _ in 0..size {
        if next != 0 {
            next = last.checked_add(bits.signed_exp_golomb()?)?.rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}
