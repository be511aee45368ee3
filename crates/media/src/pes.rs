//! The header of a PES packet. ISO/IEC 13818-1, 2.4.3.6.

use crate::{
    packet::{PACKET_LEN, SYNC_BYTE},
    time::Timestamp,
};

/// The longest PES header: nine bytes and `PES_header_data_length`.
#[cfg(test)]
pub const MAX_PES_HEADER: usize = 9 + 255;

/// What the cutter reads of a PES header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PesHeader {
    /// Presentation time.
    pub pts: Option<Timestamp>,
    /// Decoding time, when it is not the presentation time.
    pub dts: Option<Timestamp>,
    /// Whether `stream_id` is one of video.
    pub video: bool,
    /// `PES_packet_length`: the bytes after that field, 0 when the packet's length is not said.
    pub packet_bytes: u32,
    /// Header length in bytes: the elementary stream's bytes follow.
    pub len: usize,
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// More bytes are needed.
    Short,
    /// This is not a PES packet of a media stream.
    Other,
}

impl PesHeader {
    /// Reads the header at the beginning of `bytes`.
    ///
    /// # Errors
    /// [`NoHeader`]; at most `MAX_PES_HEADER` bytes are ever needed.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoHeader> {
        let Some(head) = bytes.first_chunk::<9>() else {
            let prefix = &[0, 0, 1][..bytes.len().min(3)];
            return Err(if bytes.starts_with(prefix) { NoHeader::Short } else { NoHeader::Other });
        };
        // The identifiers of the program stream map, padding, ECM and so on have no such header.
        let plain = matches!(head[3], 0xbc | 0xbe | 0xbf | 0xf0 | 0xf1 | 0xf2 | 0xf8 | 0xff);
        if head[..3] != [0, 0, 1] || head[3] < 0xbc || plain || head[6] & 0xc0 != 0x80 {
            return Err(NoHeader::Other);
        }
        let len = 9 + usize::from(head[8]);
        let fields = bytes.get(9..len).ok_or(NoHeader::Short)?;
        let (pts, dts) = match head[7] >> 6 {
            2 => (fields.first_chunk().map(read), None),
            3 => (fields.first_chunk().map(read), fields.get(5..).and_then(<[u8]>::first_chunk).map(read)),
            _ => (None, None),
        };
        let packet_bytes = u32::from(u16::from_be_bytes([head[4], head[5]]));
        Ok(Self { pts, dts, video: head[3] & 0xf0 == 0xe0, packet_bytes, len })
    }

    /// When the access unit is decoded: the DTS, or else the PTS.
    pub fn decode_time(&self) -> Option<Timestamp> {
        self.dts.or(self.pts)
    }
}

/// Appends packets of `pid` with a PES packet of `parameters` alone, under the times of `header`, the PES header of the
/// access unit that they belong to. Nothing is appended without both.
///
/// The last packet has the continuity counter `last_counter`, that of the packet before the access unit, so that what
/// follows goes on from it; the first says that the counter breaks there (ISO/IEC 13818-1, 2.4.3.5), so that nobody
/// takes them for losses.
pub fn repeat_parameters(pid: u16, last_counter: u8, header: &[u8], parameters: &[u8], out: &mut Vec<u8>) {
    if header.is_empty() || parameters.is_empty() {
        return;
    }
    let mut body = [header, parameters].concat();
    // `PES_packet_length` 0: not said, as video may have it.
    body[4..6].fill(0);
    // The first packet has two bytes less for the adaptation field's length and flags.
    const ROOM: usize = PACKET_LEN - 4;
    let count = (body.len() + 2).div_ceil(ROOM);
    let mut rest = body.as_slice();
    for index in 0..count {
        let first = index == 0;
        let [high, low] = (pid & 0x1fff).to_be_bytes();
        let counter = last_counter.wrapping_sub((count - 1 - index) as u8) & 0x0f;
        let (now, later) = rest.split_at(rest.len().min(if first { ROOM - 2 } else { ROOM }));
        let field = ROOM - now.len();
        out.extend([SYNC_BYTE, high | if first { 0x40 } else { 0 }, low, counter | 0x10]);
        if field > 0 {
            if let Some(control) = out.last_mut() {
                *control |= 0x20;
            }
            out.push((field - 1) as u8);
        }
        if field > 1 {
            out.push(if first { 0x80 } else { 0 });
            out.resize(out.len() + field - 2, 0xff);
        }
        out.extend_from_slice(now);
        rest = later;
    }
}

/// A timestamp as PES headers write it: 3, 15 and 15 bits, each followed by a marker bit.
pub fn read(field: &[u8; 5]) -> Timestamp {
    let [a, b, c, d, e] = field.map(u64::from);
    Timestamp::new((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1)
}

/// Replaces the timestamp in `field` and leaves the four bits before it alone.
pub fn write(field: &mut [u8; 5], timestamp: Timestamp) {
    let ticks = timestamp.ticks();
    field[0] = field[0] & 0xf0 | (ticks >> 29) as u8 & 0x0e | 1;
    field[1] = (ticks >> 22) as u8;
    field[2] = (ticks >> 14) as u8 | 1;
    field[3] = (ticks >> 7) as u8;
    field[4] = (ticks << 1) as u8 | 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn timestamps_round_trip(ticks in 0..Timestamp::MODULUS) {
            let mut field = [0x21, 0, 0, 0, 0];
            write(&mut field, Timestamp::new(ticks));
            prop_assert_eq!(read(&field), Timestamp::new(ticks));
            prop_assert_eq!(field[0] & 0xf0, 0x20);
            prop_assert!(field[0] & field[2] & field[4] & 1 == 1);
        }

        #[test]
        fn parsing_never_needs_more_than_the_longest_header(bytes in prop::collection::vec(any::<u8>(), MAX_PES_HEADER..400)) {
            prop_assert_ne!(PesHeader::parse(&bytes), Err(NoHeader::Short));
        }
    }

    #[test]
    fn both_timestamps() {
        let mut header = vec![0, 0, 1, 0xe0, 0, 0, 0x80, 0xc0, 10];
        for (prefix, ticks) in [(0x31, 7000), (0x11, 0x1_ffff_ffff)] {
            let mut field = [prefix, 0, 0, 0, 0];
            write(&mut field, Timestamp::new(ticks));
            header.extend(field);
        }
        for short in 0..header.len() {
            assert_eq!(PesHeader::parse(&header[..short]), Err(NoHeader::Short));
        }
        let parsed = PesHeader::parse(&header).unwrap();
        assert_eq!(parsed.pts, Some(Timestamp::new(7000)));
        assert_eq!(parsed.decode_time(), Some(Timestamp::new(0x1_ffff_ffff)));
        assert_eq!(parsed.len, 19);
    }

    #[test]
    fn padding_streams_have_no_header() {
        assert_eq!(PesHeader::parse(&[0, 0, 1, 0xbe, 0, 0, 0x80, 0, 0]), Err(NoHeader::Other));
        assert_eq!(PesHeader::parse(&[0, 0, 2]), Err(NoHeader::Other));
    }
}
