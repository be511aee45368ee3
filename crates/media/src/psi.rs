//! The program association table and the program map table: what is in the feed. ISO/IEC 13818-1,
//! 2.4.4.3 and 2.4.4.8.

/// How a stream of the program is coded, as far as the cutter cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// H.264 / AVC video.
    H264,
    /// H.265 / HEVC video.
    Hevc,
    /// MPEG-1 or MPEG-2 video.
    Mpeg2,
    /// Video that this crate cannot look into: cut by flag and time.
    OtherVideo,
    /// Audio of any kind: every PES packet can be decoded alone.
    Audio,
    /// Private data without a word on what it is: cut by flag and time when there is nothing better.
    Private,
}

impl Codec {
    /// Whether pictures are coded.
    pub fn is_video(self) -> bool {
        matches!(self, Self::H264 | Self::Hevc | Self::Mpeg2 | Self::OtherVideo)
    }
}

/// One elementary stream of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementaryStream {
    /// Its PID.
    pub pid: u16,
    /// `stream_type` of the PMT.
    pub stream_type: u8,
    /// What that and the descriptors mean; `None` for data that is neither video nor audio.
    pub codec: Option<Codec>,
}

/// One section of a PAT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pat {
    /// `version_number`, 5 bits.
    pub version: u8,
    /// This section's number.
    pub section: u8,
    /// The last section's number.
    pub last_section: u8,
    /// Program numbers and the PIDs of their PMTs, the network information's left out.
    pub programs: Vec<(u16, u16)>,
}

/// A PMT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pmt {
    /// `program_number`.
    pub program: u16,
    /// The PID that carries the program's PCR.
    pub pcr_pid: u16,
    /// The streams, in the table's order.
    pub streams: Vec<ElementaryStream>,
}

/// Splits the fields that all long sections share from the body, which comes without its CRC: the table
/// id extension, the version, the section numbers. `None` for another table and for what is not in force
/// yet.
fn open(section: &[u8], table_id: u8) -> Option<(u16, u8, u8, u8, &[u8])> {
    let (head, rest) = section.split_at_checked(8)?;
    let body = &rest[..rest.len().checked_sub(4)?];
    let in_force = head[0] == table_id && head[1] & 0x80 != 0 && head[5] & 1 == 1;
    in_force.then(|| (be16(&head[3..]), head[5] >> 1 & 0x1f, head[6], head[7], body))
}

/// The first two bytes as a big-endian number; 0 when there are fewer.
fn be16(bytes: &[u8]) -> u16 {
    bytes.first_chunk().map_or(0, |pair| u16::from_be_bytes(*pair))
}

impl Pat {
    /// Reads a whole section whose CRC is correct.
    pub fn parse(section: &[u8]) -> Option<Self> {
        let (_, version, number, last_section, body) = open(section, 0x00)?;
        let programs = body
            .chunks_exact(4)
            .map(|entry| (be16(entry), be16(&entry[2..]) & 0x1fff))
            .filter(|&(program, _)| program != 0)
            .collect();
        Some(Self { version, section: number, last_section, programs })
    }
}

impl Pmt {
    /// Reads a whole section whose CRC is correct.
    pub fn parse(section: &[u8]) -> Option<Self> {
        let (program, _, _, _, body) = open(section, 0x02)?;
        let (head, rest) = body.split_at_checked(4)?;
        let mut rest = rest.get(usize::from(be16(&head[2..]) & 0xfff)..)?;
        let mut streams = Vec::new();
        while let Some((entry, after)) = rest.split_at_checked(5) {
            let (descriptors, next) = after.split_at_checked(usize::from(be16(&entry[3..]) & 0xfff))?;
            streams.push(ElementaryStream {
                pid: be16(&entry[1..]) & 0x1fff,
                stream_type: entry[0],
                codec: codec(entry[0], descriptors),
            });
            rest = next;
        }
        Some(Self { program, pcr_pid: be16(head) & 0x1fff, streams })
    }

    /// The stream whose frames decide where to cut: the first with video, one that can be looked into
    /// before one that cannot; else the first with audio; else private data.
    pub fn leading_stream(&self) -> Option<ElementaryStream> {
        let rank = |codec| match codec {
            Codec::H264 | Codec::Hevc | Codec::Mpeg2 => 0,
            Codec::OtherVideo => 1,
            Codec::Audio => 2,
            Codec::Private => 3,
        };
        self.streams.iter().filter(|stream| stream.codec.is_some()).min_by_key(|s| s.codec.map(rank)).copied()
    }

    /// Whether the program has pictures.
    pub fn has_video(&self) -> bool {
        self.streams.iter().any(|stream| stream.codec.is_some_and(Codec::is_video))
    }
}

/// ISO/IEC 13818-1, table 2-34; ATSC A/53 and SMPTE RA for the private ranges.
fn codec(stream_type: u8, descriptors: &[u8]) -> Option<Codec> {
    Some(match stream_type {
        0x01 | 0x02 => Codec::Mpeg2,
        0x1b => Codec::H264,
        0x24 => Codec::Hevc,
        // MPEG-4 visual, JPEG 2000, VVC, EVC, LCEVC, AVS, AVS2, AVS3, Dirac, VC-1.
        0x10 | 0x21 | 0x32 | 0x33 | 0x35 | 0x36 | 0x42 | 0xd1 | 0xd2 | 0xd4 | 0xea => Codec::OtherVideo,
        // MPEG-1 and 2, AAC (ADTS, LATM, raw), MPEG-H, AC-3, DTS, TrueHD, E-AC-3, DTS-HD.
        0x03 | 0x04 | 0x0f | 0x11 | 0x1c | 0x2d | 0x2e | 0x81..=0x85 | 0x87 | 0x88 | 0x8a | 0xc1 | 0xc2 => {
            Codec::Audio
        }
        0x06 => return private(descriptors),
        _ => return None,
    })
}

/// Private data (stream type 6) by its descriptors: DVB (EN 300 468) and registered formats.
fn private(descriptors: &[u8]) -> Option<Codec> {
    let mut rest = descriptors;
    while let [tag, len, after @ ..] = rest {
        let (body, next) = after.split_at_checked(usize::from(*len))?;
        match (*tag, body) {
            (0x05, [b'H', b'E', b'V', b'C', ..]) => return Some(Codec::Hevc),
            (
                0x05,
                [b'A', b'V', b'0', b'1', ..] | [b'V', b'C', b'-', b'1', ..] | [b'd', b'r', b'a', b'c', ..],
            ) => {
                return Some(Codec::OtherVideo);
            }
            (0x05, [b'O', b'p', b'u', b's', ..] | [b'B', b'S', b'S', b'D', ..] | [b'A', b'C', b'-', ..]) => {
                return Some(Codec::Audio);
            }
            // AC-3, E-AC-3, DTS, AAC.
            (0x6a | 0x7a | 0x7b | 0x7c, _) => return Some(Codec::Audio),
            // Teletext, subtitles, VBI, data broadcasting, SCTE 35 and other registered data.
            (0x45 | 0x46 | 0x56 | 0x59 | 0x66 | 0x05 | 0x26, _) => return None,
            _ => {}
        }
        rest = next;
    }
    Some(Codec::Private)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::section::tests::with_crc;

    fn pmt(streams: &[(u8, u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![0, 7, 0xc3, 0, 0, 0xe1, 0x00, 0xf0, 2, 0x09, 0];
        for (stream_type, pid, descriptors) in streams {
            body.push(*stream_type);
            body.extend((pid | 0xe000).to_be_bytes());
            body.extend((descriptors.len() as u16 | 0xf000).to_be_bytes());
            body.extend(*descriptors);
        }
        let mut section = vec![2];
        section.extend(((body.len() as u16 + 4) | 0xb000).to_be_bytes());
        section.extend(body);
        with_crc(section)
    }

    #[test]
    fn pat_lists_programs() {
        let section = with_crc(vec![
            0, 0xb0, 17, 0, 1, 0xc1, 0, 0, 0, 0, 0xe0, 0x10, 0, 1, 0xf0,
            0x00, // NIT, program 1
                 // (the section ends here but for its CRC)
        ]);
        let pat = Pat::parse(&section).unwrap();
        assert_eq!(pat.programs, [(1, 0x1000)]);
        assert_eq!((pat.version, pat.section, pat.last_section), (0, 0, 0));
    }

    #[test]
    fn tables_that_are_not_in_force_yet_are_not_read() {
        let section = with_crc(vec![0, 0xb0, 13, 0, 1, 0xc0, 0, 0, 0, 1, 0xf0, 0x00]);
        assert_eq!(Pat::parse(&section), None);
    }

    #[test]
    fn the_leading_stream_is_video_that_can_be_looked_into() {
        let av1 = [0x05, 4, b'A', b'V', b'0', b'1'];
        let ac3 = [0x0a, 4, b'e', b'n', b'g', 0, 0x6a, 1, 0];
        let teletext = [0x56, 1, 0];
        let table = Pmt::parse(&pmt(&[
            (0x06, 0x120, &teletext),
            (0x06, 0x101, &ac3),
            (0x06, 0x102, &av1),
            (0x1b, 0x103, &[]),
        ]))
        .unwrap();
        assert_eq!((table.program, table.pcr_pid), (7, 0x100));
        let codecs: Vec<_> = table.streams.iter().map(|stream| stream.codec).collect();
        assert_eq!(codecs, [None, Some(Codec::Audio), Some(Codec::OtherVideo), Some(Codec::H264)]);
        assert_eq!(table.leading_stream().unwrap().pid, 0x103);

        let radio = Pmt::parse(&pmt(&[(0x86, 0x100, &[]), (0x0f, 0x101, &[]), (0x03, 0x102, &[])])).unwrap();
        assert!(!radio.has_video());
        assert_eq!(radio.leading_stream().unwrap().pid, 0x101);
    }

    #[test]
    fn descriptors_longer_than_the_table_are_rejected() {
        let mut section = pmt(&[(0x1b, 0x100, &[1, 2])]);
        let at = section.len() - 4 - 2 - 1;
        section[at] = 200;
        assert_eq!(Pmt::parse(&section), None);
    }
}
