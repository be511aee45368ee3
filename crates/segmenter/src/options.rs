//! The command line, and what it means.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::Parser;
use minuet_node::{
    mesh::{DhtOptions, host_port},
    units::{self, Rate},
};
use minuet_options::{FromFile, Papers};
use minuet_proto::{
    Secrets,
    link::parse_tracker,
    record::MAX_SEGMENT_MS,
    title::{check_title, clean_title},
};
use minuet_swarm::{MIN_UPLOAD_BYTES_PER_S, Upload};
use url::Url;

use crate::input::{FeedOptions, FfmpegArguments, Input, InputError, InputOptions};

/// HTTP has at most one part in so many of the upload limit, unless it has a limit of its own.
const HTTP_PART: u64 = 8;
/// The key's name, among a service's credentials and in the data folder.
const KEY_FILE: &str = "channel.key";

/// Cuts a live MPEG-TS feed into segments and shares each as a torrent.
///
/// Standard output carries one line, the channel link, once the segmenter is ready; give it to viewers. Everything
/// else goes to standard error.
///
/// When the feed ends (or on Ctrl-C or SIGTERM) the open segment is sealed and published, and the channel is
/// announced as ended. After the end of a feed the segments stay seeded until Ctrl-C, unless --exit-at-end is given.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, args_override_self = true)]
#[command(after_help = "Examples:\n  \
minuet-segmenter evening.ts --tracker http://tracker.example:7070\n  \
ffmpeg -re -i in.mkv -c copy -f mpegts - | minuet-segmenter - --tracker URL\n  \
minuet-segmenter rtmp://0.0.0.0:1935/live/KEY --tracker URL --channel 'Radio Tower' --record rec\n  \
minuet-segmenter udp://@239.1.1.1:5000 --tracker URL --slate back-soon.ts --upload-limit 16Mbit\n\n\
Files:\n  \
/etc/minuet/segmenter.conf               options of the service that packages bring\n  \
/etc/credstore/minuet-segmenter.key      its channel's key, if it is not to be in its data folder\n  \
/var/lib/minuet-segmenter                its data folder\n\n\
Exit codes: 0 the feed ended or was ended; 1 a failure, with one sentence on standard error; 2 bad usage.")]
pub struct Options {
    /// Where the feed comes from: `-` (MPEG-TS on standard input), a file, a named pipe, udp:// or rtp://ADDR:PORT,
    /// http(s)://, or anything that ffmpeg opens; rtmp://0.0.0.0:1935/live/KEY and srt://0.0.0.0:9000 wait for an encoder to come. Example:
    /// ffmpeg -re -i in.mkv -c copy -f mpegts - | minuet-segmenter -
    #[arg(value_name = "INPUT", value_parser = parse_input)]
    pub input: Input,

    /// Tracker to publish to; may repeat. Example: --tracker http://tracker.example:7070
    #[arg(long = "tracker", value_name = "URL", value_parser = parse_tracker)]
    pub trackers: Vec<Url>,

    /// Say in BitTorrent's DHT where the channel is, so that viewers with --dht find it by its key alone, and its newest segment is
    /// found by readers of BEP 46. Nodes of the DHT, run by anybody, then know this address
    #[arg(long)]
    pub dht: bool,

    /// Where to enter the DHT while no node of it is known from before; may repeat (default: router.bittorrent.com:6881,
    /// dht.transmissionbt.com:6881, relay.pkarr.org:6881). Example: --dht-bootstrap 203.0.113.5:6881
    #[arg(long, value_name = "HOST:PORT", requires = "dht", value_parser = host_port)]
    pub dht_bootstrap: Vec<String>,

    /// Say on the local network that the channel is here, by multicast DNS, for viewers with --local
    #[arg(long)]
    pub local: bool,

    /// Title of the channel. Example: --channel "Radio Tower"
    #[arg(long, value_name = "TITLE", default_value = "", value_parser = parse_title)]
    pub channel: String,

    /// Length of a segment. Example: --segment 10s
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::duration)]
    pub segment: Duration,

    /// Folder for segments, the key and the engine's files; one segmenter at a time. Example: --data /srv/minuet
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir())]
    pub data: PathBuf,

    /// File with the channel's secret key, made when missing (default: the service's credential channel.key if it has one,
    /// else channel.key in --data). Whoever has it speaks
    /// for the channel: keep a copy, and keep it private. Example: --key ~/tower.key
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// Address of the segmenter's own HTTP server, which serves segments to clients that take web seeds and to viewers
    /// for whom a piece is late, and of the live mesh (UDP, same port); port 0 is any free port. [::] takes IPv4 as well.
    /// Example: --listen 192.0.2.7:7080
    #[allow(rustdoc::broken_intra_doc_links, reason = "[::] is an address, in what --help prints")]
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:7080")]
    pub listen: SocketAddr,

    /// Address for BitTorrent peers (default: that of --listen with the port after it, or any free port when that is
    /// 0). Example: --bt-listen [::]:6881
    #[allow(rustdoc::broken_intra_doc_links, reason = "[::] is an address, in what --help prints")]
    #[arg(long, value_name = "ADDR:PORT")]
    pub bt_listen: Option<SocketAddr>,

    /// Address of the status page and of metrics for Prometheus (default: none). Keep it private. Example: --status
    /// 127.0.0.1:7090
    #[arg(long, value_name = "ADDR:PORT")]
    pub status: Option<SocketAddr>,

    /// How others reach the HTTP server, when it is not by the address that leads to the first tracker. Example:
    /// --public-url http://tower.example:7080/
    #[arg(long, value_name = "URL", value_parser = parse_tracker)]
    pub public_url: Option<Url>,

    /// The most to send (default: what the line can send while nobody else on it has to wait, but no less than the stream
    /// needs). What is needed live goes first; finished minutes over BitTorrent get what
    /// that leaves, a sixteenth in any case; HTTP has a small part of what both leave. Example: --upload-limit 16Mbit
    #[arg(long, value_name = "RATE")]
    pub upload_limit: Option<Rate>,

    /// Do not share the open minute over the live mesh: viewers get finished minutes only
    #[arg(long)]
    pub no_live: bool,

    /// Do not name the HTTP server to viewers as a last resort for pieces that no peer delivers in time
    #[arg(long)]
    pub no_origin: bool,

    /// The most that the HTTP server sends (default: an eighth of --upload-limit). Example: --origin-limit 2Mbit
    #[arg(long, value_name = "RATE")]
    pub origin_limit: Option<Rate>,

    /// Pace the input by its own clock; the default for what has a length: files, films on a server, playlists with an end
    #[arg(long, overrides_with = "no_realtime")]
    pub realtime: bool,

    /// Take the input as fast as it comes
    #[arg(long, overrides_with = "realtime")]
    pub no_realtime: bool,

    /// Begin a file again at its end, without a seam
    #[arg(long = "loop")]
    pub repeat: bool,

    /// After so long without data the feed is called silent, viewers are told, and an input that can be is opened
    /// again. Example: --silence 10s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = units::duration)]
    pub silence: Duration,

    /// Another input that takes over while INPUT is silent. With it or with --slate, the channel ends on request only.
    /// Example: --fallback udp://@239.1.1.2:5000
    #[arg(long, value_name = "INPUT", value_parser = parse_input)]
    pub fallback: Option<Input>,

    /// A file that is looped while INPUT (and the --fallback) is silent. A picture will do. Example: --slate back-soon.ts
    #[arg(long, value_name = "FILE", value_parser = parse_input)]
    pub slate: Option<Input>,

    /// Accept any certificate of an https:// input; by default it must be one that this system trusts
    #[arg(long)]
    pub insecure_input: bool,

    /// Arguments for ffmpeg before the input, quoted as in a shell; with them every INPUT is read by ffmpeg. Example:
    /// --ffmpeg-args "-f v4l2 -framerate 25"
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    pub ffmpeg_args: String,

    /// Arguments for ffmpeg's output; pictures or sound that they do not speak of are copied. With them every INPUT is read by ffmpeg. Example: --ffmpeg-output-args "-c:v libx264 -g 50 -c:a aac"
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    pub ffmpeg_output_args: String,

    /// How much to keep on disk, in media time; the newest segment is always kept. Example: --keep 30m
    #[arg(long, value_name = "DURATION", default_value = "2h", value_parser = units::duration)]
    pub keep: Duration,

    /// How many bytes of media to keep (default: as --keep allows). Example: --keep-bytes 20GB
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub keep_bytes: Option<u64>,

    /// Folder in which all segments of this broadcast are kept beyond --keep, with one torrent of the whole when it ends.
    /// Example: --record /srv/recordings
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,

    /// Program of a multiplex to broadcast alone (default: all of them, cut where the first with video can be, else the first
    /// with audio). Example: --program 3
    #[arg(long, value_name = "NUMBER")]
    pub program: Option<u16>,

    /// Drop null packets, which fill a constant-rate feed and carry nothing
    #[arg(long)]
    pub strip_nulls: bool,

    /// End when the feed ends, as soon as the trackers know; nothing stays seeded
    #[arg(long)]
    pub exit_at_end: bool,

    /// Let trackers list the channel in public
    #[arg(long)]
    pub listed: bool,

    #[command(flatten)]
    pub file: FromFile,

    #[command(flatten)]
    pub papers: Papers,
}

impl Options {
    /// Checks what single options cannot know.
    pub fn check(&self) -> Result<()> {
        let most = Duration::from_millis(MAX_SEGMENT_MS) / 2;
        ensure!(
            (Duration::from_millis(500)..=most).contains(&self.segment),
            "--segment {} is out of bounds; choose from 500ms to {}",
            units::show(self.segment),
            units::show(most)
        );
        ensure!(
            self.silence >= Duration::from_secs(1),
            "--silence {} is too short: a feed pauses for so long at times; choose 1s or more",
            units::show(self.silence)
        );
        ensure!(
            matches!(self.slate, None | Some(Input::File(_))),
            "--slate {} is not a file; name one, or use --fallback",
            self.slate.as_ref().map(Input::to_string).unwrap_or_default()
        );
        if let Some(fallback) = self.fallback.as_ref().filter(|other| other.shares_a_place_with(&self.input))
        {
            bail!(
                "--fallback {fallback} waits at the port of the input, {}, which only one of both can have; choose another \
                 port for one of them",
                self.input
            );
        }
        self.ffmpeg_arguments()?;
        if let Upload::AtMost(rate) = self.upload() {
            ensure!(
                rate >= MIN_UPLOAD_BYTES_PER_S,
                "--upload-limit is below the {} that BitTorrent needs for one block a second",
                Rate::from_bytes_per_s(MIN_UPLOAD_BYTES_PER_S.into())
            );
        }
        Ok(())
    }

    /// How the DHT is used, if at all.
    pub fn dht(&self) -> Option<DhtOptions> {
        self.dht.then(|| DhtOptions::new(&self.dht_bootstrap, Some(&self.data)))
    }

    /// What BitTorrent may send.
    pub fn upload(&self) -> Upload {
        match self.upload_limit {
            Some(limit) => Upload::AtMost(u32::try_from(limit.bytes_per_s()).unwrap_or(u32::MAX)),
            None => Upload::Unlimited,
        }
    }

    /// Where the channel's key is.
    pub fn key_file(&self) -> PathBuf {
        self.key.clone().or_else(credential).unwrap_or_else(|| self.data.join(KEY_FILE))
    }

    /// Where BitTorrent peers connect to, given where the HTTP server listens.
    pub fn bt_listen(&self) -> SocketAddr {
        self.bt_listen.unwrap_or_else(|| {
            let port = if self.listen.port() == 0 { 0 } else { self.listen.port().wrapping_add(1) };
            SocketAddr::new(self.listen.ip(), port)
        })
    }

    /// Where live viewers connect to: the address of the HTTP server, by UDP.
    pub fn mesh_listen(&self) -> SocketAddr {
        self.listen
    }

    /// `--upload-limit` in bytes a second.
    pub fn upload_bytes_per_s(&self) -> Option<u64> {
        self.upload_limit.map(|limit| limit.bytes_per_s())
    }

    /// The most that HTTP may take of the upload, in bytes a second: `--origin-limit`, or a small part of
    /// `--upload-limit`, so that viewers in need do not take from the mesh what all would get from it.
    pub fn origin_bytes_per_s(&self) -> Option<u64> {
        let part = self.upload_bytes_per_s().map(|whole| whole / HTTP_PART);
        self.origin_limit.map(|limit| limit.bytes_per_s()).or(part)
    }

    /// How to read the input.
    pub fn input_options(&self) -> InputOptions {
        let realtime = match (self.realtime, self.no_realtime) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        // Checked before.
        let ffmpeg = self.ffmpeg_arguments().unwrap_or_default();
        let (program, insecure) = (self.program, self.insecure_input);
        InputOptions { realtime, repeat: self.repeat, ffmpeg, program, insecure }
    }

    fn ffmpeg_arguments(&self) -> Result<FfmpegArguments, InputError> {
        FfmpegArguments::parse(&self.ffmpeg_args, &self.ffmpeg_output_args)
    }

    /// What log lines must not show: what is secret in inputs and addresses.
    pub fn secrets(&self) -> Secrets {
        let inputs = [Some(&self.input), self.fallback.as_ref(), self.slate.as_ref()];
        let urls =
            inputs.into_iter().flatten().map(Input::url).chain(self.trackers.iter().map(Url::to_string));
        let arguments = [self.ffmpeg_args.clone(), self.ffmpeg_output_args.clone()];
        Secrets::of(&urls.chain(arguments).collect::<Vec<_>>().join("\n"))
    }

    /// What takes over when the input is silent.
    pub fn feed_options(&self) -> FeedOptions {
        FeedOptions { silence: self.silence, fallback: self.fallback.clone(), slate: self.slate.clone() }
    }
}

/// The key that the service manager hands over (systemd.exec(5), `LoadCredential=`), if it does.
fn credential() -> Option<PathBuf> {
    let file = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(KEY_FILE);
    file.exists().then_some(file)
}

fn parse_input(text: &str) -> Result<Input, InputError> {
    Input::parse(text)
}

fn parse_title(text: &str) -> Result<String, minuet_proto::Error> {
    check_title(text).map(|()| clean_title(text))
}

/// The user's data folder (XDG Base Directory Specification), or one in the working directory.
fn default_data_dir() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| "minuet-data".into(), |dir| dir.join("minuet/segmenter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Options {
        Options::try_parse_from([&["minuet-segmenter"], arguments].concat()).unwrap()
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let options = parse(&["-"]);
        options.check().unwrap();
        assert_eq!(options.segment, Duration::from_secs(60));
        assert_eq!(options.keep, Duration::from_secs(7200));
        assert_eq!(options.bt_listen(), "[::]:7081".parse().unwrap());
        assert_eq!(options.upload(), Upload::Unlimited);
        assert_eq!(options.key_file(), options.data.join("channel.key"));
        assert_eq!(parse(&["-", "--listen", "127.0.0.1:0"]).bt_listen(), "127.0.0.1:0".parse().unwrap());
    }

    #[test]
    fn of_contrary_options_the_last_holds() {
        assert_eq!(parse(&["a.ts"]).input_options().realtime, None);
        assert_eq!(parse(&["a.ts", "--realtime", "--no-realtime"]).input_options().realtime, Some(false));
        assert_eq!(parse(&["a.ts", "--no-realtime", "--realtime"]).input_options().realtime, Some(true));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(parse(&["-", "--segment", "10ms"]).check().is_err());
        assert!(parse(&["-", "--segment", "2h"]).check().is_err());
        assert!(parse(&["-", "--upload-limit", "100kbit"]).check().is_err());
        for wrong in [&["-", "--tracker", "ftp://x"][..], &["-", "--channel", "a\u{7}"], &["udp://x"], &[]] {
            let arguments = [&["minuet-segmenter"], wrong].concat();
            assert!(Options::try_parse_from(arguments).is_err(), "{wrong:?}");
        }
    }
}
