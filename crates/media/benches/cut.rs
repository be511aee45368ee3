//! What cutting costs beside hashing the same bytes: `cargo bench -p minuet-media`.
//!
//! Both run in turn over one made-up feed (8 Mbit/s, key frames each 2 s) in 256 KiB chunks; medians of the
//! rounds and their ratio are printed, so that a noisy machine disturbs both alike.

#[path = "../tests/it/common/mod.rs"]
mod common;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use common::{
    feed::{AUDIO_PID, FRAME, Feed, Flags, Frame, VIDEO_PID},
    seconds,
};
use minuet_media::{Cutter, Event};
use sha1::{Digest, Sha1};

const ROUNDS: usize = 15;
const CHUNK: usize = 256 << 10;

fn main() {
    let feed = feed();
    let (mut cutting, mut hashing) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        cutting.push(time(|| cut(&feed)));
        hashing.push(time(|| hash(&feed)));
    }
    let (cutting, hashing) = (median(cutting), median(hashing));
    let rate = |took: Duration| feed.len() as f64 / took.as_secs_f64() / 1e9;
    let share = 100.0 * cutting.as_secs_f64() / hashing.as_secs_f64();
    eprintln!(
        "cutting {:.1} GB/s, SHA-1 {:.2} GB/s: cutting costs {share:.1} % of hashing",
        rate(cutting),
        rate(hashing)
    );
}

#[expect(clippy::disallowed_methods, reason = "a stopwatch")]
fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn hash(feed: &[u8]) {
    black_box(feed.chunks(CHUNK).fold(Sha1::new(), Sha1::chain_update).finalize());
}

fn cut(feed: &[u8]) {
    let mut cutter = Cutter::new(seconds(60));
    let mut bytes = 0;
    for chunk in feed.chunks(CHUNK) {
        let mut rest = chunk;
        while let Some(event) = cutter.poll(&mut rest).expect("a good feed") {
            if let Event::Data(data) | Event::Repeat(data) = event {
                bytes += data.len();
            }
        }
    }
    assert!(bytes > feed.len() / 2);
}

/// Two minutes.
fn feed() -> Vec<u8> {
    let mut feed = Feed::default();
    for index in 0..120 * 25 {
        if index % 3 == 0 {
            feed.tables();
        }
        let frame = if index % 50 == 0 { Frame::Key } else { Frame::Inter };
        let time = index * FRAME;
        let mut unit = frame.bytes(400);
        unit.resize(38_000, 0x5a);
        feed.pes(VIDEO_PID, time, Flags { pcr: Some(time), ..Flags::default() }, &unit);
        feed.pes(AUDIO_PID, time, Flags::default(), &[0xff; 600]);
        (0..4).for_each(|_| feed.null());
    }
    feed.bytes
}
