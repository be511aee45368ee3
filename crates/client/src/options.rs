//! The command line. Names and meanings are a contract with other people's scripts.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use minuet_guard::families;
use minuet_node::{
    follow::Start,
    mesh::{DhtOptions, host_port},
    units,
    units::Rate,
};
use minuet_options::{FromFile, Shell};
use minuet_proto::{
    SegmentSeq,
    link::{Reading, parse_tracker},
};

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
    /// Show which channels are on air at a tracker, of those that want to be seen.
    Channels(Channels),
    /// Show what a channel link, a signed record or a .torrent says.
    Inspect(Inspect),
    /// Look at what this machine and its network give a viewer, and say what to do about it.
    Doctor(Doctor),
    /// Write completions for a shell to standard output.
    Completions(Completions),
    /// Write the manual pages.
    #[command(hide = true)]
    Manual(Manual),
    /// Say by the exit code whether the program that has this one's environment lives; for containers.
    #[command(hide = true)]
    Health,
}

/// What every node of a channel is told, whether it plays or not.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Ask this tracker too; may repeat [example: http://tracker.example:7070].
    #[arg(long, value_name = "URL", value_parser = parse_tracker)]
    pub tracker: Vec<url::Url>,
    /// Find the channel and its nodes in BitTorrent's DHT, too, so that a link without a tracker, or with one that is gone, is
    /// enough. Nodes of the DHT, run by anybody, then see that somebody at this address looks for this channel.
    #[arg(long)]
    pub dht: bool,
    /// Where to enter the DHT while no node of it is known from before; may repeat
    /// [default: router.bittorrent.com:6881, dht.transmissionbt.com:6881, relay.pkarr.org:6881] [example: 203.0.113.5:6881].
    #[arg(long, value_name = "HOST:PORT", requires = "dht", value_parser = host_port)]
    pub dht_bootstrap: Vec<String>,
    /// Find others who watch the channel on the local network, by multicast DNS, so that a house fetches the stream once.
    /// Devices there can see that somebody watches something, but not what, unless they know the channel.
    #[arg(long)]
    pub local: bool,
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
    /// Keep so much of what was on air, on disk: for others who come later or go back, and for this player to be paused; 0 for
    /// nothing [default: 10m for watch, 1h for relay] [example: --keep 24h].
    #[arg(long, value_name = "DURATION", value_parser = keep)]
    pub keep: Option<Duration>,
    /// The most bytes that --keep may take, of each channel where there are several [default: 1GB for watch and 20GB for
    /// relay, and no more than a tenth of what is free on the disk] [example: --keep-bytes 200GB].
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub keep_bytes: Option<u64>,
    /// Folder for media at hand (removed at the end), for what is kept, and for nodes to find again; one process at a time
    /// [default: a temporary folder, and nodes below ~/.cache/minuet].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Write one JSON object a line to this file, once a second and at the end. Where all media comes over plain
    /// BitTorrent, control_bytes and corrupt_pieces are null: its engine does not count them.
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
    #[command(flatten)]
    pub serve: Serve,
    #[command(flatten)]
    pub file: FromFile,
}

/// Options of the gateway.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Serve the stream over HTTP: a page that plays it, HLS for telephones, TVs and players, MPEG-TS, and sound for
    /// radio players. A port alone is this machine's own (127.0.0.1); 0.0.0.0 lets others in.
    /// `watch --serve` opens no player unless --player names one [example: 0.0.0.0:8080].
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = serve_address)]
    pub serve: Option<ServeAddress>,
    /// Ask for this word: as the password of any user, or as ?key=… behind the address.
    #[arg(
        long,
        value_name = "WORD",
        requires = "serve",
        env = "MINUET_SERVE_PASSWORD",
        hide_env_values = true
    )]
    pub serve_password: Option<String>,
    /// Certificate for HTTPS, a PEM file with the chain; HTTP stays on the same port. Safari wants it for low latency. Read
    /// again when the file changes [example: /etc/letsencrypt/live/example/fullchain.pem].
    #[arg(long, value_name = "FILE", requires_all = ["serve", "tls_key"])]
    pub tls_cert: Option<PathBuf>,
    /// Key of the certificate, a PEM file [example: /etc/letsencrypt/live/example/privkey.pem].
    #[arg(long, value_name = "FILE", requires_all = ["serve", "tls_cert"])]
    pub tls_key: Option<PathBuf>,
    /// How far low latency reaches back; at most a gibibyte is kept on the disk. What is older is served as long as anybody in
    /// the mesh keeps it [example: 20m].
    #[arg(long, value_name = "DURATION", requires = "serve", default_value = "5m", value_parser = units::duration)]
    pub serve_keep: Duration,
}

/// Where the gateway listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeAddress(pub SocketAddr);

/// Reads `--serve`.
fn serve_address(text: &str) -> Result<ServeAddress, String> {
    let port = text.parse::<u16>().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let address = port.or_else(|_| text.parse());
    address.map(ServeAddress).map_err(|_| "write a port, or an address and a port as in 0.0.0.0:8080".into())
}

impl Common {
    /// How the DHT is used, if at all; `folder` is where things are remembered for the next run.
    pub fn dht(&self, folder: Option<&Path>) -> Option<DhtOptions> {
        self.dht.then(|| DhtOptions::new(&self.dht_bootstrap, folder))
    }

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
minuet watch LINK --serve 0.0.0.0:8080              let telephones and TVs in the house watch\n  \
minuet watch LINK LINK LINK --serve 0.0.0.0:8080    several channels, each joined when somebody watches it\n  \
minuet watch LINK --seekable                        play in mpv with a seek bar over all that others keep\n  \
minuet watch LINK --start -10m                      begin ten minutes ago; --start 21:30, at that time\n  \
minuet watch LINK --delay 2s --upload-limit 5Mbit   closer to the source; leave the line to others\n  \
minuet watch 1f0c44d2-00000000 --start 20m          play a recording, a folder here\n\n\
LINK is what the broadcaster gives you, in quotes (a shell cuts it at & otherwise): 'magnet:?xs=urn:btpk:…&tr=…' or \
http://tracker.example:7070/c/…; or the 64 digits of the channel's key, with --tracker.\n\
While you watch, what you receive is passed on to other viewers: that is how the stream gets to all. --upload-limit \
bounds it, --no-upload stops it.\n\n\
Files:\n  \
~/.config/minuet/watch.conf   options, one `option = value` a line, as --print-config writes them; --config names another\n  \
~/.cache/minuet               nodes to find again\n\n\
Exit codes: 0 the stream ended or the player was closed; 1 a failure, with one sentence on standard error; 2 bad usage.")]
pub struct Watch {
    /// The channel link, as the broadcaster gives it: magnet:?xs=urn:btpk:… or http://tracker/c/<key>; or the folder of
    /// a recording. With --serve and no player it may be several links: each channel is joined when somebody watches it, and
    /// left two minutes after.
    #[arg(value_name = "LINK|FOLDER", value_parser = what, required = true, num_args = 1..)]
    pub what: Vec<What>,
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
    /// Play in the player without a terminal too, as when a link is clicked in a browser.
    #[arg(long, conflicts_with_all = ["stdout", "output"])]
    pub play: bool,
    /// Have the player play from this node over HTTP in place of a pipe, so that its own seek bar goes back over all that
    /// anybody in the mesh keeps, for 12 hours. It begins some 15 s behind the source.
    #[arg(long, conflicts_with_all = ["stdout", "output", "start", "mode"])]
    pub seekable: bool,
    /// Where to begin: live, so long ago as in -10m, at a time of day as in 21:30 (the last time that it was that late here), at
    /// a segment by its number, or at the oldest that anybody keeps; each to a segment. In a recording: so long after its
    /// beginning as in 20m, or before its end as in -10m.
    #[arg(long, value_name = "live|-10m|21:30|1234|oldest", default_value = "live", allow_hyphen_values = true, value_parser = begin)]
    pub start: Begin,
    /// How the stream is had. live: the open minute, seconds behind the source, over the live mesh. minute: finished
    /// minutes, over plain BitTorrent alone, which needs more than a minute's patience.
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

impl Watch {
    /// Whether the stream is only served: no player is named, and no file.
    pub fn only_serves(&self) -> bool {
        let plays = self.player.is_some() || self.output.is_some() || self.stdout || self.seekable;
        self.common.serve.serve.is_some() && !plays
    }

    /// What is watched, if it is one thing.
    pub fn single(&self) -> anyhow::Result<&What> {
        match self.what.as_slice() {
            [what] => Ok(what),
            _ => anyhow::bail!("several links are for --serve without a player: name one to play it"),
        }
    }
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
    /// At a time of day: hour, minute and second, the last time that it was that late here.
    Clock(i8, i8, i8),
    /// At a segment.
    Segment(u64),
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
            Self::Clock(hour, minute, second) => Start::At(last_time(hour, minute, second)?),
            Self::Segment(number) => Start::Segment(SegmentSeq(number)),
        })
    }
}

/// Options of `minuet relay`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
minuet relay http://tracker.example:7070/c/<64 hexadecimal digits> --listen 0.0.0.0:7090 --upload-limit 200Mbit\n  \
minuet relay LINK --keep 24h --keep-bytes 200GB --data /srv/tower    a day of the channel, also when the source is gone\n  \
minuet relay LINK LINK --serve 0.0.0.0:8080                          two channels, for everybody with a browser\n  \
minuet relay --tracker http://tracker.example:7070 --allow listed --serve 0.0.0.0:8080    all that the tracker lists\n  \
minuet relay --config /etc/minuet/relay-tower.conf\n\n\
Files:\n  \
/etc/minuet/relay-NAME.conf    options of the service minuet-relay@NAME that packages bring\n  \
/var/lib/minuet-relay-NAME     what it keeps\n\n\
Exit codes: 0 the stream ended, or the relay was told to end; 1 a failure, with one sentence on standard error; 2 bad usage.")]
pub struct Relay {
    /// The channel link, as the broadcaster gives it: magnet:?xs=urn:btpk:… or http://tracker/c/<key>. With --serve it may be
    /// several.
    #[arg(value_name = "LINK", required_unless_present = "allow", num_args = 0..)]
    pub link: Vec<Reading>,
    /// Also serve this channel when somebody watches it, a link or a key; or `listed`, every channel that the trackers list.
    /// May repeat. A channel is joined when somebody asks for it, eight at a time, and left two minutes after
    /// [example: --allow listed].
    #[arg(long, value_name = "CHANNEL|listed", requires = "serve", value_parser = allow)]
    pub allow: Vec<Allow>,
    /// Serve a recording of this channel, which minuet-segmenter --record kept in this folder, to all who go back: a finished
    /// broadcast stays watchable by its link [example: --recording shows/1f0c44d2-00000000].
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["keep", "keep_bytes"])]
    pub recording: Option<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

impl Relay {
    /// Whether it serves what was on air before also when the broadcast is over.
    pub fn is_archive(&self) -> bool {
        self.recording.is_some() || self.common.keep.is_some_and(|time| !time.is_zero())
    }
}

/// What a gateway may carry besides its own channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allow {
    /// What its trackers list.
    Listed,
    /// A channel.
    Channel(Reading),
}

/// Reads `--allow`.
fn allow(text: &str) -> Result<Allow, String> {
    match text {
        "listed" => Ok(Allow::Listed),
        _ => text.parse().map(Allow::Channel).map_err(|error: minuet_proto::Error| error.to_string()),
    }
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
pub fn begin(text: &str) -> Result<Begin, String> {
    let time = |text: &str| units::duration(text).ok();
    if let Some(clock) = clock(text) {
        return Ok(clock);
    }
    if let Ok(number) = text.parse() {
        return Ok(Begin::Segment(number));
    }
    match text {
        "live" => Ok(Begin::Live),
        "oldest" => Ok(Begin::Oldest),
        _ => match text.strip_prefix('-') {
            Some(ago) => time(ago).map(Begin::Ago),
            None => time(text).map(Begin::At),
        }
        .ok_or_else(|| "write live, oldest, how long ago as in -10m, a time of day as in 21:30, or a segment's number; in a recording also \
                    20m"
                .into()),
    }
}

/// Reads a time of day.
fn clock(text: &str) -> Option<Begin> {
    let mut parts = text.splitn(3, ':').map(|part| match part.len() {
        1 | 2 => part.parse::<i8>().ok(),
        _ => None,
    });
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    let fits = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second);
    fits.then_some(Begin::Clock(hour, minute, second))
}

/// When it was last so late here, in Unix milliseconds.
fn last_time(hour: i8, minute: i8, second: i8) -> anyhow::Result<u64> {
    let now = jiff::Zoned::now();
    let today = now.with().time(jiff::civil::time(hour, minute, second, 0)).build()?;
    let last = if today > now { today.yesterday()? } else { today };
    Ok(u64::try_from(last.timestamp().as_millisecond()).unwrap_or(0))
}

/// Reads `--keep`.
fn keep(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ => units::duration(text).map_err(|error| error.to_string()),
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

/// Options of `minuet doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
minuet doctor\n  \
minuet doctor http://tracker.example:7070/c/<64 hexadecimal digits>\n  \
minuet doctor --tracker http://tracker.example:7070\n\n\
Exit codes: 0 nothing is wrong, or only what a viewer can live with; 1 something keeps a stream from being played or \
passed on; 2 bad usage.")]
pub struct Doctor {
    /// A channel link, whose trackers are asked.
    #[arg(value_name = "LINK")]
    pub link: Option<Reading>,
    /// Ask this tracker too; may repeat [example: http://tracker.example:7070].
    #[arg(long, value_name = "URL", value_parser = parse_tracker)]
    pub tracker: Vec<url::Url>,
}

/// Options of `minuet completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
minuet completions bash > ~/.local/share/bash-completion/completions/minuet\n  \
minuet completions zsh > ~/.zfunc/_minuet\n  \
minuet completions fish > ~/.config/fish/completions/minuet.fish")]
pub struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Options of `minuet manual`.
#[derive(Debug, Args)]
pub struct Manual {
    /// The folder for the pages.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Where viewers keep their options (XDG Base Directory Specification), where there is a place for it.
pub fn viewers_file() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|dir| dir.join("minuet/watch.conf"))
}

/// Options of `minuet channels`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
minuet channels http://tracker.example:7070                    a table, with links for minuet watch\n  \
minuet channels http://tracker.example:7070 --search jazz      those with the word in their title\n  \
minuet channels http://tracker.example:7070 | jq -r .link      a JSON object a line where no terminal is")]
pub struct Channels {
    /// Trackers to ask.
    #[arg(value_name = "TRACKER", required = true, value_parser = parse_tracker)]
    pub trackers: Vec<url::Url>,
    /// Show channels with this word in their title alone; may repeat.
    #[arg(long, value_name = "WORD")]
    pub search: Vec<String>,
    /// Write a JSON object a line, on a terminal too.
    #[arg(long)]
    pub json: bool,
}

/// Options of `minuet inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A channel link, or a file that holds a .torrent, a signed record or a signed channel state.
    #[arg(value_name = "LINK|FILE")]
    pub what: String,
    /// Look a channel link up in BitTorrent's DHT, too, and show what its source has written there. Nodes of the DHT, run by
    /// anybody, then see that somebody at this address looks for this channel.
    #[arg(long)]
    pub dht: bool,
    /// Where to enter the DHT; may repeat [default: as for watch] [example: 203.0.113.5:6881].
    #[arg(long, value_name = "HOST:PORT", requires = "dht", value_parser = host_port)]
    pub dht_bootstrap: Vec<String>,
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
        assert_eq!(begin("21:30"), Ok(Begin::Clock(21, 30, 0)));
        assert_eq!(begin("9:05:07"), Ok(Begin::Clock(9, 5, 7)));
        assert!(begin("24:00").is_err() && begin("12:60").is_err() && begin("1:2:3:4").is_err());
        assert_eq!(begin("1234"), Ok(Begin::Segment(1234)));
        let now_ms = crate::watch::now_ms();
        let day_ms = 86_400_000;
        for hour in 0..24 {
            let at_ms = last_time(hour, 30, 0).unwrap();
            // A day may have an hour more.
            assert!(at_ms <= now_ms && at_ms + day_ms + 3_600_000 > now_ms, "{hour}:30");
        }
    }

    #[test]
    fn a_port_alone_is_this_machines_own() {
        let address = |text: &str| serve_address(text).map(|address| address.0.to_string());
        assert_eq!(address("8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(address("0.0.0.0:8080").unwrap(), "0.0.0.0:8080");
        assert_eq!(address("[::]:80").unwrap(), "[::]:80");
        assert!(address("localhost").is_err() && address("80800").is_err());
        let link = "0a".repeat(32);
        let watch = |more: &[&str]| {
            let words = ["minuet", "watch", &link].iter().chain(more).copied().collect::<Vec<_>>();
            let Command::Watch(watch) = Options::parse_from(words).command else { panic!("no watch") };
            watch.only_serves()
        };
        assert!(watch(&["--serve", "80"]) && !watch(&["--serve", "80", "--player", "mpv"]) && !watch(&[]));
        assert!(!watch(&["--serve", "80", "--stdout"]) && !watch(&["--serve", "80", "-o", "a.ts"]));
    }

    #[test]
    fn a_gateway_takes_several_channels() {
        let (one, two) = ("0a".repeat(32), "0b".repeat(32));
        let takes = |words: &[&str]| Options::try_parse_from([&["minuet"], words].concat());
        let Ok(Options { command: Command::Watch(watch), .. }) =
            takes(&["watch", &one, &two, "--serve", "80"])
        else {
            panic!("several links are good")
        };
        assert!(watch.what.len() == 2 && watch.only_serves() && watch.single().is_err());
        let relay = |words: &[&str]| match takes(&[&["relay"], words].concat()) {
            Ok(Options { command: Command::Relay(relay), .. }) => Some((relay.link.len(), relay.allow.len())),
            _ => None,
        };
        assert_eq!(relay(&[&one, &two, "--serve", "80"]), Some((2, 0)));
        assert_eq!(relay(&["--allow", "listed", "--serve", "80", "--allow", &one]), Some((0, 2)));
        assert_eq!(relay(&["--allow", "listed", &one, "--serve", "80"]), Some((1, 1)));
        assert_eq!(relay(&["--allow", "listed"]), None, "nobody would come");
        assert_eq!(relay(&["--allow", "everything", "--serve", "80"]), None);
        assert_eq!(relay(&[]), None);
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
