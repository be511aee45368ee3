//! The segmenter as others run it: a process with a feed, a link on standard output, and log lines to wait for.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

pub mod field;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use minuet_proto::{ChannelKey, ChannelLink, Metainfo, PieceHash, SignedRecord};
use minuet_store::{Recovered, Store};

/// A test that waits longer than this is broken, and says so instead of hanging.
const PATIENCE: Duration = Duration::from_secs(120);

/// Eight seconds of MPEG-TS, a key frame each second, about 100 kB/s.
pub static CLIP: LazyLock<Vec<u8>> = LazyLock::new(|| clip(0));

/// Eight seconds of the same feed, beginning at `from` seconds.
pub fn clip(from: u32) -> Vec<u8> {
    let offset = from.to_string();
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"])
        .args([
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=440",
            "-t",
            "8",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
        ])
        .args(["-b:v", "800k", "-g", "25", "-keyint_min", "25", "-sc_threshold", "0", "-flags", "+cgop"])
        .args(["-c:a", "aac", "-output_ts_offset", &offset, "-f", "mpegts", "-"])
        .output()
        .expect("these tests need ffmpeg");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// A running segmenter; killed when dropped.
pub struct Segmenter {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: String,
}

impl Segmenter {
    /// Starts it on free ports of the loopback address.
    pub fn start(data: &Path, arguments: &[&str]) -> Self {
        Self::start_with(data, arguments, Stdio::piped())
    }

    /// The same with this as its standard input.
    pub fn start_with(data: &Path, arguments: &[&str], stdin: Stdio) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_minuet-segmenter")), data, arguments, stdin)
    }

    /// The same where a process may have so many files open, and no more.
    pub fn start_with_files(files: u32, data: &Path, arguments: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string()]);
        shell.arg(env!("CARGO_BIN_EXE_minuet-segmenter"));
        Self::start_by(shell, data, arguments, Stdio::piped())
    }

    /// The same with other programs to be found than usual.
    pub fn start_in(path: &str, data: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_minuet-segmenter"));
        command.env("PATH", path);
        Self::start_by(command, data, arguments, Stdio::piped())
    }

    fn start_by(mut command: Command, data: &Path, arguments: &[&str], stdin: Stdio) -> Self {
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(arguments)
            .env_remove("RUST_LOG")
            // As a terminal's job, which a Ctrl-C is for.
            .process_group(0)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines, seen: String::new() }
    }

    /// The line on standard output, which says that it is ready.
    pub fn link(&mut self) -> ChannelLink {
        let mut line = String::new();
        let mut byte = [0];
        let stdout = self.child.stdout.as_mut().unwrap();
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(char::from(byte[0]));
        }
        line.parse().unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Waits for a log line with `text` in it that comes after all that were waited for.
    pub fn wait_for_next(&mut self, text: &str) -> String {
        let before = std::mem::take(&mut self.seen);
        let line = self.wait_for(text);
        self.seen.insert_str(0, &before);
        line
    }

    /// Waits until there is a log line that has `text` in it.
    pub fn wait_for(&mut self, text: &str) -> String {
        if let Some(line) = self.seen.lines().find(|line| line.contains(text)) {
            return line.to_owned();
        }
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push_str(&line);
                    self.seen.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with {text:?} in:\n{}", self.seen),
            }
        }
    }

    /// Where BitTorrent peers connect to, and the base URL of its HTTP server. To be asked for before other lines.
    pub fn addresses(&mut self) -> (SocketAddr, String) {
        let line = self.wait_for("BitTorrent peers connect to");
        let (peers, web) =
            line.split_once("connect to ").unwrap().1.split_once(", web seed clients to ").unwrap();
        (peers.parse().unwrap(), web.to_owned())
    }

    /// Its standard input.
    pub fn stdin(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().unwrap()
    }

    /// Feeds bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.stdin().write_all(bytes).unwrap();
    }

    /// Ends the feed.
    pub fn end_feed(&mut self) {
        self.child.stdin.take();
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `kill -TERM`.
    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Ctrl-C on its terminal: it and all processes that are of its job are told.
    pub fn interrupt_job(&self) {
        let group = format!("-{}", self.child.id());
        assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    }

    /// Waits for its end: how it ended, what else it wrote on standard output, and all log lines.
    pub fn finish(mut self) -> (ExitStatus, String, String) {
        let mut stdout = String::new();
        self.child.stdout.as_mut().unwrap().read_to_string(&mut stdout).unwrap();
        let status = self.child.wait().unwrap();
        while let Ok(line) = self.lines.recv() {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        (status, stdout, std::mem::take(&mut self.seen))
    }
}

impl Drop for Segmenter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The channel's key in a data folder.
pub fn key(data: &Path) -> ChannelKey {
    std::fs::read_to_string(data.join("channel.key")).unwrap().parse().unwrap()
}

/// What a data folder holds. Every piece of every segment is checked against its torrent.
pub fn contents(data: &Path) -> (Vec<SignedRecord>, Vec<Metainfo>) {
    let (store, recovered): (Store, Recovered) = Store::open(data, key(data).channel()).unwrap();
    let torrents = recovered.segments.iter().map(|record| {
        let torrent = Metainfo::parse(&store.torrent(record.seq).unwrap()).unwrap();
        let media = std::fs::read(store.media_path(record.seq)).unwrap();
        let pieces = media.chunks(torrent.info().piece_length.get() as usize).map(PieceHash::of);
        assert!(pieces.eq(torrent.info().pieces.iter().copied()), "segment {}", record.seq);
        torrent
    });
    let torrents = torrents.collect();
    (recovered.segments, torrents)
}

/// The numbers of records, which must follow each other.
pub fn numbers(records: &[SignedRecord]) -> Vec<u64> {
    for pair in records.windows(2) {
        pair[1].check_follows(&pair[0]).unwrap();
    }
    records.iter().map(|record| record.seq.0).collect()
}
