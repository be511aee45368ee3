//! MPEG audio, layers I to III (ISO/IEC 11172-3, 2.4.1.3, and 13818-3, 2.4.2.3).

use super::{Coding, Found, Sample};

/// Kilobits a second: MPEG-1 layers I, II, III; MPEG-2 layer I, and layers II and III.
const KILOBITS: [[u32; 14]; 5] = [
    [32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
    [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
    [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
    [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];

/// What stands at the beginning of `bytes`.
pub fn find(bytes: &[u8]) -> Found {
    let Some(head) = bytes.first_chunk::<4>() else {
        let may_be = bytes.first() == Some(&0xff) && bytes.get(1).is_none_or(|second| second & 0xe0 == 0xe0);
        return if may_be { Found::Short } else { Found::None };
    };
    let layer = 4u8.saturating_sub(head[1] >> 1 & 3);
    let version = head[1] >> 3 & 3;
    let (kilobits, rate) = (head[2] >> 4, head[2] >> 2 & 3);
    if head[0] != 0xff || head[1] & 0xe0 != 0xe0 || layer == 4 || version == 1 || rate == 3 {
        return Found::None;
    }
    // Version 3 is MPEG-1, 2 is MPEG-2, 0 is its extension to low rates.
    let half_rate = version != 3;
    let table = match (half_rate, layer) {
        (false, layer) => usize::from(layer).saturating_sub(1),
        (true, 1) => 3,
        (true, _) => 4,
    };
    let kilobits = usize::from(kilobits).checked_sub(1).and_then(|index| KILOBITS[table].get(index));
    let Some(kilobits) = kilobits else { return Found::None };
    let rate = [44_100, 48_000, 32_000][usize::from(rate)] >> [2, 0, 1, 0][usize::from(version)];
    let padding = u32::from(head[2] >> 1 & 1);
    let per = |unit: u32| {
        let len = kilobits.saturating_mul(unit).checked_div(rate).unwrap_or(0);
        len.saturating_add(padding)
    };
    let (duration, len) = match layer {
        1 => (384, per(12_000).saturating_mul(4)),
        3 if half_rate => (576, per(72_000)),
        _ => (1152, per(144_000)),
    };
    let len = len as usize;
    if bytes.len() < len {
        return Found::Short;
    }
    let channels = if head[3] >> 6 == 3 { 1 } else { 2 };
    let coding = Coding::Mpeg { layer, half_rate, rate, channels };
    Found::Frame { len, sample: Sample::Part(0..len), duration, coding }
}
