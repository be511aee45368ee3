//! Why there are no bytes: each a sentence that says what to do.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    headers::Place,
    hls::{Aired, Segment},
};

/// A playlist for ffmpeg to read.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// What is to be read in place of it, as a `data:` URL.
    pub playlist: Option<String>,
    /// Its newest segment.
    pub newest: Option<Segment>,
    /// The segment to begin with, counted from the end, if not the usual one.
    pub start: Option<usize>,
    /// It is a DASH manifest.
    pub manifest: bool,
    /// So much at its beginning was on air.
    pub skip: Duration,
    /// What could not be had: sentences.
    pub warnings: Vec<String>,
}

/// Why an input cannot be opened or has failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A `udp://` input without address and port.
    #[error(
        "{0} names no address and port that can be received at; write it as udp://127.0.0.1:1234, udp://:1234 for any \
         address, or udp://@GROUP:1234?interface=ADDRESS for multicast"
    )]
    BadAddress(String),
    /// Words for ffmpeg that no shell would take.
    #[error("{option} has a quote that is not closed: {text}; quote as in a shell")]
    Quotes {
        /// The option.
        option: &'static str,
        /// Its value.
        text: String,
    },
    /// Only a file can begin again.
    #[error("{0} cannot be played in a loop; --loop is for files")]
    NotRepeatable(String),
    /// Nobody is writing to standard input.
    #[error(
        "standard input is a terminal; pipe MPEG-TS into it, as in `ffmpeg … -f mpegts - | minuet-segmenter -`"
    )]
    Terminal,
    /// It ended at once.
    #[error("{0} ended before anything came; what was to feed it says why")]
    Nothing(String),
    /// The file is not there.
    #[error("there is no file {0}; check the path")]
    Missing(PathBuf),
    /// It is not there, and may be meant for an address.
    #[error("there is no file {text}; if an address is meant, write it whole, as in {meant}")]
    NearlyAddress {
        /// The input.
        text: String,
        /// As it may be meant.
        meant: String,
    },
    /// An address on the web that is none.
    #[error("{text} is no address on the web ({reason}); write it as in http://HOST:PORT/PATH")]
    BadUrl {
        /// The input.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No input at all.
    #[error("the input is empty; name a file or an address, or `-` for standard input")]
    NoInput,
    /// A list that lists nothing that can be had.
    #[error("{0} lists no address on the web; name the file or address itself that is to be played")]
    List(PathBuf),
    /// The path names something that cannot be read as a file.
    #[error("{0} is a directory; name a file in it")]
    Directory(PathBuf),
    /// Nothing in it.
    #[error("{0} is empty")]
    Empty(PathBuf),
    /// It is there but cannot be read.
    #[error("{path} cannot be read: {reason}; check its permissions")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: io::Error,
    },
    /// The UDP port is taken.
    #[error(
        "UDP port {0} is in use, by another program or by this one (--listen, --bt-listen, --fallback); stop that or \
         choose another port"
    )]
    PortInUse(SocketAddr),
    /// The TCP port is taken.
    #[error(
        "TCP port {0} is in use, by another program or by this one (--listen, --status, --fallback); stop that or choose \
         another port"
    )]
    TcpPortInUse(SocketAddr),
    /// Nobody can come to the address.
    #[error("cannot wait for encoders on {address}: {reason}; check the address")]
    Listen {
        /// Where to wait.
        address: SocketAddr,
        /// The system's reason.
        reason: io::Error,
    },
    /// The UDP socket cannot be had.
    #[error("cannot receive on {address}: {reason}; check the address, and the interface if one is named")]
    Udp {
        /// Where to receive.
        address: String,
        /// The system's reason.
        reason: io::Error,
    },
    /// The file is looped or paced and is not MPEG-TS after all.
    #[error(transparent)]
    Media(#[from] minuet_media::Error),
    /// There is no ffmpeg.
    #[error(
        "{input} is for ffmpeg to read, which is not installed; install it (`apt install ffmpeg`) or give MPEG-TS"
    )]
    NoFfmpeg {
        /// What ffmpeg was to open.
        input: String,
    },
    /// Nobody knows this kind of address.
    #[error("{0} begins with what neither the segmenter nor this ffmpeg knows; check what stands before ://")]
    UnknownScheme(String),
    /// ffmpeg gave up.
    #[error("ffmpeg could not read {input} ({status}): {last_words}")]
    Ffmpeg {
        /// What it was to open.
        input: String,
        /// How it ended.
        status: String,
        /// The end of what it wrote to standard error.
        last_words: String,
    },
    /// The far end of SRT turned us away.
    #[error("{input} refuses the connection: {why}")]
    Passphrase {
        /// What it was to open.
        input: String,
        /// What does not fit, and what to do.
        why: &'static str,
    },
    /// It has a length and broke off before, and what came is on air.
    #[error(
        "{input} ends early: {came} came, which was sent ({reason}); the rest is missing or cannot be read"
    )]
    Early {
        /// What it is.
        input: String,
        /// How much came.
        came: String,
        /// What broke it off.
        reason: String,
    },
    /// Bytes of any kind.
    #[error(
        "{input} is no media that ffmpeg knows (its guess is {guess}); if you know what it is, say so, as in --ffmpeg-args \
         \"-f s16le\""
    )]
    NoMedia {
        /// What it is.
        input: String,
        /// ffmpeg's guess.
        guess: String,
    },
    /// A picture without a length.
    #[error(
        "{0} is one picture, which has no duration: as a file it can be held with --loop, or shown while another input is \
         silent with --slate"
    )]
    StillPicture(String),
    /// Nobody can show its pictures.
    #[error(
        "the pictures of {input} ({codec}) come without their headers (SPS and PPS), so that nobody can show them; have the \
         file written or the encoder started anew"
    )]
    WithoutHeaders {
        /// What it is.
        input: String,
        /// How they are coded.
        codec: String,
    },
    /// The HTTP server does not give it.
    #[error("{input} {reason}; check the address and the server")]
    Http {
        /// What was asked for.
        input: String,
        /// What came instead.
        reason: String,
    },
    /// The HTTP server's certificate is not one that this system trusts.
    #[error(
        "{input} shows a certificate that is not trusted ({reason}); if it is your own server, add --insecure-input, or \
         its certificate to those that this system trusts"
    )]
    Certificate {
        /// What was asked for.
        input: String,
        /// What is wrong with it.
        reason: String,
    },
    /// We cannot read it, but ffmpeg may.
    #[error("{input} {why}")]
    ForFfmpeg {
        /// What it is.
        input: String,
        /// Why we cannot, as the rest of a sentence.
        why: String,
        /// It has a length.
        finite: bool,
        /// It is a playlist.
        listed: Option<Box<Listed>>,
    },
    /// It only names where the feed is.
    #[error("{input} leads to {to:?}")]
    Elsewhere {
        /// The playlist.
        input: String,
        /// The entries of it, in the order in which they are to be tried.
        to: Vec<Place>,
    },
    /// A live playlist in which everything was on air before.
    #[error("{input} is a playlist that is not renewed: all of it was on air; waiting for what comes next")]
    NothingNew {
        /// The playlist.
        input: String,
        /// It says that nothing more will come.
        over: bool,
        /// It stood still from one look to the next.
        stands: bool,
        /// What was on air.
        aired: Box<Aired>,
    },
    /// Reading failed midway.
    #[error("reading the input failed: {0}")]
    Io(#[from] io::Error),
}
