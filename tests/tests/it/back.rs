//! Going back over HTTP, to what was on air before the gateway was there.
// Helpers of tests are tests: a panic is how they fail.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use minuet_tests::{
    DEADLINE, Process, Segmenter, Tracker, browser,
    browser::Page,
    free_port,
    house::{Encoder, get, text},
    run,
};

const PACKET: usize = 188;

/// A channel that is on air for longer than its gateway.
struct Late {
    _tracker: Tracker,
    segmenter: Segmenter,
    _encoder: Encoder,
    _gateway: Process,
    port: u16,
}

impl Late {
    /// The gateway comes when so many minutes of 20 s are finished.
    fn build(dir: &Path, minutes: u64) -> Self {
        let (feed, port) = (free_port(), free_port());
        let encoder = Encoder::start(feed, "320x240");
        let tracker = Tracker::start(free_port(), &dir.join("tracker"));
        let input = format!("udp://127.0.0.1:{feed}");
        let mut segmenter = Segmenter::start_with(&input, "20s", &tracker.url, &dir.join("segmenter"), &[]);
        segmenter.process.wait_for(&format!("segment {} sealed", minutes - 1));
        let address = port.to_string();
        let words = ["watch", &segmenter.link, "--serve", &address, "--listen", "127.0.0.1:0"];
        let mut gateway = Process::start("minuet", &words, Stdio::null());
        gateway.wait_for("watch at http");
        Self { _tracker: tracker, segmenter, _encoder: encoder, _gateway: gateway, port }
    }

    /// The address of the playlist that another one names.
    fn named_by(&self, path: &str) -> String {
        let variants = text(self.port, path);
        variants.lines().find(|line| line.starts_with("past.m3u8")).unwrap().to_owned()
    }
}

/// The entries of a playlist.
fn entries(playlist: &str) -> Vec<String> {
    playlist.lines().filter(|line| line.starts_with("past/")).map(str::to_owned).collect()
}

#[test]
fn what_was_on_air_before_the_gateway_comes_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let house = Late::build(dir.path(), 2);
    let playlist = house.named_by("dvr.m3u8?start=oldest");
    let listed = text(house.port, &playlist);
    assert_eq!(minuet_remux::playlist::check(&listed), Vec::<String>::new(), "{listed}");
    let all = entries(&listed);
    for minute in 0..2 {
        let file = fs::read(house.segmenter.segment(minute)).unwrap();
        let of_it: Vec<&String> =
            all.iter().filter(|name| name.starts_with(&format!("past/{minute}-"))).collect();
        assert!(of_it.len() >= 4, "{minute}: {all:?}");
        let mut at = 0;
        for (index, name) in of_it.iter().enumerate() {
            let (head, body) = get(house.port, name, "");
            assert!(head.starts_with("HTTP/1.1 200") && head.contains("immutable"), "{name}: {head}");
            // Behind the tables that are put before it.
            let most = if index == 0 { 0 } else { 8 };
            let fits = (0..=most).find(|tables| file[at..].starts_with(&body[tables * PACKET..]));
            let tables = fits.unwrap_or_else(|| panic!("{name} is not what is at byte {at}"));
            assert!(body.len() > tables * PACKET, "{name} is empty");
            at += body.len() - tables * PACKET;
            // Each can be played by itself, from its first picture on.
            let entry = dir.path().join("entry.ts");
            fs::write(&entry, &body).unwrap();
            let words = ["-v", "warning", "-i", entry.to_str().unwrap(), "-map", "0:v", "-f", "null", "-"];
            let (_, said) = run("ffmpeg", &words);
            assert_eq!(said, "", "{name}");
        }
        assert_eq!(at, file.len(), "minute {minute} is there as a whole");
    }

    // From a moment on, to the frame: the first is the one that the playlist names.
    let middle = entries(&text(house.port, &house.named_by("dvr.m3u8?start=1")));
    assert!(middle[0].starts_with("past/1-0.") && middle.len() < all.len(), "{middle:?}");
    // It goes on into what is on air now.
    let since = Instant::now();
    while !entries(&text(house.port, &playlist)).iter().any(|name| name.starts_with("past/3-")) {
        assert!(since.elapsed() < DEADLINE, "what is on air is not listed");
        std::thread::yield_now();
    }

    // What nobody has is said.
    let (head, body) = get(house.port, "dvr.m3u8?start=2020-01-01T00:00:00Z", "");
    let said = String::from_utf8_lossy(&body).into_owned();
    assert!(
        head.starts_with("HTTP/1.1 404") && said.starts_with("Nobody who can be reached"),
        "{head} {said}"
    );
    assert!(get(house.port, "past/0-188.ts", "").0.starts_with("HTTP/1.1 404"));
    assert!(get(house.port, "dvr.m3u8?start=yesterday", "").0.starts_with("HTTP/1.1 400"));
    assert!(get(house.port, "past.m3u8?start=x", "").0.starts_with("HTTP/1.1 400"));

    // Players begin where they are told to, and go on over the entries and minutes.
    let address = format!("http://127.0.0.1:{}/dvr.m3u8?start=0", house.port);
    let words = ["-v", "error", "-nostdin", "-i", &address, "-t", "24", "-map", "0:v", "-f", "framemd5", "-"];
    let done = Command::new("ffmpeg").args(words).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
    let sums = |text: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(text).into_owned();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit(',').next().unwrap().to_owned())
            .collect()
    };
    let joined = dir.path().join("joined.ts");
    fs::write(&joined, [0, 1].map(|minute| fs::read(house.segmenter.segment(minute)).unwrap()).concat())
        .unwrap();
    let words =
        ["-v", "error", "-i", joined.to_str().unwrap(), "-t", "24", "-map", "0:v", "-f", "framemd5", "-"];
    let expected = Command::new("ffmpeg").args(words).output().unwrap();
    let (found, expected) = (sums(&done.stdout), sums(&expected.stdout));
    assert!(found.len() >= 595, "{} pictures", found.len());
    assert_eq!(found[..590], expected[..590]);
}

#[test]
fn the_page_goes_back_to_what_was_on_air_before_the_gateway() {
    if !browser::is_there() {
        return eprintln!("Chromium is not installed: the page is not looked at");
    }
    let dir = tempfile::tempdir().unwrap();
    let house = Late::build(dir.path(), 3);
    let address = format!("http://127.0.0.1:{}/", house.port);
    if !text(house.port, "").contains("data-hls=\"yes\"") {
        return eprintln!("this build has no player in its page (scripts/web): it is not looked at");
    }
    let mut page = Page::open(&address, dir.path(), (1280, 720));
    page.wait_until("typeof video !== 'undefined' && video.readyState >= 3");
    // The page asks every five seconds how far it can go back.
    page.wait_until("Number(bar.max) > 45");
    let go = |page: &mut Page, to: &str| {
        page.evaluate("window.from = performance.now(); window.took = null; clearInterval(window.looking)");
        page.evaluate(
            "window.looking = setInterval(() => { if (document.getElementById('message').textContent === '' && video.readyState >= 3 \
             && !video.seeking && video.currentTime > 0) { took ??= performance.now() - from; } }, 10)",
        );
        page.evaluate(&format!(
            "bar.value = {to}; bar.dispatchEvent(new Event('input')); bar.dispatchEvent(new Event('change'))"
        ));
        page.wait_until("took !== null");
        page.evaluate("took")
    };
    for to in ["1", "Number(bar.max) - 30", "12", "25"] {
        let took = go(&mut page, to);
        eprintln!("first picture of {to}: {took} ms");
        let behind = "/behind$/.test(delay.textContent) && live.getAttribute('aria-pressed') === 'false'";
        page.wait_until(behind);
        page.evaluate("window.at = video.currentTime");
        page.wait_until("video.currentTime > at + 2");
    }
    page.press("l");
    page.wait_until("live.getAttribute('aria-pressed') === 'true' && video.readyState >= 3");
    assert_eq!(page.evaluate("message.textContent"), "");
}
