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

/// How sound is coded: what a stream of [`Codec::Audio`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sound {
    /// AAC in ADTS frames (ISO/IEC 13818-7).
    AacAdts,
    /// AAC in LATM, with the sync layer LOAS (ISO/IEC 14496-3).
    AacLatm,
    /// MPEG-1 and MPEG-2 audio, any layer.
    Mpeg,
    /// AC-3 (ETSI TS 102 366).
    Ac3,
    /// E-AC-3 (ETSI TS 102 366, annex E).
    Eac3,
    /// Opus.
    Opus {
        /// `channel_config_code` of its descriptor: how many channels, for up to eight in the usual layout.
        channel_config: u8,
    },
    /// Something else: DTS, TrueHD, MPEG-H, PCM.
    Other,
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
    /// How its sound is coded, where `codec` is [`Codec::Audio`].
    pub sound: Option<Sound>,
    /// Its language (ISO 639-2, three letters), where a descriptor names one.
    pub language: Option<[u8; 3]>,
    /// Why players may leave it out.
    pub stranger: Option<Stranger>,
    /// Pages of teletext in it that are subtitles.
    pub subtitles: [Option<TeletextPage>; MAX_PAGES],
}

/// Pages of subtitles that are told of in a stream of teletext.
pub const MAX_PAGES: usize = 4;

/// A page of teletext that is subtitles (EN 300 468, 6.2.43).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TeletextPage {
    /// Its language (ISO 639-2, three letters).
    pub language: [u8; 3],
    /// The first digit of its number; 0 stands for 8.
    pub magazine: u8,
    /// The other two, four bits each.
    pub page: u8,
    /// It is for those who hear badly.
    pub impaired: bool,
}

/// Why players may leave a stream out that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// It does not say what it carries: private data without a registration or a descriptor of DVB.
    Unnamed,
    /// AV1, which MPEG-TS has no settled place for yet.
    Av1,
    /// Its `stream_type` is reserved.
    Reserved,
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
            let codec = codec(entry[0], descriptors);
            streams.push(ElementaryStream {
                pid: be16(&entry[1..]) & 0x1fff,
                stream_type: entry[0],
                codec,
                sound: (codec == Some(Codec::Audio)).then(|| sound(entry[0], descriptors)),
                language: language(descriptors),
                stranger: stranger(entry[0], codec, descriptors),
                subtitles: subtitles(entry[0], descriptors),
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

/// The descriptors, each with its tag, up to one that is cut off.
fn each(descriptors: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = descriptors;
    std::iter::from_fn(move || {
        let [tag, len, after @ ..] = rest else { return None };
        let (body, next) = after.split_at_checked(usize::from(*len))?;
        rest = next;
        Some((*tag, body))
    })
}

/// `ISO_639_language_descriptor` (ISO/IEC 13818-1, 2.6.18).
fn language(descriptors: &[u8]) -> Option<[u8; 3]> {
    let (_, body) = each(descriptors).find(|(tag, _)| *tag == 0x0a)?;
    let letters: &[u8; 3] = body.first_chunk()?;
    letters.iter().all(u8::is_ascii_alphabetic).then(|| letters.map(|letter| letter.to_ascii_lowercase()))
}

/// `teletext_descriptor` (EN 300 468, 6.2.43): five bytes a page.
fn subtitles(stream_type: u8, descriptors: &[u8]) -> [Option<TeletextPage>; MAX_PAGES] {
    let mut pages = [None; MAX_PAGES];
    let bodies = each(descriptors).filter(|(tag, _)| stream_type == 0x06 && *tag == 0x56);
    let found = bodies.flat_map(|(_, body)| body.as_chunks::<5>().0).filter_map(|[a, b, c, kind, page]| {
        let (kind, magazine) = (kind >> 3, kind & 7);
        let language = [*a, *b, *c].map(|letter| letter.to_ascii_lowercase());
        let known = language.iter().all(u8::is_ascii_lowercase);
        let language = if known { language } else { *b"und" };
        matches!(kind, 2 | 5).then_some(TeletextPage { language, magazine, page: *page, impaired: kind == 5 })
    });
    pages.iter_mut().zip(found).for_each(|(place, page)| *place = Some(page));
    pages
}

/// How audio is coded.
fn sound(stream_type: u8, descriptors: &[u8]) -> Sound {
    match stream_type {
        0x03 | 0x04 => Sound::Mpeg,
        0x0f => Sound::AacAdts,
        0x11 => Sound::AacLatm,
        0x81 | 0xc1 => Sound::Ac3,
        0x87 | 0xc2 => Sound::Eac3,
        0x06 => private_sound(descriptors),
        _ => Sound::Other,
    }
}

/// Audio in private data: DVB (EN 300 468), and Opus in MPEG-TS.
fn private_sound(descriptors: &[u8]) -> Sound {
    let mut opus = false;
    for (tag, body) in each(descriptors) {
        match (tag, body) {
            (0x6a, _) | (0x05, [b'A', b'C', b'-', b'3', ..]) => return Sound::Ac3,
            (0x7a, _) | (0x05, [b'E', b'A', b'C', b'3', ..]) => return Sound::Eac3,
            (0x05, [b'O', b'p', b'u', b's', ..]) => opus = true,
            // The extension descriptor of Opus: its own tag, then the channels.
            (0x7f, [0x80, channel_config, ..]) if opus => {
                return Sound::Opus { channel_config: *channel_config };
            }
            _ => {}
        }
    }
    if opus { Sound::Opus { channel_config: 2 } } else { Sound::Other }
}

/// ISO/IEC 13818-1, table 2-34, as of 2022: 0x37 to 0x7e were reserved, but for what AVS took.
fn stranger(stream_type: u8, codec: Option<Codec>, descriptors: &[u8]) -> Option<Stranger> {
    let av1 = [0x05, 4, b'A', b'V', b'0', b'1'];
    match (stream_type, codec) {
        (0x06, Some(Codec::Private)) => Some(Stranger::Unnamed),
        (0x06, Some(Codec::OtherVideo)) if descriptors.windows(av1.len()).any(|found| found == av1) => {
            Some(Stranger::Av1)
        }
        (0x37..=0x7e, None) => Some(Stranger::Reserved),
        _ => None,
    }
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
    fn pages_of_subtitles_are_told_of() {
        let teletext = [
            0x56,
            15,
            b'd',
            b'e',
            b'u',
            1 << 3 | 1,
            0x00,
            b'D',
            b'E',
            b'U',
            2 << 3 | 1,
            0x50,
            b'f',
            b'r',
            b'a',
            5 << 3,
            0x88,
        ];
        let table = Pmt::parse(&pmt(&[(0x06, 0x120, &teletext), (0x1b, 0x103, &teletext)])).unwrap();
        let page =
            |language, magazine, page, impaired| Some(TeletextPage { language, magazine, page, impaired });
        let expected = [page(*b"deu", 1, 0x50, false), page(*b"fra", 0, 0x88, true), None, None];
        assert_eq!(table.streams[0].subtitles, expected);
        assert_eq!(table.streams[1].subtitles, [None; MAX_PAGES], "pictures have none");
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
        let sound: Vec<_> = table.streams.iter().map(|stream| (stream.sound, stream.language)).collect();
        assert_eq!(sound, [(None, None), (Some(Sound::Ac3), Some(*b"eng")), (None, None), (None, None)]);
        let strangers: Vec<_> = table.streams.iter().map(|stream| stream.stranger).collect();
        assert_eq!(strangers, [None, None, Some(Stranger::Av1), None]);

        let radio = Pmt::parse(&pmt(&[(0x86, 0x100, &[]), (0x0f, 0x101, &[]), (0x03, 0x102, &[])])).unwrap();
        assert!(!radio.has_video());
        assert_eq!(radio.leading_stream().unwrap().pid, 0x101);
    }

    #[test]
    fn sound_is_told_by_type_and_descriptors() {
        let opus = [0x05, 4, b'O', b'p', b'u', b's', 0x7f, 2, 0x80, 6];
        let table = Pmt::parse(&pmt(&[
            (0x0f, 0x101, &[]),
            (0x11, 0x102, &[0x0a, 4, b'D', b'E', b'U', 0]),
            (0x04, 0x103, &[]),
            (0x87, 0x104, &[]),
            (0x06, 0x105, &opus),
            (0x06, 0x106, &opus[..6]),
            (0x82, 0x107, &[]),
            (0x06, 0x108, &[0x7a, 1, 0]),
        ]))
        .unwrap();
        let sound: Vec<_> = table.streams.iter().filter_map(|stream| stream.sound).collect();
        let opus = |channel_config| Sound::Opus { channel_config };
        let expected = [
            Sound::AacAdts,
            Sound::AacLatm,
            Sound::Mpeg,
            Sound::Eac3,
            opus(6),
            opus(2),
            Sound::Other,
            Sound::Eac3,
        ];
        assert_eq!(sound, expected);
        assert_eq!(table.streams[1].language, Some(*b"deu"));
    }

    #[test]
    fn streams_that_players_may_leave_out_are_told_from_others() {
        let stranger = |stream_type, descriptors: &[u8]| {
            Pmt::parse(&pmt(&[(stream_type, 0x100, descriptors)])).unwrap().streams[0].stranger
        };
        assert_eq!(stranger(0x06, &[]), Some(Stranger::Unnamed));
        assert_eq!(stranger(0x06, &[0x0a, 4, b'd', b'e', b'u', 0]), Some(Stranger::Unnamed));
        assert_eq!(stranger(0x40, &[]), Some(Stranger::Reserved));
        let (klv, opus) = ([0x05, 4, b'K', b'L', b'V', b'A'], [0x05, 4, b'O', b'p', b'u', b's']);
        for (known, descriptors) in
            [(0x1b, &[][..]), (0x06, &klv), (0x06, &opus), (0x06, &[0x59, 0]), (0x86, &[]), (0x15, &[])]
        {
            assert_eq!(stranger(known, descriptors), None, "{known:#x}");
        }
    }

    #[test]
    fn descriptors_longer_than_the_table_are_rejected() {
        let mut section = pmt(&[(0x1b, 0x100, &[1, 2])]);
        let at = section.len() - 4 - 2 - 1;
        section[at] = 200;
        assert_eq!(Pmt::parse(&section), None);
    }
}
