//! Real streams, made and judged by ffmpeg.

use std::{
    path::Path,
    process::{Command, Stdio},
};

pub const CLIP_SECONDS: u64 = 12;
pub const FRAMES_A_SECOND: u64 = 25;
pub const FRAMES: u64 = CLIP_SECONDS * FRAMES_A_SECOND;

/// Runs ffmpeg and returns what it writes to standard output.
pub fn ffmpeg(arguments: &[&str], input: Option<&Path>) -> Vec<u8> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-loglevel", "error"]);
    if let Some(path) = input {
        command.arg("-i").arg(path);
    }
    let output = command.args(arguments).stderr(Stdio::inherit()).output().expect("ffmpeg is installed");
    assert!(output.status.success(), "ffmpeg {arguments:?}");
    output.stdout
}

/// A clip of moving picture and tone, coded as `codec` says.
pub fn clip(codec: &[&str]) -> Vec<u8> {
    let picture = format!("testsrc2=size=160x96:rate={FRAMES_A_SECOND}:duration={CLIP_SECONDS}");
    let tone = format!("sine=frequency=440:sample_rate=48000:duration={CLIP_SECONDS}");
    let mut arguments = vec!["-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &tone];
    arguments.extend(codec);
    arguments.extend(["-f", "mpegts", "-"]);
    ffmpeg(&arguments, None)
}

/// Some seconds of moving picture without sound, coded as `codec` says.
pub fn clip_of(seconds: u64, codec: &[&str]) -> Vec<u8> {
    let picture = format!("testsrc2=size=160x96:rate={FRAMES_A_SECOND}:duration={seconds}");
    ffmpeg(&[&["-f", "lavfi", "-i", &picture], codec, &["-f", "mpegts", "-"]].concat(), None)
}

pub const AAC: &[&str] = &["-c:a", "aac", "-b:a", "64k"];

pub fn x264(parameters: &str) -> Vec<u8> {
    let codec = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-x264-params", parameters];
    clip(&[&codec, AAC].concat())
}

/// What a decoder that gets only `segment` complains of, and the number of frames it shows.
pub fn decode(segment: &[u8], stream: &str) -> (String, u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("segment.ts");
    std::fs::write(&path, segment).expect("room for a clip");
    let output = Command::new("ffprobe")
        .args(["-loglevel", "warning", "-count_frames", "-select_streams", stream])
        .args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
        .arg(&path)
        .output()
        .expect("ffprobe is installed");
    let frames = String::from_utf8_lossy(&output.stdout);
    let frames = frames.trim().lines().next().unwrap_or_default().trim_end_matches(',').parse();
    (String::from_utf8_lossy(&output.stderr).into_owned(), frames.unwrap_or(0))
}

/// The hashes of the pictures that a decoder shows of `feed`, one line each.
pub fn pictures(feed: &[u8]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("feed.ts");
    std::fs::write(&path, feed).expect("room for a clip");
    let output = Command::new("ffmpeg")
        // One thread: how several conceal a loss is a matter of luck.
        .args(["-nostdin", "-loglevel", "fatal", "-threads", "1", "-i"])
        .arg(&path)
        .args(["-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "-"])
        .output()
        .expect("ffmpeg is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(',')?.1.trim().to_owned())).collect()
}
