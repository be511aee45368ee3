//! What the end-to-end tests share: the built binaries as processes that end with their test, and the real clip.
//!
//! The binaries lie beside the tests (`cargo build --release --workspace --bins`); `scripts/test` builds them first.

pub mod browser;
pub mod hostile;
pub mod house;
pub mod siege;

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use minuet_proto::{ChannelLink, record::segment_file_name};
use serde_json::Value;

/// How long anything that must happen may take before a test fails. Generous: it bounds failures, not successes.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// A built binary.
pub fn bin(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let dir = test.parent().and_then(Path::parent).expect("tests lie in target/release/deps");
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: cargo build --release --workspace --bins", path.display());
    path
}

/// Where the programs of this test remember nodes and lines: what an earlier test has learned would change this one.
fn cache() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let cache = test.with_file_name("cache").join(std::process::id().to_string());
    std::fs::create_dir_all(&cache).expect("a folder beside the test");
    cache
}

/// The real clip, as `scripts/clip` fetches it.
pub fn clip() -> PathBuf {
    if let Some(path) = std::env::var_os("MINUET_CLIP") {
        return path.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/clip");
    let done = Command::new(script).stderr(Stdio::inherit()).output().expect("scripts/clip runs");
    assert!(done.status.success(), "scripts/clip failed");
    String::from_utf8(done.stdout).expect("a path").trim().into()
}

/// The first `seconds` of the clip as a file of its own.
pub fn clip_of(seconds: u32, dir: &Path) -> PathBuf {
    let out = dir.join("feed.ts");
    let seconds = seconds.to_string();
    let clip = clip();
    let clip = clip.to_str().expect("UTF-8 path");
    run("ffmpeg", &["-v", "error", "-i", clip, "-t", &seconds, "-c", "copy", "-f", "mpegts", path_str(&out)]);
    out
}

/// Runs a program to its end; it must succeed. Returns what it wrote, standard output and standard error.
pub fn run(program: &str, args: &[&str]) -> (String, String) {
    let done = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&done.stdout), text(&done.stderr));
    assert!(done.status.success(), "{program} {args:?} failed: {err}");
    (out, err)
}

/// A path as text.
pub fn path_str(path: &Path) -> &str {
    path.to_str().expect("UTF-8 path")
}

/// A port that was free just now. Another process may take it before it is used; it is not likely.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// A process of ours whose standard error is read line by line. Killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Starts it; `stdout` is where its standard output goes.
    pub fn start(name: &str, args: &[&str], stdout: Stdio) -> Self {
        Self::spawn(name, Command::new(bin(name)).args(args), stdout)
    }

    /// Starts it by a command that becomes it.
    pub fn spawn(name: &str, command: &mut Command, stdout: Stdio) -> Self {
        let mut child = command
            .env("XDG_CACHE_HOME", cache())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let stderr = child.stderr.take().expect("piped");
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self { name: name.to_owned(), child, lines, seen: Vec::new() }
    }

    /// Its first line of standard output.
    pub fn first_line(&mut self) -> String {
        let stdout = self.child.stdout.take().expect("piped standard output");
        let (send, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = String::new();
            let _ = reader.read_line(&mut line);
            let _ = send.send(line);
            let _ = reader.read_to_end(&mut Vec::new());
        });
        let line = line.recv_timeout(DEADLINE).unwrap_or_default();
        let log = self.log();
        assert!(!line.is_empty(), "{} said nothing on standard output: {log:?}", self.name);
        line.trim().to_owned()
    }

    /// Waits until a line of its standard error holds `text`.
    pub fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("{} never said {text:?}: {:?}", self.name, self.seen),
            }
        }
    }

    /// What it has said so far.
    pub fn log(&mut self) -> Vec<String> {
        self.seen.extend(self.lines.try_iter());
        self.seen.clone()
    }

    /// All that it has said, once it has ended.
    pub fn whole_log(&mut self) -> &[String] {
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            self.seen.push(line);
        }
        &self.seen
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let until = Instant::now() + deadline;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                // Standard error is closed, so it ends now or has ended.
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().expect("a child of ours"),
                Err(RecvTimeoutError::Timeout) => panic!("{} did not end: {:?}", self.name, self.seen),
            }
        }
    }

    /// The most memory that it has had in use, in MB. It must still run.
    pub fn peak_memory_mb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
        let kb = peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB");
        kb / 1000
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by name, as in `TERM`.
    pub fn signal(&self, name: &str) {
        run("kill", &[&format!("-{name}"), &self.child.id().to_string()]);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tracker on loopback.
pub struct Tracker {
    /// The process.
    pub process: Process,
    /// Its base URL.
    pub url: String,
}

impl Tracker {
    /// Starts one on `port` with its state in `dir`, and waits until it listens.
    pub fn start(port: u16, dir: &Path) -> Self {
        Self::start_with(port, dir, &[])
    }

    /// The same, with more arguments.
    pub fn start_with(port: u16, dir: &Path, more: &[&str]) -> Self {
        let addr = format!("127.0.0.1:{port}");
        let args = [&["--listen", &addr, "--data", path_str(dir)], more].concat();
        let mut process = Process::start("minuet-tracker", &args, Stdio::null());
        process.wait_for("listening");
        Self { process, url: format!("http://{addr}") }
    }
}

/// A segmenter on loopback.
pub struct Segmenter {
    /// The process.
    pub process: Process,
    /// The channel's link.
    pub link: String,
    /// Its data folder.
    pub data: PathBuf,
}

impl Segmenter {
    /// Starts one that cuts `input` into segments of 5 s, and waits for its link.
    pub fn start(input: &Path, tracker: &str, data: &Path, more: &[&str]) -> Self {
        Self::start_with(path_str(input), "5s", tracker, data, more)
    }

    /// Starts one that cuts `input` into segments of this length, and waits for its link.
    pub fn start_with(input: &str, segment: &str, tracker: &str, data: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(bin("minuet-segmenter"));
        Self::start_by(&mut command, input, segment, tracker, data, more)
    }

    /// Starts one by a command that becomes it when the segmenter's arguments are added.
    pub fn start_by(
        command: &mut Command,
        input: &str,
        segment: &str,
        tracker: &str,
        data: &Path,
        more: &[&str],
    ) -> Self {
        command.args([input, "--tracker", tracker, "--segment", segment, "--listen", "127.0.0.1:0"]);
        command.args(["--data", path_str(data)]).args(more);
        let mut process = Process::spawn("minuet-segmenter", command, Stdio::piped());
        let link = process.first_line();
        Self { process, link, data: data.to_owned() }
    }

    /// The file of a segment.
    pub fn segment(&self, seq: u64) -> PathBuf {
        let link: ChannelLink = self.link.parse().expect("a channel link");
        self.data.join("segments").join(segment_file_name(&link.channel, minuet_proto::SegmentSeq(seq)))
    }
}

/// Panics unless there is `media` and `joined` ends with it: says then how much of it is the same, from its start and from the end.
pub fn assert_ends_with(joined: &[u8], media: &[u8], about: impl FnOnce() -> String) {
    if !media.is_empty() && joined.ends_with(media) {
        return;
    }
    let same = |(a, b): &(&u8, &u8)| a == b;
    let start = &media[..media.len().min(10 * 188)];
    let begins = joined.windows(start.len().max(1)).position(|window| window == start);
    let from_start = begins.map(|at| joined[at..].iter().zip(media).take_while(same).count());
    let to_end = joined.iter().rev().zip(media.iter().rev()).take_while(same).count();
    panic!(
        "{} bytes do not end the {}: they begin at {begins:?}, and {from_start:?} from their start and {to_end} to \
         their end are the same: {}",
        media.len(),
        joined.len(),
        about()
    );
}

/// A viewer whose media goes to a file.
pub struct Viewer {
    /// The process.
    pub process: Process,
    /// What it received.
    pub media: PathBuf,
    /// The lines of `--stats`, as they are written.
    stats: mpsc::Receiver<Value>,
    seen: Vec<Value>,
}

impl Viewer {
    /// Starts one that plays finished minutes; its files are `dir/<name>.ts` and the pipe `dir/<name>.jsonl`.
    pub fn start(name: &str, link: &str, dir: &Path, more: &[&str]) -> Self {
        Self::start_in("minute", name, link, dir, more)
    }

    /// Starts one that plays in this `--mode`.
    pub fn start_in(mode: &str, name: &str, link: &str, dir: &Path, more: &[&str]) -> Self {
        Self::start_by(&mut Command::new(bin("minuet")), mode, name, link, dir, more)
    }

    /// Starts one by a command that becomes it when the viewer's arguments are added.
    pub fn start_by(
        command: &mut Command,
        mode: &str,
        name: &str,
        link: &str,
        dir: &Path,
        more: &[&str],
    ) -> Self {
        let (media, pipe) = (dir.join(format!("{name}.ts")), dir.join(format!("{name}.jsonl")));
        run("mkfifo", &[path_str(&pipe)]);
        let mut args = vec!["watch", link, "--mode", mode, "--stdout", "--listen", "127.0.0.1:0"];
        args.extend(["--stats", path_str(&pipe)]);
        args.extend(more);
        let out = File::create(&media).expect("a file in the test's folder");
        let process = Process::spawn("minuet", command.args(args), out.into());
        let (send, stats) = mpsc::channel();
        std::thread::spawn(move || {
            // Waits until the viewer opens it, too.
            let pipe = File::open(pipe).expect("a pipe in the test's folder");
            let lines = BufReader::new(pipe).lines().map_while(Result::ok);
            lines.filter_map(|line| serde_json::from_str(&line).ok()).try_for_each(|line| send.send(line))
        });
        Self { process, media, stats, seen: Vec::new() }
    }

    /// The last line of `--stats`, which must be the summary. The viewer must have ended.
    pub fn summary(&mut self) -> Value {
        while let Ok(line) = self.stats.recv_timeout(DEADLINE) {
            self.seen.push(line);
        }
        let last = self.seen.last().cloned().unwrap_or_default();
        assert_eq!(last["summary"], true, "no summary at the end of --stats");
        last
    }

    /// Waits until it plays segment `seq` or a later one.
    pub fn wait_for_segment(&mut self, seq: u64) {
        self.wait_until(&format!("plays segment {seq}"), |line| line["segment"].as_u64() >= Some(seq));
    }

    /// Waits for a line of `--stats` that shows `what`, and returns it.
    pub fn wait_until(&mut self, what: &str, shows: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + DEADLINE;
        let mut looked = 0;
        loop {
            if let Some(line) = self.seen[looked..].iter().find(|line| shows(line)) {
                return line.clone();
            }
            looked = self.seen.len();
            match self.next_line(until) {
                Some(_) => {}
                None => panic!("it never {what}: {:?}", self.process.log()),
            }
        }
    }

    /// The next line of `--stats` that was not looked at yet, if one comes before `until`.
    pub fn next_line(&mut self, until: Instant) -> Option<&Value> {
        let line = self.stats.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
        self.seen.push(line);
        self.seen.last()
    }
}
