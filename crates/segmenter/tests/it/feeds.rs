//! Feeds, links and servers as people have them: each test makes its own input and asks ffprobe what came out.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    fs,
    io::Write as _,
    net::{TcpListener, UdpSocket},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::common::{
    CLIP, Segmenter, contents,
    field::{clip_as, codecs, ffmpeg, radio, record, record_stdin, serve, serve_folder, set},
};

#[test]
fn words_for_ffmpeg_are_heeded_by_every_input() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.ts");
    fs::write(&path, &*CLIP).unwrap();
    let (server, _) = serve_folder(dir.path());
    let url = format!("http://{server}/clip.ts");
    let words = "-c:v mpeg2video -g 25 -b:v 500k -c:a mp2 -metadata 'service_name=Radio Tower'";
    let expected = set(&["mpeg2video,320", "mp2"]);
    for (name, input) in [("file", path.to_str().unwrap()), ("http", &url)] {
        let data = dir.path().join(name);
        record(&data, &[input, "--ffmpeg-output-args", words], Stdio::null());
        assert_eq!(codecs(&data), expected, "{name}");
    }
    // A pipe and a file on standard input.
    let data = dir.path().join("pipe");
    record_stdin(&data, CLIP.clone(), &["--ffmpeg-output-args", words]);
    assert_eq!(codecs(&data), expected);
    let data = dir.path().join("redirected");
    record(&data, &["-", "--ffmpeg-output-args", words], fs::File::open(&path).unwrap().into());
    assert_eq!(codecs(&data), expected);
    // Datagrams.
    let data = dir.path().join("udp");
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let input = format!("udp://127.0.0.1:{port}");
    let mut segmenter = Segmenter::start(
        &data,
        &[&input, "--segment", "2s", "--ffmpeg-output-args", words, "--silence", "60s"],
    );
    segmenter.link();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for datagram in CLIP.repeat(2).chunks(7 * 188) {
        socket.send_to(datagram, ("127.0.0.1", port)).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    segmenter.wait_for("segment 1 sealed");
    segmenter.terminate();
    assert!(segmenter.finish().0.success());
    assert_eq!(codecs(&data), expected);
}

#[test]
fn a_quote_that_is_not_closed_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let (status, _, log) = Segmenter::start(dir.path(), &["-", "--ffmpeg-args", "-headers \"A: b"]).finish();
    assert!(!status.success() && log.contains("quote that is not closed"), "{log}");
}

#[test]
fn a_radio_whose_server_closes_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let radio = radio();
    let server = serve(move |_, peer| {
        let head = b"HTTP/1.0 200 OK\r\nContent-Type: audio/mpeg\r\nicy-name: test\r\n\r\n";
        let _ = peer.write_all(head).and_then(|()| peer.write_all(&radio));
    });
    let mut segmenter = Segmenter::start(dir.path(), &[&format!("http://{server}/live"), "--segment", "2s"]);
    segmenter.wait_for("opening it again");
    segmenter.wait_for("segment 5 sealed");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success() && log.contains("is not MPEG-TS; ffmpeg reads it"), "{log}");
    assert_eq!(codecs(dir.path()), set(&["mp3"]));
}

#[test]
fn shoutcast_and_lists_of_stations() {
    let dir = tempfile::tempdir().unwrap();
    let radio = radio();
    let server = serve(move |head, peer| {
        let answer = match head.split(' ').nth(1).unwrap_or_default() {
            "/list.pls" => {
                let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
                let list = format!("[playlist]\nNumberOfEntries=1\nFile1=http://{host}/live\n");
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{list}", list.len()).into_bytes()
            }
            _ => [b"ICY 200 OK\r\nContent-Type: audio/mpeg\r\nicy-name: test\r\n\r\n", &radio[..]].concat(),
        };
        let _ = peer.write_all(&answer);
    });
    let mut segmenter =
        Segmenter::start(dir.path(), &[&format!("http://{server}/list.pls"), "--segment", "2s"]);
    segmenter.wait_for("is a list: its first entry is taken");
    segmenter.wait_for("gives no answer in HTTP");
    segmenter.wait_for("segment 1 sealed");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    assert_eq!(codecs(dir.path()), set(&["mp3"]));
}

#[test]
fn a_password_by_digest_is_given_by_ffmpeg_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(|head, peer| {
        // That what ffmpeg computes is right, is ffmpeg's affair.
        let answer = if head.contains("Authorization: Digest username=\"alice\"") {
            [b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n", &CLIP[..]].concat()
        } else {
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"tv\", qop=\"auth\", nonce=\"abc\"\r\n\
              Content-Length: 0\r\nConnection: close\r\n\r\n"
                .to_vec()
        };
        let _ = peer.write_all(&answer);
    });
    let input = format!("http://alice:hunter2@{server}/stream/1");
    let mut segmenter = Segmenter::start(dir.path(), &[&input, "--segment", "2s"]);
    segmenter.wait_for("asks for the password by Digest; ffmpeg reads it");
    segmenter.wait_for("segment 1 sealed");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success() && !log.contains("hunter2"), "{log}");
}

#[test]
fn of_a_master_playlist_the_best_variant_is_fetched_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("high.ts"), &*CLIP).unwrap();
    let low = ["-vf", "scale=160:90", "-c:v", "libx264", "-g", "25", "-c:a", "copy", "-f", "mpegts"];
    fs::write(at("low.ts"), clip_as(dir.path(), &low)).unwrap();
    for name in ["low", "high"] {
        let (input, list, segments) =
            (at(&format!("{name}.ts")), at(&format!("{name}.m3u8")), at(&format!("{name}%d.ts")));
        let hls =
            ["-c", "copy", "-f", "hls", "-hls_time", "2", "-hls_list_size", "0", "-hls_segment_filename"];
        ffmpeg(&[&["-i", &input], &hls[..], &[&segments, &list]].concat());
    }
    let variant = |rate: u32, size, name| {
        format!("#EXT-X-STREAM-INF:BANDWIDTH={rate},RESOLUTION={size}\n{name}.m3u8\n")
    };
    let master =
        ["#EXTM3U\n", &variant(100_000, "160x90", "low"), &variant(2_000_000, "320x180", "high")].concat();
    fs::write(at("master.m3u8"), master).unwrap();
    let (server, asked) = serve_folder(dir.path());
    let data = dir.path().join("data");
    record(&data, &[&format!("http://{server}/master.m3u8")], Stdio::null());
    assert_eq!(codecs(&data), set(&["h264,320", "aac"]));
    let asked = asked.lock().unwrap().join(" ");
    assert!(asked.contains("high3.ts") && !asked.contains("low"), "{asked}");
    // The same as a file, which ffmpeg looks into.
    let data = dir.path().join("of-a-file");
    record(&data, &[&at("master.m3u8")], Stdio::null());
    assert_eq!(codecs(&data), set(&["h264,320", "aac"]));
}

#[test]
fn a_cameras_sound_becomes_aac_and_other_containers_come_through_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let camera = ["-c:v", "copy", "-c:a", "pcm_alaw", "-ar", "8000", "-ac", "1", "-f", "matroska"];
    let camera = clip_as(dir.path(), &camera);
    let path = dir.path().join("camera.mkv");
    fs::write(&path, &camera).unwrap();
    let data = dir.path().join("file");
    let log = record(&data, &[path.to_str().unwrap()], Stdio::null());
    assert!(log.contains("sound of kind pcm_alaw (stream 1) is transcoded to AAC"), "{log}");
    assert!(!log.contains("Multiple -c"), "{log}");
    assert_eq!(codecs(&data), set(&["h264,320", "aac"]));
    // ffmpeg is started twice, and what came in came once.
    let data = dir.path().join("pipe");
    let log = record_stdin(&data, camera, &[]);
    assert!(log.contains("standard input is not MPEG-TS; ffmpeg reads it"), "{log}");
    assert_eq!(codecs(&data), set(&["h264,320", "aac"]));
    let recorded: u64 = contents(&data).0.iter().map(|record| record.duration_ms).sum();
    assert!((7500..9000).contains(&recorded), "8 s, whole: {recorded}");
    for (name, format, expected) in [
        ("flv", &["-c", "copy", "-f", "flv"][..], &["h264,320", "aac"][..]),
        (
            "mp4",
            &["-c:v", "copy", "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-f", "mp4"],
            &["h264,320", "aac"],
        ),
        ("adts", &["-map", "0:a", "-c", "copy", "-f", "adts"], &["aac"]),
        (
            "webm",
            &["-c:v", "libvpx", "-c:a", "libvorbis", "-deadline", "realtime", "-f", "webm"],
            &["h264,320", "aac"],
        ),
    ] {
        let data = dir.path().join(name);
        record_stdin(&data, clip_as(dir.path(), format), &[]);
        assert_eq!(codecs(&data), set(expected), "{name}");
    }
}

#[test]
fn packets_without_tables_are_for_ffmpeg() {
    let dir = tempfile::tempdir().unwrap();
    let pid = |packet: &[u8]| u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff;
    let bare: Vec<u8> = CLIP
        .chunks(188)
        .filter(|packet| pid(packet) < 0x1000 && pid(packet) > 0x20)
        .flatten()
        .copied()
        .collect();
    let log = record_stdin(dir.path(), bare, &[]);
    assert!(log.contains("without tables that name a program (PAT and PMT); ffmpeg reads it"), "{log}");
    assert_eq!(codecs(dir.path()), set(&["h264,320", "aac"]));
}

#[test]
fn a_film_that_broke_off_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let asked = Arc::new(Mutex::new(0));
    let server = serve(move |head, peer| {
        let mut times = asked.lock().unwrap();
        *times += 1;
        let half = CLIP.len() / 2;
        let answer = if *times == 1 {
            let head =
                format!("HTTP/1.1 200 OK\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\n\r\n", CLIP.len());
            [head.as_bytes(), &CLIP[..half]].concat()
        } else {
            assert!(head.contains(&format!("range: bytes={half}-")), "{head}");
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {half}-{}/{}\r\nContent-Length: {}\r\n\r\n",
                CLIP.len() - 1,
                CLIP.len(),
                CLIP.len() - half
            );
            [head.as_bytes(), &CLIP[half..]].concat()
        };
        let _ = peer.write_all(&answer);
    });
    let data = dir.path().join("data");
    record(&data, &[&format!("http://{server}/clip.ts")], Stdio::null());
    let (records, _) = contents(&data);
    let recorded: u64 = records.iter().map(|record| record.duration_ms).sum();
    assert!((7900..8200).contains(&recorded), "{recorded}");
    assert!(records.iter().all(|record| !record.discontinuity));
}

#[test]
fn an_encoder_with_another_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let clip = dir.path().join("clip.ts");
    fs::write(&clip, &*CLIP).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let data = dir.path().join("data");
    let mut segmenter =
        Segmenter::start(&data, &[&format!("rtmp://0.0.0.0:{port}/live/secretkey"), "--segment", "2s"]);
    segmenter.link();
    let publish = |path: &str| {
        let url = format!("rtmp://127.0.0.1:{port}/{path}");
        let words =
            ["-v", "error", "-nostdin", "-i", clip.to_str().unwrap(), "-c", "copy", "-f", "flv", &url];
        Command::new("ffmpeg").args(words).output().unwrap()
    };
    for wrong in ["other/wrongkey", "live/secretkeY", "live", "other/secretkey"] {
        assert!(!publish(wrong).status.success(), "{wrong}");
    }
    segmenter.wait_for("came with another stream key and was refused");
    segmenter.wait_for("names another application");
    let right = publish("live/secretkey");
    assert!(right.status.success(), "{}", String::from_utf8_lossy(&right.stderr));
    segmenter.wait_for("segment 3 sealed");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success() && !log.contains("secretkey"), "{log}");
    assert_eq!(codecs(&data), set(&["h264,320", "aac"]));
    assert!(!contents(&data).0[0].discontinuity, "nothing came before");
}

#[test]
fn passwords_and_keys_are_not_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (name, input) in [
        ("http", format!("http://alice:hunter2secret@{nobody}/base.ts")),
        ("srt", format!("srt://{nobody}?mode=caller&connect_timeout=300&passphrase=hunter2secret")),
        ("rtmp", format!("rtmp://{nobody}/live/hunter2secret")),
    ] {
        let mut segmenter = Segmenter::start(&dir.path().join(name), &[&input, "--segment", "2s"]);
        segmenter.wait_for("trying again");
        segmenter.terminate();
        let (status, _, log) = segmenter.finish();
        assert!(status.success() && !log.contains("hunter2secret"), "{log}");
    }
}
