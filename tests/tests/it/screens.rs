//! The gateway and real players: ffmpeg, and Chromium with the page where it is installed and `scripts/web` has run.
// Helpers of tests are tests: a panic is how they fail.
#![allow(clippy::unwrap_used)]

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use minuet_remux::playlist::Checker;
use minuet_tests::{
    Process, Segmenter, Tracker, browser,
    browser::Page,
    free_port,
    house::{self, Encoder, played},
    path_str, run,
};

/// A channel on air with a gateway.
struct House {
    _tracker: Tracker,
    _segmenter: Segmenter,
    _gateway: Process,
    encoder: Option<Encoder>,
    feed: u16,
    port: u16,
}

impl House {
    fn build(dir: &Path, more: &[&str]) -> Self {
        let (feed, port) = (free_port(), free_port());
        let encoder = Some(Encoder::start(feed, "320x240"));
        let tracker = Tracker::start(free_port(), &dir.join("tracker"));
        let input = format!("udp://127.0.0.1:{feed}");
        let segmenter = Segmenter::start_with(&input, "10s", &tracker.url, &dir.join("segmenter"), &[]);
        let address = port.to_string();
        let mut words = vec!["watch", &segmenter.link, "--serve", &address];
        words.extend(more);
        let mut gateway = Process::start("minuet", &words, Stdio::null());
        gateway.wait_for("watch at http");
        Self { _tracker: tracker, _segmenter: segmenter, _gateway: gateway, encoder, feed, port }
    }

    /// The encoder goes away, and another one comes in its place.
    fn change_encoder(&mut self, size: &str) {
        self.encoder = None;
        self.encoder = Some(Encoder::start(self.feed, size));
    }

    fn address(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// The answer to a request: its head, and its body as text.
    fn get(&self, path: &str, fields: &str) -> (String, String) {
        let (head, body) = house::get(self.port, path, fields);
        (head, String::from_utf8_lossy(&body).into_owned())
    }

    fn body(&self, path: &str) -> String {
        house::text(self.port, path)
    }
}

#[test]
fn players_begin_at_the_first_try_and_playlists_keep_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(dir.path(), &[]);
    // Nothing is waited for: the gateway keeps the players waiting.
    for path in ["ts.m3u8", "index.m3u8", "live.m3u8", "stream.ts"] {
        let (frames, complaints) = played(&house.address(path), 4);
        assert!(frames >= 90 && complaints.is_empty(), "{path}: {frames} pictures, {complaints}");
    }
    let (head, _) = house.get("index.m3u8", "accept-encoding: gzip\r\n");
    assert!(head.contains("content-encoding: gzip") && head.contains("vary: accept-encoding"), "{head}");
    let (head, body) = house.get("index.m3u8", "");
    assert!(head.contains("content-type: application/vnd.apple.mpegurl"), "{head}");
    assert!(body.contains("CODECS=\"avc1.") && body.contains("RESOLUTION=320x240"), "{body}");

    // As a player of low latency asks, over a change of the encoder.
    let mut checkers = [Checker::default(), Checker::default()];
    let mut at = [(0, 0); 2];
    let mut discontinuities = [0, 0];
    for round in 0..60 {
        if round == 12 {
            house.change_encoder("160x120");
        }
        for track in 0..2 {
            let (number, part) = at[track];
            let wanted =
                if number == 0 { String::new() } else { format!("?_HLS_msn={number}&_HLS_part={part}") };
            let playlist = house.body(&format!("track/{track}/index.m3u8{wanted}"));
            assert_eq!(checkers[track].next(&playlist), Vec::<String>::new(), "{playlist}");
            let hint =
                playlist.rsplit_once("URI=\"").and_then(|(_, rest)| rest.split_once(".m4s")).unwrap().0;
            let (next_number, next_part) = hint.split_once('.').unwrap();
            let next = (next_number.parse().unwrap(), next_part.parse().unwrap());
            assert!(
                next > at[track],
                "a playlist that was waited for says more: {next:?} after {:?}",
                at[track]
            );
            at[track] = next;
            discontinuities[track] = playlist.matches("#EXT-X-DISCONTINUITY\n").count();
        }
    }
    assert!(discontinuities[0] >= 1, "another encoder was there: {discontinuities:?}");

    // What is hinted at is waited for; what never was is not.
    let (number, part) = at[0];
    let (head, _) = house.get(&format!("track/0/{number}.{part}.m4s"), "");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("immutable"), "{head}");
    for nothing in
        ["track/0/1.m4s", "track/0/1.0.m4s", "track/9/index.m4s", "track/0/init-1-0.mp4", "ts/1.ts", "no"]
    {
        assert!(house.get(nothing, "").0.starts_with("HTTP/1.1 404"), "{nothing}");
    }
    let (head, _) = house.get(&format!("track/0/index.m3u8?_HLS_msn={}", number + 50), "");
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let range = "range: bytes=0-9\r\n";
    let (head, body) = house.get(&format!("track/1/{}.m4s", at[1].0 - 2), range);
    assert!(head.starts_with("HTTP/1.1 206") && body.len() <= 30, "{head}");
    assert_eq!(house.body("health"), "ok\n");
    assert!(house.body("metrics").contains("minuet_gateway_segments_total"));
    assert!(house.body("channels.m3u").contains("/ts.m3u8"));
}

#[test]
fn a_word_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::build(dir.path(), &["--serve-password", "open sesame"]);
    for path in
        ["", "index.m3u8", "ts.m3u8", "track/0/index.m3u8", "stream.ts", "status.json", "assets/page.js"]
    {
        let (head, _) = house.get(path, "");
        assert!(
            head.starts_with("HTTP/1.1 401") && head.contains("www-authenticate: Basic"),
            "{path}: {head}"
        );
    }
    let with_key = house.body("index.m3u8?key=open+sesame");
    assert!(with_key.contains("track/0/index.m3u8?key=open+sesame"), "{with_key}");
    assert!(house.body("track/0/index.m3u8?key=open+sesame").contains(".mp4?key=open+sesame"));
    // YW55Ym9keTpvcGVuIHNlc2FtZQ==: anybody, and the word.
    let (head, _) = house.get("assets/page.js?key=open+sesame", "");
    assert!(head.contains("cache-control: private"), "{head}");
    let (head, _) = house.get("index.m3u8", "authorization: Basic YW55Ym9keTpvcGVuIHNlc2FtZQ==\r\n");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let address = format!("http://any:open%20sesame@127.0.0.1:{}/ts.m3u8", house.port);
    let (frames, complaints) = played(&address, 2);
    assert!(frames >= 45 && complaints.is_empty(), "{frames}: {complaints}");
}

#[test]
fn the_page_goes_on_after_twenty_seconds_without_the_encoder() {
    if !browser::is_there() {
        return eprintln!("Chromium is not installed: the page is not looked at");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(dir.path(), &[]);
    if !house.body("").contains("data-hls=\"yes\"") {
        return eprintln!("this build has no player in its page (scripts/web): it is not looked at");
    }
    let mut page = Page::open(&house.address(""), dir.path(), (768, 1024));
    page.wait_until("typeof video !== 'undefined' && video.videoWidth === 320 && video.readyState >= 3");
    plays(&mut page, 3);
    house.encoder = None;
    // The outage itself.
    std::thread::sleep(std::time::Duration::from_secs(20));
    house.encoder = Some(Encoder::start(house.feed, "160x120"));
    page.wait_until("video.videoWidth === 160 && video.readyState >= 3");
    plays(&mut page, 3);
    let live = "document.getElementById('live').getAttribute('aria-pressed') === 'true'";
    page.wait_until(live);
}

#[test]
fn https_is_taken_on_the_same_port() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = ["--tls-cert", path_str(&cert), "--tls-key", path_str(&key)];
    let house = House::build(dir.path(), &tls);
    let (frames, complaints) = played(&house.address("ts.m3u8").replace("http:", "https:"), 2);
    assert!(frames >= 45 && complaints.is_empty(), "{frames}: {complaints}");
    let (frames, complaints) = played(&house.address("index.m3u8"), 2);
    assert!(frames >= 45 && complaints.is_empty(), "{frames}: {complaints}");
    if browser::is_there() && house.body("").contains("data-hls=\"yes\"") {
        let address = house.address("").replace("http:", "https:");
        let mut page = Page::open(&address, dir.path(), (320, 640));
        page.wait_until("typeof video !== 'undefined' && video.readyState >= 3");
        let second =
            "performance.getEntriesByType('resource').every((entry) => entry.nextHopProtocol === 'h2')";
        assert_eq!(page.evaluate(second), true);
        plays(&mut page, 2);
        // All controls fit into the narrowest telephone.
        let fits = "(() => {
            const middle = (one) => one.getBoundingClientRect().top + one.getBoundingClientRect().height / 2;
            const shown = [...document.querySelectorAll('#controls > *')].filter((one) => one.offsetParent && one.offsetWidth);
            return shown.every((one) => one.getBoundingClientRect().right <= innerWidth && Math.abs(middle(one) - middle(play)) < 4);
        })()";
        let where_each_is = "[...document.querySelectorAll('#controls > *')].map((one) => [one.id, one.offsetTop, one.offsetLeft, one.offsetWidth].join(' ')).join('; ')";
        assert_eq!(page.evaluate(fits), true, "{}", page.evaluate(where_each_is));
    }
}

/// The page's player is at work: what is shown goes on for so many seconds.
fn plays(page: &mut Page, seconds: u32) {
    page.evaluate("window.from = document.getElementById('video').currentTime");
    page.wait_until(&format!(
        "video.currentTime > from + {seconds} || video.currentTime < from - 1 && !(from = video.currentTime)"
    ));
}

#[test]
fn the_page_plays_live_goes_back_and_survives_another_encoder() {
    if !browser::is_there() {
        return eprintln!("Chromium is not installed: the page is not looked at");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(dir.path(), &[]);
    if !house.body("").contains("data-hls=\"yes\"") {
        return eprintln!("this build has no player in its page (scripts/web): it is not looked at");
    }
    let mut page = Page::open(&house.address(""), dir.path(), (1280, 720));
    page.wait_until("document.readyState === 'complete' && typeof video !== 'undefined'");
    page.wait_until("video.videoWidth === 320 && video.readyState >= 3");
    plays(&mut page, 6);
    let live = "document.getElementById('live').getAttribute('aria-pressed') === 'true'";
    page.wait_until(live);
    page.wait_until("/^[0-9.]+ s behind$/.test(document.getElementById('delay').textContent)");

    // Back to the beginning of what is kept, by the bar, and to live again, by the keyboard.
    page.wait_until("Number(bar.max) > 12");
    page.evaluate(
        "bar.value = '1'; bar.dispatchEvent(new Event('input')); bar.dispatchEvent(new Event('change'))",
    );
    page.wait_until(&format!("!({live}) && video.readyState >= 3"));
    plays(&mut page, 2);
    page.press("l");
    page.wait_until(live);
    plays(&mut page, 2);

    // Pause, and on again.
    page.press("k");
    page.wait_until("video.paused");
    page.press("k");
    page.wait_until("!video.paused");

    house.change_encoder("160x120");
    page.wait_until("video.videoWidth === 160 && video.readyState >= 3");
    plays(&mut page, 4);
    assert_eq!(page.evaluate("message.textContent"), "");
    assert!(page.picture().len() > 1000);
}

/// Whether a program is installed.
fn is_there(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    if !found {
        eprintln!("{program} is not installed: it is not tried");
    }
    found
}

/// How many pictures are in a file.
fn pictures(path: &Path) -> usize {
    let words = [
        "-v",
        "quiet",
        "-count_packets",
        "-select_streams",
        "v:0",
        "-show_entries",
        "stream=nb_read_packets",
    ];
    let done = Command::new("ffprobe").args(words).args(["-of", "csv=p=0"]).arg(path).output().unwrap();
    String::from_utf8_lossy(&done.stdout)
        .lines()
        .next()
        .and_then(|line| line.trim_matches(',').parse().ok())
        .unwrap_or(0)
}

#[test]
fn mpv_vlc_and_gstreamer_play_from_the_first_try() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::build(dir.path(), &[]);
    // Nothing is waited for: the gateway keeps the players waiting.
    if is_there("mpv") {
        for path in ["index.m3u8", "ts.m3u8", "stream.ts", "dvr.m3u8"] {
            let out = dir.path().join(format!("mpv-{path}.mkv"));
            // What does not begin is a failure, and not to be waited for.
            let done = Command::new("timeout")
                .args(["-k", "5", "60", "mpv"])
                .args([
                    "--no-config",
                    "--really-quiet",
                    "--length=3",
                    "--ovc=mpeg4",
                    "--oac=aac",
                    "--of=matroska",
                ])
                .arg(format!("--o={}", out.display()))
                .arg(house.address(path))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success() && pictures(&out) >= 60, "mpv {path}: {} {said}", pictures(&out));
        }
    }
    if is_there("cvlc") {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        for path in ["index.m3u8", "ts.m3u8", "stream.ts"] {
            let out = dir.path().join(format!("vlc-{path}.ts"));
            let to = format!("#std{{access=file,mux=ts,dst={}}}", out.display());
            // VLC refuses to run as root; its wrapper gives that up first.
            let program = if run("id", &["-u"]).0.trim() == "0" { "vlc-wrapper" } else { "vlc" };
            let done = Command::new("timeout")
                .args(["-k", "5", "60", program])
                // Nobody.
                .envs([("SUDO_UID", "65534"), ("SUDO_GID", "65534"), ("HOME", "/tmp")])
                .args([
                    "-I",
                    "dummy",
                    "--no-lua",
                    "--run-time=6",
                    "--sout",
                    &to,
                    &house.address(path),
                    "vlc://quit",
                ])
                .output();
            let Ok(done) = done else { continue };
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(pictures(&out) >= 50, "VLC {path}: {} pictures: {said}", pictures(&out));
        }
    }
    if is_there("gst-launch-1.0") {
        // Its HLS has no end to wait for: it is ended.
        for (path, element) in [("ts.m3u8", "hlsdemux"), ("stream.ts", "identity")] {
            let out = dir.path().join(format!("gst-{path}.ts"));
            let chain = format!(
                "souphttpsrc location={} ! {element} ! filesink location={}",
                house.address(path),
                out.display()
            );
            let done = Command::new("timeout")
                .args(["-k", "5", "-s", "INT", "20", "gst-launch-1.0", "-q"])
                .args(chain.split_whitespace())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            if said.contains("no element") {
                eprintln!("GStreamer lacks an element for {path}: {said}");
                continue;
            }
            assert!(pictures(&out) >= 100, "GStreamer {path}: {} pictures: {said}", pictures(&out));
        }
    }
}
