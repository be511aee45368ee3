//! AAC in LATM, with the sync layer LOAS (ISO/IEC 14496-3, 1.7).
//!
//! Carried are streams of one program with one layer, as broadcasts have them.

use minuet_media::Bits;

use super::{Coding, Found, Sample, aac};

/// Subframes of one element; more than this is taken for damage.
const MAX_SUBFRAMES: u32 = 1;

/// What the stream last said of itself.
#[derive(Debug, Default)]
pub struct Latm {
    mux: Option<Mux>,
}

#[derive(Debug, Clone)]
struct Mux {
    coding: Coding,
    duration: u32,
    /// None: each payload says its own.
    frame_bytes: Option<u32>,
}

impl Latm {
    /// What stands at the beginning of `bytes`.
    pub fn find(&mut self, bytes: &[u8]) -> Found {
        let Some(head) = bytes.first_chunk::<3>() else {
            let may_be =
                bytes.first() == Some(&0x56) && bytes.get(1).is_none_or(|second| second & 0xe0 == 0xe0);
            return if may_be { Found::Short } else { Found::None };
        };
        if head[0] != 0x56 || head[1] & 0xe0 != 0xe0 {
            return Found::None;
        }
        let len = (usize::from(head[1] & 0x1f) << 8 | usize::from(head[2])).saturating_add(3);
        let Some(element) = bytes.get(3..len) else { return Found::Short };
        match self.element(element) {
            Some((sample, coding, duration)) => {
                Found::Frame { len, sample: Sample::Own(sample), duration, coding }
            }
            None => Found::Skip(len),
        }
    }

    /// `AudioMuxElement(1)`.
    fn element(&mut self, element: &[u8]) -> Option<(Vec<u8>, Coding, u32)> {
        let mut bits = Bits::plain(element);
        if !bits.flag()? {
            self.mux = mux(&mut bits, element);
        }
        let mux = self.mux.as_ref()?;
        let bytes = match mux.frame_bytes {
            Some(bytes) => bytes,
            None => {
                let mut bytes = 0u32;
                loop {
                    let byte = bits.byte()?;
                    bytes = bytes.saturating_add(byte.into());
                    if byte != 255 {
                        break bytes;
                    }
                }
            }
        };
        let sample: Option<Vec<u8>> = (0..bytes).map(|_| bits.byte()).collect();
        sample.filter(|sample| !sample.is_empty()).map(|sample| (sample, mux.coding.clone(), mux.duration))
    }
}

/// `StreamMuxConfig`.
fn mux(bits: &mut Bits<'_>, element: &[u8]) -> Option<Mux> {
    let version = bits.bit()?;
    if version == 1 {
        // audioMuxVersionA is reserved.
        if bits.flag()? {
            return None;
        }
        value(bits)?;
    }
    let _same_framing = bits.bit()?;
    let subframes = bits.bits(6)?.saturating_add(1);
    let (programs, layers) = (bits.bits(4)?, bits.bits(3)?);
    if subframes > MAX_SUBFRAMES || programs != 0 || layers != 0 {
        return None;
    }
    let (coding, duration) = if version == 0 {
        specific_config(bits, element)?
    } else {
        let length = value(bits)?;
        let mut inner = bits.clone();
        let (coding, duration) = specific_config(&mut inner, element)?;
        let coding = match coding {
            Coding::Aac { object_type, rate, channels, .. } => {
                let config = copy(&mut bits.clone(), length)?;
                Coding::Aac { config, object_type, rate, channels }
            }
            other => other,
        };
        for _ in 0..length {
            bits.bit()?;
        }
        (coding, duration)
    };
    let frame_bytes = match bits.bits(3)? {
        0 => {
            bits.bits(8)?;
            None
        }
        1 => Some(bits.bits(9)?.saturating_add(20) / 8),
        _ => return None,
    };
    if bits.flag()? {
        if version == 1 {
            value(bits)?;
        } else {
            while bits.flag()? {
                bits.bits(8)?;
            }
            bits.bits(8)?;
        }
    }
    if bits.flag()? {
        bits.bits(8)?;
    }
    Some(Mux { coding, duration, frame_bytes })
}

/// `LatmGetValue`.
fn value(bits: &mut Bits<'_>) -> Option<u32> {
    let bytes = bits.bits(2)?.saturating_add(1);
    bits.bits(bytes.saturating_mul(8))
}

/// `count` bits, as bytes.
fn copy(bits: &mut Bits<'_>, count: u32) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut left = count;
    while left > 0 {
        let now = left.min(8);
        out.push((bits.bits(now)? << (8u32.saturating_sub(now))) as u8);
        left = left.saturating_sub(now);
    }
    Some(out)
}

/// `AudioSpecificConfig` of the object types that have a `GASpecificConfig`.
fn specific_config(bits: &mut Bits<'_>, element: &[u8]) -> Option<(Coding, u32)> {
    let start = bits.position();
    let mut object_type = object(bits)?;
    let base_rate = rate(bits)?;
    let configuration = bits.bits(4)? as u8;
    if matches!(object_type, 5 | 29) {
        // SBR, or SBR and parametric stereo: the rate of the extension, then what is extended.
        rate(bits)?;
        object_type = object(bits)?;
    }
    if !matches!(object_type, 1..=4 | 6 | 7 | 17 | 19..=23) || configuration == 0 {
        return None;
    }
    let short = bits.flag()?;
    if bits.flag()? {
        bits.bits(14)?;
    }
    let extension = bits.flag()?;
    if matches!(object_type, 6 | 20) {
        bits.bits(3)?;
    }
    if extension {
        if object_type == 22 {
            bits.bits(16)?;
        }
        if matches!(object_type, 17 | 19 | 20 | 23) {
            bits.bits(3)?;
        }
        bits.bit()?;
    }
    let end = bits.position();
    let count = |(byte, bit): (usize, u8)| (byte as u32).saturating_mul(8).saturating_add(bit.into());
    let mut again = Bits::plain(element);
    for _ in 0..count(start) {
        again.bit()?;
    }
    let config = copy(&mut again, count(end).saturating_sub(count(start)))?;
    let said = config.first().map_or(2, |byte| byte >> 3);
    let coding =
        Coding::Aac { config, object_type: said, rate: base_rate, channels: aac::channels(configuration) };
    Some((coding, if short { 960 } else { 1024 }))
}

fn object(bits: &mut Bits<'_>) -> Option<u32> {
    Some(match bits.bits(5)? {
        31 => bits.bits(6)?.saturating_add(32),
        object => object,
    })
}

fn rate(bits: &mut Bits<'_>) -> Option<u32> {
    match bits.bits(4)? {
        15 => bits.bits(24).filter(|rate| *rate > 0),
        index => aac::RATES.get(index as usize).copied(),
    }
}
