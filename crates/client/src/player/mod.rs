//! What this program and a running player say to each other besides the media.
//!
//! Rules:
//! 1. Only mpv is spoken with, over a socket in a folder of its own that nobody else may enter (`--input-ipc-server`, mpv's manual,
//!    "JSON IPC"). A player that a user has given a socket of its own is left alone.
//! 2. The media never waits for it: it runs beside, a player that does not answer is a player without it, and it ends with
//!    the player.
//! 3. What comes is bounded, and nothing in it is believed but a key that was pressed.

mod mpv;

use std::{fs::Permissions, io, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::watch,
};

use self::mpv::{Heard, Lines};

/// The key that leaps to the live edge.
pub const LIVE_KEY: &str = "L";
/// How often a player that is not there yet is looked for.
const AGAIN: Duration = Duration::from_millis(250);
/// How long a player may take to read what it is told.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes that are read at a time.
const CHUNK: usize = 4096;

/// The way to a player that is about to be started.
#[derive(Debug)]
pub struct Remote {
    /// Holds the socket; gone with the player.
    folder: TempDir,
    wishes: watch::Sender<u64>,
}

impl Remote {
    /// For a player that can be spoken with; `words` are its user's options. `wishes` counts the user's wishes to be at the live
    /// edge.
    pub fn prepare(program: &str, words: &[String], wishes: &watch::Sender<u64>) -> Option<Self> {
        let stem = Path::new(program).file_stem()?.to_str()?;
        if stem != "mpv" || words.iter().any(|word| word.contains("input-ipc")) {
            return None;
        }
        let private = Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("minuet-").permissions(private).tempdir();
        let folder = folder.inspect_err(|error| tracing::debug!("no keys in the player: {error}")).ok()?;
        Some(Self { folder, wishes: wishes.clone() })
    }

    /// What the player is told when it is started.
    pub fn options(&self) -> Vec<String> {
        vec![format!("--input-ipc-server={}", self.socket().display())]
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("player")
    }

    /// Speaks with the player until cancelled.
    pub async fn run(self) {
        let mut hinted = false;
        loop {
            if let Ok(stream) = UnixStream::connect(self.socket()).await
                && let Err(error) = self.speak(stream, &mut hinted).await
            {
                tracing::debug!("the player does not listen: {error}");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn speak(&self, stream: UnixStream, hinted: &mut bool) -> io::Result<()> {
        let (mut from, mut to) = stream.into_split();
        let mut wishes = self.wishes.subscribe();
        tell(&mut to, &mpv::greeting(LIVE_KEY)).await?;
        if !std::mem::replace(hinted, true) {
            tell(&mut to, &mpv::show(&format!("{LIVE_KEY}: live"))).await?;
        }
        let (mut lines, mut chunk) = (Lines::default(), vec![0; CHUNK]);
        loop {
            tokio::select! {
                read = from.read(&mut chunk) => match read? {
                    0 => return Ok(()),
                    count => {
                        let heard = lines.take(&chunk[..count])?;
                        if heard.contains(&Heard::Leap) {
                            self.wishes.send_modify(|wishes| *wishes += 1);
                        }
                    }
                },
                changed = wishes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    // What it has not shown yet is not what the user wants to see.
                    tell(&mut to, &mpv::leap()).await?;
                }
            }
        }
    }
}

async fn tell(to: &mut (impl tokio::io::AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    let told = tokio::time::timeout(PATIENCE, to.write_all(text.as_bytes())).await;
    told.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncBufReadExt as _, net::UnixListener};

    use super::*;

    #[tokio::test]
    async fn a_key_in_the_player_is_a_wish_and_a_wish_empties_the_player() {
        let (wishes, mut heard) = watch::channel(0);
        let remote = Remote::prepare("/usr/bin/mpv", &[], &wishes).unwrap();
        let socket = remote.socket();
        let mode = std::fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "nobody else may enter");
        assert_eq!(remote.options(), [format!("--input-ipc-server={}", socket.display())]);
        let running = tokio::spawn(remote.run());
        // It comes later, goes and comes again.
        for round in 1..=2 {
            let player = UnixListener::bind(&socket).unwrap();
            let (stream, _) = player.accept().await.unwrap();
            let (from, mut to) = stream.into_split();
            let mut told = tokio::io::BufReader::new(from).lines();
            let first = told.next_line().await.unwrap().unwrap();
            assert!(first.contains("define-section"), "{first}");
            to.write_all(b"{\"event\":\"idle\"}\nnonsense\n{\"event\":\"client-message\",").await.unwrap();
            to.write_all(b"\"args\":[\"minuet-live\"]}\n").await.unwrap();
            heard.changed().await.unwrap();
            assert_eq!(*heard.borrow_and_update(), round);
            while !told.next_line().await.unwrap().unwrap().contains("drop-buffers") {}
            drop(player);
            std::fs::remove_file(&socket).unwrap();
        }
        running.abort();
        let _ = running.await;
        assert!(!socket.parent().unwrap().exists(), "it leaves nothing behind");
    }

    #[test]
    fn only_a_player_that_is_known_and_free_is_spoken_with() {
        let (wishes, _heard) = watch::channel(0);
        let own = ["--input-ipc-server=/tmp/mine".to_owned()];
        assert!(Remote::prepare("vlc", &[], &wishes).is_none());
        assert!(Remote::prepare("mpv", &own, &wishes).is_none());
    }
}
