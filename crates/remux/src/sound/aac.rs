//! AAC in ADTS frames (ISO/IEC 13818-7, 6.2).

use mp4_atom::{
    Audio, Codec as SampleEntry, Esds, Mp4a,
    esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig},
};

use super::{Coding, Found, Sample};

/// Sampling rates by their index (ISO/IEC 14496-3, table 1.18).
pub const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
/// Samples of a block.
const BLOCK: u32 = 1024;
const HEADER: usize = 7;

/// Channels by `channel_configuration`; 0 for those that a table in the stream tells.
pub fn channels(configuration: u8) -> u16 {
    match configuration {
        1..=6 => u16::from(configuration),
        7 | 12 | 14 => 8,
        11 => 7,
        13 => 24,
        _ => 0,
    }
}

/// What stands at the beginning of `bytes`.
pub fn find(bytes: &[u8]) -> Found {
    let Some(head) = bytes.first_chunk::<HEADER>() else {
        let may_be = bytes.first() == Some(&0xff) && bytes.get(1).is_none_or(|second| second & 0xf6 == 0xf0);
        return if may_be { Found::Short } else { Found::None };
    };
    if head[0] != 0xff || head[1] & 0xf6 != 0xf0 {
        return Found::None;
    }
    let start = if head[1] & 1 == 1 { HEADER } else { HEADER + 2 };
    let len = usize::from(head[3] & 3) << 11 | usize::from(head[4]) << 3 | usize::from(head[5] >> 5);
    let (profile, index) = (head[2] >> 6, head[2] >> 2 & 0x0f);
    let configuration = (head[2] & 1) << 2 | head[3] >> 6;
    let Some(rate) = RATES.get(usize::from(index)) else { return Found::None };
    if len <= start {
        return Found::None;
    }
    if bytes.len() < len {
        return Found::Short;
    }
    if configuration == 0 {
        // Its channels stand in a table in the frames, which are not looked into.
        return Found::Skip(len);
    }
    let object_type = profile.saturating_add(1);
    let config = vec![object_type << 3 | index >> 1, index << 7 | configuration << 3];
    let coding = Coding::Aac { config, object_type, rate: *rate, channels: channels(configuration) };
    let duration = BLOCK.saturating_mul(u32::from(head[6] & 3).saturating_add(1));
    Found::Frame { len, sample: Sample::Part(start..len), duration, coding }
}

/// The sample entry of what is coded as the MPEG-4 object type `object_type` says.
pub fn entry(object_type: u8, config: Option<Vec<u8>>, audio: Audio) -> SampleEntry {
    let dec_specific = config.map(|raw| DecoderSpecific { raw, ..DecoderSpecific::default() });
    let dec_config = DecoderConfig {
        object_type_indication: object_type,
        // Audio.
        stream_type: 5,
        dec_specific,
        ..DecoderConfig::default()
    };
    let es_desc =
        EsDescriptor { es_id: 1, dec_config, sl_config: SLConfig::default(), ..EsDescriptor::default() };
    Mp4a { audio, esds: Esds { es_desc }, btrt: None, taic: None }.into()
}
