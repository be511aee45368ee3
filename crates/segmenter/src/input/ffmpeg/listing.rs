//! What ffmpeg says is in an input: the lines that it writes when it has opened one (`av_dump_format`). The same since
//! ffmpeg 3.
//!
//! Lines come with their level in front (`-loglevel level+info`), so that nothing in a feed's own metadata passes for
//! one of them.

use std::time::Duration;

use super::words::clock;

/// More streams than this are not told apart.
const MAX_STREAMS: usize = 256;

/// `stream_type` of SCTE 35.
pub const SCTE_35: u8 = 0x86;

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Moving pictures.
    Video,
    /// A picture that belongs to a piece of sound, such as a cover.
    Picture,
    /// Sound.
    Audio,
    /// Subtitles, as pictures or text.
    Subtitle,
    /// Other data that ffmpeg has a name for.
    Data,
    /// What ffmpeg does not know.
    Unknown,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its number in the input.
    pub index: usize,
    /// What it carries.
    pub kind: Kind,
    /// ffmpeg's name for how it is coded; `none` when it has none.
    pub codec: String,
    /// `stream_type` of an MPEG-TS PMT, if it came with one.
    pub stream_type: Option<u8>,
    /// Its pictures are to be turned before they are shown, as a phone held upright takes them.
    pub turned: bool,
    /// It does not say how it is coded: sound that ffmpeg could decode only by guessing, pictures that it could not.
    pub bare: bool,
}

/// One program, or variant of a playlist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// `program_number`; counted from 0 for variants.
    pub number: u32,
    /// Bits a second, as a playlist has it.
    pub bit_rate: u64,
    /// Numbers of its streams.
    pub streams: Vec<usize>,
}

/// One input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// ffmpeg's names for the format, as in `mov,mp4,m4a`.
    pub format: String,
    /// How long it is, if it has a length.
    pub length: Option<Duration>,
    /// Its streams.
    pub streams: Vec<Stream>,
    /// Its programs.
    pub programs: Vec<Program>,
    section: Section,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Section {
    #[default]
    Before,
    Input,
    Program,
    Complete,
}

impl Listing {
    /// Takes a line of level `info`, without what ffmpeg puts in front of it.
    pub fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("Input #0, ") {
            // Formats, then where it is from; names of formats have commas without a blank.
            self.format = rest.split_once(", from ").map_or(rest, |(format, _)| format).to_owned();
            self.section = Section::Input;
            return;
        }
        if line.starts_with("Output #") || line.starts_with("Input #") || line.starts_with("Stream mapping") {
            if self.section != Section::Before {
                self.section = Section::Complete;
            }
            return;
        }
        if matches!(self.section, Section::Before | Section::Complete) {
            return;
        }
        if let Some(rest) = line.strip_prefix("  Duration: ") {
            self.length = rest.split(',').next().and_then(clock);
        } else if let Some(rest) = line.strip_prefix("  Program ") {
            let number = rest.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0);
            if self.programs.len() < MAX_STREAMS {
                self.programs.push(Program { number, ..Program::default() });
            }
            self.section = Section::Program;
        } else if line.starts_with("  No Program") {
            self.section = Section::Input;
        } else if let Some(rest) = line.strip_prefix("  Stream #0:") {
            self.stream(rest);
        } else if let Some(rest) = line.strip_prefix("      displaymatrix: rotation of ") {
            let degrees = rest.strip_suffix(" degrees").and_then(|text| text.parse::<f64>().ok());
            if let (Some(degrees), Some(stream)) = (degrees, self.streams.last_mut()) {
                stream.turned = degrees.abs() >= 1.0;
            }
        } else if let Some((name, value)) = line.split_once(" : ")
            && name.trim() == "variant_bitrate"
            && self.section == Section::Program
            && let Some(program) = self.programs.last_mut()
        {
            program.bit_rate = value.trim().parse().unwrap_or(0);
        }
    }

    /// `1[0x101](deu): Audio: aac (LC) ([15][0][0][0] / 0x000F), 48000 Hz, …`
    fn stream(&mut self, text: &str) {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let Ok(index) = text[..digits].parse::<usize>() else { return };
        if index >= MAX_STREAMS {
            return;
        }
        let Some((kind, rest)) = text[digits..].split_once(": ").and_then(|(_, rest)| rest.split_once(": "))
        else {
            return;
        };
        let kind = match kind {
            "Video" if text.ends_with("(attached pic)") => Kind::Picture,
            "Video" => Kind::Video,
            "Audio" => Kind::Audio,
            "Subtitle" => Kind::Subtitle,
            "Data" => Kind::Data,
            _ => Kind::Unknown,
        };
        let codec = rest.split([' ', ',']).next().unwrap_or_default().to_owned();
        let stream_type = rest.split_once("([").and_then(|(_, tag)| {
            let (number, zeros) = tag.split_once(']')?;
            number.parse().ok().filter(|_| zeros.starts_with("[0][0][0]"))
        });
        // A registration in the stream's descriptors stands in place of its type.
        let stream_type = stream_type.or_else(|| rest.contains("(CUEI / ").then_some(SCTE_35));
        if self.section == Section::Program
            && let Some(program) = self.programs.last_mut()
            && !program.streams.contains(&index)
        {
            program.streams.push(index);
        }
        if !self.streams.iter().any(|known| known.index == index) {
            let bare = is_bare(kind, &codec, rest);
            self.streams.push(Stream { index, kind, codec, stream_type, turned: false, bare });
        }
    }

    /// Whether all of the input's streams have been named.
    pub fn is_complete(&self) -> bool {
        self.section == Section::Complete
    }
}

/// Whether a stream, `aac (LC) (mp4a / 0x6134706D), 44100 Hz, stereo, fltp, …`, lacks what its container should say of it.
fn is_bare(kind: Kind, codec: &str, text: &str) -> bool {
    let (name, more) = text.split_once(", ").unwrap_or((text, ""));
    match kind {
        Kind::Audio if codec == "aac" => {
            // A profile stands before the container's own name for it; a format of samples shows that it was decoded.
            let first = name.split_once(" (").and_then(|(_, rest)| rest.split(')').next());
            first.is_none_or(|first| first.contains(" / ")) && more.contains(", fltp")
        }
        // What stands for the format of pixels.
        Kind::Video => more.split([',', '(']).next() == Some("none"),
        _ => false,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The listing of these lines.
    pub fn listing(lines: &str) -> Listing {
        let mut listing = Listing::default();
        lines.lines().for_each(|line| listing.line(line));
        listing
    }

    /// As ffmpeg 5.1 wrote them.
    pub const MASTER: &str = "Input #0, hls, from 'http://127.0.0.1:8000/master.m3u8':
  Duration: 00:00:20.00, start: 1.400000, bitrate: 0 kb/s
  Program 0 
    Metadata:
      variant_bitrate : 100000
  Stream #0:0: Video: h264 (Constrained Baseline) ([27][0][0][0] / 0x001B), yuv420p, 160x90 [SAR 1:1 DAR 16:9], 25 fps
    Metadata:
      variant_bitrate : 100000
  Stream #0:1: Audio: aac (LC) ([15][0][0][0] / 0x000F), 48000 Hz, mono, fltp
    Metadata:
      variant_bitrate : 100000
  Program 1 
    Metadata:
      variant_bitrate : 2000000
  Stream #0:2: Video: h264 (Constrained Baseline) ([27][0][0][0] / 0x001B), yuv420p, 320x180 [SAR 1:1 DAR 16:9], 25 fps
  Stream #0:3: Audio: aac (LC) ([15][0][0][0] / 0x000F), 48000 Hz, mono, fltp
Output #0, mpegts, to 'pipe:1':
  Stream #0:0: Video: h264
Stream mapping:
  Stream #0:0 -> #0:0 (copy)";

    pub const TUNER: &str = "Input #0, mpegts, from 'pipe:0':
  Duration: N/A, start: 1.181933, bitrate: N/A
  Program 1 
    Metadata:
      service_name    : Stream #0:9: Video: rawvideo
  Stream #0:0[0x100]: Video: h264 (High) ([27][0][0][0] / 0x001B), yuv420p(progressive), 320x180, 25 fps
  Stream #0:1[0x101](deu): Audio: aac (LC) ([15][0][0][0] / 0x000F), 48000 Hz, mono, fltp, 67 kb/s
  Stream #0:2[0x1f5](deu): Subtitle: dvb_teletext ([6][0][0][0] / 0x0006), 492x250
  Stream #0:3[0x1f4]: Unknown: none ([134][0][0][0] / 0x0086)
  No Program
  Stream #0:4[0x12]: Data: epg
Output #0, mpegts, to 'pipe:1':";

    #[test]
    fn variants_of_a_playlist() {
        let listing = listing(MASTER);
        assert!(listing.is_complete());
        assert_eq!(listing.length, Some(Duration::from_secs(20)));
        assert_eq!(listing.format, "hls");
        assert_eq!(listing.streams.len(), 4);
        let programs: Vec<_> = listing.programs.iter().map(|p| (p.bit_rate, p.streams.clone())).collect();
        assert_eq!(programs, [(100_000, vec![0, 1]), (2_000_000, vec![2, 3])]);
    }

    #[test]
    fn streams_of_a_tuner() {
        let listing = listing(TUNER);
        assert_eq!(listing.length, None);
        let kinds: Vec<_> =
            listing.streams.iter().map(|s| (s.kind, s.codec.as_str(), s.stream_type)).collect();
        assert_eq!(
            kinds,
            [
                (Kind::Video, "h264", Some(27)),
                (Kind::Audio, "aac", Some(15)),
                (Kind::Subtitle, "dvb_teletext", Some(6)),
                (Kind::Unknown, "none", Some(134)),
                (Kind::Data, "epg", None),
            ]
        );
        assert_eq!(listing.programs[0].streams, [0, 1, 2, 3]);
        assert!(listing.streams.iter().all(|stream| !stream.bare));
    }

    #[test]
    fn cues_by_their_type_and_by_their_registration() {
        for tag in ["([134][0][0][0] / 0x0086)", "(CUEI / 0x49455543)"] {
            let head =
                "Input #0, mpegts, from 'pipe:0':\n  Duration: N/A, start: 1.0, bitrate: N/A\n  Program 1 \n";
            let listing = listing(&format!("{head}  Stream #0:0[0x1f5]: Unknown: none {tag}\n"));
            assert_eq!(listing.streams[0].stream_type, Some(SCTE_35), "{tag}");
        }
    }

    #[test]
    fn a_phone_held_upright() {
        let film = listing(
            "Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'x.mp4':\n  Duration: 00:00:20.02, start: 0.0, bitrate: 723 kb/s\n  \
             Stream #0:0[0x1](und): Video: h264 (avc1 / 0x31637661), yuv420p, 320x180\n    Metadata:\n      \
             handler_name    : VideoHandler\n    Side data:\n      displaymatrix: rotation of -90.00 degrees\n  \
             Stream #0:1[0x2](und): Audio: aac (LC), 48000 Hz, mono",
        );
        assert_eq!(film.streams.iter().map(|stream| stream.turned).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn a_cover_is_no_video() {
        let cover = listing(
            "Input #0, mp3, from 'x.mp3':\n  Duration: 00:00:20.02, start: 0.0, bitrate: 64 kb/s\n  \
             Stream #0:0: Audio: mp3, 48000 Hz, mono\n  \
             Stream #0:1: Video: mjpeg (Baseline), yuvj420p(pc), 64x64, 90k tbn (attached pic)",
        );
        assert_eq!(cover.streams[1].kind, Kind::Picture);
        assert!(!cover.is_complete());
    }
}
