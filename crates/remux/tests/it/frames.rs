//! Frame for frame the same as ffmpeg sees in the feed, at the same times, and decoded without a complaint.

use crate::{
    ffmpeg::{Seen, decode, make, packets, picture, tone},
    tracks::remux,
};

/// One tick at 90 kHz, and what printing seconds with six digits rounds.
const TICK: f64 = 1.0 / 90_000.0 + 2e-6;

/// Compares what was remuxed with the feed. `streams` are the feed's streams in the order of the tracks. Frames at the
/// beginning that come before the first key picture may be missing.
fn same(feed: &[u8], streams: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("feed.ts");
    std::fs::write(&source, feed).unwrap();
    let output = remux(feed);
    assert_eq!(output.inits.len(), streams.len(), "{:?}", output.inits);
    let mut shift: Option<f64> = None;
    for (track, stream) in streams.iter().enumerate() {
        let path = output.write(folder.path(), track, 0);
        let (expected, found) = (packets(&source, stream), packets(&path, &stream[..1]));
        assert!(!found.is_empty(), "{stream} is empty");
        let missing = expected.len().checked_sub(found.len()).expect("no frame comes twice");
        // What is shown before the first picture is left out.
        assert!(missing == 0 || stream.starts_with('a') && missing < 25, "{stream}: {missing} are missing");
        let expected = &expected[missing..];
        let shift = *shift.get_or_insert(found[0].dts - expected[0].dts);
        let place = |seen: &Seen, by: f64| (seen.pts + by, seen.dts + by);
        for (number, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let (pts, dts) = place(expected, shift);
            let near = (pts - found.pts).abs() <= TICK && (dts - found.dts).abs() <= TICK;
            assert!(near, "{stream} {number}: {expected:?} is {found:?}, shifted by {shift}");
            assert_eq!(expected.key, found.key, "{stream} {number}");
        }
        let (expected, _) = decode(&source, stream);
        let (found, complaints) = decode(&path, &stream[..1]);
        assert_eq!(complaints, "", "{stream}");
        if stream.starts_with('v') {
            assert_eq!(found, expected, "{stream}");
        } else {
            assert!(
                found.len() + missing >= expected.len(),
                "{stream}: {} of {}",
                found.len(),
                expected.len()
            );
        }
    }
    // As it came: every packet of the program from the first key picture on, and the tables besides.
    let joined: Vec<u8> = output.transport.iter().flat_map(|segment| segment.bytes.to_vec()).collect();
    let path = folder.path().join("joined.ts");
    std::fs::write(&path, joined).unwrap();
    for stream in streams {
        assert!(packets(&path, stream).len() + 25 >= packets(&source, stream).len());
    }
}

fn with_sound(sound: &str) {
    let feed = make(&format!("{} {} -c:v libx264 -preset ultrafast -g 50 {sound}", picture(5), tone(5)));
    same(&feed, &["v:0", "a:0"]);
}

#[test]
fn h264_with_b_frames() {
    let feed = make(&format!("{} -c:v libx264 -preset veryfast -bf 3 -g 50", picture(6)));
    same(&feed, &["v:0"]);
}

#[test]
fn h264_with_open_groups() {
    let feed =
        make(&format!("{} -c:v libx264 -preset veryfast -bf 3 -g 25 -x264-params open-gop=1", picture(6)));
    same(&feed, &["v:0"]);
}

#[test]
fn h264_in_fields() {
    let interlaced =
        "-vf interlace -c:v libx264 -preset veryfast -flags +ilme+ildct -x264-params tff=1 -g 50";
    same(&make(&format!("{} {interlaced}", picture(5))), &["v:0"]);
}

#[test]
fn h265() {
    let x265 = "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=50";
    same(&make(&format!("{} {x265}", picture(5))), &["v:0"]);
}

#[test]
fn h265_with_open_groups_and_ten_bits() {
    let x265 = "-pix_fmt yuv420p10le -c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=25:open-gop=1:bframes=3";
    same(&make(&format!("{} {x265}", picture(5))), &["v:0"]);
}

#[test]
fn aac() {
    with_sound("-c:a aac");
    with_sound("-c:a aac -ar 44100 -ac 2");
}

#[test]
fn aac_in_latm() {
    with_sound("-c:a aac -ac 2 -mpegts_flags latm");
}

#[test]
fn mpeg_audio() {
    with_sound("-c:a mp2");
    with_sound("-c:a libmp3lame -ar 44100");
    with_sound("-c:a libmp3lame -ar 22050");
}

#[test]
fn ac3() {
    with_sound("-c:a ac3 -ac 6");
    with_sound("-c:a eac3 -ac 2");
}

#[test]
fn opus() {
    with_sound("-c:a libopus -ac 2");
}

#[test]
fn several_sound_tracks() {
    let maps = "-map 0:v -map 1:a -map 1:a -metadata:s:a:0 language=eng -metadata:s:a:1 language=deu";
    let coding = "-c:v libx264 -preset ultrafast -g 25 -c:a:0 aac -c:a:1 mp2";
    let feed = make(&format!("{} {} {maps} {coding}", picture(5), tone(5)));
    same(&feed, &["v:0", "a:0", "a:1"]);
    let languages: Vec<_> = remux(&feed).inits.values().map(|inits| inits[0].language).collect();
    assert_eq!(languages, [None, Some(*b"eng"), Some(*b"deu")]);
}

#[test]
fn radio() {
    same(&make(&format!("{} -c:a aac", tone(7))), &["a:0"]);
    same(&make(&format!("{} -c:a libmp3lame", tone(7))), &["a:0"]);
}

#[test]
fn a_clock_that_wraps() {
    // 2^33 ticks are 95443.717 s.
    let feed = make(&format!(
        "{} {} -c:v libx264 -preset ultrafast -g 25 -c:a aac -output_ts_offset 95441",
        picture(6),
        tone(6)
    ));
    let output = remux(&feed);
    assert!(output.segments.values().flatten().all(|segment| !segment.opened.discontinuity));
    let folder = tempfile::tempdir().unwrap();
    for (track, stream) in [(0, "v"), (1, "a")] {
        let found = packets(&output.write(folder.path(), track, 0), stream);
        let steps = found.windows(2).map(|pair| pair[1].dts - pair[0].dts);
        let (least, most) =
            steps.fold((1.0f64, 0.0f64), |(least, most), step| (least.min(step), most.max(step)));
        assert!(least > 0.02 && most < 0.041, "{stream}: {least} to {most}");
        assert!(
            found.len() as f64 * if track == 0 { 0.04 } else { 0.0213 } > 5.9,
            "{stream}: {}",
            found.len()
        );
    }
}
