//! Feeds, files and servers that are not as they should be, and what becomes of them: each test makes its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use crate::common::{
    CLIP, Segmenter,
    field::{
        Beside, More, clip_as, clip_with, codecs, ffmpeg, record, record_stdin, recorded_ms, says, serve,
        serve_folder, set, streams,
    },
};
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// What the clip has.
fn as_the_clip() -> std::collections::BTreeSet<String> {
    set(&["h264,320", "aac"])
}

/// A segmenter that must fail; its log.
fn refused(data: &Path, arguments: &[&str], feed: &[u8]) -> String {
    let mut segmenter = Segmenter::start(data, &[arguments, &["--exit-at-end", "--segment", "4s"]].concat());
    segmenter.feed(feed);
    segmenter.end_feed();
    let (status, _, log) = segmenter.finish();
    assert!(!status.success(), "{log}");
    log
}

/// A film of a phone that was held upright: its pictures are to be turned.
fn film_of_a_phone(dir: &Path) -> String {
    let (clip, plain, turned) = (dir.join("clip.ts"), dir.join("plain.mp4"), dir.join("phone.mp4"));
    fs::write(&clip, &*CLIP).unwrap();
    let [clip, plain, turned] = [&clip, &plain, &turned].map(|path| path.to_str().unwrap());
    ffmpeg(&["-i", clip, "-c", "copy", plain]);
    // As ffmpeg has it since version 6, and before.
    let since = ["-display_rotation", "90", "-i", plain, "-c", "copy", turned];
    let quiet = Command::new("ffmpeg").args(["-v", "quiet", "-nostdin", "-y"]).args(since).status().unwrap();
    if !quiet.success() {
        ffmpeg(&["-i", plain, "-c", "copy", "-metadata:s:v:0", "rotate=90", turned]);
    }
    turned.to_owned()
}

#[test]
fn pictures_of_a_phone_that_was_held_upright_are_turned() {
    let dir = tempfile::tempdir().unwrap();
    let film = film_of_a_phone(dir.path());
    let data = dir.path().join("data");
    let log = record(&data, &[&film], Stdio::null());
    assert!(log.contains("they are to be turned before they are shown"), "{log}");
    assert_eq!(codecs(&data), set(&["h264,180", "aac"]));
    // By the user's words they stay as they are.
    let data = dir.path().join("as-it-is");
    record(&data, &[&film, "--ffmpeg-output-args", "-c copy"], Stdio::null());
    assert_eq!(codecs(&data), as_the_clip());
}

/// As `raspivid -o -` and its like write it; with B pictures nothing tells when each is to be shown.
#[test]
fn bare_pictures_come_through_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let picture = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-t", "8", "-c:v", "libx264"];
    for (name, preset, transcoded) in [("plain", "ultrafast", false), ("b", "veryfast", true)] {
        let bare = ffmpeg(&[&picture[..], &["-preset", preset, "-g", "25", "-f", "h264", "-"]].concat());
        let data = dir.path().join(name);
        let log = record_stdin(&data, bare, &[]);
        assert_eq!(log.contains("without times, and not in the order"), transcoded, "{log}");
        assert_eq!(codecs(&data), set(&["h264,320"]));
        assert!((7900..8200).contains(&recorded_ms(&data)), "{name}: {}", recorded_ms(&data));
    }
}

#[test]
fn what_brings_nothing_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = refused(&dir.path().join("empty"), &["-"], &[]);
    assert!(log.contains("standard input ended before anything came"), "{log}");
    // An index that stands at the end cannot be read from a pipe, which ffmpeg calls a success.
    let film = dir.path().join("film.mp4");
    let clip = dir.path().join("clip.ts");
    fs::write(&clip, &*CLIP).unwrap();
    ffmpeg(&["-i", clip.to_str().unwrap(), "-c", "copy", film.to_str().unwrap()]);
    let log = refused(&dir.path().join("film"), &["-"], &fs::read(&film).unwrap());
    assert!(log.contains("-movflags +faststart"), "{log}");
    // Nothing is said twice.
    assert_eq!(log.matches("partial file").count(), 1, "{log}");
    // From a file it can be read.
    let data = dir.path().join("file");
    record(&data, &[film.to_str().unwrap()], Stdio::null());
    assert_eq!(codecs(&data), as_the_clip());
}

#[test]
fn a_named_pipe_goes_on_with_its_next_writer() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let path = pipe.to_str().unwrap();
    let mut segmenter = Segmenter::start(&dir.path().join("data"), &[path, "--segment", "2s"]);
    segmenter.wait_for("nothing has come yet");
    fs::write(&pipe, &*CLIP).unwrap();
    segmenter.wait_for("opening it again");
    fs::write(&pipe, &*CLIP).unwrap();
    segmenter.wait_for("segment 5 sealed");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    // While nobody writes, it can be ended, too.
    says(&dir.path().join("alone"), &[path, "--silence", "1s"], "nothing has come yet");
}

#[test]
fn a_film_that_the_users_words_give_to_ffmpeg_ends_on_a_server_without_ranges_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(|_, peer| {
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", CLIP.len());
        let _ = peer.write_all(head.as_bytes()).and_then(|()| peer.write_all(&CLIP));
    });
    let words = "-c:v mpeg2video -g 25 -b:v 500k -c:a mp2";
    let url = format!("http://{server}/clip.ts");
    record(dir.path(), &[&url, "--ffmpeg-output-args", words], Stdio::null());
    assert_eq!(codecs(dir.path()), set(&["mpeg2video,320", "mp2"]));
    assert!((7500..8500).contains(&recorded_ms(dir.path())), "once: {}", recorded_ms(dir.path()));
}

/// Some servers compress whether they are asked to or not.
#[test]
fn a_compressed_answer_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let clip = dir.path().join("clip.ts");
    fs::write(&clip, &*CLIP).unwrap();
    let packed = Command::new("gzip").arg("-c").arg(&clip).output().unwrap().stdout;
    let server = serve(move |_, peer| {
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", packed.len());
        let _ = peer.write_all(head.as_bytes()).and_then(|()| peer.write_all(&packed));
    });
    let data = dir.path().join("data");
    record(&data, &[&format!("http://{server}/clip.ts")], Stdio::null());
    assert_eq!(codecs(&data), as_the_clip());
    assert!((7900..8200).contains(&recorded_ms(&data)), "{}", recorded_ms(&data));
}

#[test]
fn a_server_that_gives_no_media_is_told_by_what_it_gives() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(|head, peer| {
        let body = if head.starts_with("GET /login") { "<!DOCTYPE html><title>Log in</title>" } else { "" };
        let _ = write!(peer, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    });
    let url = |path: &str| format!("http://{server}/{path}");
    says(&dir.path().join("page"), &[&url("login")], "gives a web page in place of media");
    says(&dir.path().join("empty"), &[&url("empty")], "gives an empty answer");
    let secure = format!("https://{server}/x");
    says(&dir.path().join("tls"), &[&secure], "write http:// in place of https://");
}

/// A server with a certificate of its own making.
fn serve_with_tls(body: Vec<u8>) -> SocketAddr {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key).unwrap());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        for peer in server.incoming() {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = BufReader::new(StreamOwned::new(session, peer.unwrap()));
            let mut head = String::new();
            while stream.read_line(&mut head).is_ok_and(|len| len > 2) {}
            let stream = stream.get_mut();
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    address
}

#[test]
fn a_certificate_of_ones_own_making_needs_an_option_and_the_sentence_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let matroska = clip_as(dir.path(), &["-c:v", "copy", "-c:a", "aac", "-f", "matroska"]);
    for (name, body) in [("native", CLIP.clone()), ("ffmpeg", matroska)] {
        let url = format!("https://{}/x", serve_with_tls(body));
        let log = says(&dir.path().join(format!("{name}-no")), &[&url], "--insecure-input");
        // Once, and in our words.
        assert!(!log.contains("ERROR"), "{log}");
        let data = dir.path().join(name);
        record(&data, &[&url, "--insecure-input"], Stdio::null());
        assert_eq!(codecs(&data), as_the_clip(), "{name}");
    }
}

#[test]
fn dash_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let [clip, film, list] =
        ["clip.ts", "film.mp4", "film.mpd"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    fs::write(&clip, &*CLIP).unwrap();
    ffmpeg(&["-i", &clip, "-c", "copy", &film]);
    ffmpeg(&["-i", &film, "-c", "copy", "-f", "dash", "-seg_duration", "2", &list]);
    let (server, _) = serve_folder(dir.path());
    let data = dir.path().join("data");
    record(&data, &[&format!("http://{server}/film.mpd")], Stdio::null());
    assert_eq!(codecs(&data), as_the_clip());
    assert!((7500..8500).contains(&recorded_ms(&data)), "{}", recorded_ms(&data));
}

/// Sound in several languages stands in lists of its own.
#[test]
fn all_sound_of_a_playlist_comes_and_its_subtitles_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("clip.ts"), &*CLIP).unwrap();
    let hls = ["-c", "copy", "-f", "hls", "-hls_time", "2", "-hls_list_size", "0"];
    for (name, map) in [("v", "0:v"), ("de", "0:a"), ("en", "0:a")] {
        ffmpeg(&[&["-i", &at("clip.ts"), "-map", map], &hls[..], &[&at(&format!("{name}.m3u8"))]].concat());
    }
    let sound = |name: &str| {
        format!(
            "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"{name}\",LANGUAGE=\"{name}\",URI=\"{name}.m3u8\"\n"
        )
    };
    let text = "#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"s\",NAME=\"en\",URI=\"s.m3u8\"\n";
    let variant =
        "#EXT-X-STREAM-INF:BANDWIDTH=900000,RESOLUTION=320x180,AUDIO=\"a\",SUBTITLES=\"s\"\nv.m3u8\n";
    fs::write(at("master.m3u8"), ["#EXTM3U\n", &sound("de"), &sound("en"), text, variant].concat()).unwrap();
    let (server, _) = serve_folder(dir.path());
    let data = dir.path().join("data");
    let log = record(&data, &[&format!("http://{server}/master.m3u8")], Stdio::null());
    assert!(log.contains("without its subtitles"), "{log}");
    assert_eq!(streams(&data), ["h264", "aac", "aac"]);
}

/// Natively, behind a playlist, and behind RTSP: what can be carried is, what ffmpeg cannot copy is named.
#[test]
fn teletext_klv_and_cues_are_kept_or_named_on_every_way_in() {
    let page: Vec<u8> =
        std::iter::once(0x10).chain([[0x03, 0x2c].as_slice(), &[0xe4; 44]].concat().repeat(3)).collect();
    let teletext = More { kind: 6, descriptors: b"\x56\x05deu\x10\x88", payload: &page, sections: false };
    let klv =
        [b"\x06\x0e\x2b\x34\x02\x0b\x01\x01\x0e\x01\x03\x01\x01\0\0\0\x04".as_slice(), b"abcd"].concat();
    let klv = More { kind: 6, descriptors: b"\x05\x04KLVA", payload: &klv, sections: false };
    let cue = [b"\xfc\x30\x11".as_slice(), &[0; 11], &[0xff; 3]].concat();
    let cues = More { kind: 0x86, descriptors: b"\x05\x04CUEI", payload: &cue, sections: true };
    for (name, more, kept) in
        [("dvb_teletext", &teletext, true), ("klv", &klv, true), ("scte_35", &cues, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let clip = clip_with(more);
        fs::write(dir.path().join("clip.ts"), &clip).unwrap();
        let list =
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:8,\nclip.ts\n#EXT-X-ENDLIST\n";
        fs::write(dir.path().join("clip.m3u8"), list).unwrap();
        let (server, _) = serve_folder(dir.path());
        let data = dir.path().join("native");
        record(&data, &[&format!("http://{server}/clip.ts")], Stdio::null());
        assert_eq!(streams(&data).len(), 3, "{name}: {:?}", streams(&data));
        let data = dir.path().join("list");
        let log = record(&data, &[&format!("http://{server}/clip.m3u8")], Stdio::null());
        assert_eq!(streams(&data).contains(&name.to_owned()), kept, "{name}: {:?} {log}", streams(&data));
        assert_eq!(log.contains(&format!("{name} (stream 2) is lost")), !kept, "{log}");
        let data = dir.path().join("camera");
        let camera = camera(clip);
        let log = says(&data, &[&format!("rtsp://{camera}/1"), "--segment", "2s"], "segment 2 sealed");
        assert_eq!(streams(&data).contains(&name.to_owned()), kept, "{name}: {:?} {log}", streams(&data));
        assert_eq!(log.contains(&format!("{name} (stream 2) is lost")), !kept, "{log}");
    }
}

/// As encoders send AV1 in MPEG-TS: private data, without a word on what it is. Nothing that reads MPEG-TS decodes it.
#[test]
fn pictures_that_do_not_say_what_they_are_are_named_on_every_way_in() {
    let dir = tempfile::tempdir().unwrap();
    let temporal_unit = [0x12, 0x00, 0x0a, 0x0b, 0x00, 0x00, 0x00, 0x24];
    let more = More { kind: 0x06, descriptors: &[], payload: &temporal_unit, sections: false };
    fs::write(dir.path().join("av1.ts"), clip_with(&more)).unwrap();
    let list = "#EXTM3U\n#EXT-X-TARGETDURATION:30\n#EXTINF:20,\nav1.ts\n#EXT-X-ENDLIST\n";
    fs::write(dir.path().join("av1.m3u8"), list).unwrap();
    let (server, _) = serve_folder(dir.path());
    let file = dir.path().join("av1.ts").to_str().unwrap().to_owned();
    let log = record(&dir.path().join("native"), &[&file], Stdio::null());
    assert!(log.contains("PID 0x1f5 does not say what it carries") && log.contains("AV1"), "{log}");
    let log = record(&dir.path().join("hls"), &[&format!("http://{server}/av1.m3u8")], Stdio::null());
    assert!(log.contains("stream 2 is of a kind that ffmpeg does not know (stream type 0x06)"), "{log}");
}

/// A camera that speaks RTSP and sends MPEG-TS in RTP on the same connection (RFC 2326, 10.12; RFC 2250), over and over.
fn camera(clip: Vec<u8>) -> SocketAddr {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let clip = Arc::new(clip);
    thread::spawn(move || {
        for peer in server.incoming() {
            let clip = Arc::clone(&clip);
            thread::spawn(move || serve_camera(peer.unwrap(), &clip));
        }
    });
    address
}

fn serve_camera(mut peer: TcpStream, clip: &[u8]) {
    const SESSION: &str = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track1\r\n";
    let mut reader = BufReader::new(peer.try_clone().unwrap());
    loop {
        let mut head = String::new();
        while reader.read_line(&mut head).is_ok_and(|len| len > 2) {}
        let number = head.lines().find_map(|line| line.strip_prefix("CSeq: ")).unwrap_or("0").to_owned();
        let (more, body) = match head.split(' ').next().unwrap_or_default() {
            "" => return,
            "OPTIONS" => ("Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n", ""),
            "DESCRIBE" => ("Content-Type: application/sdp\r\n", SESSION),
            "SETUP" => ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""),
            _ => ("Session: 1\r\n", ""),
        };
        let head_out =
            format!("RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}Content-Length: {}\r\n\r\n", body.len());
        if peer.write_all(format!("{head_out}{body}").as_bytes()).is_err() {
            return;
        }
        if head.starts_with("PLAY") {
            break;
        }
    }
    let mut seq = 0_u16;
    loop {
        for packets in clip.chunks(7 * 188) {
            let mut datagram = vec![b'$', 0];
            datagram.extend((12 + packets.len() as u16).to_be_bytes());
            datagram.extend([0x80, 33]);
            datagram.extend(seq.to_be_bytes());
            datagram.extend((u32::from(seq) * 900).to_be_bytes());
            datagram.extend([0, 0, 0, 1]);
            datagram.extend(packets);
            seq = seq.wrapping_add(1);
            if peer.write_all(&datagram).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn free_port() -> u16 {
    // RTP has its reports on the next.
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() & !1
}

/// An encoder that sends H.264 in RTP, as `ffmpeg -f rtp` does, has to be described.
#[test]
fn rtp_without_mpeg_ts_needs_its_description_and_the_sentence_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (clip, session) = (dir.path().join("clip.ts"), dir.path().join("stream.sdp"));
    fs::write(&clip, &*CLIP).unwrap();
    let [clip, session] = [&clip, &session].map(|path| path.to_str().unwrap().to_owned());
    let port = free_port();
    let address = format!("rtp://127.0.0.1:{port}");
    let _sender = Beside::ffmpeg(&[
        "-re",
        "-stream_loop",
        "-1",
        "-i",
        &clip,
        "-an",
        "-c",
        "copy",
        "-f",
        "rtp",
        "-sdp_file",
        &session,
        &address,
    ]);
    let log = says(&dir.path().join("rtp"), &[&address], "save the session description (SDP)");
    assert!(log.contains("payload type 96"), "{log}");
    let data = dir.path().join("sdp");
    says(&data, &[&session, "--segment", "2s"], "segment 1 sealed");
    assert_eq!(codecs(&data), set(&["h264,320"]));
}

/// Anything may come in datagrams; that it is no MPEG-TS is noticed after some of them.
#[test]
fn datagrams_of_another_container_go_to_ffmpeg() {
    let dir = tempfile::tempdir().unwrap();
    let matroska = clip_as(dir.path(), &["-c:v", "copy", "-c:a", "aac", "-f", "matroska"]);
    let port = free_port();
    let mut segmenter =
        Segmenter::start(&dir.path().join("data"), &[&format!("udp://127.0.0.1:{port}"), "--segment", "2s"]);
    segmenter.link();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for datagram in matroska.chunks(1316) {
        socket.send_to(datagram, ("127.0.0.1", port)).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    segmenter.wait_for("brings datagrams that are not MPEG-TS; ffmpeg reads it");
    segmenter.wait_for("segment 1 sealed");
    segmenter.terminate();
    assert!(segmenter.finish().0.success());
    assert_eq!(codecs(&dir.path().join("data")), as_the_clip());
}
