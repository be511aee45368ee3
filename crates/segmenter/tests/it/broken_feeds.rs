//! Feeds that break, stand still or were never any good, and that must not take the channel down with them: each test makes
//! its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::common::{
    CLIP, Segmenter,
    field::{codecs, ffmpeg, record, recorded_ms, serve, serve_folder, set, streams},
};

/// Bytes that are nothing: no sync byte among them, and no beginning that ffmpeg takes for one.
fn junk(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).map(|byte| if matches!(byte, 0x47 | 0xff) { 0 } else { byte }).collect()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Somebody who comes to a place where the segmenter listens, now or soon.
fn call(port: u16) -> TcpStream {
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(peer) => return peer,
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Sends datagrams at a pace that a receive buffer bears.
fn send(socket: &UdpSocket, port: u16, bytes: &[u8]) {
    for datagram in bytes.chunks(1316) {
        // Nobody may listen.
        let _ = socket.send_to(datagram, ("127.0.0.1", port));
        thread::sleep(Duration::from_millis(1));
    }
}

fn named_pipe(dir: &Path) -> PathBuf {
    let pipe = dir.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    pipe
}

#[test]
fn what_one_writer_of_a_named_pipe_brings_is_not_the_end_of_the_channel() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, data) = (named_pipe(dir.path()), dir.path().join("data"));
    let mut segmenter = Segmenter::start(&data, &[pipe.to_str().unwrap(), "--segment", "2s"]);
    segmenter.wait_for("nothing has come yet");
    // Whoever writes junk may be hung up on before all of it is out.
    let write_junk = |len| drop(fs::write(&pipe, junk(len)));
    write_junk(300_000);
    let line = segmenter.wait_for("waiting for the next writer");
    assert!(line.contains("bytes that cannot be broadcast: ffmpeg could not read"), "{line}");
    fs::write(&pipe, &*CLIP).unwrap();
    segmenter.wait_for("closed by the other side");
    // In the middle of the broadcast, and encoders that fail in their header.
    write_junk(300_000);
    segmenter.wait_for_next("waiting for the next writer");
    fs::write(&pipe, junk(100)).unwrap();
    segmenter.wait_for(
        "what came last cannot be broadcast: the input is not MPEG-TS: no packets in its first 100 bytes",
    );
    fs::write(&pipe, &*CLIP).unwrap();
    segmenter.wait_for_next("closed by the other side");
    fs::write(&pipe, b"\x1a\x45\xdf\xa3\x01").unwrap();
    let line = segmenter.wait_for_next("waiting for the next writer");
    assert!(line.contains("brought 5 bytes"), "{line}");
    fs::write(&pipe, &*CLIP).unwrap();
    segmenter.wait_for("segment 11 sealed");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    assert_eq!(log.matches("waiting for the next writer").count(), 3, "{log}");
    assert_eq!(codecs(&data), set(&["h264,320", "aac"]));
}

#[test]
fn junk_on_standard_input_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut segmenter = Segmenter::start(dir.path(), &["-"]);
    segmenter.feed(&junk(100_000));
    segmenter.end_feed();
    let (status, _, log) = segmenter.finish();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("ffmpeg could not read standard input"), "{log}");
}

#[test]
fn a_stranger_on_a_port_is_not_the_end_of_the_channel() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let input = format!("tcp://127.0.0.1:{port}?listen=1&tcp_nodelay=1");
    let mut segmenter = Segmenter::start(&dir.path().join("tcp"), &[&input, "--segment", "2s"]);
    let _ = call(port).write_all(&junk(100_000));
    let line = segmenter.wait_for("trying again");
    assert!(line.contains("tcp_nodelay=1"), "an option is no secret: {line}");
    // Somebody who says a little and stays.
    let mut stranger = call(port);
    stranger.write_all(&junk(20_000)).unwrap();
    segmenter.wait_for("ffmpeg makes nothing of what came at");
    drop(stranger);
    call(port).write_all(&CLIP).unwrap();
    segmenter.wait_for("segment 2 sealed");
    segmenter.terminate();
    assert!(segmenter.finish().0.success());

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let input = format!("udp://127.0.0.1:{port}");
    let mut segmenter = Segmenter::start(&dir.path().join("udp"), &[&input, "--segment", "2s"]);
    segmenter.link();
    send(&socket, port, &junk(200_000));
    segmenter.wait_for("what came last cannot be broadcast");
    // It listens again after a moment.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            send(&socket, port, &CLIP);
        }
    });
    segmenter.wait_for("segment 1 sealed");
    drop(stop);
    segmenter.terminate();
    assert!(segmenter.finish().0.success());
}

/// The clip as a live playlist of four segments, and one more segment that is not in it yet.
fn standing_playlist(dir: &Path) -> (String, String) {
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    fs::write(at("clip.ts"), &*CLIP).unwrap();
    let list = at("live.m3u8");
    ffmpeg(&[
        "-i",
        &at("clip.ts"),
        "-c",
        "copy",
        "-f",
        "hls",
        "-hls_time",
        "1",
        "-hls_list_size",
        "0",
        "-hls_flags",
        "omit_endlist",
        "-hls_segment_filename",
        &at("%d.ts"),
        &list,
    ]);
    let whole = fs::read_to_string(&list).unwrap();
    let last = whole.rfind("#EXTINF").unwrap();
    fs::write(&list, &whole[..last]).unwrap();
    (list, whole)
}

#[test]
fn a_playlist_that_stands_still_is_silent_and_goes_on_with_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let (list, whole) = standing_playlist(dir.path());
    let slate = dir.path().join("clip.ts");
    let (server, asked) = serve_folder(dir.path());
    let data = dir.path().join("data");
    let arguments = ["--slate", slate.to_str().unwrap(), "--silence", "1s", "--segment", "2s"];
    let mut segmenter =
        Segmenter::start(&data, &[&[format!("http://{server}/live.m3u8").as_str()], &arguments[..]].concat());
    segmenter.wait_for("stands in for the main input");
    segmenter.wait_for("is a playlist that is not renewed");
    // The slate plays on: two segments of it take as long as two looks at the playlist.
    let sealed = |line: String| -> u64 {
        let (_, rest) = line.split_once("segment ").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let before = sealed(segmenter.wait_for_next("sealed"));
    while sealed(segmenter.wait_for_next("sealed")) < before + 3 {}
    // As an encoder does: whole or not at all.
    let new = dir.path().join("live.new");
    fs::write(&new, &whole).unwrap();
    fs::rename(&new, &list).unwrap();
    segmenter.wait_for("back to");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    assert_eq!(log.matches("is a playlist that is not renewed").count(), 1, "{log}");
    assert_eq!(log.matches("back to").count(), 1, "{log}");
    let asked = asked.lock().unwrap();
    let names: Vec<&str> = whole.lines().filter(|line| line.ends_with(".ts")).collect();
    let (new, old) = names.split_last().unwrap();
    let count = |name: &str| asked.iter().filter(|path| *path == name).count();
    // ffmpeg is started twice where it must look at an input first: with the same segment.
    assert!(count(new) >= 1, "{asked:?}");
    let last = old.last().unwrap();
    assert_eq!(count(last), 1, "once on air: {asked:?}");
}

/// A live DASH manifest with eight segments of a second, of which it names as many as it is told to; what was asked for.
fn standing_manifest(dir: &Path, named: &Arc<AtomicUsize>) -> (String, Arc<Mutex<Vec<String>>>) {
    let list = dir.join("film.mpd");
    let picture = [
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=320x180:rate=25",
        "-t",
        "8",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
    ];
    let dash = ["-g", "25", "-sc_threshold", "0", "-f", "dash", "-seg_duration", "1", list.to_str().unwrap()];
    ffmpeg(&[&picture[..], &dash].concat());
    let whole = fs::read_to_string(&list).unwrap();
    assert!(whole.contains("r=\"7\"") && whole.contains("type=\"static\""), "{whole}");
    let (dir, named) = (dir.to_owned(), Arc::clone(named));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&asked);
    let server = serve(move |head, peer| {
        let name = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let count = named.load(Ordering::Relaxed);
        let body = if name.ends_with(".mpd") {
            let length = "mediaPresentationDuration=\"PT8.0S\"";
            let live = whole
                .replace("type=\"static\"", "type=\"dynamic\"")
                .replace(length, "minimumUpdatePeriod=\"PT1S\"");
            Some(live.replace("r=\"7\"", &format!("r=\"{}\"", count - 1)).into_bytes())
        } else {
            let number = name.split(['-', '.']).filter_map(|part| part.parse::<usize>().ok()).next_back();
            fs::read(dir.join(&name)).ok().filter(|_| number.is_none_or(|number| number <= count))
        };
        if body.is_some() {
            list.lock().unwrap().push(name);
        }
        let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
        let body = body.unwrap_or_default();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = peer.write_all(head.as_bytes()).and_then(|()| peer.write_all(&body));
    });
    (format!("http://{server}/film.mpd"), asked)
}

#[test]
fn a_manifest_that_stands_still_is_silent_and_goes_on_with_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let named = Arc::new(AtomicUsize::new(4));
    let (url, asked) = standing_manifest(dir.path(), &named);
    let data = dir.path().join("data");
    let mut segmenter = Segmenter::start(&data, &[&url, "--silence", "1s", "--segment", "1s"]);
    segmenter.wait_for("is a playlist that is not renewed");
    let segments = || {
        let asked = asked.lock().unwrap();
        asked.iter().filter(|name| name.starts_with("chunk")).cloned().collect::<Vec<_>>()
    };
    let before = segments();
    let all_different = before.iter().collect::<BTreeSet<_>>().len() == before.len();
    assert!(!before.is_empty() && all_different, "each was on air once: {before:?}");
    named.store(8, Ordering::Relaxed);
    segmenter.wait_for("the feed is back");
    // All that was named has come: ffmpeg asks for what is not there.
    segmenter.wait_for_next("the feed is silent");
    segmenter.terminate();
    assert!(segmenter.finish().0.success());
    assert!((7500..8700).contains(&recorded_ms(&data)), "nothing is on air twice: {}", recorded_ms(&data));
}

#[test]
fn of_variants_the_next_best_is_taken_where_the_best_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("clip.ts"), &*CLIP).unwrap();
    let hls = ["-c", "copy", "-f", "hls", "-hls_time", "2", "-hls_list_size", "0"];
    for (name, map) in [("lo", "0:v"), ("a", "0:a")] {
        ffmpeg(&[&["-i", &at("clip.ts"), "-map", map], &hls[..], &[&at(&format!("{name}.m3u8"))]].concat());
    }
    let stream = |rate: u32, name: &str| {
        format!("#EXT-X-STREAM-INF:BANDWIDTH={rate},RESOLUTION=320x180,AUDIO=\"a\"\n{name}\n")
    };
    let sound = "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"a\",URI=\"a.m3u8\"\n";
    let master = ["#EXTM3U\n", sound, &stream(9_000_000, "hi.m3u8"), &stream(800_000, "lo.m3u8")].concat();
    fs::write(at("master.m3u8"), &master).unwrap();
    fs::write(at("none.m3u8"), ["#EXTM3U\n", &stream(9_000_000, "hi.m3u8")].concat()).unwrap();
    let folder = dir.path().to_owned();
    let server = serve(move |head, peer| {
        let path = head.split(' ').nth(1).unwrap().trim_start_matches('/');
        let (status, body) = match fs::read(folder.join(path)) {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", Vec::new()),
        };
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = peer.write_all(head.as_bytes()).and_then(|()| peer.write_all(&body));
    });
    let data = dir.path().join("data");
    let log = record(&data, &[&format!("http://{server}/master.m3u8")], Stdio::null());
    assert!(log.contains("/hi.m3u8, answers 404 Not Found: the next best is tried"), "{log}");
    assert_eq!(codecs(&data), set(&["h264,320", "aac"]));
    // Not a second time for each way of reading it, and not for ever.
    assert!((7500..8500).contains(&recorded_ms(&data)), "{}", recorded_ms(&data));
    let mut segmenter = Segmenter::start(&dir.path().join("none"), &[&format!("http://{server}/none.m3u8")]);
    segmenter.wait_for("none of which can be had: the variant of 9000 kbit/s");
    segmenter.terminate();
    assert!(segmenter.finish().0.success());
}

#[test]
fn of_a_list_of_stations_the_next_entry_is_taken_where_the_first_is_dead() {
    let dir = tempfile::tempdir().unwrap();
    let dead = free_port();
    let server = serve(move |head, peer| {
        let own = head.lines().find_map(|line| line.strip_prefix("Host: ").or(line.strip_prefix("host: ")));
        let list = format!(
            "[playlist]\nFile1=http://127.0.0.1:{dead}/x\nFile2=http://{0}/gone\nFile3=http://{0}/clip.ts\n",
            own.unwrap()
        );
        let (status, body) = match head.split(' ').nth(1).unwrap() {
            "/list.pls" => ("200 OK", list.into_bytes()),
            "/clip.ts" => ("200 OK", CLIP.clone()),
            _ => ("404 Not Found", Vec::new()),
        };
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = peer.write_all(head.as_bytes()).and_then(|()| peer.write_all(&body));
    });
    let log = record(dir.path(), &[&format!("http://{server}/list.pls")], Stdio::null());
    assert_eq!(log.matches("the next entry of the list is tried").count(), 2, "{log}");
    assert_eq!(codecs(dir.path()), set(&["h264,320", "aac"]));
}

#[test]
fn what_is_lost_on_the_way_in_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let input = format!("rtp://127.0.0.1:{port}");
    let mut segmenter = Segmenter::start(dir.path(), &[&input]);
    segmenter.link();
    for (seq, packets) in (0_u16..).zip(CLIP.chunks(7 * 188)) {
        let mut datagram = vec![0x80, 33];
        datagram.extend(seq.to_be_bytes());
        datagram.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        datagram.extend(packets);
        if seq != 100 {
            socket.send_to(&datagram, ("127.0.0.1", port)).unwrap();
        }
        thread::sleep(Duration::from_millis(1));
    }
    segmenter.wait_for("1 packet of RTP never came");
    segmenter.wait_for("numbers of the feed's packets broke off");
    segmenter.terminate();
    assert!(segmenter.finish().0.success());
}

#[test]
fn two_inputs_cannot_wait_at_one_port_and_the_sentence_names_both() {
    let dir = tempfile::tempdir().unwrap();
    let input = "udp://127.0.0.1:9";
    let segmenter = Segmenter::start(dir.path(), &[input, "--fallback", input]);
    let (status, _, log) = segmenter.finish();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("--fallback udp://127.0.0.1:9 waits at the port of the input"), "{log}");
}

/// Blu-ray's way to carry sound: AAC as private data, of which nothing says that it is sound.
#[test]
fn private_data_may_be_sound() {
    let dir = tempfile::tempdir().unwrap();
    let [clip, film] =
        ["clip.ts", "film.m2ts"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    fs::write(&clip, &*CLIP).unwrap();
    ffmpeg(&["-i", &clip, "-c", "copy", "-f", "mpegts", "-mpegts_m2ts_mode", "1", &film]);
    let log = record(&dir.path().join("data"), &[&film], Stdio::null());
    assert!(!log.contains("has no sound"), "{log}");
    let quiet = dir.path().join("quiet.ts").to_str().unwrap().to_owned();
    ffmpeg(&["-i", &clip, "-an", "-c", "copy", &quiet]);
    let log = record(&dir.path().join("quiet"), &[&quiet], Stdio::null());
    assert!(log.contains("has no sound"), "{log}");
}

/// A tuner brings all programs of a channel, ffmpeg one of them that it numbers anew.
#[test]
fn of_a_multiplex_the_program_that_was_chosen_goes_out_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("clip.ts"), &*CLIP).unwrap();
    let clip = at("clip.ts");
    let two = ["-i", &clip, "-i", &clip, "-map", "0:v", "-map", "0:a", "-map", "1:a", "-c", "copy"];
    let programs = ["-program", "program_num=3:st=0:st=1", "-program", "program_num=5:st=2"];
    ffmpeg(&[&two[..], &programs, &["-f", "mpegts", &at("two.ts")]].concat());
    for (name, options, kept) in [
        ("all", vec![], vec!["h264", "aac", "aac"]),
        ("one", vec!["--program", "5"], vec!["aac"]),
        ("ffmpeg", vec!["--program", "5", "--ffmpeg-args", "-nostdin"], vec!["aac"]),
    ] {
        let data = dir.path().join(name);
        record(&data, &[&[at("two.ts").as_str()], &options[..]].concat(), Stdio::null());
        assert_eq!(streams(&data), kept, "{name}");
    }
    let missing = ["--program", "7", "--exit-at-end"];
    let data = dir.path().join("none");
    let (status, _, log) =
        Segmenter::start(&data, &[&[at("two.ts").as_str()], &missing[..]].concat()).finish();
    assert!(!status.success() && log.contains("the feed has no program 7; choose one of [3, 5]"), "{log}");
}

/// A terminal and a script both pass a Ctrl-C on.
#[test]
fn two_signals_at_once_are_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let clip = dir.path().join("clip.ts");
    fs::write(&clip, &*CLIP).unwrap();
    let data = dir.path().join("data");
    let mut segmenter = Segmenter::start(&data, &[clip.to_str().unwrap(), "--loop", "--segment", "2s"]);
    segmenter.wait_for("segment 1 sealed");
    segmenter.terminate();
    segmenter.interrupt_job();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    assert!(!log.contains("too far behind") && !log.contains("once more"), "{log}");
    // What was open is sealed.
    assert!(log.contains("segment 2 sealed"), "{log}");
}

/// A tracker that takes connections and never answers, and an input to which nobody comes.
#[test]
fn the_end_is_bounded_whatever_hangs() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let tracker: SocketAddr = silent.local_addr().unwrap();
    thread::spawn(move || {
        let peers: Vec<_> = silent.incoming().collect();
        drop(peers);
    });
    let dir = tempfile::tempdir().unwrap();
    let clip = dir.path().join("clip.ts");
    fs::write(&clip, &*CLIP).unwrap();
    let listening = format!("srt://127.0.0.1:{}?mode=listener", free_port());
    let tracker = format!("http://{tracker}/");
    for (name, input, begun) in [
        ("film", vec![clip.to_str().unwrap(), "--loop", "--segment", "2s"], "segment 0 sealed"),
        ("srt", vec![listening.as_str()], "nothing has come yet"),
    ] {
        let data = dir.path().join(name);
        let mut segmenter = Segmenter::start(&data, &[&input[..], &["--tracker", tracker.as_str()]].concat());
        segmenter.wait_for(begun);
        let told = Instant::now();
        segmenter.terminate();
        let (status, _, log) = segmenter.finish();
        assert!(status.success(), "{log}");
        // As `docker stop` waits. The bound is 8 s and what the runtime takes.
        assert!(told.elapsed() < Duration::from_secs(10), "{name}: {:?}\n{log}", told.elapsed());
    }
}

/// An ffmpeg that is somebody's script: it takes no signal, and what it starts outlives it.
#[test]
fn an_ffmpeg_that_takes_no_signal_does_not_hold_up_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let script = bin.join("ffmpeg");
    fs::write(&script, "#!/bin/sh\ntrap '' TERM INT HUP\nsleep 3600 &\nwhile :; do wait; done\n").unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&script).status().unwrap().success());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut segmenter =
        Segmenter::start_in(&path, &dir.path().join("data"), &["rtsp://127.0.0.1:9/x", "--silence", "1s"]);
    segmenter.wait_for("nothing has come yet");
    let told = Instant::now();
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success() && told.elapsed() < Duration::from_secs(10), "{:?}\n{log}", told.elapsed());
}
