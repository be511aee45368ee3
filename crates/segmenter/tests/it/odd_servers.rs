//! Servers and lists on the web that no RFC describes, and that people have.

use std::{fs, io::Write as _, process::Stdio};

use crate::common::{
    CLIP,
    field::{codecs, record, recorded_ms, says, serve, set},
};

/// Heads that are read although they are none, or more than one would write.
#[test]
fn a_film_behind_a_head_that_is_none_is_played_once() {
    let many: String = (0..300).map(|n| format!("X-Header-{n}: {n}\r\n")).collect();
    for (name, lines) in [
        ("no header", "this is no header\r\n"),
        ("folded", "X-Long: one\r\n two\r\n"),
        ("a blank before the colon", "X-Blank : one\r\n"),
        ("many", &many),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let head = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: {}\r\n\r\n", CLIP.len());
        let server = serve(move |_, peer| {
            let _ = peer.write_all(head.as_bytes()).and_then(|()| peer.write_all(&CLIP));
        });
        let log = record(dir.path(), &[&format!("http://{server}/clip.ts")], Stdio::null());
        assert!(!log.contains("ffmpeg"), "{name}: {log}");
        assert!((7900..8200).contains(&recorded_ms(dir.path())), "{name}: {}", recorded_ms(dir.path()));
    }
}

#[test]
fn a_portal_that_waits_for_its_cookie_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(|head, peer| {
        let answer = if head.contains("pass=1") {
            [b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n", &CLIP[..]].concat()
        } else {
            b"HTTP/1.1 302 Found\r\nLocation: /live\r\nSet-Cookie: pass=1; path=/\r\nContent-Length: 0\r\n\
              Connection: close\r\n\r\n"
                .to_vec()
        };
        let _ = peer.write_all(&answer);
    });
    let log = says(dir.path(), &[&format!("http://{server}/live"), "--segment", "2s"], "segment 1 sealed");
    assert!(log.contains("redirects to itself until it gets its cookie back; ffmpeg reads it"), "{log}");
}

#[test]
fn a_list_in_a_file_leads_to_its_first_station_that_answers_with_what_it_says_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(|head, peer| {
        let head = head.to_ascii_lowercase();
        let known = head.contains("user-agent: box 1\r\n") && head.contains("referer: http://x/\r\n");
        let answer = match known && head.starts_with("get /two") {
            true => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", CLIP.len()),
            false => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        let _ = peer.write_all(answer.as_bytes()).and_then(|()| peer.write_all(&CLIP));
    });
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let two = format!("http://{server}/two|User-Agent=Box%201&Referer=http://x/");
    for (name, text) in [
        ("kodi.m3u", format!("#EXTM3U\n#EXTINF:-1,One\nhttp://{server}/one\n#EXTINF:-1,Two\n{two}\n")),
        (
            "vlc.m3u",
            format!(
                "#EXTM3U\n#EXTVLCOPT:http-user-agent=Box 1\n#EXTVLCOPT:http-referrer=http://x/\nhttp://{server}/two\n"
            ),
        ),
        ("list.pls", format!("[playlist]\nFile1=http://{server}/one\nFile2={two}\n")),
    ] {
        fs::write(path(name), text).unwrap();
        let data = dir.path().join(format!("{name}-data"));
        let log = record(&data, &[&path(name)], Stdio::null());
        assert!(log.contains("is a list: its first entry is taken"), "{name}: {log}");
        assert_eq!(codecs(&data), set(&["h264,320", "aac"]), "{name}: {log}");
        // The same words for ffmpeg.
        let data = dir.path().join(format!("{name}-ffmpeg"));
        let words = ["--ffmpeg-output-args", "-c:v mpeg2video -g 25 -b:v 500k -c:a mp2"];
        record(&data, &[&[path(name).as_str()], &words[..]].concat(), Stdio::null());
        assert_eq!(codecs(&data), set(&["mpeg2video,320", "mp2"]), "{name}");
    }
    // The same on the command line.
    let data = dir.path().join("line");
    record(&data, &[&two], Stdio::null());
    assert_eq!(codecs(&data), set(&["h264,320", "aac"]));
}

#[test]
fn what_ffmpeg_cannot_read_is_said_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(|head, peer| {
        let list = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n0.ts\n#EXT-X-ENDLIST\n";
        let body = match head.split(' ').nth(1).unwrap_or_default() {
            "/bom.m3u8" => format!("\u{feff}{list}"),
            "/drm.m3u8" => list.replace(
                "#EXTINF",
                "#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://x\",KEYFORMAT=\"com.apple.streamingkeydelivery\"\n#EXTINF",
            ),
            "/master.m3u8" => {
                "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=900000,RESOLUTION=320x180\ndrm.m3u8\n".to_owned()
            }
            "/rtsp" => {
                let _ = peer.write_all(
                    b"HTTP/1.1 302 Found\r\nLocation: rtsp://cam.example/1\r\nContent-Length: 0\r\n\r\n",
                );
                return;
            }
            _ => String::new(),
        };
        let _ = write!(peer, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    });
    for (path, sentence) in [
        ("bom.m3u8", "begins with a byte order mark"),
        ("drm.m3u8", "is locked by DRM"),
        ("master.m3u8", "is locked by DRM"),
        ("rtsp", "give that address itself (rtsp://…) as the input"),
    ] {
        says(&dir.path().join(path), &[&format!("http://{server}/{path}")], sentence);
    }
}
