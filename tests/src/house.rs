//! Channels on air for tests of the gateway: encoders that send as fast as they play, and plain HTTP.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

/// An encoder that sends to a port over UDP as fast as it plays, until dropped.
pub struct Encoder(Child);

impl Encoder {
    /// One with a picture of this size, and a key frame each second.
    pub fn start(port: u16, size: &str) -> Self {
        Self::with(port, size, &[])
    }

    /// The same, filled up with padding to so many bits a second.
    pub fn padded(port: u16, size: &str, rate: u32) -> Self {
        Self::with(port, size, &["-muxrate", &rate.to_string()])
    }

    /// Sends a file again and again, so many times as fast as it plays.
    pub fn repeated(file: &Path, port: u16, times: u32) -> Self {
        let to = format!("udp://127.0.0.1:{port}?pkt_size=1316");
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-stream_loop", "-1", "-readrate", &times.to_string(), "-i"]).arg(file);
        command.args(["-c", "copy", "-f", "mpegts", &to]).stdin(Stdio::null());
        Self(command.spawn().expect("ffmpeg is installed"))
    }

    fn with(port: u16, size: &str, more: &[&str]) -> Self {
        let picture = format!("testsrc2=size={size}:rate=25");
        let to = format!("udp://127.0.0.1:{port}?pkt_size=1316");
        let mut words = vec!["-v", "error", "-re", "-f", "lavfi", "-i", &picture, "-re", "-f", "lavfi", "-i"];
        words.extend(["sine=frequency=440:sample_rate=48000", "-c:v", "libx264", "-preset", "ultrafast"]);
        words.extend(["-tune", "zerolatency", "-g", "25", "-pix_fmt", "yuv420p", "-b:v", "500k"]);
        words.extend(["-c:a", "aac", "-f", "mpegts"]);
        words.extend(more);
        words.push(&to);
        let child = Command::new("ffmpeg").args(words).stdin(Stdio::null()).spawn();
        Self(child.expect("ffmpeg is installed"))
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The answer to a request of a server on loopback: its head, and its body, which may come in chunks.
pub fn get(port: u16, path: &str, fields: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server is there");
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n")
        .expect("it listens");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let body = answer.split_off(end + 4);
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (head, if is_chunked { unchunked(&body) } else { body })
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").expect("a chunk's length");
        let text = String::from_utf8_lossy(&rest[..end]);
        let length = usize::from_str_radix(text.trim(), 16).expect("a number");
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 4 + length..];
    }
}

/// The body of an answer that must be good, as text.
pub fn text(port: u16, path: &str) -> String {
    let (head, body) = get(port, path, "");
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}\n{}", String::from_utf8_lossy(&body));
    String::from_utf8_lossy(&body).into_owned()
}

/// Plays `seconds` of an address with ffmpeg, from the first try; returns how many pictures and what was complained of.
pub fn played(address: &str, seconds: u32) -> (usize, String) {
    let seconds = seconds.to_string();
    let mut words = vec!["-v", "repeat+warning", "-nostdin", "-i", address, "-t", &seconds];
    words.extend(["-map", "0:v", "-f", "framemd5", "-"]);
    let done = Command::new("ffmpeg").args(words).output().expect("ffmpeg is installed");
    let frames = String::from_utf8_lossy(&done.stdout).lines().filter(|line| !line.starts_with('#')).count();
    let said = String::from_utf8_lossy(&done.stderr);
    // ffmpeg reads a track's init segment again when it reads the playlist again, and says so of itself.
    let complaints: Vec<&str> = said.lines().filter(|line| !line.contains("duplicated MOOV")).collect();
    (frames, complaints.concat())
}
