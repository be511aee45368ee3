//! The command line. Names and meanings are a contract with other people's scripts.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use minuet_guard::families;
use minuet_node::{follow::Start, units, units::Rate};
use minuet_proto::link::{Reading, parse_tracker};

/// A word of so many letters is rather a link than a folder's name.
const SHORTEST_KEY: usize = 32;
/// Bounds of `--delay`: what a piece takes across a small mesh, and what every node keeps.
const SHORTEST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(20);

/// Watches live streams that viewers pass on to each other.
#[derive(Debug, Parser)]
#[command(name = "minuet", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 the stream ended or the player was closed; 1 a failure, with one sentence on \
standard error; 2 bad usage."
)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say more on standard error; twice for everything (or set RUST_LOG).
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Play a channel, and pass on to other viewers what is received; or play a recording.
    Watch(Box<Watch>),
    /// Pass a channel on without playing it: a node with much uplink, for its viewers.
    Relay(Box<Relay>),
    /// Show what a channel link, a signed record or a .torrent says.
    Inspect(Inspect),
}

/// What every node of a channel is told, whether it plays or not.
#[derive(Debug, Args)]
pub struct Common {
    /// Ask this tracker too; may repeat [example: http://tracker.example:7070].
    #[arg(long, value_name = "URL", value_parser = parse_tracker)]
    pub tracker: Vec<url::Url>,
    /// Most that is sent to others, in bits a second; without it, as much as the line can send while nobody else on
    /// it has to wait [example: 8Mbit].
    #[arg(long, value_name = "RATE")]
    pub upload_limit: Option<Rate>,
    /// Where others connect to, by UDP, and by TCP for finished minutes; port 0 takes any free port
    /// [default: any free port, by IPv6 and IPv4, or by IPv4 alone where IPv6 is switched off] [example: [::]:7090].
    #[allow(rustdoc::broken_intra_doc_links, reason = "[::] is an address, in what --help prints")]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Keep so many finished minutes of the live stream and seed them to any BitTorrent client; 0 for none
    /// [default: 0 for watch, 10 for relay; 10 if no number is given] [example: --seed-minutes=30].
    #[arg(long, value_name = "COUNT", num_args = 0..=1, require_equals = true, default_missing_value = "10")]
    pub seed_minutes: Option<u16>,
    /// Folder for media at hand (removed at the end) and for nodes to find again; one process at a time
    /// [default: a temporary folder, and nodes below ~/.cache/minuet].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Write one JSON object a line to this file, once a second and at the end. Where all media comes over plain
    /// BitTorrent, control_bytes and corrupt_pieces are null: its engine does not count them.
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
}

impl Common {
    /// Where others connect to: as the command line says, else by both families of addresses.
    pub fn listen(&self) -> SocketAddr {
        self.listen.unwrap_or_else(|| (families::everywhere(), 0).into())
    }
}

/// Options of `minuet watch`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
minuet watch LINK                                   play in mpv\n  \
minuet watch LINK --player 'vlc --fullscreen'       play in another player\n  \
minuet watch LINK -o - | mpv -                      play it yourself\n  \
minuet watch LINK -o evening.ts                     record\n  \
minuet watch LINK --start -10m                      begin ten minutes ago, over plain BitTorrent\n  \
minuet watch LINK --delay 2s --upload-limit 5Mbit   closer to the source; leave the line to others\n  \
minuet watch 1f0c44d2-00000000 --start 20m          play a recording, a folder here\n\n\
LINK is what the broadcaster gives you, in quotes (a shell cuts it at & otherwise): 'magnet:?xs=urn:btpk:…&tr=…' or \
http://tracker.example:7070/c/…; or the 64 digits of the channel's key, with --tracker.\n\
While you watch, what you receive is passed on to other viewers: that is how the stream gets to all. --upload-limit \
bounds it, --no-upload stops it.")]
pub struct Watch {
    /// The channel link, as the broadcaster gives it: magnet:?xs=urn:btpk:… or http://tracker/c/<key>; or the folder of
    /// a recording.
    #[arg(value_name = "LINK|FOLDER", value_parser = what)]
    pub what: What,
    #[command(flatten)]
    pub common: Common,
    /// The player, which reads the media on its standard input; "-" is put behind it. Started with a terminal or without
    /// [default: mpv, on a terminal] [example: "vlc --fullscreen"].
    #[arg(long, value_name = "CMD")]
    pub player: Option<String>,
    /// Write the media to this file instead of a player, - for standard output [example: evening.ts].
    #[arg(short, long, value_name = "FILE", conflicts_with = "stdout")]
    pub output: Option<PathBuf>,
    /// The same as --output -; so it is done also when standard output is not a terminal and no --player is named.
    #[arg(long)]
    pub stdout: bool,
    /// Where to begin: live, so long ago as in -10m, or oldest. In a recording: so long after its beginning as in 20m, or
    /// before its end as in -10m, to a segment.
    #[arg(long, value_name = "live|-10m|oldest", default_value = "live", allow_hyphen_values = true, value_parser = begin)]
    pub start: Begin,
    /// How the stream is had. live: the open minute, seconds behind the source, over the live mesh. minute: finished
    /// minutes, over plain BitTorrent; so it is done also with --start -10m or oldest.
    #[arg(long, value_enum, default_value_t = Mode::Live)]
    pub mode: Mode,
    /// How far behind the source the picture should be, live: less is sooner, more survives worse networks
    /// [example: 2s].
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = delay)]
    pub delay: Duration,
    /// Send nothing to other viewers.
    #[arg(long, conflicts_with_all = ["upload_limit", "seed_minutes"])]
    pub no_upload: bool,
    /// Give up when nothing could be played for so long.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = units::duration)]
    pub give_up: Duration,
}

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A channel.
    Channel(Reading),
    /// A recording on disk.
    Recording(PathBuf),
}

/// Where watching begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Now; a recording at its beginning.
    Live,
    /// So long before now, or before the end of a recording.
    Ago(Duration),
    /// At the oldest media that there is.
    Oldest,
    /// So long after the beginning of a recording.
    At(Duration),
}

impl Begin {
    /// Where that is in a channel.
    pub fn in_channel(self) -> anyhow::Result<Start> {
        Ok(match self {
            Self::Live => Start::Live,
            Self::Ago(ago) => Start::Ago(ago),
            Self::Oldest => Start::Oldest,
            Self::At(after) => {
                let after = units::show(after);
                anyhow::bail!(
                    "--start {after} is for recordings: for so long ago in a channel write -{after}"
                )
            }
        })
    }
}

/// Options of `minuet relay`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
minuet relay http://tracker.example:7070/c/<64 hexadecimal digits> --listen 0.0.0.0:7090 --upload-limit 200Mbit")]
pub struct Relay {
    /// The channel link, as the broadcaster gives it: magnet:?xs=urn:btpk:… or http://tracker/c/<key>.
    #[arg(value_name = "LINK")]
    pub link: Reading,
    #[command(flatten)]
    pub common: Common,
}

/// How the stream is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The open minute, over the live mesh.
    Live,
    /// Finished minutes, over plain BitTorrent.
    Minute,
}

/// Reads what is to be watched. What has no scheme may be a folder; else it is a link.
fn what(text: &str) -> Result<What, String> {
    let is_path = Path::new(text).exists();
    if is_path && !text.contains(':') {
        return Ok(What::Recording(text.into()));
    }
    match text.parse() {
        Ok(reading) => Ok(What::Channel(reading)),
        Err(_) if is_path => Ok(What::Recording(text.into())),
        Err(error) if text.contains(':') || text.len() >= SHORTEST_KEY => Err(error.to_string()),
        Err(_) => Err("there is no such folder, and a channel link has a \":\" in it".into()),
    }
}

/// Reads `--start`.
fn begin(text: &str) -> Result<Begin, String> {
    let time = |text: &str| units::duration(text).ok();
    match text {
        "live" => Ok(Begin::Live),
        "oldest" => Ok(Begin::Oldest),
        _ => match text.strip_prefix('-') {
            Some(ago) => time(ago).map(Begin::Ago),
            None => time(text).map(Begin::At),
        }
        .ok_or_else(|| "write live, oldest, or how long ago as in -10m; in a recording also 20m".into()),
    }
}

/// Reads `--delay`.
fn delay(text: &str) -> Result<Duration, String> {
    let delay = units::duration(text).map_err(|error| error.to_string())?;
    if (SHORTEST_DELAY..=LONGEST_DELAY).contains(&delay) {
        return Ok(delay);
    }
    Err(format!("choose from {} to {}", units::show(SHORTEST_DELAY), units::show(LONGEST_DELAY)))
}

/// Options of `minuet inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A channel link, or a file that holds a .torrent, a signed record or a signed channel state.
    #[arg(value_name = "LINK|FILE")]
    pub what: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Options::command().debug_assert();
    }

    #[test]
    fn finished_minutes_are_seeded_when_asked_for() {
        let seeds = |more: &[&str]| {
            let link = format!("magnet:?xs=urn:btpk:{}", "00".repeat(32));
            let words = ["minuet", "relay", &link].iter().chain(more).copied().collect::<Vec<_>>();
            let Command::Relay(relay) = Options::parse_from(words).command else { panic!("no relay") };
            relay.common.seed_minutes
        };
        assert_eq!(seeds(&[]), None);
        assert_eq!(seeds(&["--seed-minutes"]), Some(10));
        assert_eq!(seeds(&["--seed-minutes=0"]), Some(0));
    }

    #[test]
    fn starts() {
        assert_eq!(begin("-10m"), Ok(Begin::Ago(Duration::from_secs(600))));
        assert_eq!(begin("live"), Ok(Begin::Live));
        assert_eq!(begin("10m"), Ok(Begin::At(Duration::from_secs(600))));
        assert!(begin("10m").unwrap().in_channel().is_err());
        assert!(begin("-").is_err());
    }

    #[test]
    fn a_folder_is_told_from_a_link() {
        assert!(matches!(what("/"), Ok(What::Recording(_))));
        assert!(what("/not/there/at/all").is_err());
        let link = format!("http://tracker.example:7070/c/{}", "0a".repeat(32));
        assert!(matches!(what(&link), Ok(What::Channel(_))));
        let takes = |command: &str, what: &str| Options::try_parse_from(["minuet", command, what]).is_ok();
        assert!(takes("watch", "/") && takes("watch", &link) && takes("relay", &link));
        assert!(!takes("relay", "/"), "there is nobody to relay a recording to");
        let key = "0a".repeat(32);
        assert!(takes("watch", &key) && takes("relay", &key) && !takes("watch", &key[1..]));
        assert!(what(&key[1..]).unwrap_err().contains("63 of 64"));
    }

    #[test]
    fn others_connect_by_both_families_unless_told_otherwise() {
        let listen = |more: &[&str]| {
            let link = "0a".repeat(32);
            let words = ["minuet", "relay", &link].iter().chain(more).copied().collect::<Vec<_>>();
            let Command::Relay(relay) = Options::parse_from(words).command else { panic!("no relay") };
            relay.common.listen()
        };
        assert_eq!(listen(&[]).ip(), families::everywhere());
        assert_eq!(listen(&["--listen", "127.0.0.1:9"]).to_string(), "127.0.0.1:9");
        assert_eq!(listen(&["--listen", "[::1]:9"]).to_string(), "[::1]:9");
    }
}
