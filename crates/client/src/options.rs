//! The command line. Names and meanings are a contract with other people's scripts.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use minuet_node::{follow::Start, units, units::Rate};
use minuet_proto::{ChannelLink, link::parse_tracker};

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
    /// Play a channel, and pass on to other viewers what is received.
    Watch(Box<Watch>),
    /// Pass a channel on without playing it: a node with much uplink, for its viewers.
    Relay(Box<Relay>),
    /// Show what a channel link, a signed record or a .torrent says.
    Inspect(Inspect),
}

/// Options of `minuet watch`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
minuet watch 'magnet:?xs=urn:btpk:…&tr=http://tracker.example:7070'\n  \
minuet watch http://tracker.example:7070/c/<64 hexadecimal digits> --start -10m\n  \
minuet watch LINK | mpv -\n  \
minuet watch LINK --no-upload > recording.ts")]
pub struct Watch {
    /// The channel link: magnet:?xs=urn:btpk:… or http://tracker/c/<key>.
    #[arg(value_name = "LINK")]
    pub link: ChannelLink,
    /// Ask this tracker too; may repeat [example: http://tracker.example:7070].
    #[arg(long, value_name = "URL", value_parser = parse_tracker)]
    pub tracker: Vec<url::Url>,
    /// The player, which reads the media on its standard input; "-" is put behind it [example: "vlc --fullscreen"].
    #[arg(long, value_name = "CMD", default_value = "mpv")]
    pub player: String,
    /// Write the media to standard output instead of a player; so it is done also when standard output is not a
    /// terminal.
    #[arg(long)]
    pub stdout: bool,
    /// Where to begin: live, so long ago as in -10m, or oldest.
    #[arg(long, value_name = "live|-10m|oldest", default_value = "live", allow_hyphen_values = true, value_parser = start)]
    pub start: Start,
    /// How the stream is had. live: the open minute, seconds behind the source, over the live mesh. minute: finished
    /// minutes, over plain BitTorrent; so it is done also with --start -10m or oldest.
    #[arg(long, value_enum, default_value_t = Mode::Live)]
    pub mode: Mode,
    /// How far behind the source the picture should be, live: less is sooner, more survives worse networks
    /// [example: 2s].
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = delay)]
    pub delay: Duration,
    /// Most that is sent to other viewers, in bits a second [example: 8Mbit] [default: no limit].
    #[arg(long, value_name = "RATE", conflicts_with = "no_upload")]
    pub upload_limit: Option<Rate>,
    /// Send nothing to other viewers.
    #[arg(long)]
    pub no_upload: bool,
    /// Where other viewers connect to; port 0 takes any free port [example: 0.0.0.0:6881].
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:0")]
    pub listen: SocketAddr,
    /// Folder for the minutes at hand, emptied at the end; one process at a time [default: a temporary folder].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Write one JSON object a line to this file, once a second and at the end.
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
    /// Give up when nothing could be played for so long.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = units::duration)]
    pub give_up: Duration,
}

/// Options of `minuet relay`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
minuet relay http://tracker.example:7070/c/<64 hexadecimal digits> --listen 0.0.0.0:7090 --upload-limit 200Mbit")]
pub struct Relay {
    /// The channel link: magnet:?xs=urn:btpk:… or http://tracker/c/<key>.
    #[arg(value_name = "LINK")]
    pub link: ChannelLink,
    /// Ask this tracker too; may repeat [example: http://tracker.example:7070].
    #[arg(long, value_name = "URL", value_parser = parse_tracker)]
    pub tracker: Vec<url::Url>,
    /// Most that is sent to viewers, in bits a second [example: 200Mbit] [default: no limit].
    #[arg(long, value_name = "RATE")]
    pub upload_limit: Option<Rate>,
    /// Where viewers connect to, by UDP; port 0 takes any free port [example: 0.0.0.0:7090].
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:0")]
    pub listen: SocketAddr,
    /// Folder for the newest pieces, emptied at the end; one process at a time [default: a temporary folder].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Write one JSON object a line to this file, once a second and at the end.
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
}

/// How the stream is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The open minute, over the live mesh.
    Live,
    /// Finished minutes, over plain BitTorrent.
    Minute,
}

/// Reads `--start`.
fn start(text: &str) -> Result<Start, String> {
    match text {
        "live" => Ok(Start::Live),
        "oldest" => Ok(Start::Oldest),
        _ => text
            .strip_prefix('-')
            .and_then(|ago| units::duration(ago).ok())
            .map(Start::Ago)
            .ok_or_else(|| "write live, oldest, or how long ago as in -10m".into()),
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
    fn starts() {
        assert_eq!(start("-10m"), Ok(Start::Ago(Duration::from_secs(600))));
        assert_eq!(start("live"), Ok(Start::Live));
        assert!(start("10m").is_err());
        assert!(start("-").is_err());
    }
}
