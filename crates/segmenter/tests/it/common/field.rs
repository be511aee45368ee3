//! Feeds and servers made by a test, and what came out of them.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use minuet_proto::record::segment_file_name;

use super::{CLIP, Segmenter, contents, numbers};

/// One more stream of the clip's, as its PMT names it.
pub struct More<'a> {
    /// `stream_type`.
    pub kind: u8,
    /// Its descriptors.
    pub descriptors: &'a [u8],
    /// What is in each of its PES packets, or else its sections begin so.
    pub payload: &'a [u8],
    /// It has sections.
    pub sections: bool,
}

/// Where that is.
const MORE_PID: u16 = 0x1f5;

/// Runs ffmpeg; `-` as the output is what it returns.
pub fn ffmpeg(arguments: &[&str]) -> Vec<u8> {
    let made =
        Command::new("ffmpeg").args(["-v", "error", "-nostdin", "-y"]).args(arguments).output().unwrap();
    assert!(made.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// The clip, made into something else.
pub fn clip_as(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let clip = dir.join("clip.ts");
    fs::write(&clip, &*CLIP).unwrap();
    ffmpeg(&[&["-i", clip.to_str().unwrap()], arguments, &["-"]].concat())
}

/// Three seconds of a radio at its pace or as long as one connection takes it.
pub fn radio() -> Vec<u8> {
    let sine = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100", "-t", "8"];
    ffmpeg(
        &[&sine[..], &["-c:a", "libmp3lame", "-b:a", "64k", "-write_xing", "0", "-f", "mp3", "-"]].concat(),
    )
}

/// Names of the codecs in the first segment, and the sizes of its pictures.
pub fn codecs(data: &Path) -> BTreeSet<String> {
    let (records, _) = contents(data);
    numbers(&records);
    let name = segment_file_name(&super::key(data).channel(), records.first().expect("a segment").seq);
    let asked = ["-v", "error", "-show_entries", "stream=codec_name,width", "-of", "csv=p=0"];
    let told = Command::new("ffprobe").args(asked).arg(data.join("segments").join(name)).output().unwrap();
    let lines = String::from_utf8(told.stdout).unwrap();
    lines.lines().map(|line| line.trim_matches(',').to_owned()).filter(|line| !line.is_empty()).collect()
}

/// A set of names.
pub fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Records an input with an end; its log.
pub fn record(data: &Path, arguments: &[&str], stdin: Stdio) -> String {
    let options = ["--exit-at-end", "--segment", "4s", "--no-realtime"];
    let segmenter = Segmenter::start_with(data, &[arguments, &options].concat(), stdin);
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    log
}

/// Records bytes on standard input.
pub fn record_stdin(data: &Path, bytes: Vec<u8>, arguments: &[&str]) -> String {
    let options = ["-", "--exit-at-end", "--segment", "4s"];
    let mut segmenter = Segmenter::start(data, &[&options, arguments].concat());
    segmenter.feed(&bytes);
    segmenter.end_feed();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    log
}

/// A segmenter that opens its input again and again; its log up to `sentence`.
pub fn says(data: &Path, arguments: &[&str], sentence: &str) -> String {
    let mut segmenter = Segmenter::start(data, arguments);
    segmenter.wait_for(sentence);
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    log
}

/// Runs beside the test, and is ended with it.
pub struct Beside(Child);

impl Beside {
    /// ffmpeg, with these arguments.
    pub fn ffmpeg(arguments: &[&str]) -> Self {
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-nostdin", "-y"]).args(arguments);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves each connection by `answer`, which is given the request's head, as long as the test runs.
pub fn serve(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for peer in server.incoming() {
            let (mut peer, answer) = (peer.unwrap(), Arc::clone(&answer));
            thread::spawn(move || {
                let mut head = String::new();
                let mut reader = BufReader::new(peer.try_clone().unwrap());
                while reader.read_line(&mut head).is_ok_and(|len| len > 2) {}
                answer(&head, &mut peer);
            });
        }
    });
    address
}

/// A folder on a server that keeps count of what is asked for.
pub fn serve_folder(dir: &Path) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let (dir, asked) = (dir.to_owned(), Arc::new(Mutex::new(Vec::new())));
    let count = Arc::clone(&asked);
    let address = serve(move |head, peer| {
        let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let body = fs::read(dir.join(&path)).unwrap();
        count.lock().unwrap().push(path);
        let from = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let from: usize = from.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or(0);
        let (status, length) = (if from > 0 { "206 Partial Content" } else { "200 OK" }, body.len() - from);
        let range = format!("Content-Range: bytes {from}-{}/{}", body.len() - 1, body.len());
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nAccept-Ranges: bytes\r\n{range}\r\nConnection: close\r\n\r\n"
        );
        let _ = peer.write_all(head.as_bytes()).and_then(|()| peer.write_all(&body[from..]));
    });
    (address, asked)
}

/// All streams of the first segment, by ffprobe's names.
pub fn streams(data: &Path) -> Vec<String> {
    let (records, _) = contents(data);
    let name = segment_file_name(&super::key(data).channel(), records.first().expect("a segment").seq);
    // Of two sections, programs and streams, the last.
    let asked = ["-v", "error", "-show_entries", "stream=codec_name", "-of", "flat"];
    let told = Command::new("ffprobe").args(asked).arg(data.join("segments").join(name)).output().unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    let own = text.lines().filter(|line| line.starts_with("streams."));
    own.filter_map(|line| Some(line.split_once('=')?.1.trim_matches('"').to_owned())).collect()
}

/// How long the whole recording is.
pub fn recorded_ms(data: &Path) -> u64 {
    contents(data).0.iter().map(|record| record.duration_ms).sum()
}

fn crc(section: &[u8]) -> [u8; 4] {
    let step = |crc: u32| if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| step(crc));
    section.iter().fold(u32::MAX, byte).to_be_bytes()
}

/// The clip with one more stream: named in the PMT, and a packet now and then.
pub fn clip_with(more: &More<'_>) -> Vec<u8> {
    let pid = |packet: &[u8]| u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff;
    let (mut out, mut counter) = (Vec::new(), 0);
    for (index, packet) in CLIP.chunks(188).enumerate() {
        let mut packet = packet.to_vec();
        if pid(&packet) == 0x1000 {
            let start = 5 + usize::from(packet[4]);
            let len = 3 + (usize::from(packet[start + 1] & 0x0f) << 8 | usize::from(packet[start + 2]));
            let mut section = packet[start..start + len - 4].to_vec();
            let [high, low] = MORE_PID.to_be_bytes();
            section.extend([more.kind, 0xe0 | high, low, 0xf0, more.descriptors.len() as u8]);
            section.extend(more.descriptors);
            section[2] = (section.len() + 4 - 3) as u8;
            let sum = crc(&section);
            section.extend(sum);
            packet[start..start + section.len()].copy_from_slice(&section);
        }
        out.extend(packet);
        if index % 400 == 200 {
            let [high, low] = MORE_PID.to_be_bytes();
            out.extend([0x47, 0x40 | high, low]);
            if more.sections {
                out.extend([0x10 | counter, 0]);
                out.extend(more.payload);
                out.resize(out.len().next_multiple_of(188), 0xff);
            } else {
                let time = 90_000 * 2 + index as u32 * 160;
                let mut pes = vec![0, 0, 1, 0xbd, 0, (8 + more.payload.len()) as u8, 0x84, 0x80, 5];
                pes.extend([(time >> 29) as u8 & 0x0e | 0x21, (time >> 22) as u8, (time >> 14) as u8 | 1]);
                pes.extend([(time >> 7) as u8, (time << 1) as u8 | 1]);
                pes.extend(more.payload);
                let pad = 184 - pes.len();
                out.extend([0x30 | counter, (pad - 1) as u8, 0]);
                out.resize(out.len() + pad - 2, 0xff);
                out.extend(pes);
            }
            counter = (counter + 1) & 0x0f;
        }
    }
    out
}
