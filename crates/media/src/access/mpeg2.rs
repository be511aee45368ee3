//! MPEG-1 and MPEG-2 video (ISO/IEC 13818-2, 6.2.2 and 6.3.9): start codes up to the first picture.
//!
//! A sequence header before an I picture is a clean start. B pictures that lead it in an open GOP are
//! skipped by every decoder that starts there.

use super::{Access, Seen, Unit};

const PICTURE: u8 = 0x00;
const SEQUENCE_HEADER: u8 = 0xb3;
const INTRA: u8 = 1;
const PREDICTED: u8 = 2;

pub(super) fn unit(part: &[u8], whole: bool, seen: &mut Seen) -> Unit {
    match *part {
        [SEQUENCE_HEADER, ..] => {
            // There are no separate picture parameters.
            (seen.sequence, seen.picture) = (true, true);
            Unit::Next
        }
        [PICTURE, _, second, ..] => Unit::Judged(match second >> 3 & 7 {
            INTRA if seen.sequence => Access::Clean,
            INTRA => Access::Degraded,
            // Intra refresh: encoders without I pictures repeat the header where decoders may begin.
            PREDICTED if seen.sequence => Access::Degraded,
            _ => Access::None,
        }),
        [] | [PICTURE, ..] if !whole => Unit::Short,
        _ => Unit::Next,
    }
}
