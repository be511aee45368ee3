//! Where the media goes: a player's standard input, or our own standard output.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, IsTerminal as _, PipeReader, Read as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use minuet_proto::title::is_format;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, Command},
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::packets::Packets;
use crate::{options::Watch, player::Remote};

/// How long a player may take to end after it was killed.
const PLAYER_GRACE: Duration = Duration::from_secs(2);
/// Lines of a player that are told if it fails, and the length at which one is cut off.
const LAST_WORDS: usize = 4;
const MAX_WORDS: u64 = 500;
/// So many bytes in no packet may come where a stream begins in the middle of one.
const MAX_ALIEN: u64 = 4096;

/// What mpv is told, as measured on a pipe: it recovers from a stall by waiting until it has 2 s again (its
/// low-latency profile underruns again and again); the terminal is ours, and it says what is wrong and nothing else; and
/// what comes is MPEG-TS, whatever it looks like. With its demuxer named, mpv reads no playlists.
const MPV_OPTIONS: [&str; 9] = [
    "--cache=yes",
    "--cache-pause-wait=2",
    "--input-terminal=no",
    "--terminal=yes",
    "--quiet",
    "--msg-level=all=error",
    "--force-window=immediate",
    "--demuxer=lavf",
    "--ytdl=no",
];

/// The player where none is named.
pub const PLAYER: &str = "mpv";

/// Where the media is to go. Chosen at the start, so that what cannot work is said before anything else is done.
pub enum Out {
    /// To a player, which is started once there is something to play.
    Player(String),
    /// Here; the name is what a user calls it.
    Open(Sink, String),
}

impl Out {
    /// As the command line says. A player that is named is started wherever the program runs, with a terminal or without.
    pub fn choose(options: &Watch) -> anyhow::Result<Self> {
        let output = options.output.as_deref().or(options.stdout.then_some(Path::new("-")));
        let player = match (output, &options.player) {
            (Some(path), Some(_)) => {
                tracing::warn!("--player is left out: the media goes to {}", shown(path));
                return Self::file(path);
            }
            (Some(path), None) => return Self::file(path),
            (None, Some(player)) => player,
            (None, None) if io::stdout().is_terminal() => PLAYER,
            (None, None) => {
                refuse_a_log()?;
                tracing::info!(
                    "standard output is no terminal, so the media goes there; --player {PLAYER} plays it in place of that"
                );
                return Self::file(Path::new("-"));
            }
        };
        find_player(player)?;
        Ok(Self::Player(player.to_owned()))
    }

    /// The player that plays from an address.
    pub fn player(named: Option<&str>) -> anyhow::Result<String> {
        let player = named.unwrap_or(PLAYER);
        find_player(player)?;
        Ok(player.to_owned())
    }

    fn file(path: &Path) -> anyhow::Result<Self> {
        let sink = if path == Path::new("-") { Sink::stdout()? } else { Sink::file(path)? };
        Ok(Self::Open(sink, shown(path)))
    }

    /// What a user calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Player(command) => split(command).map_or_else(|_| command.clone(), |(program, _)| program),
            Self::Open(_, name) => name.clone(),
        }
    }

    /// Starts the player, if it is one; `title` is what is played. `wishes` counts the user's wishes to be at the live edge.
    pub fn open(
        self,
        title: &str,
        wishes: Option<&watch::Sender<u64>>,
    ) -> anyhow::Result<(Option<Player>, Sink)> {
        match self {
            Self::Player(command) => {
                let (player, sink) = Player::start(&command, title, wishes)?;
                Ok((Some(player), sink))
            }
            Self::Open(sink, _) => Ok((None, sink)),
        }
    }
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard output".into() } else { path.display().to_string() }
}

/// Refuses to write media among log lines: where a launcher, cron or a service manager has put standard output and standard
/// error into one file or socket, nobody asked for media in it.
fn refuse_a_log() -> anyhow::Result<()> {
    let metadata =
        |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from).and_then(|file| file.metadata());
    let (Ok(out), Ok(log)) = (metadata(io::stdout().as_fd()), metadata(io::stderr().as_fd())) else {
        return Ok(());
    };
    let same = (out.dev(), out.ino()) == (log.dev(), log.ino());
    let kind = out.file_type();
    if same && (kind.is_file() || kind.is_socket()) {
        bail!(
            "standard output is the log, and media does not belong there: name a player with --player {PLAYER}, a file with \
             --output, or say --stdout"
        );
    }
    Ok(())
}

/// An open way for the media. Only whole MPEG-TS packets go through it.
pub struct Sink {
    way: Way,
    packets: Packets,
    /// It was said that something else came.
    complained: bool,
}

enum Way {
    /// A player's standard input.
    Player(ChildStdin),
    /// A file, or our standard output.
    File(tokio::fs::File),
}

/// What became of written media.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// It is on its way.
    Yes,
    /// The reader has gone: a normal end.
    Closed,
}

impl Sink {
    fn new(way: Way) -> Self {
        Self { way, packets: Packets::default(), complained: false }
    }

    /// Standard output, without the line buffer that `std` puts before it.
    pub fn stdout() -> anyhow::Result<Self> {
        let fd = io::stdout().as_fd().try_clone_to_owned().context("cannot use standard output")?;
        Ok(Self::new(Way::File(tokio::fs::File::from_std(File::from(fd)))))
    }

    /// A file at `path`. One that is there already is not written over; a pipe or a device is written to.
    fn file(path: &Path) -> anyhow::Result<Self> {
        let is_file = fs::metadata(path).is_ok_and(|found| found.is_file());
        if is_file {
            bail!("{} is there already: choose another --output, or remove it", path.display());
        }
        let file = File::options().write(true).create(true).truncate(false).open(path);
        let file =
            file.with_context(|| format!("cannot write {}: choose another --output", path.display()))?;
        Ok(Self::new(Way::File(tokio::fs::File::from_std(file))))
    }

    /// What comes next does not follow what came before.
    pub fn leap(&mut self) {
        self.packets.leap();
    }

    /// Passes on media; waits while the reader has enough. What is no MPEG-TS is dropped.
    pub async fn write(&mut self, media: &[u8]) -> anyhow::Result<Written> {
        let media = self.packets.next(media);
        if self.packets.alien() > MAX_ALIEN && !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(
                "the channel sends something that is no MPEG-TS: it is not passed on to the player"
            );
        }
        let written = match &mut self.way {
            Way::Player(input) => input.write_all(&media).await,
            Way::File(out) => match out.write_all(&media).await {
                Ok(()) => out.flush().await,
                failed => failed,
            },
        };
        match written {
            Ok(()) => Ok(Written::Yes),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Written::Closed),
            Err(error) => Err(error).context("cannot write the media: make room, or choose another --output"),
        }
    }
}

/// A player's program and its options.
fn split(command: &str) -> anyhow::Result<(String, Vec<String>)> {
    let Some(mut words) = shlex::split(command).filter(|words| !words.is_empty()) else {
        bail!("--player {command:?} is no command: name a program and its options");
    };
    let program = words.remove(0);
    Ok((program, words))
}

/// Where a player gets the media from.
#[derive(Debug, Clone, Copy)]
enum Input<'a> {
    /// Its standard input.
    Pipe,
    /// An HLS playlist of this program's own, from so long after its beginning on.
    Address(&'a str, Duration),
}

/// What a player that is known here is told before the user's own options: which format it gets, so that it guesses nothing
/// (what it takes for a playlist makes it contact others), and that it needs nothing from the network. Tried with mpv 0.35,
/// VLC 3.0.24 and ffplay 5.1.
fn options_of(program: &str, title: &str, from: Input<'_>) -> Vec<String> {
    let stem = Path::new(program).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let piped = matches!(from, Input::Pipe);
    let (options, format, title_option): (&[&str], _, _) = match stem {
        "mpv" if piped => (&MPV_OPTIONS, "--demuxer-lavf-format=mpegts", Some("--force-media-title=")),
        "mpv" => (&MPV_OPTIONS, "--demuxer-lavf-format=hls", Some("--force-media-title=")),
        "vlc" | "cvlc" if piped => (&["--no-metadata-network-access"], "--demux=ts", Some("--meta-title=")),
        "vlc" | "cvlc" => (&["--no-metadata-network-access"], "", Some("--meta-title=")),
        "ffplay" if piped => (&["-f"], "mpegts", None),
        _ => (&[], "", None),
    };
    let title = title_option.map(|option| format!("{option}{title}"));
    let format = Some(format.to_owned()).filter(|format| !format.is_empty());
    let start = match from {
        // ffmpeg takes the first segment that it sees for the beginning of the list: it must be that one.
        Input::Address(_, start) if stem == "mpv" => {
            vec!["--demuxer-lavf-o=live_start_index=0".to_owned(), format!("--start={}", start.as_secs())]
        }
        _ => Vec::new(),
    };
    options.iter().map(|option| (*option).to_owned()).chain(format).chain(start).chain(title).collect()
}

/// Whether the player is there at all.
fn find_player(command: &str) -> anyhow::Result<()> {
    let (program, _) = split(command)?;
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let by_path = program.contains('/') && Path::new(&program).exists();
    if by_path || std::env::split_paths(&paths).any(|folder| folder.join(&program).is_file()) {
        return Ok(());
    }
    bail!(
        "the player {program} was not found: install it (apt-get install mpv), name another with --player, or write \
         the media to a file with --output"
    )
}

/// A running player.
pub struct Player {
    ended: JoinHandle<anyhow::Result<()>>,
    kill: CancellationToken,
    closed: CancellationToken,
}

impl Player {
    /// Starts `command`, which plays what is written to it. Its key for the live edge counts `wishes`.
    pub fn start(
        command: &str,
        title: &str,
        wishes: Option<&watch::Sender<u64>>,
    ) -> anyhow::Result<(Self, Sink)> {
        let (player, input) = Self::spawn(command, title, Input::Pipe, wishes)?;
        let input = input.context("the player has no standard input")?;
        Ok((player, Sink::new(Way::Player(input))))
    }

    /// Starts `command`, which plays from an address of this machine, from `start` after its beginning on.
    pub fn play(command: &str, title: &str, address: &str, start: Duration) -> anyhow::Result<Self> {
        Ok(Self::spawn(command, title, Input::Address(address, start), None)?.0)
    }

    fn spawn(
        command: &str,
        title: &str,
        from: Input<'_>,
        wishes: Option<&watch::Sender<u64>>,
    ) -> anyhow::Result<(Self, Option<ChildStdin>)> {
        let (program, words) = split(command)?;
        let remote = wishes.and_then(|wishes| Remote::prepare(&program, &words, wishes));
        let mut process = Command::new(&program);
        process.args(options_of(&program, title, from));
        process.args(remote.iter().flat_map(Remote::options));
        process.args(&words);
        let input = match from {
            Input::Pipe => {
                if words.last().is_none_or(|last| last != "-") {
                    process.arg("-");
                }
                Stdio::piped()
            }
            Input::Address(address, _) => {
                process.arg(address);
                Stdio::null()
            }
        };
        // Its messages would run into the status line; what it said last is told if it fails.
        let (said, out) = std::io::pipe().context("cannot start the player")?;
        let err = out.try_clone().context("cannot start the player")?;
        process.stdin(input).stdout(out).stderr(err).kill_on_drop(true);
        // A Ctrl-C on the terminal is for us; we end the player.
        process.process_group(0);
        let mut child = process
            .spawn()
            .with_context(|| format!("the player {program} cannot be started: name another with --player"))?;
        // Its copies of our ends would keep the pipe open after the player's death.
        drop(process);
        let words = LastWords::listen(said);
        let input = child.stdin.take();
        let (kill, closed) = (CancellationToken::new(), CancellationToken::new());
        if let Some(remote) = remote {
            let closed = closed.clone();
            // Ends with the player.
            tokio::spawn(async move { closed.run_until_cancelled(remote.run()).await });
        }
        let ended = tokio::spawn(wait(child, program, words, kill.clone(), closed.clone()));
        Ok((Self { ended, kill, closed }, input))
    }

    /// Cancelled when it ends.
    pub fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Waits until it ends by itself: its user closes it, or it has played all. An error when it failed.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        (&mut self.ended).await.context("the player's task failed")?
    }

    /// Ends it now, if it has not ended.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.kill.cancel();
        self.wait().await
    }
}

/// What a player said last: heard to its end, so that the player never waits for us.
struct LastWords {
    lines: Arc<Mutex<VecDeque<String>>>,
    ended: oneshot::Receiver<()>,
}

impl LastWords {
    fn listen(said: PipeReader) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (ends, ended) = oneshot::channel::<()>();
        let heard = Arc::clone(&lines);
        // Reads that block, in a thread that ends with the player and whoever has its output.
        std::thread::spawn(move || {
            let _ends = ends;
            let mut said = BufReader::new(said);
            let mut line = Vec::new();
            while let Ok(1..) = (&mut said).take(MAX_WORDS).read_until(b'\n', &mut line) {
                let text = String::from_utf8_lossy(&line);
                let text =
                    text.trim().chars().filter(|c| !c.is_control() && !is_format(*c)).collect::<String>();
                line.clear();
                let mut lines = heard.lock().unwrap_or_else(PoisonError::into_inner);
                if !text.is_empty() && lines.back() != Some(&text) {
                    lines.push_back(text);
                }
                if lines.len() > LAST_WORDS {
                    lines.pop_front();
                }
            }
        });
        Self { lines, ended }
    }

    /// As the rest of a sentence, once the player has ended.
    async fn told(self) -> String {
        // Somebody else may hold its output: then this is what there is.
        let _ = tokio::time::timeout(PLAYER_GRACE, self.ended).await;
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.is_empty() {
            true => String::new(),
            false => format!(", saying: {}", lines.iter().cloned().collect::<Vec<_>>().join("; ")),
        }
    }
}

async fn wait(
    mut child: Child,
    program: String,
    words: LastWords,
    kill: CancellationToken,
    closed: CancellationToken,
) -> anyhow::Result<()> {
    let _closed = closed.drop_guard();
    tokio::select! {
        biased;
        status = child.wait() => {
            let status = status.context("the player cannot be waited for")?;
            if !status.success() {
                let said = words.told().await;
                bail!("the player {program} failed ({status}){said}; try it by hand, or name another with --player");
            }
        }
        () = kill.cancelled() => {
            let _ = child.start_kill();
            let _ = tokio::time::timeout(PLAYER_GRACE, child.wait()).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_player_is_looked_for_before_it_is_needed() {
        assert!(find_player("sh -c true").is_ok());
        assert!(find_player("/bin/sh").is_ok());
        assert!(find_player("no-such-player --fullscreen").unwrap_err().to_string().contains("--player"));
        assert!(find_player("").is_err());
    }

    #[tokio::test]
    async fn a_recording_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evening.ts");
        let mut sink = Sink::file(&path).unwrap();
        let media = packets(4);
        assert_eq!(sink.write(&media).await.unwrap(), Written::Yes);
        assert!(Sink::file(&path).err().unwrap().to_string().contains("--output"));
        assert_eq!(fs::read(&path).unwrap(), media);
    }

    fn packets(count: usize) -> Vec<u8> {
        [&[0x47][..], &[0; 187]].concat().repeat(count)
    }

    #[tokio::test]
    async fn a_player_gets_media_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (got, script) = (dir.path().join("got"), dir.path().join("player"));
        fs::write(&script, format!("#!/bin/sh\nexec cat > {}\n", got.display())).unwrap();
        run_command(&["chmod", "+x", script.to_str().unwrap()]);
        let out = Out::Player(script.display().to_string());
        let (player, mut sink) = out.open("Radio Tower", None).unwrap();
        let playlist = b"#EXTM3U\nhttp://router.example/reboot\n";
        for bytes in [&playlist[..], &packets(10), &playlist.repeat(100), &packets(5)] {
            sink.write(bytes).await.unwrap();
        }
        drop(sink);
        player.unwrap().wait().await.unwrap();
        assert_eq!(fs::read(&got).unwrap(), packets(15));
    }

    #[tokio::test]
    async fn a_player_that_fails_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("player");
        fs::write(
            &script,
            "#!/bin/sh\ncat >/dev/null\necho loading\necho 'no such \\033[1moutput' >&2\nexit 1\n",
        )
        .unwrap();
        run_command(&["chmod", "+x", script.to_str().unwrap()]);
        let (player, sink) = Out::Player(script.display().to_string()).open("Radio Tower", None).unwrap();
        drop(sink);
        let error = player.unwrap().wait().await.unwrap_err().to_string();
        assert!(error.contains("saying: loading; no such [1moutput; try it by hand"), "{error}");
    }

    fn run_command(words: &[&str]) {
        assert!(std::process::Command::new(words[0]).args(&words[1..]).status().unwrap().success());
    }

    #[test]
    fn known_players_are_told_the_format() {
        for (program, option) in [
            ("/usr/bin/mpv", "--demuxer-lavf-format=mpegts"),
            ("vlc", "--demux=ts"),
            ("cvlc", "--demux=ts"),
            ("ffplay", "mpegts"),
        ] {
            assert!(options_of(program, "x", Input::Pipe).iter().any(|told| told == option), "{program}");
        }
        let from_address =
            options_of("mpv", "x", Input::Address("http://127.0.0.1:1/past.m3u8", Duration::from_secs(7)));
        assert!(from_address.contains(&"--start=7".to_owned()));
        assert!(from_address.contains(&"--demuxer-lavf-format=hls".to_owned()));
        assert!(options_of("my-player", "x", Input::Pipe).is_empty());
        assert!(options_of("mpv", "Radio", Input::Pipe).contains(&"--force-media-title=Radio".to_owned()));
    }
}
