//! How bytes get in: standard input, a file, UDP and RTP, MPEG-TS over HTTP, or anything that ffmpeg opens.
//!
//! A [`Feed`] is what the recorder reads: the main input, watched, reopened when it fails, and replaced by others
//! meanwhile.
//!
//! A [`Source`] is read by blocking calls from a thread of its own, the one that also cuts, hashes and
//! writes. That costs least where cost matters, with a file at full speed: the bytes go from the page cache
//! into the caller's buffer and nowhere else, no other thread is woken, and no channel lies in between. A
//! read waits at most [`MAX_WAIT`], for a pipe, a socket or the next due byte, so the thread can be stopped
//! between reads.
//!
//! When bytes came in is for the caller to note when `read` returns: this module knows no wall clock.

mod address;
mod error;
mod feed;
mod ffmpeg;
mod file;
mod http;
mod level;
mod pace;
mod pipe;
mod udp;

use std::{fmt, path::PathBuf, time::Duration};

pub use address::UdpAddress;
pub use error::InputError;
pub use feed::{Fed, Feed, FeedOptions};
pub use ffmpeg::FfmpegArguments;

use ffmpeg::Ffmpeg;
use file::{FileInput, Kind};
use http::Http;
use pace::Paced;
use pipe::Pipe;
use udp::Udp;

/// A good length for the buffer given to [`Source::read`]: large enough that system calls cost nothing,
/// small enough to stay in the cache until the bytes are hashed.
pub const READ_LEN: usize = 256 << 10;

/// The longest that a read waits for bytes.
pub const MAX_WAIT: Duration = Duration::from_millis(250);

/// Where the feed comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// `-`: MPEG-TS on standard input.
    Stdin,
    /// A file: MPEG-TS as it is, anything else through ffmpeg.
    File(PathBuf),
    /// `udp://address:port` or `rtp://`: datagrams sent to this port; a multicast group is joined.
    Udp(UdpAddress),
    /// `http://` or `https://`: MPEG-TS as it is, anything else through ffmpeg.
    Http(String),
    /// Anything else is for ffmpeg to open.
    Ffmpeg(String),
}

/// How to read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputOptions {
    /// Whether to hand bytes out at the pace of their own timestamps; by default files are.
    pub realtime: Option<bool>,
    /// Whether to begin again at the end: files only.
    pub repeat: bool,
    /// Added to ffmpeg's command line.
    pub ffmpeg: FfmpegArguments,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes at the beginning of the buffer.
    Data(usize),
    /// Nothing came for as long as was waited; the input is still open.
    Idle,
    /// There will be no more.
    End,
}

impl Input {
    /// Reads INPUT as the command line gives it.
    ///
    /// # Errors
    /// [`InputError::BadAddress`] for a `udp://` that names no port.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(address) = text.strip_prefix("udp://").or_else(|| text.strip_prefix("rtp://")) {
            return UdpAddress::parse(address)
                .map(Self::Udp)
                .ok_or_else(|| InputError::BadAddress(text.to_owned()));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            let path = text.split(['?', '#']).next().unwrap_or(text);
            let playlist = path.ends_with(".m3u8") || path.ends_with(".mpd");
            return Ok(if playlist { Self::Ffmpeg(text.to_owned()) } else { Self::Http(text.to_owned()) });
        }
        let scheme = text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty()
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        });
        Ok(match text.strip_prefix("file://") {
            Some(path) => Self::File(path.into()),
            None if scheme => Self::Ffmpeg(text.to_owned()),
            None => Self::File(text.into()),
        })
    }

    /// It as it is opened, with its secrets.
    pub fn url(&self) -> String {
        match self {
            Self::Http(url) | Self::Ffmpeg(url) => url.clone(),
            Self::Stdin | Self::File(_) | Self::Udp(_) => self.to_string(),
        }
    }

    /// Whether what failed or fell silent is opened again: others' addresses are, what is ours to give is not.
    fn reopens(&self) -> bool {
        matches!(self, Self::Udp(_) | Self::Http(_) | Self::Ffmpeg(_))
    }

    /// Whether its end is only that of a connection: a publisher that left comes back.
    fn is_endless(&self) -> bool {
        match self {
            Self::Ffmpeg(url) => {
                let finite = ["http://", "https://", "ftp://", "file:"];
                !finite.iter().any(|scheme| url.starts_with(scheme))
            }
            Self::Udp(_) => true,
            Self::Stdin | Self::File(_) | Self::Http(_) => false,
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => write!(f, "standard input"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Udp(address) => write!(f, "{address}"),
            Self::Http(url) | Self::Ffmpeg(url) => write!(f, "{url}"),
        }
    }
}

/// An open input.
#[derive(Debug)]
pub struct Source {
    bytes: Bytes,
    ffmpeg: FfmpegArguments,
}

#[derive(Debug)]
enum Bytes {
    Pipe(Pipe),
    File(FileInput),
    Udp(Udp),
    Http(Http),
    Ffmpeg(Ffmpeg),
    Paced(Box<Paced>),
}

impl Source {
    /// Opens `input`.
    ///
    /// # Errors
    /// What keeps it from being opened, as a sentence that names the remedy.
    pub fn open(input: &Input, options: &InputOptions) -> Result<Self, InputError> {
        let repeatable = matches!(input, Input::File(_));
        if options.repeat && !repeatable {
            return Err(InputError::NotRepeatable(input.to_string()));
        }
        let ffmpeg = &options.ffmpeg;
        let bytes = match input {
            Input::Stdin => Bytes::Pipe(Pipe::stdin()?),
            Input::Udp(address) => Bytes::Udp(Udp::bind(address)?),
            Input::Http(url) => Bytes::Http(Http::start(url)),
            Input::Ffmpeg(url) => Bytes::Ffmpeg(Ffmpeg::start(url, false, ffmpeg)?),
            // Whoever has words for ffmpeg wants it to open what else would be read as it is, such as a device.
            Input::File(path) if *ffmpeg != FfmpegArguments::default() => {
                let path = path.to_string_lossy();
                Bytes::Ffmpeg(Ffmpeg::start(&path, options.repeat, ffmpeg)?)
            }
            Input::File(path) => match file::sniff(path)? {
                Kind::MpegTs => Bytes::File(FileInput::open(path, options.repeat)?),
                Kind::Stream => Bytes::Pipe(Pipe::open(path)?),
                Kind::Other => Bytes::Ffmpeg(Ffmpeg::start(&file::as_url(path), options.repeat, ffmpeg)?),
            },
        };
        let paced = options.realtime.unwrap_or(repeatable && !matches!(bytes, Bytes::Pipe(_)));
        let source = Self { ffmpeg: ffmpeg.clone(), ..Self::of(bytes) };
        Ok(if paced { Self::of(Bytes::Paced(Box::new(Paced::new(source)))) } else { source })
    }

    fn of(bytes: Bytes) -> Self {
        Self { bytes, ffmpeg: FfmpegArguments::default() }
    }

    /// Waits as long as `patience` for bytes and puts them into `buf`, which should hold [`READ_LEN`].
    ///
    /// # Errors
    /// What ended the input before its time, as a sentence that names the remedy.
    pub fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        match &mut self.bytes {
            Bytes::Pipe(pipe) => pipe.read(buf, patience),
            Bytes::File(file) => file.read(buf),
            Bytes::Udp(udp) => udp.read(buf, patience),
            Bytes::Http(http) => match http.read(buf, patience) {
                Err(InputError::HttpOther(url)) => {
                    self.bytes = Bytes::Ffmpeg(Ffmpeg::start(&url, false, &self.ffmpeg)?);
                    Ok(Read::Idle)
                }
                read => read,
            },
            Bytes::Ffmpeg(ffmpeg) => ffmpeg.read(buf, patience),
            Bytes::Paced(paced) => paced.read(buf, patience),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_told_apart() {
        let udp = |ip: std::net::IpAddr| Input::Udp(UdpAddress::new((ip, 1234).into()));
        for (text, input) in [
            ("-", Input::Stdin),
            ("clip.ts", Input::File("clip.ts".into())),
            ("/a/b://c.ts", Input::File("/a/b://c.ts".into())),
            ("file:///tmp/clip.ts", Input::File("/tmp/clip.ts".into())),
            ("udp://127.0.0.1:1234", udp([127, 0, 0, 1].into())),
            ("udp://@239.1.1.1:1234", udp([239, 1, 1, 1].into())),
            ("rtp://239.1.1.1:1234", udp([239, 1, 1, 1].into())),
            ("udp://:1234", udp([0, 0, 0, 0].into())),
            ("udp://[::1]:1234?pkt_size=1316", udp([0, 0, 0, 0, 0, 0, 0, 1].into())),
            ("rtmp://host/app", Input::Ffmpeg("rtmp://host/app".into())),
            ("https://host/live", Input::Http("https://host/live".into())),
            ("https://host/live.m3u8?t=1", Input::Ffmpeg("https://host/live.m3u8?t=1".into())),
        ] {
            assert_eq!(Input::parse(text).unwrap(), input, "{text}");
        }
        for text in ["udp://", "udp://127.0.0.1", "udp://127.0.0.1:", "udp://host.example:99999"] {
            assert!(matches!(Input::parse(text), Err(InputError::BadAddress(_))), "{text}");
        }
    }
}
