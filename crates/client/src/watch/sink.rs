//! Where the media goes: a player's standard input, or our own standard output.

use std::{io, os::fd::AsFd as _, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, Command},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// How long a player may take to end after it was killed.
const PLAYER_GRACE: Duration = Duration::from_secs(2);

/// What mpv is told, as measured on a pipe: it recovers from a stall by waiting until it has 2 s again (its
/// low-latency profile underruns again and again); and the terminal is ours.
const MPV_OPTIONS: [&str; 4] =
    ["--cache=yes", "--cache-pause-wait=2", "--no-terminal", "--force-window=immediate"];

/// An open way for the media.
pub enum Sink {
    /// A player's standard input.
    Player(ChildStdin),
    /// Our standard output.
    Stdout(tokio::fs::File),
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
        Ok(Self::Stdout(tokio::fs::File::from_std(std::fs::File::from(fd))))
    }

    /// Passes on media; waits while the reader has enough.
    pub async fn write(&mut self, media: &[u8]) -> anyhow::Result<Written> {
        let written = match self {
            Self::Player(input) => input.write_all(media).await,
            Self::Stdout(out) => match out.write_all(media).await {
                Ok(()) => out.flush().await,
                failed => failed,
            },
        };
        match written {
            Ok(()) => Ok(Written::Yes),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Written::Closed),
            Err(error) => Err(error).context("cannot write the media to standard output"),
        }
    }
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
        let Some(mut words) = shlex::split(command).filter(|words| !words.is_empty()) else {
            bail!("--player {command:?} is no command: name a program and its options");
        };
        let program = words.remove(0);
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
        let mut child = process.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow::anyhow!(
                "the player {program} was not found: install it (apt-get install mpv), name another with --player, \
                 or use --stdout"
            ),
            _ => anyhow::anyhow!("the player {program} cannot be started: {error}"),
        })?;
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
