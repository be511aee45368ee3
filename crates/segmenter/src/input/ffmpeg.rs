//! What ffmpeg opens for us: everything that is not MPEG-TS at hand.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, ErrorKind, Read as _},
    os::fd::OwnedFd,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStderr, Command, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use super::{InputError, Read, pipe::Pipe};

/// Lines of standard error that are kept for when ffmpeg dies.
const LAST_LINES: usize = 4;
/// What ffmpeg says when an HLS playlist cannot be had any more.
const PLAYLIST_LOST: &str = "Failed to reload playlist";
/// A line is cut off here.
const MAX_LINE: u64 = 500;

/// What the user adds to ffmpeg's command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FfmpegArguments {
    /// Before the input.
    pub input: Vec<String>,
    /// In place of `-c copy`.
    pub output: Vec<String>,
}

/// The URL and the options before it. An RTMP or SRT address of no machine in particular means that the encoder comes
/// to us.
fn as_ffmpeg_takes_it(input: &str) -> (String, &'static [&'static str]) {
    let Some((scheme, rest)) = input.split_once("://") else { return (input.to_owned(), &[]) };
    let anyone = rest.starts_with("0.0.0.0:") || rest.starts_with("[::]:") || rest.starts_with(':');
    let url = match rest.strip_prefix(':') {
        Some(port) => format!("{scheme}://0.0.0.0:{port}"),
        None => input.to_owned(),
    };
    match scheme {
        "rtmp" if anyone => (url, &["-listen", "1"]),
        "srt" if anyone && !rest.contains("mode=") => {
            let and = if rest.contains('?') { '&' } else { '?' };
            (format!("{url}{and}mode=listener"), &[])
        }
        "rtsp" | "rtsps" => (url, &["-rtsp_transport", "tcp"]),
        _ => (url, &[]),
    }
}

/// A running ffmpeg; killed and waited for when dropped.
#[derive(Debug)]
pub struct Ffmpeg {
    input: String,
    child: Child,
    output: Pipe,
    /// Collects the last words.
    listener: Option<JoinHandle<VecDeque<String>>>,
}

impl Ffmpeg {
    /// Starts ffmpeg on `input`, over and over if `repeat`.
    pub fn start(input: &str, repeat: bool, arguments: &FfmpegArguments) -> Result<Self, InputError> {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-hide_banner", "-loglevel", "warning"]);
        if repeat {
            command.args(["-stream_loop", "-1"]);
        }
        let (url, own) = as_ffmpeg_takes_it(input);
        command.args(own).args(&arguments.input).args(["-i", &url, "-map", "0:v:0?", "-map", "0:a?"]);
        if arguments.output.is_empty() {
            command.args(["-c", "copy"]);
        }
        command.args(&arguments.output).args(["-flush_packets", "1", "-f", "mpegts", "pipe:1"]);
        Self::spawn(command, input)
    }

    fn spawn(mut command: Command, input: &str) -> Result<Self, InputError> {
        let (reader, writer) = std::io::pipe()?;
        // A Ctrl-C on the terminal is for us; we end ffmpeg.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => InputError::NoFfmpeg { input: input.to_owned() },
            _ => InputError::Io(error),
        })?;
        // Our copy of the writing end would keep the pipe open after ffmpeg's death.
        drop(command);
        let listener = child.stderr.take().map(|stderr| std::thread::spawn(move || last_words(stderr)));
        let output = Pipe::new(OwnedFd::from(reader));
        Ok(Self { input: input.to_owned(), child, output, listener })
    }

    pub(super) fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        let read = self.output.read(buf, patience)?;
        if read != Read::End {
            return Ok(read);
        }
        let status = self.child.wait()?;
        let words = self.listener.take().and_then(|listener| listener.join().ok()).unwrap_or_default();
        // A playlist that ended is an end; one whose server went away is none, though ffmpeg calls both a success.
        if status.success() && !words.iter().any(|line| line.contains(PLAYLIST_LOST)) {
            return Ok(Read::End);
        }
        Err(InputError::Ffmpeg {
            input: self.input.clone(),
            status: status.to_string(),
            last_words: Vec::from(words).join("; "),
        })
    }
}

impl Drop for Ffmpeg {
    fn drop(&mut self) {
        // Errors mean that it is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// Reads to the end, so that ffmpeg never waits for us, and keeps the last lines.
fn last_words(stderr: ChildStderr) -> VecDeque<String> {
    let mut lines = VecDeque::new();
    let mut reader = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return lines,
            Ok(_) => {}
        }
        let line = without_address(String::from_utf8_lossy(&line).trim());
        if !line.is_empty() {
            if lines.len() == LAST_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    }
}

/// ffmpeg begins its lines with what speaks and where that lies in memory, as in `[http @ 0x564b516f0240] `: of no use,
/// and never twice the same.
fn without_address(line: &str) -> String {
    let Some((before, after)) = line.split_once(" @ 0x") else { return line.to_owned() };
    let after = after.trim_start_matches(|character: char| character.is_ascii_hexdigit());
    format!("{before}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Ffmpeg {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Ffmpeg::spawn(command, "the feed").unwrap()
    }

    #[test]
    fn output_then_the_end() {
        let mut child = shell("printf abc");
        let mut buf = [0; 16];
        assert_eq!(child.read(&mut buf, PATIENCE).unwrap(), Read::Data(3));
        assert_eq!(child.read(&mut buf, PATIENCE).unwrap(), Read::End);
    }

    #[test]
    fn last_words_are_told() {
        let mut child =
            shell("for n in 1 2 3 4 5; do echo line $n >&2; done; echo '[x @ 0x5ab] line 6' >&2; exit 3");
        let error = child.read(&mut [0; 16], PATIENCE).unwrap_err().to_string();
        assert_eq!(
            error,
            "ffmpeg could not read the feed (exit status: 3): line 3; line 4; line 5; [x] line 6"
        );
    }

    #[test]
    fn a_playlist_that_cannot_be_had_any_more_is_no_end() {
        let mut child = shell("echo '[hls @ 0x5ab] Failed to reload playlist 0' >&2");
        let error = child.read(&mut [0; 16], PATIENCE).unwrap_err().to_string();
        assert!(error.contains("reload playlist"), "{error}");
    }

    #[test]
    fn dropping_it_ends_it() {
        let mut child = shell("printf x; exec sleep 3600");
        let mut buf = [0; 1];
        assert_eq!(child.read(&mut buf, PATIENCE).unwrap(), Read::Data(1));
        let pid = child.child.id();
        drop(child);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_missing_program_is_a_sentence() {
        let error = Ffmpeg::spawn(Command::new("/nowhere/ffmpeg"), "clip.mp4").unwrap_err();
        assert!(error.to_string().contains("install it"), "{error}");
    }

    #[test]
    fn an_address_of_no_machine_listens() {
        for (input, url, options) in [
            ("rtmp://0.0.0.0:1935/live/key", "rtmp://0.0.0.0:1935/live/key", &["-listen", "1"][..]),
            ("rtmp://:1935/live", "rtmp://0.0.0.0:1935/live", &["-listen", "1"]),
            ("rtmp://host/live", "rtmp://host/live", &[]),
            ("srt://:9000", "srt://0.0.0.0:9000?mode=listener", &[]),
            ("srt://0.0.0.0:9000?latency=200000", "srt://0.0.0.0:9000?latency=200000&mode=listener", &[]),
            ("srt://host:9000", "srt://host:9000", &[]),
            ("rtsp://camera/1", "rtsp://camera/1", &["-rtsp_transport", "tcp"]),
        ] {
            assert_eq!(as_ffmpeg_takes_it(input), (url.to_owned(), options), "{input}");
        }
    }
}
