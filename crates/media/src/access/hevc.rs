//! H.265 (ITU-T H.265, 7.3.1.2 and table 7-1): NAL units up to the first slice of the base layer.
//!
//! Any IRAP picture (BLA, IDR, CRA) with its parameter sets is a clean start: what leads a CRA in output
//! order is skipped by every decoder that starts there. x265 makes CRA pictures by default. Any other picture at a
//! recovery point (gradual refresh) is a place from which decoders recover late.

use super::{Access, Seen, Unit, recovery_point};

/// Types of slices come below this.
const VCL_END: u8 = 32;
const IRAP: std::ops::RangeInclusive<u8> = 16..=23;
const VPS: u8 = 32;
const SPS: u8 = 33;
const PPS: u8 = 34;
const PREFIX_SEI: u8 = 39;

pub(super) fn unit(nal: &[u8], whole: bool, seen: &mut Seen) -> Unit {
    let [first, second, ..] = *nal else {
        return if whole { Unit::Next } else { Unit::Short };
    };
    let layer = (first & 1) << 5 | second >> 3;
    if layer != 0 {
        return Unit::Next;
    }
    let parameters = seen.video_parameters && seen.sequence && seen.picture;
    match first >> 1 & 0x3f {
        VPS => seen.video_parameters = true,
        SPS => seen.sequence = true,
        PPS => seen.picture = true,
        kind if IRAP.contains(&kind) && parameters => return Unit::Judged(Access::Clean),
        kind if IRAP.contains(&kind) => return Unit::Judged(Access::Degraded),
        kind if kind < VCL_END => {
            let recovers = seen.recovery.is_some();
            return Unit::Judged(if recovers { Access::Degraded } else { Access::None });
        }
        PREFIX_SEI if !whole => return Unit::Short,
        PREFIX_SEI => seen.recovery = seen.recovery.or(recovery_point(&nal[2..])),
        _ => {}
    }
    Unit::Next
}
