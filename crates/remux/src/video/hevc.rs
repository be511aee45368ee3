//! H.265 (ITU-T H.265; ISO/IEC 14496-15, 8).

use std::sync::Arc;

use minuet_media::{Bits, Timestamp, recovery_point};
use mp4_atom::{Hvc1, HvcCArray, Hvcc, Visual};

use super::{Picture, Pictures, Prefix, Sets, TIMESCALE, append, nal_units, times};
use crate::{
    frame::{Config, Entry, Kind},
    pes::Pes,
};

/// Types of slices come below this.
const VCL_END: u8 = 32;
const VPS: u8 = 32;
const SPS: u8 = 33;
const PPS: u8 = 34;
const PREFIX_SEI: u8 = 39;
const SUFFIX_SEI: u8 = 40;

/// Takes H.265 apart.
#[derive(Debug, Default)]
pub struct Hevc {
    sets: [Sets; 3],
    config: Option<Arc<Config>>,
    made_of: [Vec<Vec<u8>>; 3],
    open: Option<Picture>,
    prefix: Prefix,
    recovery: Option<u32>,
    /// VPS, SPS and PPS in front of the next picture.
    fresh: [Sets; 3],
}

impl Hevc {
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
        match &mut self.open {
            Some(open) => open.damaged |= pes.damaged,
            None if pes.damaged => out.broken(),
            None => {}
        }
        self.finish(out);
        if pes.damaged && pes.others_lost {
            out.broken();
        }
    }

    /// The stream has ended, or breaks here.
    pub fn flush(&mut self, out: &mut Pictures) {
        self.finish(out);
        self.prefix = Prefix::default();
        self.fresh = Default::default();
        self.recovery = None;
    }

    fn finish(&mut self, out: &mut Pictures) {
        if let Some(picture) = self.open.take() {
            out.push(picture, self.config.as_ref());
        }
    }

    fn unit(
        &mut self,
        unit: &[u8],
        pes: &Pes,
        stamp: &mut Option<(Option<Timestamp>, Option<Timestamp>)>,
        out: &mut Pictures,
    ) {
        let [first, second, body @ ..] = unit else { return };
        // Enhancement layers are not carried.
        if (first & 1) << 5 | second >> 3 != 0 {
            return;
        }
        let kind = first >> 1 & 0x3f;
        match kind {
            VPS | SPS | PPS => {
                let number = match kind {
                    VPS => body.first().map(|byte| u32::from(byte >> 4)),
                    SPS => Sps::parse(unit).map(|sps| sps.number),
                    _ => Bits::new(body).exp_golomb(),
                };
                if let Some(number) = number {
                    self.fresh[usize::from(kind.saturating_sub(VPS))].keep(number, unit);
                }
                Prefix::add(&mut self.prefix.sets, unit);
            }
            PREFIX_SEI => {
                self.recovery = self.recovery.or(recovery_point(body));
                Prefix::add(&mut self.prefix.messages, unit);
            }
            SUFFIX_SEI => {
                if let Some(open) = &mut self.open {
                    append(&mut open.data, unit);
                }
            }
            kind if kind < VCL_END => {
                let begins = body.first().is_some_and(|byte| byte & 0x80 != 0);
                if begins || self.open.is_none() {
                    self.begin(kind, pes, stamp, out);
                }
                if let Some(open) = &mut self.open {
                    append(&mut open.data, unit);
                }
            }
            _ => {}
        }
    }

    fn begin(
        &mut self,
        kind: u8,
        pes: &Pes,
        stamp: &mut Option<(Option<Timestamp>, Option<Timestamp>)>,
        out: &mut Pictures,
    ) {
        self.finish(out);
        let prefix = std::mem::take(&mut self.prefix);
        let entry = match (kind, self.recovery.take()) {
            (16..=23, _) => Entry::Clean,
            (_, Some(_)) => Entry::Slow,
            _ => Entry::None,
        };
        let fresh = std::mem::take(&mut self.fresh);
        if entry == Entry::Clean && fresh.iter().all(|sets| !sets.0.is_empty()) {
            self.sets = fresh;
        } else {
            for (sets, fresh) in self.sets.iter_mut().zip(fresh) {
                sets.0.extend(fresh.0);
            }
        }
        let mut data = Vec::with_capacity(pes.body.len().saturating_add(64));
        if entry == Entry::None || !self.configure() {
            data.extend(prefix.sets);
        }
        data.extend(prefix.messages);
        let times = stamp.take().unwrap_or_default();
        // With one temporal layer, what no other picture of the layer refers to is referred to by none.
        let one_layer = self.sets[1].0.values().next().and_then(|sps| Sps::parse(sps));
        let one_layer = one_layer.is_some_and(|sps| sps.layers == 1);
        let disposable = kind < 16 && kind.is_multiple_of(2) && one_layer;
        self.open = Some(Picture { times, position: pes.position, data, entry, disposable, damaged: false });
    }

    fn configure(&mut self) -> bool {
        let sets = [0, 1, 2].map(|kind| self.sets[kind].all());
        if self.config.is_some() && self.made_of == sets {
            return true;
        }
        let Some(sps) = sets[1].first().and_then(|sps| Sps::parse(sps)) else { return false };
        if sets.iter().any(Vec::is_empty) {
            return false;
        }
        self.made_of = sets.clone();
        let array = |(kind, nalus)| HvcCArray { completeness: true, nal_unit_type: kind, nalus };
        let hvcc = Hvcc {
            configuration_version: 1,
            general_profile_space: sps.space,
            general_tier_flag: sps.high_tier,
            general_profile_idc: sps.profile,
            general_profile_compatibility_flags: sps.compatibility.to_be_bytes(),
            general_constraint_indicator_flags: sps.constraints,
            general_level_idc: sps.level,
            min_spatial_segmentation_idc: 0,
            parallelism_type: 0,
            chroma_format_idc: sps.chroma_format,
            bit_depth_luma_minus8: sps.depths.0,
            bit_depth_chroma_minus8: sps.depths.1,
            avg_frame_rate: 0,
            constant_frame_rate: 0,
            num_temporal_layers: sps.layers,
            temporal_id_nested: sps.nested,
            length_size_minus_one: 3,
            arrays: [VPS, SPS, PPS].into_iter().zip(sets).map(array).collect(),
        };
        let visual =
            Visual { data_reference_index: 1, width: sps.width, height: sps.height, ..Visual::default() };
        let entry = Hvc1 {
            visual,
            hvcc,
            lhvc: None,
            btrt: None,
            colr: None,
            pasp: None,
            taic: None,
            fiel: None,
            ccst: None,
            spatial: None,
        };
        self.config = Some(Arc::new(Config {
            entry: entry.into(),
            codecs: sps.codecs(),
            timescale: TIMESCALE,
            kind: Kind::Video { width: sps.width, height: sps.height },
        }));
        true
    }
}

/// What is read of an SPS (7.3.2.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sps {
    number: u32,
    layers: u8,
    nested: bool,
    space: u8,
    high_tier: bool,
    profile: u8,
    compatibility: u32,
    constraints: [u8; 6],
    level: u8,
    chroma_format: u8,
    /// Above eight.
    depths: (u8, u8),
    width: u16,
    height: u16,
}

impl Sps {
    fn parse(unit: &[u8]) -> Option<Self> {
        let mut bits = Bits::new(unit.get(2..)?);
        bits.bits(4)?;
        let more_layers = bits.bits(3).filter(|more| *more <= 6)?;
        let nested = bits.flag()?;
        let (space, high_tier, profile) = (bits.bits(2)? as u8, bits.flag()?, bits.bits(5)? as u8);
        let compatibility = bits.bits(32)?;
        let mut constraints = [0; 6];
        for byte in &mut constraints {
            *byte = bits.byte()?;
        }
        let level = bits.byte()?;
        let mut present = [(false, false); 8];
        if more_layers > 0 {
            for (layer, present) in present.iter_mut().enumerate() {
                let flags = (bits.flag()?, bits.flag()?);
                // Those beyond are reserved.
                if layer < more_layers as usize {
                    *present = flags;
                }
            }
        }
        for (with_profile, with_level) in present {
            bits.bits(if with_profile { 32 } else { 0 })?;
            bits.bits(if with_profile { 32 } else { 0 })?;
            bits.bits(if with_profile { 24 } else { 0 })?;
            bits.bits(if with_level { 8 } else { 0 })?;
        }
        let number = bits.exp_golomb()?;
        let chroma_format = bits.exp_golomb().filter(|format| *format <= 3)?;
        if chroma_format == 3 {
            bits.flag()?;
        }
        let (width, height) = (bits.exp_golomb()?, bits.exp_golomb()?);
        let (mut across, mut down) = (0, 0);
        if bits.flag()? {
            let mut two = || bits.exp_golomb()?.checked_add(bits.exp_golomb()?);
            let (units, lines) = (two()?, two()?);
            across = units.checked_mul(if matches!(chroma_format, 1 | 2) { 2 } else { 1 })?;
            down = lines.checked_mul(if chroma_format == 1 { 2 } else { 1 })?;
        }
        let mut depth = || bits.exp_golomb().filter(|more| *more <= 7).map(|more| more as u8);
        let depths = (depth()?, depth()?);
        Some(Self {
            number,
            layers: (more_layers as u8).saturating_add(1),
            nested,
            space,
            high_tier,
            profile,
            compatibility,
            constraints,
            level,
            chroma_format: chroma_format as u8,
            depths,
            width: u16::try_from(width.checked_sub(across)?).ok()?,
            height: u16::try_from(height.checked_sub(down)?).ok()?,
        })
    }

    /// As ISO/IEC 14496-15, annex E.3, has it.
    fn codecs(&self) -> String {
        let space = ["", "A", "B", "C"][usize::from(self.space & 3)];
        let tier = if self.high_tier { "H" } else { "L" };
        let mut codecs = format!(
            "hvc1.{space}{}.{:X}.{tier}{}",
            self.profile,
            self.compatibility.reverse_bits(),
            self.level
        );
        let last =
            self.constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
        for byte in &self.constraints[..last] {
            codecs.push_str(&format!(".{byte:X}"));
        }
        codecs
    }
}
