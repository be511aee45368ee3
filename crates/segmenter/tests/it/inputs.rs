//! Inputs that fail, fall silent, end and come back; what stands in for them meanwhile.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use crate::common::{CLIP, Segmenter, clip, contents, numbers};
use minuet_proto::record::segment_file_name;

/// A clip as a file.
fn file(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A UDP port that was free a moment ago.
fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends a feed in datagrams, no faster than a receive buffer of the usual size takes.
fn send(bytes: &[u8], port: u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for datagram in bytes.chunks(7 * 188) {
        socket.send_to(datagram, ("127.0.0.1", port)).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
}

/// The recorded segments without the two packets of tables that each begins with.
fn media(data: &Path) -> Vec<Vec<u8>> {
    let (records, _) = contents(data);
    let channel = crate::common::key(data).channel();
    let read =
        |seq| fs::read(data.join("segments").join(segment_file_name(&channel, seq))).unwrap().split_off(376);
    records.iter().map(|record| read(record.seq)).collect()
}

/// The segments joined are the feed, from its first picture and the tables before that on.
fn is_the_feed(joined: &[u8], feed: &[u8]) {
    assert!(
        feed.ends_with(joined) && feed.len() - joined.len() <= 4 * 188,
        "{} of {}",
        joined.len(),
        feed.len()
    );
}

#[test]
fn a_slate_stands_in_for_a_silent_input_until_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let slate = file(dir.path(), "slate.ts", &clip(500));
    let (data, port) = (dir.path().join("data"), free_port());
    let input = format!("udp://127.0.0.1:{port}");
    let arguments = [&input, "--silence", "1s", "--slate", &slate, "--segment", "2s"];
    let mut segmenter = Segmenter::start(&data, &arguments);
    segmenter.wait_for("stands in for the main input");
    segmenter.wait_for("segment 0 sealed");
    send(&CLIP, port);
    segmenter.wait_for(&format!("back to {input}"));
    // Silent again, so the slate is back.
    segmenter.wait_for("stands in for the main input");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    let (records, _) = contents(&data);
    numbers(&records);
    let segments = media(&data);
    let begins = |segment: &Vec<u8>| (0..=4).any(|n| CLIP[n * 188..].starts_with(&segment[..188 * 20]));
    let first = segments.iter().position(begins).unwrap();
    assert!(first >= 1 && records[first].discontinuity, "the slate came before");
    let mut joined = Vec::new();
    for segment in &segments[first..] {
        if joined.len() + segment.len() <= CLIP.len() {
            joined.extend_from_slice(segment);
        }
    }
    is_the_feed(&joined, &CLIP);
}

#[test]
fn with_a_fallback_the_end_of_the_input_is_not_that_of_the_channel() {
    let dir = tempfile::tempdir().unwrap();
    let (data, port) = (dir.path().join("data"), free_port());
    let fallback = format!("udp://127.0.0.1:{port}");
    let mut segmenter = Segmenter::start(&data, &["-", "--fallback", &fallback, "--segment", "2s"]);
    segmenter.feed(&CLIP);
    segmenter.end_feed();
    segmenter.wait_for("stands in for the main input");
    // The open segment does not wait for what comes next.
    segmenter.wait_for("segment 3 sealed");
    send(&clip(100), port);
    segmenter.wait_for("segment 5 sealed");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    let (records, _) = contents(&data);
    let marked: Vec<bool> = records.iter().map(|record| record.discontinuity).collect();
    assert_eq!(marked[..6], [false, false, false, false, true, false], "{log}");
    is_the_feed(&media(&data)[..4].concat(), &CLIP);
}

#[test]
fn mpeg_ts_over_http_is_fetched_again_when_the_server_breaks_off() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let input = format!("http://{}/live", server.local_addr().unwrap());
    let answers = [CLIP.clone(), clip(100)];
    let serving = thread::spawn(move || {
        let refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        // Without a length: an endless answer.
        let endless = "HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n";
        let [first, second] = &answers;
        for (head, body) in [(endless, first.as_slice()), (endless, second), (refusal, &[])] {
            let (mut peer, _) = server.accept().unwrap();
            let mut lines = BufReader::new(peer.try_clone().unwrap()).lines();
            assert!(lines.next().unwrap().unwrap().starts_with("GET /live "));
            while !lines.next().unwrap().unwrap().is_empty() {}
            peer.write_all(&[head.as_bytes(), body].concat()).unwrap();
        }
    });
    let mut segmenter = Segmenter::start(&data, &[&input, "--segment", "2s"]);
    segmenter.wait_for("ended; check the address and the server; trying again");
    segmenter.wait_for("segment 7 sealed");
    serving.join().unwrap();
    segmenter.wait_for("503");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    let (records, _) = contents(&data);
    assert_eq!(numbers(&records), [0, 1, 2, 3, 4, 5, 6, 7]);
    let marked: Vec<u64> =
        records.iter().filter(|record| record.discontinuity).map(|record| record.seq.0).collect();
    assert_eq!(marked, [4], "{log}");
    let segments = media(&data);
    is_the_feed(&segments[..4].concat(), &CLIP);
    is_the_feed(&segments[4..].concat(), &clip(100));
}

#[test]
fn ffmpeg_is_started_again_and_its_last_words_are_told() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let input = format!(
        "rtmp://127.0.0.1:{}/live",
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    );
    let mut segmenter = Segmenter::start(&dir.path().join("data"), &[&input, "--segment", "2s"]);
    let words = segmenter.wait_for("ffmpeg could not read rtmp://");
    assert!(words.contains("onnection refused") && words.ends_with("trying again"), "{words}");
    segmenter.terminate();
    assert!(segmenter.finish().0.success());
}

#[test]
fn a_ctrl_c_on_the_terminal_ends_the_segmenter_first_and_not_its_ffmpeg() {
    let dir = tempfile::tempdir().unwrap();
    let input =
        ["--ffmpeg-args", "-re -f lavfi", "--ffmpeg-output-args", "-c:v libx264 -preset ultrafast -g 25"];
    let arguments = [&["testsrc2=size=320x180:rate=25", "--segment", "1s"], &input[..]].concat();
    let mut segmenter = Segmenter::start(dir.path(), &arguments);
    segmenter.wait_for("segment 0 sealed");
    segmenter.interrupt_job();
    let (status, _, log) = segmenter.finish();
    assert!(status.success() && !log.contains("ERROR"), "{log}");
    assert!(log.contains("sealing the open segment"), "{log}");
    assert!(numbers(&contents(dir.path()).0).len() >= 2);
}

#[test]
fn an_encoder_comes_goes_and_comes_back_over_rtmp() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let clip = file(dir.path(), "clip.ts", &CLIP);
    let mut segmenter = Segmenter::start(&data, &[&format!("rtmp://:{port}/live/key"), "--segment", "2s"]);
    segmenter.link();
    let url = format!("rtmp://127.0.0.1:{port}/live/key");
    // The listener opens its port a moment after the link is told: whoever comes too early comes again.
    let publish = || {
        let mut tries = 0;
        loop {
            let publisher = std::process::Command::new("ffmpeg")
                .args(["-v", "error", "-i", &clip, "-c", "copy", "-f", "flv", &url])
                .output()
                .unwrap();
            if publisher.status.success() {
                break;
            }
            tries += 1;
            assert!(tries < 200, "{}", String::from_utf8_lossy(&publisher.stderr));
            thread::sleep(Duration::from_millis(50));
        }
    };
    publish();
    segmenter.wait_for("was closed by the other side");
    segmenter.wait_for("segment 3 sealed");
    publish();
    segmenter.wait_for("segment 7 sealed");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    let (records, _) = contents(&data);
    let marked: Vec<u64> =
        records.iter().filter(|record| record.discontinuity).map(|record| record.seq.0).collect();
    assert_eq!(marked, [4], "{log}");
}
