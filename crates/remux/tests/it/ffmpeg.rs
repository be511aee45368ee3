//! ffmpeg as the maker of streams, and as the judge of what becomes of them.

use std::{path::Path, process::Command};

use serde_json::Value;

/// Runs a program that must succeed without a word on standard error; returns its standard output.
pub fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let done = Command::new(program).args(arguments).output().unwrap();
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?}: {complaint}");
    done.stdout
}

/// Makes MPEG-TS of a test picture and a tone, by these further arguments.
pub fn make(arguments: &str) -> Vec<u8> {
    let mut words: Vec<&str> = vec!["-v", "error", "-nostdin"];
    words.extend(arguments.split_whitespace());
    words.extend(["-f", "mpegts", "-"]);
    run("ffmpeg", &words)
}

/// A picture of so many seconds.
pub fn picture(seconds: u32) -> String {
    format!("-f lavfi -i testsrc2=size=320x240:rate=25:duration={seconds}")
}

/// A tone of so many seconds.
pub fn tone(seconds: u32) -> String {
    format!("-f lavfi -i sine=frequency=440:sample_rate=48000:duration={seconds}")
}

/// One packet as ffprobe sees it: presentation and decoding time in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    pub pts: f64,
    pub dts: f64,
    pub key: bool,
}

/// The packets of the nth stream of a kind (`v`, `a`).
pub fn packets(path: &Path, stream: &str) -> Vec<Seen> {
    let entries = "packet=pts_time,dts_time,flags";
    let file = path.to_str().unwrap();
    let arguments = ["-v", "error", "-select_streams", stream, "-show_entries", entries, "-of", "json", file];
    let said: Value = serde_json::from_slice(&run("ffprobe", &arguments)).unwrap();
    let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let seen = |packet: &Value| {
        let pts = number(&packet["pts_time"])?;
        let key = packet["flags"].as_str().is_some_and(|flags| flags.starts_with('K'));
        Some(Seen { pts, dts: number(&packet["dts_time"]).unwrap_or(pts), key })
    };
    said["packets"].as_array().unwrap().iter().filter_map(seen).collect()
}

/// Decodes a file and returns the hash of each frame; `complaints` is what ffmpeg says meanwhile.
pub fn decode(path: &Path, stream: &str) -> (Vec<String>, String) {
    let file = path.to_str().unwrap();
    let map = format!("0:{stream}");
    let arguments = [
        "-v",
        "warning",
        "-nostdin",
        "-i",
        file,
        "-map",
        &map,
        "-fps_mode",
        "passthrough",
        "-f",
        "framemd5",
        "-",
    ];
    let arguments: Vec<&str> = if stream.starts_with('a') {
        arguments.into_iter().filter(|word| !matches!(*word, "-fps_mode" | "passthrough")).collect()
    } else {
        arguments.to_vec()
    };
    let done = Command::new("ffmpeg").args(arguments).output().unwrap();
    let hashes = String::from_utf8(done.stdout).unwrap();
    let hash = |line: &str| line.rsplit(',').next().map(|hash| hash.trim().to_owned());
    let hashes = hashes.lines().filter(|line| !line.starts_with('#')).filter_map(hash).collect();
    (hashes, String::from_utf8_lossy(&done.stderr).into_owned())
}
