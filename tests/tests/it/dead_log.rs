//! No program dies of its log, its terminal or its standard error, and the signals that end a program end it cleanly.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use minuet_tests::{DEADLINE, Segmenter, Tracker, bin, clip_of, free_port, path_str, run};

/// A program, the arguments it is started with, and what it says once it runs.
struct Case {
    program: &'static str,
    args: Vec<String>,
    ready: &'static str,
}

/// All programs that run for long, against one tracker with a channel on air.
fn cases(link: &str, tracker: &str, dir: &Path) -> Vec<Case> {
    let port = free_port();
    let case = |program, ready, args: &[&str]| Case {
        program,
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ready,
    };
    let (feed, data) = (dir.join("feed.ts"), dir.join("more"));
    let (at, tracker_data, feed_data) =
        (format!("127.0.0.1:{port}"), path_str(&data.join("tracker")).to_owned(), data.join("segmenter"));
    let feed_args =
        [path_str(&feed), "--loop", "--tracker", tracker, "--segment", "5s", "--listen", "127.0.0.1:0"];
    vec![
        case("minuet-tracker", "listening", &["--listen", &at, "--udp-listen", &at, "--data", &tracker_data]),
        case("minuet-segmenter", "sealed", &[&feed_args[..], &["--data", path_str(&feed_data)]].concat()),
        case("minuet", "relaying", &["relay", link]),
        case("minuet", "playing", &["watch", link, "--stdout", "--give-up", "1h"]),
    ]
}

fn ended(mut child: Child) -> ExitStatus {
    let (send, status) = mpsc::channel();
    let id = child.id();
    thread::spawn(move || send.send(child.wait().expect("a child of ours")));
    status.recv_timeout(DEADLINE).unwrap_or_else(|_| {
        run("kill", &["-KILL", &id.to_string()]);
        panic!("it did not end")
    })
}

fn signal(child: &Child, name: &str) {
    run("kill", &[&format!("-{name}"), &child.id().to_string()]);
}

/// A channel on air, and its tracker.
fn on_air(dir: &Path) -> (Tracker, Segmenter) {
    let feed = clip_of(20, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let segmenter = Segmenter::start(&feed, &tracker.url, &dir.join("segmenter"), &["--loop"]);
    (tracker, segmenter)
}

/// The reader of the log goes away (a logger that died). What is said after that is lost, and nothing else.
#[test]
fn a_log_that_nobody_reads_any_more_kills_no_program() {
    let dir = tempfile::tempdir().unwrap();
    let (tracker, segmenter) = on_air(dir.path());
    for case in cases(&segmenter.link, &tracker.url, dir.path()) {
        let mut child = Command::new(bin(case.program))
            .args(&case.args)
            // Says so much that there is always something to be written.
            .envs([("RUST_LOG", "debug"), ("MINUET_LOG", "debug")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let is_ready = log.lines().map_while(Result::ok).any(|line| line.contains(case.ready));
        assert!(is_ready, "{} {:?} ended by itself", case.program, case.args);
        // The pipe is closed now.
        if case.program == "minuet-tracker" {
            signal(&child, "HUP");
            let addr = &case.args[1];
            let mut stream = TcpStream::connect(addr).expect("it still listens");
            write!(stream, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        signal(&child, "TERM");
        let status = ended(child);
        assert_eq!(status.code(), Some(0), "{} {:?}", case.program, case.args);
    }
}

/// The disk with the log is full from the start.
#[test]
fn a_log_that_cannot_be_written_at_all_kills_no_program() {
    let dir = tempfile::tempdir().unwrap();
    let (tracker, segmenter) = on_air(dir.path());
    let full = || File::options().write(true).open("/dev/full").unwrap();
    // One that fails says so by its exit code alone.
    let refused = Command::new(bin("minuet"))
        .args(["watch", &format!("magnet:?xs=urn:btpk:{}", "0a".repeat(32))])
        .stderr(full())
        .status();
    assert_eq!(refused.unwrap().code(), Some(1));
    let mut relay = Command::new(bin("minuet"));
    relay.args(["relay", &segmenter.link, "--stats", "/dev/stdout"]).stdin(Stdio::null());
    let mut relay = relay.stdout(Stdio::piped()).stderr(full()).spawn().unwrap();
    let mut stats = BufReader::new(relay.stdout.take().unwrap()).lines();
    let received = |line: &str| line.contains("\"peers\":1");
    assert!(stats.by_ref().map_while(Result::ok).any(|line| received(&line)), "it ended");
    signal(&relay, "TERM");
    let last = stats.map_while(Result::ok).last().unwrap_or_default();
    assert_eq!(ended(relay).code(), Some(0));
    assert!(last.contains("\"summary\":true"), "{last}");
    drop(tracker);
}

/// The terminal is closed: the kernel sends SIGHUP, and whatever is written after that fails.
#[test]
fn a_closed_terminal_ends_programs_cleanly_and_a_tracker_not_at_all() {
    const SCRIPT: &str = r#"
import os, pty, signal, sys
ready, program, args = sys.argv[1], sys.argv[2], sys.argv[3:]
out = os.open(os.devnull, os.O_WRONLY)
pid, terminal = pty.fork()
if pid == 0:
    os.dup2(out, 1)
    os.execv(program, [program] + args)
seen = b""
while ready.encode() not in seen:
    try: more = os.read(terminal, 65536)
    except OSError: more = b""
    if not more: sys.exit("it ended: " + seen.decode(errors="replace"))
    seen += more
os.close(terminal)
if program.endswith("tracker"): os.kill(pid, signal.SIGTERM)
print("exit", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let dir = tempfile::tempdir().unwrap();
    let (tracker, segmenter) = on_air(dir.path());
    for case in cases(&segmenter.link, &tracker.url, dir.path()) {
        let program = bin(case.program);
        let mut args = vec!["-c", SCRIPT, case.ready, path_str(&program)];
        args.extend(case.args.iter().map(String::as_str));
        let (out, _) = run("python3", &args);
        assert_eq!(out.trim(), "exit 0", "{} {:?}", case.program, case.args);
    }
}

/// `nohup` and its like want a program to outlive its terminal.
#[test]
fn a_relay_that_is_to_ignore_the_end_of_its_terminal_does() {
    let dir = tempfile::tempdir().unwrap();
    let (_tracker, segmenter) = on_air(dir.path());
    let minuet = bin("minuet");
    let mut relay = Command::new("sh");
    relay.args(["-c", "trap '' HUP; exec \"$@\"", "sh", path_str(&minuet), "relay", &segmenter.link]);
    let mut relay = minuet_tests::Process::spawn("minuet", &mut relay, Stdio::null());
    relay.wait_for("relaying");
    relay.signal("HUP");
    relay.signal("TERM");
    assert_eq!(relay.wait(DEADLINE).code(), Some(0));
    let log = relay.log();
    assert_eq!(log.iter().filter(|line| line.contains("interrupted")).count(), 1, "{log:?}");
}

/// Whoever reads the media has had enough.
#[test]
fn a_reader_that_leaves_is_a_normal_end() {
    let dir = tempfile::tempdir().unwrap();
    let (_tracker, segmenter) = on_air(dir.path());
    let mut viewer = Command::new(bin("minuet"));
    viewer.args(["watch", &segmenter.link, "--stdout"]).stdin(Stdio::null()).stderr(Stdio::null());
    let mut viewer = viewer.stdout(Stdio::piped()).spawn().unwrap();
    let mut media = [0; 188];
    viewer.stdout.take().unwrap().read_exact(&mut media).unwrap();
    assert_eq!((media[0], ended(viewer).code()), (0x47, Some(0)));
    // The same of a program that only prints.
    let inspect =
        format!("{} inspect '{}' | true; echo ${{PIPESTATUS[0]}}", bin("minuet").display(), segmenter.link);
    assert_eq!(run("bash", &["-c", &inspect]).0.trim(), "0");
}
