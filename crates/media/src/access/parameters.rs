//! The parameter sets of an access unit, kept to be repeated before one that comes without.

use super::START_CODE;
use crate::psi::Codec;

/// Parameter sets of more bytes than this are not kept: real ones have some dozens.
pub const PARAMETERS_LIMIT: usize = 4 << 10;

/// Replaces `out` by the parameter sets in `bytes`, the beginning of an access unit up to its first slice's start
/// code; empty when they are too long.
pub fn collect(codec: Codec, bytes: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut rest = bytes;
    while let Some(found) = START_CODE.find(rest) {
        rest = &rest[found + 3..];
        let unit = &rest[..START_CODE.find(rest).unwrap_or(rest.len())];
        if is_parameters(codec, unit) {
            // Zeros before the next start code belong to that, and no parameter set ends with one.
            let len = unit.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            out.extend([0, 0, 0, 1]);
            out.extend_from_slice(&unit[..len]);
        }
    }
    if out.len() > PARAMETERS_LIMIT {
        out.clear();
    }
}

fn is_parameters(codec: Codec, unit: &[u8]) -> bool {
    match (codec, unit) {
        // SPS, PPS, and the SPS's extension.
        (Codec::H264, [first, ..]) => matches!(first & 0x1f, 7 | 8 | 13),
        // VPS, SPS, PPS of the base layer.
        (Codec::Hevc, [first, second, ..]) => {
            matches!(first >> 1 & 0x3f, 32..=34) && first & 1 == 0 && second >> 3 == 0
        }
        // The sequence header and its extensions.
        (Codec::Mpeg2, [0xb3 | 0xb5, ..]) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameter_sets_are_kept_and_only_so_many() {
        let unit =
            [&[0, 0, 0, 1, 9, 0xf0][..], &[0, 0, 0, 1, 0x67, 1, 2], &[0, 0, 1, 0x68, 3], &[0, 0, 1]].concat();
        let mut kept = vec![1, 2, 3];
        collect(Codec::H264, &unit, &mut kept);
        assert_eq!(kept, [0, 0, 0, 1, 0x67, 1, 2, 0, 0, 0, 1, 0x68, 3]);
        let long = [&[0, 0, 1, 0x67][..], &[0xaa; PARAMETERS_LIMIT], &[0, 0, 1, 0x68, 3, 0, 0, 1]].concat();
        collect(Codec::H264, &long, &mut kept);
        assert!(kept.is_empty());
    }
}
