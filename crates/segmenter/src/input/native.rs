//! What we read ourselves: bytes as they come.

use std::time::Duration;

use super::{
    InputError, Read, ffmpeg::Ffmpeg, file::FileInput, http::Http, pipe::Pipe, rtmp::Tags, udp::Udp,
};

/// So much is looked at to tell whether bytes are MPEG-TS: two seconds of a radio.
pub const SNIFF_LEN: usize = 16 << 10;

/// Bytes from one place.
#[derive(Debug)]
pub enum Native {
    /// Standard input, a named pipe, a device.
    Pipe(Pipe),
    /// A file of MPEG-TS.
    File(FileInput),
    /// Datagrams.
    Udp(Box<Udp>),
    /// An answer to a request.
    Http(Box<Http>),
    /// What an encoder sends by RTMP, as FLV.
    Tags(Box<Tags>),
    /// What ffmpeg passes on as it comes.
    Raw(Box<Ffmpeg>),
}

impl Native {
    /// Reads what comes within `patience`.
    pub fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        match self {
            Self::Pipe(pipe) => pipe.read(buf, patience),
            Self::File(file) => file.read(buf),
            Self::Udp(udp) => udp.read(buf, patience),
            Self::Http(http) => http.read(buf, patience),
            Self::Tags(tags) => tags.read(buf, patience),
            Self::Raw(ffmpeg) => ffmpeg.read(buf, patience),
        }
    }

    /// Whether it has a length.
    pub fn is_finite(&self) -> bool {
        match self {
            Self::Pipe(pipe) => pipe.is_regular_file(),
            Self::File(_) => true,
            Self::Http(http) => http.is_finite(),
            Self::Udp(_) | Self::Tags(_) | Self::Raw(_) => false,
        }
    }
}

/// What the beginning of some bytes says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// They are MPEG-TS.
    MpegTs,
    /// They are something else.
    Other,
    /// More must come.
    Short,
}

/// Tells what `head`, the beginning of a feed, looks like.
pub fn looks(head: &[u8]) -> Looks {
    if minuet_media::looks_like_other_media(head) {
        return Looks::Other;
    }
    if minuet_media::looks_like_mpeg_ts(head) {
        return Looks::MpegTs;
    }
    if head.len() >= SNIFF_LEN { Looks::Other } else { Looks::Short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let packet = [&[0x47, 0x1f, 0xff, 0x10][..], &[0xff; 184]].concat();
        assert_eq!(looks(&packet.repeat(5)), Looks::MpegTs);
        assert_eq!(looks(&packet.repeat(2)), Looks::Short);
        // A byte order mark and garbage before it.
        assert_eq!(looks(&[b"\xef\xbb\xbf garbage".as_slice(), &packet.repeat(6)].concat()), Looks::MpegTs);
        for other in [&b"\x1a\x45\xdf\xa3"[..], b"FLV\x01\x05", b"\0\0\0\x20ftypisom", &[0xaa; SNIFF_LEN]] {
            assert_eq!(looks(other), Looks::Other);
        }
        assert_eq!(looks(&[]), Looks::Short);
    }
}
