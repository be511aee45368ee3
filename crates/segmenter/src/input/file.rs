//! Bytes from a file, once or over and over.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Seek as _},
    os::unix::fs::FileTypeExt as _,
    path::Path,
};

use minuet_media::{PacketSync, Restamper, looks_like_mpeg_ts};

use super::{
    InputError, READ_LEN, Read,
    headers::Place,
    playlist::{self, Playlist},
};

/// How much of a file is looked at to tell what it is.
const SNIFF_LEN: u64 = 64 << 10;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of MPEG-TS.
    MpegTs,
    /// A named pipe or a device: MPEG-TS, one hopes.
    Stream,
    /// A file of something else.
    Other,
}

/// Tells what `path` leads to.
pub fn sniff(path: &Path) -> Result<Kind, InputError> {
    let metadata = std::fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if metadata.is_dir() {
        return Err(InputError::Directory(path.to_owned()));
    }
    if !metadata.is_file() {
        return Ok(Kind::Stream);
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SNIFF_LEN).read_to_end(&mut head))
        .map_err(|source| unreadable(path, source))?;
    if head.is_empty() {
        return Err(InputError::Empty(path.to_owned()));
    }
    Ok(if looks_like_mpeg_ts(&head) { Kind::MpegTs } else { Kind::Other })
}

/// Whether the path leads to a list of stations (`.m3u`, `.pls`), which is not played by itself.
pub fn is_list(path: &Path) -> bool {
    let is_text = std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= playlist::MAX_LEN as u64);
    is_text && matches!(sniff(path), Ok(Kind::Other)) && list(path).is_ok_and(|entries| !entries.is_empty())
}

/// What a list of stations names on the web; nothing if it is no such list.
pub fn list(path: &Path) -> Result<Vec<Place>, InputError> {
    let text = std::fs::read(path).map_err(|source| unreadable(path, source))?;
    let base = std::path::absolute(path).ok().and_then(|path| url::Url::from_file_path(path).ok());
    let found =
        base.zip(std::str::from_utf8(&text).ok()).and_then(|(base, text)| playlist::read(text, &base));
    Ok(match found {
        Some(Playlist::Entries(entries)) => entries,
        _ => Vec::new(),
    })
}

/// Whether the path leads to a named pipe or a device.
pub fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Whether what the path leads to may go on after its end: a named pipe, to which somebody may write again, or an RTP
/// session.
pub fn is_endless(path: &Path) -> bool {
    is_session(path) || is_named_pipe(path)
}

/// Whether the path leads to a named pipe. `/dev/stdin` and a shell's `<(…)` are pipes that lead to no place in the file
/// system, and end.
pub fn is_named_pipe(path: &Path) -> bool {
    let place = std::fs::canonicalize(path).and_then(std::fs::symlink_metadata);
    place.is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// Whether the file describes an RTP session (SDP), as cameras and encoders write it.
pub fn is_session(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("sdp"))
}

/// The path as ffmpeg must be given it, so that a colon in it is no scheme and a dash no option.
pub fn as_url(path: &Path) -> String {
    format!("file:{}", path.display())
}

fn unreadable(path: &Path, reason: std::io::Error) -> InputError {
    match reason.kind() {
        ErrorKind::NotFound => InputError::Missing(path.to_owned()),
        _ => InputError::Unreadable { path: path.to_owned(), reason },
    }
}

/// A file of MPEG-TS.
#[derive(Debug)]
pub struct FileInput {
    file: File,
    repeat: Option<Box<Repeat>>,
}

/// What makes an endless feed of a file.
#[derive(Debug, Default)]
struct Repeat {
    sync: PacketSync,
    restamper: Restamper,
    raw: Vec<u8>,
    /// Bytes of `raw` that are still to be taken begin here.
    at: usize,
    /// Whole packets, restamped, of which `sent` bytes have been handed out.
    packets: Vec<u8>,
    sent: usize,
    /// The file has brought packets since it began.
    fruitful: bool,
}

impl FileInput {
    /// Opens the file at `path`; with `repeat` it never ends.
    pub fn open(path: &Path, repeat: bool) -> Result<Self, InputError> {
        let file = File::open(path).map_err(|source| unreadable(path, source))?;
        Ok(Self { file, repeat: repeat.then(Box::default) })
    }

    pub(super) fn read(&mut self, buf: &mut [u8]) -> Result<Read, InputError> {
        let Some(repeat) = &mut self.repeat else {
            return Ok(match self.file.read(buf)? {
                0 => Read::End,
                len => Read::Data(len),
            });
        };
        repeat.read(&mut self.file, buf)
    }
}

impl Repeat {
    fn read(&mut self, file: &mut File, buf: &mut [u8]) -> Result<Read, InputError> {
        while self.sent == self.packets.len() {
            if !self.next_packets(file)? {
                return Ok(Read::End);
            }
        }
        let len = buf.len().min(self.packets.len() - self.sent);
        buf[..len].copy_from_slice(&self.packets[self.sent..self.sent + len]);
        self.sent += len;
        Ok(Read::Data(len))
    }

    /// Gets the next run of packets, if this read or rewind brings one; false when there will be none.
    fn next_packets(&mut self, file: &mut File) -> Result<bool, InputError> {
        let mut rest = &self.raw[self.at..];
        if self.sync.fill(&mut rest)? {
            self.packets.clear();
            self.packets.extend_from_slice(self.sync.run(rest));
            self.sent = 0;
            self.restamper.packets(&mut self.packets);
            self.sync.release(&mut rest);
            self.at = self.raw.len() - rest.len();
            self.fruitful = true;
            return Ok(true);
        }
        self.at = 0;
        self.raw.clear();
        if file.take(READ_LEN as u64).read_to_end(&mut self.raw)? == 0 {
            // Without a packet it would go round for ever.
            if !std::mem::take(&mut self.fruitful) {
                return Ok(false);
            }
            self.sync = PacketSync::default();
            self.restamper.rewind();
            file.rewind()?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(count: u8) -> Vec<u8> {
        let packet = |counter: u8| {
            let mut packet = vec![0x47, 0x01, 0x00, 0x10 | counter & 0x0f];
            packet.resize(188, counter);
            packet
        };
        (0..count).flat_map(packet).collect()
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn kinds_of_files() {
        assert_eq!(sniff(file(&packets(10)).path()).unwrap(), Kind::MpegTs);
        assert_eq!(sniff(file(&[7; 5000]).path()).unwrap(), Kind::Other);
        assert!(matches!(sniff(file(&[]).path()), Err(InputError::Empty(_))));
        assert!(matches!(sniff(Path::new("/nowhere/at/all")), Err(InputError::Missing(_))));
        assert!(matches!(sniff(Path::new("/")), Err(InputError::Directory(_))));
    }

    #[test]
    fn once_is_the_file_and_then_the_end() {
        let file = file(&packets(10));
        let mut input = FileInput::open(file.path(), false).unwrap();
        let mut buf = vec![0; READ_LEN];
        assert_eq!(input.read(&mut buf).unwrap(), Read::Data(1880));
        assert_eq!(buf[..1880], packets(10));
        assert_eq!(input.read(&mut buf).unwrap(), Read::End);
    }

    #[test]
    fn over_and_over() {
        let file = file(&packets(10));
        let mut input = FileInput::open(file.path(), true).unwrap();
        let mut feed = Vec::new();
        // A buffer that fits neither packets nor runs.
        let mut buf = [0; 1000];
        while feed.len() < 5 * 1880 {
            let Read::Data(len) = input.read(&mut buf).unwrap() else { panic!("it goes on") };
            feed.extend_from_slice(&buf[..len]);
        }
        let counters: Vec<u8> = feed[..5 * 1880].chunks(188).map(|packet| packet[3] & 0x0f).collect();
        assert!(counters.windows(2).all(|pair| pair[1] == (pair[0] + 1) & 0x0f), "{counters:?}");
    }

    #[test]
    fn a_file_that_lost_its_packets_does_not_go_round_for_ever() {
        let file = file(&[0x47; 100]);
        let mut input = FileInput::open(file.path(), true).unwrap();
        assert_eq!(input.read(&mut [0; 1000]).unwrap(), Read::End);
    }
}
