//! Closed captions (CEA-608 in ATSC A/53, ITU-T T.35) lie within the pictures, and go with them.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::{
    ffmpeg::{picture, run},
    tracks::remux,
};

/// "HI" in CEA-608, field 1, with its parities, as cc_data of one picture.
const CAPTION: [u8; 3] = [0xfc, 0xc8, 0x49];

/// An SEI message with a caption (ATSC A/53 part 4, 6.2), as a NAL unit with its start code.
fn message() -> Vec<u8> {
    let mut payload = vec![0xb5, 0x00, 0x31, b'G', b'A', b'9', b'4', 0x03, 0xc1, 0xff];
    payload.extend(CAPTION);
    payload.push(0xff);
    let mut unit = vec![0, 0, 0, 1, 6, 4, payload.len() as u8];
    unit.extend(payload);
    unit.push(0x80);
    unit
}

/// A stream of H.264 in which each picture has a caption.
fn feed() -> Vec<u8> {
    let words = format!(
        "-v error {} -c:v libx264 -preset ultrafast -bf 0 -g 25 -x264-params slices=1 -f h264 -",
        picture(4)
    );
    let raw = run("ffmpeg", &words.split_whitespace().collect::<Vec<_>>());
    let starts: Vec<usize> =
        raw.windows(3).enumerate().filter(|(_, three)| *three == [0, 0, 1]).map(|(at, _)| at).collect();
    let mut captioned = Vec::new();
    for (index, start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(raw.len());
        // Before each slice, which is a picture.
        if matches!(raw[start + 3] & 0x1f, 1 | 5) {
            captioned.extend(message());
        }
        captioned.extend(&raw[*start..end]);
    }
    let muxing = ["-v", "error", "-f", "h264", "-r", "25", "-i", "-", "-c", "copy", "-f", "mpegts", "-"];
    let mut muxer =
        Command::new("ffmpeg").args(muxing).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = muxer.stdin.take().unwrap();
    std::thread::spawn(move || input.write_all(&captioned));
    muxer.wait_with_output().unwrap().stdout
}

#[test]
fn closed_captions_pass_within_the_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let feed = feed();
    let (source, path) = (folder.path().join("feed.ts"), remux(&feed).write(folder.path(), 0, 0));
    std::fs::write(&source, &feed).unwrap();
    let captions = |path: &std::path::Path| {
        let words =
            ["-v", "error", "-select_streams", "v:0", "-show_frames", "-of", "flat", path.to_str().unwrap()];
        String::from_utf8(run("ffprobe", &words)).unwrap().matches("ATSC A53 Part 4 Closed Captions").count()
    };
    assert_eq!(captions(&source), 100, "what is made for the test is right");
    assert_eq!(captions(&path), 100);
}
