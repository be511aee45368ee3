//! How bytes get in: standard input, a file, UDP and RTP, HTTP, encoders over RTMP, or anything that ffmpeg opens. What we
//! cannot read ourselves goes to ffmpeg ([`source`]).
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
mod dash;
mod drops;
mod error;
mod feed;
mod ffmpeg;
mod file;
mod headers;
mod hls;
mod http;
mod level;
mod native;
mod pace;
mod pipe;
mod playlist;
mod redirects;
mod remark;
mod rtmp;
mod rtp;
mod source;
mod tempo;
mod udp;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

pub use address::UdpAddress;
pub use error::InputError;
pub use feed::{Fed, Feed, FeedOptions};
pub use ffmpeg::FfmpegArguments;
pub use rtmp::RtmpAddress;
pub use source::Source;
pub use tempo::Tempo;

use minuet_proto::mask;

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
    /// A file that lists stations: the first of them that can be had.
    List(PathBuf),
    /// `rtmp://0.0.0.0:port/application/key`: an encoder comes.
    Rtmp(RtmpAddress),
    /// Anything else is for ffmpeg to open.
    Ffmpeg(String),
}

/// How to read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputOptions {
    /// Whether to hand bytes out at the pace of their own timestamps; by default what has a length is.
    pub realtime: Option<bool>,
    /// Whether to begin again at the end: files only.
    pub repeat: bool,
    /// Added to ffmpeg's command line.
    pub ffmpeg: FfmpegArguments,
    /// Of several programs or variants.
    pub program: Option<u16>,
    /// A server's certificate need not be one that this system trusts.
    pub insecure: bool,
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
    /// [`InputError::BadAddress`] for a `udp://` that names no port, and others for what can be neither file nor address.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        let text = &copied(text);
        if text.is_empty() {
            return Err(InputError::NoInput);
        }
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(address) = text.strip_prefix("udp://").or_else(|| text.strip_prefix("rtp://")) {
            return UdpAddress::parse(address)
                .filter(|address| address.listen.port() != 0)
                .map(Self::Udp)
                .ok_or_else(|| InputError::BadAddress(text.to_owned()));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            let url = text.split('|').next().unwrap_or_default();
            return match url::Url::parse(url) {
                Ok(_) => Ok(Self::Http(text.to_owned())),
                Err(error) => Err(InputError::BadUrl { text: mask(url), reason: error.to_string() }),
            };
        }
        if let Some(address) = text.strip_prefix("rtmp://").and_then(RtmpAddress::parse) {
            return Ok(Self::Rtmp(address));
        }
        let scheme = text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty()
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        });
        let file = ["file://", "file:"].iter().find_map(|scheme| text.strip_prefix(scheme));
        Ok(match file.filter(|path| path.starts_with('/') || text.starts_with("file://")) {
            Some(path) => Self::File(path.into()),
            None if scheme => Self::Ffmpeg(text.to_owned()),
            None => match nearly(text).filter(|_| !Path::new(text).exists()) {
                Some(meant) => {
                    return Err(InputError::NearlyAddress { text: mask(text), meant: mask(&meant) });
                }
                None => Self::File(text.into()),
            },
        }
        .listed())
    }

    /// A file of stations is a list.
    fn listed(self) -> Self {
        match self {
            Self::File(path) if file::is_list(&path) => Self::List(path),
            other => other,
        }
    }

    /// It as it is opened, with its secrets. The key of an RTMP address is not among them: nobody but its own door has it.
    pub fn url(&self) -> String {
        match self {
            Self::Http(url) | Self::Ffmpeg(url) => url.clone(),
            Self::Stdin | Self::File(_) | Self::List(_) | Self::Udp(_) | Self::Rtmp(_) => self.to_string(),
        }
    }

    /// Whether both wait for senders at one place, which only one of them can have.
    pub fn shares_a_place_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Udp(one), Self::Udp(two)) => one.collides(two),
            (Self::Rtmp(one), Self::Rtmp(two)) => one.listen.port() == two.listen.port(),
            _ => false,
        }
    }

    /// Whether what failed or fell silent is opened again: others' addresses are, what is ours to give is not.
    fn reopens(&self) -> bool {
        !matches!(self, Self::Stdin | Self::File(_))
    }
}

/// An address as it was meant, when it was copied out of a mail, a page or a script with what stood around it. A file's
/// name is left as it is, if there is one.
fn copied(text: &str) -> String {
    if Path::new(text).exists() {
        return text.to_owned();
    }
    let mut bare = text.trim();
    bare = bare.strip_prefix("view-source:").unwrap_or(bare);
    let quotes =
        [('"', '"'), ('\'', '\''), ('<', '>'), ('`', '`'), ('“', '”'), ('„', '“'), ('‘', '’'), ('«', '»')];
    for (before, after) in quotes {
        let inside = bare.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        bare = inside.map_or(bare, str::trim);
    }
    // RFC 3986, 3.1: case does not matter.
    match bare.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            format!("{}://{rest}", scheme.to_ascii_lowercase())
        }
        _ => bare.to_owned(),
    }
}

/// What an input may be meant to be that is no file and has no scheme, or half of one.
fn nearly(text: &str) -> Option<String> {
    for scheme in ["http", "https", "udp", "rtp", "rtmp", "rtsp", "srt"] {
        let rest = text.strip_prefix(scheme).and_then(|rest| rest.strip_prefix(':'));
        if let Some(rest) = rest {
            return Some(format!("{scheme}://{}", rest.trim_start_matches('/')));
        }
    }
    let (place, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let (host, port) =
        place.rsplit_once(':').map_or((place, None), |(host, port)| (host, port.parse::<u16>().ok()));
    let is_name = host.starts_with("www.") || host == "localhost" || host.parse::<std::net::IpAddr>().is_ok();
    let is_host =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    let meant = is_host && (is_name || (port.is_some() && host.contains('.')));
    meant.then(|| format!("http://{place}{path}"))
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => write!(f, "standard input"),
            Self::File(path) | Self::List(path) => write!(f, "{}", path.display()),
            Self::Udp(address) => write!(f, "{address}"),
            Self::Rtmp(address) => write!(f, "rtmp://{}", address.listen),
            // What stands behind the bar is for the server alone.
            Self::Http(url) => write!(f, "{}", mask(url.split('|').next().unwrap_or_default())),
            Self::Ffmpeg(url) => write!(f, "{}", mask(url)),
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
            ("https://host/live.m3u8?t=1", Input::Http("https://host/live.m3u8?t=1".into())),
            ("https://host/live.mpd", Input::Http("https://host/live.mpd".into())),
            ("srt://:9000", Input::Ffmpeg("srt://:9000".into())),
            // As they come out of mails, pages and shells.
            (" <HTTP://host/Live>\n", Input::Http("http://host/Live".into())),
            ("'udp://127.0.0.1:1234'", udp([127, 0, 0, 1].into())),
            ("\"clip of mine.ts\"", Input::File("clip of mine.ts".into())),
            ("file:/tmp/clip.ts", Input::File("/tmp/clip.ts".into())),
            ("file:clip.ts", Input::File("file:clip.ts".into())),
            ("view-source:http://host/live", Input::Http("http://host/live".into())),
            ("“http://host/live”", Input::Http("http://host/live".into())),
            ("http://host/live|User-Agent=TV", Input::Http("http://host/live|User-Agent=TV".into())),
            ("12:30 news.ts", Input::File("12:30 news.ts".into())),
            ("news.2026/a.ts", Input::File("news.2026/a.ts".into())),
        ] {
            assert_eq!(Input::parse(text).unwrap(), input, "{text}");
        }
        assert!(matches!(Input::parse("rtmp://:1935/live/key"), Ok(Input::Rtmp(_))));
        for (text, shown) in [
            ("http://alice:hunter2@host/live", "http://alice:***@host/live"),
            ("rtmp://0.0.0.0:1935/live/hunter2", "rtmp://0.0.0.0:1935"),
            ("srt://host:9000?passphrase=hunter2hunter2", "srt://host:9000?passphrase=***"),
            ("http://host/live|Cookie=hunter2", "http://host/live"),
        ] {
            assert_eq!(Input::parse(text).unwrap().to_string(), shown);
        }
        for text in ["udp://", "udp://127.0.0.1", "udp://127.0.0.1:", "udp://host.example:99999", "udp://:0"]
        {
            assert!(matches!(Input::parse(text), Err(InputError::BadAddress(_))), "{text}");
        }
        for text in ["http://", "http://[::1/x", "https://host:99999/", "http://a b/"] {
            assert!(matches!(Input::parse(text), Err(InputError::BadUrl { .. })), "{text}");
        }
        assert!(matches!(Input::parse(" "), Err(InputError::NoInput)));
        for (text, meant) in [
            ("127.0.0.1:18080/cl", "http://127.0.0.1:18080/cl"),
            ("www.tv.example/live", "http://www.tv.example/live"),
            ("tv.example:8080/live", "http://tv.example:8080/live"),
            ("http:/tv.example/live", "http://tv.example/live"),
            ("rtsp:tv.example/live", "rtsp://tv.example/live"),
        ] {
            let error = Input::parse(text).unwrap_err().to_string();
            assert!(error.ends_with(meant), "{error}");
        }
    }

    #[test]
    fn a_file_of_stations_is_a_list() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let list = put("tv.m3u", "#EXTM3U\n#EXTINF:-1,One\nhttp://tv.example/1\n");
        assert_eq!(Input::parse(list.to_str().unwrap()).unwrap(), Input::List(list));
        let list = put("radio.pls", "[playlist]\nFile1=http://radio.example/\n");
        assert_eq!(Input::parse(list.to_str().unwrap()).unwrap(), Input::List(list));
        for (name, text) in [
            ("hls.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nhttp://tv.example/0.ts\n"),
            ("files.m3u", "#EXTM3U\n/etc/passwd\nfile:///etc/passwd\na.ts\n"),
            ("concat.txt", "file 'a.ts'\nfile 'b.ts'\n"),
        ] {
            let path = put(name, text);
            assert_eq!(Input::parse(path.to_str().unwrap()).unwrap(), Input::File(path), "{name}");
        }
    }
}
