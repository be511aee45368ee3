//! Files and films that are not what they should be: cut off, without descriptions, no media at all. Each test makes its
//! own.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::common::{
    CLIP, Segmenter,
    field::{codecs, ffmpeg, record, recorded_ms, serve, set},
};

/// A segmenter that must fail; its log.
fn fails(data: &Path, arguments: &[&str]) -> String {
    let options = ["--exit-at-end", "--segment", "2s", "--no-realtime"];
    let mut segmenter = Segmenter::start(data, &[arguments, &options].concat());
    segmenter.wait_for("ERROR");
    let (status, _, log) = segmenter.finish();
    assert!(!status.success(), "{log}");
    log
}

/// The clip in another container, by ffmpeg.
fn film(dir: &Path, name: &str, arguments: &[&str]) -> String {
    let (clip, film) = (dir.join("clip.ts"), dir.join(name));
    fs::write(&clip, &*CLIP).unwrap();
    let [clip, film] = [&clip, &film].map(|path| path.to_str().unwrap().to_owned());
    ffmpeg(&[&["-i", &clip], arguments, &[&film]].concat());
    film
}

/// The film without what stands in it under this name: the name becomes another, which nobody knows.
fn without(film: &str, name: &[u8], other: &[u8]) -> String {
    let mut bytes = fs::read(film).unwrap();
    let found: Vec<usize> =
        (0..bytes.len() - name.len()).filter(|at| bytes[*at..].starts_with(name)).collect();
    assert!(!found.is_empty(), "{film} has it");
    found.into_iter().for_each(|at| bytes[at..at + name.len()].copy_from_slice(other));
    let bare = PathBuf::from(film).with_file_name(format!("bare-{}", film.rsplit('/').next().unwrap()));
    fs::write(&bare, bytes).unwrap();
    bare.to_str().unwrap().to_owned()
}

/// An FLV without the description of its AAC sound, as from an encoder that sends it late or never.
fn without_description_of_sound(film: &str) -> String {
    let bytes = fs::read(film).unwrap();
    let (mut bare, mut at) = (bytes[..13].to_vec(), 13);
    while at + 15 <= bytes.len() {
        let len =
            usize::from(bytes[at + 1]) << 16 | usize::from(bytes[at + 2]) << 8 | usize::from(bytes[at + 3]);
        let tag = &bytes[at..at + 15 + len];
        // Tag of sound, AAC, sequence header.
        if !(tag[0] == 8 && tag[11] >> 4 == 10 && tag[12] == 0) {
            bare.extend(tag);
        }
        at += tag.len();
    }
    assert!(bare.len() < bytes.len(), "it had one");
    let path = PathBuf::from(film).with_file_name("bare.flv");
    fs::write(&path, bare).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Every segment can be decoded by itself, without a complaint.
fn decodes(data: &Path) {
    let segments = fs::read_dir(data.join("segments")).unwrap().map(|entry| entry.unwrap().path());
    let segments: Vec<_> =
        segments.filter(|path| path.extension().is_some_and(|kind| kind == "ts")).collect();
    assert!(!segments.is_empty());
    for segment in segments {
        let decoded = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-xerror", "-i"])
            .arg(&segment)
            .args(["-f", "null", "-"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&decoded.stderr);
        assert!(decoded.status.success() && said.is_empty(), "{}: {said}", segment.display());
    }
}

#[test]
fn sound_that_does_not_say_how_it_is_coded_is_transcoded() {
    let dir = tempfile::tempdir().unwrap();
    // As a recorder of a TV feed writes it, whose headers are written before the first sound has come.
    let fragments = ["-c", "copy", "-bsf:a", "aac_adtstoasc", "-movflags", "frag_keyframe+empty_moov"];
    let copied = ["-c", "copy"];
    for (name, film) in [
        ("fragments", film(dir.path(), "fragments.mp4", &fragments)),
        ("mp4", without(&film(dir.path(), "film.mp4", &copied), b"esds", b"free")),
        ("flv", without_description_of_sound(&film(dir.path(), "film.flv", &copied))),
    ] {
        let data = dir.path().join(name);
        let log = record(&data, &[&film], Stdio::null());
        assert!(log.contains("it lacks an AudioSpecificConfig"), "{name}: {log}");
        assert_eq!(codecs(&data), set(&["h264,320", "aac"]), "{name}: {log}");
        assert!((7500..8500).contains(&recorded_ms(&data)), "{name}: {}", recorded_ms(&data));
        decodes(&data);
    }
    // What says it is left as it is.
    let log = record(&dir.path().join("whole"), &[&film(dir.path(), "whole.mp4", &copied)], Stdio::null());
    assert!(!log.contains("transcoded"), "{log}");
}

/// MPEG-4 Part 2, as in films of twenty years ago: ffmpeg leaves the headers in the container that it came in.
#[test]
fn headers_that_stood_beside_the_pictures_stand_before_key_frames() {
    let dir = tempfile::tempdir().unwrap();
    let coded = ["-c:v", "mpeg4", "-g", "25", "-b:v", "500k", "-c:a", "mp2"];
    for name in ["film.mkv", "film.avi", "film.mp4"] {
        let film = film(dir.path(), name, &coded);
        let data = dir.path().join(format!("{name}-data"));
        record(&data, &[&film, "--segment", "2s"], Stdio::null());
        assert_eq!(codecs(&data), set(&["mpeg4,320", "mp2"]), "{name}");
        decodes(&data);
    }
}

#[test]
fn pictures_without_their_headers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let silent = ["-an", "-c", "copy"];
    for (film, name, other) in [
        (film(dir.path(), "film.mp4", &["-c", "copy"]), &b"avcC"[..], &b"free"[..]),
        // CodecPrivate, of which there is one without sound.
        (film(dir.path(), "film.mkv", &silent), b"\x63\xa2", b"\x63\xa3"),
    ] {
        let bare = without(&film, name, other);
        let log = fails(&dir.path().join("data"), &[&bare]);
        assert!(log.contains("(h264) come without their headers"), "{log}");
        assert!(!log.contains("sealed"), "nothing of it is on air: {log}");
    }
}

/// A server that gives the first half of this and breaks off, whatever it is asked, once in each connection; how often it was
/// asked. With `ranges` it gives the rest when it is asked for that; where it `hangs`, it does not hang up.
fn breaks_off(
    body: Vec<u8>,
    ranges: bool,
    hangs: bool,
    first_status: &'static str,
) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = serve(move |head, peer| {
        count.fetch_add(1, Ordering::Relaxed);
        let head = head.to_ascii_lowercase();
        if first_status != "200 OK" && !head.contains("lavf") {
            let _ = write!(peer, "HTTP/1.1 {first_status}\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let range =
            head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.split('-').next()?.parse().ok());
        let from: usize = range.unwrap_or(0);
        let answer = match (ranges, from) {
            (true, 1..) => format!(
                "206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}",
                body.len() - 1,
                body.len(),
                body.len() - from
            ),
            (true, _) => format!("200 OK\r\nAccept-Ranges: bytes\r\nContent-Length: {}", body.len()),
            _ => format!("200 OK\r\nContent-Length: {}", body.len()),
        };
        let part = if ranges && from > 0 { &body[from..] } else { &body[..body.len() / 2] };
        let answer = format!("HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n");
        let _ = peer.write_all(answer.as_bytes()).and_then(|()| peer.write_all(part));
        if hangs && part.len() < body.len() - from {
            // Until the other side gives up.
            let _ = peer.read(&mut [0]);
        }
    });
    (format!("http://{server}/film"), asked)
}

#[test]
fn a_film_that_breaks_off_for_good_is_not_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let mkv = fs::read(film(dir.path(), "film.mkv", &["-c", "copy"])).unwrap();
    for (name, body, hangs, status) in [
        ("native", CLIP.clone(), false, "200 OK"),
        ("ffmpeg", mkv.clone(), false, "200 OK"),
        ("to ffmpeg only", mkv.clone(), false, "403 Forbidden"),
        ("native, hanging", CLIP.clone(), true, "200 OK"),
        ("ffmpeg, hanging", mkv, true, "200 OK"),
    ] {
        let (url, asked) = breaks_off(body, false, hangs, status);
        let data = dir.path().join(name);
        let log = fails(&data, &[&url]);
        assert!(log.contains("ends early: "), "{name}: {log}");
        assert!((3000..5000).contains(&recorded_ms(&data)), "{name}: {} {log}", recorded_ms(&data));
        // We, ffmpeg in our place, and each once for the rest at the most.
        assert!(asked.load(Ordering::Relaxed) <= 4, "{name}: {log}");
    }
    // With something that stands in, the channel goes on.
    let slate = film(dir.path(), "slate.ts", &["-c", "copy"]);
    let (url, _) = breaks_off(CLIP.clone(), false, false, "200 OK");
    let options = [&url, "--no-realtime", "--slate", &slate, "--segment", "2s"];
    let mut segmenter = Segmenter::start(&dir.path().join("slate"), &options);
    segmenter.wait_for("ends early: ");
    segmenter.wait_for("slate.ts stands in for the main input");
    segmenter.wait_for_next("sealed");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success() && log.matches("ends early").count() == 1, "{log}");
}

#[test]
fn a_film_that_breaks_off_goes_on_from_there_whoever_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let mkv = fs::read(film(dir.path(), "film.mkv", &["-c", "copy"])).unwrap();
    for (name, body, hangs) in [
        ("native", CLIP.clone(), false),
        ("ffmpeg", mkv.clone(), false),
        ("native, hanging", CLIP.clone(), true),
        ("ffmpeg, hanging", mkv, true),
    ] {
        let (url, _) = breaks_off(body, true, hangs, "200 OK");
        let data = dir.path().join(name);
        let log = record(&data, &[&url], Stdio::null());
        assert!((7900..8200).contains(&recorded_ms(&data)), "{name}: {} {log}", recorded_ms(&data));
    }
}

/// The first part of a file.
fn cut(film: &str, percent: usize) -> String {
    let bytes = fs::read(film).unwrap();
    let cut = PathBuf::from(film).with_file_name(format!("cut-{}", film.rsplit('/').next().unwrap()));
    fs::write(&cut, &bytes[..bytes.len() * percent / 100]).unwrap();
    cut.to_str().unwrap().to_owned()
}

#[test]
fn a_film_that_is_cut_off_is_told_by_how_much_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let copied = ["-c", "copy"];
    let quick = ["-c", "copy", "-movflags", "+faststart"];
    let fragments = ["-c", "copy", "-bsf:a", "aac_adtstoasc", "-movflags", "frag_keyframe"];
    for (name, words, whole) in [
        ("quick.mp4", &quick[..], Some("of 8.0")),
        ("film.mkv", &copied, Some("of 8.0")),
        ("film.flv", &copied, Some("of 8.0")),
        ("fragments.mp4", &fragments, None),
    ] {
        let cut = cut(&film(dir.path(), name, words), 60);
        let data = dir.path().join(format!("{name}-data"));
        let log = fails(&data, &[&cut]);
        let line = log
            .lines()
            .find(|line| line.contains("ends early: 4."))
            .unwrap_or_else(|| panic!("{name}: {log}"));
        assert!(whole.is_none_or(|whole| line.contains(whole)), "{line}");
        assert!(!line.contains("faststart"), "{line}");
        assert!((3500..5500).contains(&recorded_ms(&data)), "{name}: {}", recorded_ms(&data));
    }
    // What ffmpeg calls a success.
    let flac = ["-vn", "-c:a", "flac"];
    let cut_sound = cut(&film(dir.path(), "sound.flac", &flac), 50);
    let log = record(&dir.path().join("flac"), &[&cut_sound], Stdio::null());
    assert!(log.contains("by its own account of its length"), "{log}");
    // With its index at the end there is nothing that could be read.
    let log = fails(&dir.path().join("end"), &[&cut(&film(dir.path(), "end.mp4", &copied), 60)]);
    assert!(log.contains("it is cut off or still being written"), "{log}");
    // Wherever a film is whole, nothing is said.
    let log = record(&dir.path().join("whole"), &[&film(dir.path(), "whole.mkv", &copied)], Stdio::null());
    assert!(!log.contains("early") && !log.contains("account"), "{log}");
}

#[test]
fn a_film_that_is_cut_off_begins_again_in_a_loop() {
    let dir = tempfile::tempdir().unwrap();
    let quick = ["-c", "copy", "-movflags", "+faststart"];
    let cut = cut(&film(dir.path(), "film.mp4", &quick), 60);
    let data = dir.path().join("data");
    let mut segmenter = Segmenter::start(&data, &[&cut, "--loop", "--no-realtime", "--segment", "2s"]);
    segmenter.wait_for("it begins again");
    segmenter.wait_for("segment 6 sealed");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success() && log.matches("it begins again").count() == 1, "{log}");
}

#[test]
fn what_is_no_media_is_refused_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    // Numbers without a pattern (Knuth's multiplier).
    let numbers = (0..40_000_u32).scan(1_u32, |state, _| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*state >> 24) as u8)
    });
    let numbers: Vec<u8> = numbers.collect();
    let text = "Dear all, this is what you wanted to know.\n".repeat(200).into_bytes();
    for (name, bytes) in
        [("mail.txt", &text), ("numbers.mp3", &numbers), ("numbers.bin", &numbers), ("numbers.adf", &numbers)]
    {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let log = fails(&dir.path().join("data"), &[path.to_str().unwrap()]);
        assert!(log.contains("no media"), "{name}: {log}");
        assert!(!log.contains("sealed"), "{name}: {log}");
    }
}

#[test]
fn one_picture_is_held_in_a_loop_and_refused_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["picture.png", "picture.jpg"] {
        let picture = film(dir.path(), name, &["-frames:v", "1", "-update", "1"]);
        let log = fails(&dir.path().join("once"), &[&picture]);
        assert!(log.contains("is one picture, which has no duration") && log.contains("--loop"), "{log}");
        assert!(!log.contains("sealed"), "{log}");
        let pipe = Stdio::from(fs::File::open(&picture).unwrap());
        let options = ["-", "--exit-at-end"];
        let (status, _, log) = Segmenter::start_with(&dir.path().join("pipe"), &options, pipe).finish();
        assert!(!status.success() && log.contains("is one picture"), "{log}");
        let data = dir.path().join(format!("{name}-data"));
        let mut segmenter =
            Segmenter::start(&data, &[&picture, "--loop", "--no-realtime", "--segment", "2s"]);
        segmenter.wait_for("segment 1 sealed");
        segmenter.terminate();
        assert!(segmenter.finish().0.success());
        assert_eq!(codecs(&data), set(&["h264,320"]));
    }
}

#[test]
fn a_server_that_redirects_in_a_circle_is_told_so_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(|_, peer| {
        let _ = write!(peer, "HTTP/1.1 302 Found\r\nLocation: /film.ts\r\nConnection: close\r\n\r\n");
    });
    let mut segmenter = Segmenter::start(dir.path(), &[&format!("http://{server}/film.ts")]);
    segmenter.wait_for("redirects in a circle");
    segmenter.terminate();
    let (_, _, log) = segmenter.finish();
    assert!(!log.contains("ffmpeg"), "{log}");
}

#[test]
fn a_file_that_was_joined_of_parts_is_no_bad_line() {
    let dir = tempfile::tempdir().unwrap();
    let film = dir.path().join("film.ts");
    fs::write(&film, [&CLIP[..], &CLIP[..]].concat()).unwrap();
    let log = record(&dir.path().join("data"), &[film.to_str().unwrap()], Stdio::null());
    assert!(log.contains("joined of parts"), "{log}");
    assert!(!log.contains("check the line"), "{log}");
}
