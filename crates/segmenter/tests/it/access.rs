//! Whom the far end of an input lets in, and what is said where it does not.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{fs, io::Write as _, net::UdpSocket, process::Stdio};

use crate::common::{
    CLIP, Segmenter,
    field::{Beside, codecs, record, says, serve, set},
};

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Who has logged in has a cookie, which the playlist's server and that of its segments want.
#[test]
fn a_portal_that_wants_a_cookie_gets_it_from_the_users_words() {
    let dir = tempfile::tempdir().unwrap();
    let list = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:8,\nclip.ts\n#EXT-X-ENDLIST\n";
    let server = serve(move |head, peer| {
        let logged_in = head.lines().any(|line| line.to_ascii_lowercase().starts_with("cookie: session=42"));
        let body = match (logged_in, head.contains(".m3u8")) {
            (false, _) => &b"who are you?"[..],
            (true, true) => list.as_bytes(),
            (true, false) => &CLIP,
        };
        let status = if logged_in { "200 OK" } else { "403 Forbidden" };
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = peer.write_all(head.as_bytes()).and_then(|()| peer.write_all(body));
    });
    for (name, input) in [("list", "live.m3u8"), ("film", "clip.ts")] {
        let data = dir.path().join(name);
        let input = format!("http://{server}/{input}");
        record(&data, &[&input, "--ffmpeg-args", "-headers 'Cookie: session=42'"], Stdio::null());
        assert_eq!(codecs(&data), set(&["h264,320", "aac"]));
    }
    let film = format!("http://{server}/clip.ts");
    says(&dir.path().join("without"), &[&film], "ffmpeg's option -headers");
    let other = [film.as_str(), "--ffmpeg-args", "-headers 'Cookie: session=41'"];
    says(&dir.path().join("other"), &other, "are not those that it wants");
}

/// On either end of the connection, and each in one line that does not come again.
#[test]
fn a_passphrase_of_srt_that_does_not_fit_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let ours = |name: &str| dir.path().join(name);
    let clip = dir.path().join("clip.ts").to_str().unwrap().to_owned();
    fs::write(&clip, &*CLIP).unwrap();
    let there = |port: u16, more: &str| format!("srt://127.0.0.1:{port}?{more}");
    let send = |to: &str| {
        Beside::ffmpeg(&["-re", "-stream_loop", "-1", "-i", &clip, "-c", "copy", "-f", "mpegts", to])
    };

    let port = free_port();
    let mut waiting =
        Segmenter::start(&ours("listener"), &[&there(port, "mode=listener&passphrase=righteous-one")]);
    // It knocks until it is heard.
    let _caller = send(&there(port, "connect_timeout=60000&passphrase=wrongful-one1"));
    waiting.wait_for("an SRT connection was refused: the passphrases of the two ends differ");
    waiting.terminate();
    let (_, _, log) = waiting.finish();
    assert!(!log.contains("REJECT") && !log.contains("righteous"), "{log}");

    for (theirs, own, sentence) in [
        (
            "&passphrase=righteous-one",
            "&passphrase=wrongful-one1",
            "its passphrase is another than the one in the address",
        ),
        ("&passphrase=righteous-one", "", "it has a passphrase, and the address names none"),
        ("", "&passphrase=wrongful-one1", "it has no passphrase, and the address names one"),
    ] {
        let port = free_port();
        let _server = send(&there(port, &format!("mode=listener{theirs}")));
        let data = ours(&port.to_string());
        let log = says(&data, &[&there(port, &format!("mode=caller{own}"))], sentence);
        assert!(!log.contains("REJECT") && !log.contains("wrongful"), "{log}");
    }
}
