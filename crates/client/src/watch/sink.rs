//! Where the media goes: a player's standard input, or our own standard output.

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, Command},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::options::Watch;

/// How long a player may take to end after it was killed.
const PLAYER_GRACE: Duration = Duration::from_secs(2);

/// What mpv is told, as measured on a pipe: it recovers from a stall by waiting until it has 2 s again (its
/// low-latency profile underruns again and again); and the terminal is ours.
const MPV_OPTIONS: [&str; 4] =
    ["--cache=yes", "--cache-pause-wait=2", "--no-terminal", "--force-window=immediate"];

/// Where the media is to go. Chosen at the start, so that what cannot work is said before anything else is done.
pub enum Out {
    /// To a player, which is started once there is something to play.
    Player(String),
    /// Here.
    Open(Sink),
}

impl Out {
    /// As the command line says.
    pub fn choose(options: &Watch) -> anyhow::Result<Self> {
        let stdout = Path::new("-");
        match options.output.as_deref() {
            Some(path) if path != stdout => Ok(Self::Open(Sink::file(path)?)),
            None if !options.stdout && io::stdout().is_terminal() => {
                find_player(&options.player)?;
                Ok(Self::Player(options.player.clone()))
            }
            Some(_) | None => Ok(Self::Open(Sink::stdout()?)),
        }
    }

    /// Starts the player, if it is one; `title` is what is played.
    pub fn open(self, title: &str) -> anyhow::Result<(Option<Player>, Sink)> {
        match self {
            Self::Player(command) => {
                let (player, sink) = Player::start(&command, title)?;
                Ok((Some(player), sink))
            }
            Self::Open(sink) => Ok((None, sink)),
        }
    }
}

/// An open way for the media.
pub enum Sink {
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
    /// Standard output, without the line buffer that `std` puts before it.
    pub fn stdout() -> anyhow::Result<Self> {
        let fd = io::stdout().as_fd().try_clone_to_owned().context("cannot use standard output")?;
        Ok(Self::File(tokio::fs::File::from_std(File::from(fd))))
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
        Ok(Self::File(tokio::fs::File::from_std(file)))
    }

    /// Passes on media; waits while the reader has enough.
    pub async fn write(&mut self, media: &[u8]) -> anyhow::Result<Written> {
        let written = match self {
            Self::Player(input) => input.write_all(media).await,
            Self::File(out) => match out.write_all(media).await {
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
    /// Starts `command`.
    pub fn start(command: &str, title: &str) -> anyhow::Result<(Self, Sink)> {
        let (program, words) = split(command)?;
        let mut process = Command::new(&program);
        if std::path::Path::new(&program).file_stem().is_some_and(|stem| stem == "mpv") {
            process.args(MPV_OPTIONS).arg(format!("--force-media-title={title}"));
        }
        process.args(&words);
        if words.last().is_none_or(|last| last != "-") {
            process.arg("-");
        }
        // Its messages would run into the status line; a failure shows in its exit code.
        process.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        // A Ctrl-C on the terminal is for us; we end the player.
        process.process_group(0);
        let mut child = process
            .spawn()
            .with_context(|| format!("the player {program} cannot be started: name another with --player"))?;
        let input = child.stdin.take().context("the player has no standard input")?;
        let (kill, closed) = (CancellationToken::new(), CancellationToken::new());
        let ended = tokio::spawn(wait(child, program, kill.clone(), closed.clone()));
        Ok((Self { ended, kill, closed }, Sink::Player(input)))
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

async fn wait(
    mut child: Child,
    program: String,
    kill: CancellationToken,
    closed: CancellationToken,
) -> anyhow::Result<()> {
    let _closed = closed.drop_guard();
    tokio::select! {
        biased;
        status = child.wait() => {
            let status = status.context("the player cannot be waited for")?;
            if !status.success() {
                bail!("the player {program} failed ({status}): try it by hand, or name another with --player");
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
        assert_eq!(sink.write(b"media").await.unwrap(), Written::Yes);
        assert!(Sink::file(&path).err().unwrap().to_string().contains("--output"));
        assert_eq!(fs::read(&path).unwrap(), b"media");
    }
}
