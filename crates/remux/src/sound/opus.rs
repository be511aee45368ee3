//! Opus in MPEG-TS (ETSI TS 103 491, annex B, and the mapping of opus-codec.org that ffmpeg writes).

use mp4_atom::{Codec as SampleEntry, Dops, Opus, OpusChannelMapping};

use super::{Coding, Found, Sample, audio};

/// Opus is timed at this rate, whatever it was made of.
pub const RATE: u32 = 48_000;
/// A packet holds no more than 120 ms.
const MAX_DURATION: u32 = 5760;

/// Channels by the descriptor's `channel_config_code`. None for layouts that are not in use.
pub fn channels(channel_config: u8) -> Option<u16> {
    match channel_config {
        // Two mono channels.
        0 => Some(2),
        1..=8 => Some(u16::from(channel_config)),
        _ => None,
    }
}

/// What stands at the beginning of `bytes`: a control header and a packet.
pub fn find(bytes: &[u8], channel_config: u8) -> Found {
    let Some(head) = bytes.first_chunk::<2>() else {
        return if bytes.first().is_none_or(|first| *first == 0x7f) { Found::Short } else { Found::None };
    };
    if head[0] != 0x7f || head[1] & 0xe0 != 0xe0 {
        return Found::None;
    }
    let (mut at, mut size) = (2usize, 0usize);
    loop {
        let Some(byte) = bytes.get(at) else { return Found::Short };
        (at, size) = (at.saturating_add(1), size.saturating_add((*byte).into()));
        if *byte != 255 {
            break;
        }
    }
    // What is to be cut off at the beginning and the end.
    let trims = usize::from(head[1] >> 4 & 1).saturating_add(usize::from(head[1] >> 3 & 1));
    at = at.saturating_add(trims.saturating_mul(2));
    if head[1] & 4 != 0 {
        let Some(length) = bytes.get(at) else { return Found::Short };
        at = at.saturating_add(1).saturating_add((*length).into());
    }
    let len = at.saturating_add(size);
    let Some(packet) = bytes.get(at..len) else { return Found::Short };
    let Some(duration) = duration(packet) else { return Found::Skip(len) };
    Found::Frame { len, sample: Sample::Part(at..len), duration, coding: Coding::Opus { channel_config } }
}

/// How long a packet is, by its first bytes (RFC 6716, 3.1 and 3.2).
fn duration(packet: &[u8]) -> Option<u32> {
    let (first, rest) = packet.split_first()?;
    let frame: u32 = match first >> 3 {
        config @ 0..12 => [480, 960, 1920, 2880][usize::from(config & 3)],
        config @ 12..16 => [480, 960][usize::from(config & 1)],
        config => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let frames = match first & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(rest.first()? & 0x3f),
    };
    frame.checked_mul(frames).filter(|duration| (1..=MAX_DURATION).contains(duration))
}

/// The sample entry.
pub fn entry(channel_config: u8) -> Option<SampleEntry> {
    let channels = channels(channel_config)?;
    // Streams, coupled ones among them, and where each decoded channel goes (RFC 7845, 5.1.1.2).
    let (streams, coupled, order): (u8, u8, &[u8]) = match channel_config {
        0 => (2, 0, &[0, 1]),
        3 => (2, 1, &[0, 2, 1]),
        4 => (2, 2, &[0, 1, 2, 3]),
        5 => (3, 2, &[0, 4, 1, 2, 3]),
        6 => (4, 2, &[0, 4, 1, 2, 3, 5]),
        7 => (4, 3, &[0, 4, 1, 2, 3, 5, 6]),
        8 => (5, 3, &[0, 6, 1, 2, 3, 4, 5, 7]),
        _ => (0, 0, &[]),
    };
    let mapping = (streams > 0).then(|| OpusChannelMapping {
        family: if channel_config == 0 { 255 } else { 1 },
        stream_count: streams,
        coupled_count: coupled,
        channel_mapping: order.to_vec(),
    });
    let dops = Dops {
        output_channel_count: u8::try_from(channels).ok()?,
        // What precedes a place in a live stream has been heard: nothing is to be cut off.
        pre_skip: 0,
        input_sample_rate: RATE,
        output_gain: 0,
        channel_mapping: mapping,
    };
    Some(Opus { audio: audio(RATE, channels), dops, btrt: None }.into())
}
