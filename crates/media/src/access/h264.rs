//! H.264 (ITU-T H.264, 7.3.1 and 7.4.1.2.3): NAL units up to the first slice of the primary picture.
//!
//! An IDR picture with its parameter sets is a clean start, and so is an I picture at an exact recovery
//! point (open GOP). Without parameter sets in the access unit a decoder that starts here shows nothing
//! until the next ones come: flagged frames like this lost up to 75 frames of real files.

use super::{Access, Bits, Seen, Unit, recovery_point};

const SLICE: u8 = 1;
const PARTITION_A: u8 = 2;
const IDR: u8 = 5;
const SEI: u8 = 6;
const SPS: u8 = 7;
const PPS: u8 = 8;

/// Bytes of a slice that surely hold its first two Exp-Golomb codes.
const SLICE_HEAD: usize = 16;

pub(super) fn unit(nal: &[u8], whole: bool, seen: &mut Seen) -> Unit {
    let Some((&header, body)) = nal.split_first() else {
        return if whole { Unit::Next } else { Unit::Short };
    };
    let parameters = seen.sequence && seen.picture;
    match header & 0x1f {
        SPS => seen.sequence = true,
        PPS => seen.picture = true,
        SEI if !whole => return Unit::Short,
        SEI => seen.recovery = seen.recovery.or(recovery_point(body)),
        IDR if parameters => return Unit::Judged(Access::Clean),
        IDR => return Unit::Judged(Access::Degraded),
        SLICE | PARTITION_A => {
            let head = &body[..body.len().min(SLICE_HEAD)];
            let Some(kind) = slice_type(head) else {
                return if whole || body.len() >= SLICE_HEAD {
                    Unit::Judged(Access::None)
                } else {
                    Unit::Short
                };
            };
            // 2 and 7 are I, 4 and 9 are SI.
            let intra = matches!(kind % 5, 2 | 4);
            return Unit::Judged(match seen.recovery {
                Some(0) if intra && parameters => Access::Clean,
                Some(_) => Access::Degraded,
                None if intra => Access::Degraded,
                None => Access::None,
            });
        }
        _ => {}
    }
    Unit::Next
}

fn slice_type(head: &[u8]) -> Option<u32> {
    let mut bits = Bits::new(head);
    let _first_mb_in_slice = bits.exp_golomb()?;
    bits.exp_golomb()
}
