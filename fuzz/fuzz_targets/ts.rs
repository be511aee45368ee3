//! Any bytes as a feed: the cutter neither panics nor loses, repeats or reorders anything, and what it does
//! does not depend on how the feed is divided.
//!
//! The first byte says into how long chunks the rest is divided. Sync bytes are set at each packet's start
//! unless that byte is odd, so that the fuzzer gets past synchronisation.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use minuet_media::{Cutter, CutterConfig, Event, Restamper, StreamClock};

fuzz_target!(|input: &[u8]| {
    let Some((&how, body)) = input.split_first() else { return };
    let mut feed = body.to_vec();
    if how & 1 == 0 {
        feed.iter_mut().step_by(188).for_each(|byte| *byte = 0x47);
    }
    let (bytes, events) = cut(&feed, feed.len().max(1));
    assert_eq!(cut(&feed, usize::from(how) * 7 + 1), (bytes, events));

    let whole = feed.len() / 188 * 188;
    let mut restamper = Restamper::default();
    for _ in 0..3 {
        let mut packets = feed[..whole].to_vec();
        restamper.packets(&mut packets);
        restamper.rewind();
    }
    let mut clock = StreamClock::default();
    let mut rest = &feed[..whole];
    let mut last = 0;
    while let Some((at, due)) = clock.next(rest) {
        assert!(due.0 >= last);
        last = due.0;
        rest = &rest[at + 188..];
    }
});

/// The bytes of all segments, and where in them what happens.
fn cut(feed: &[u8], chunk: usize) -> (Vec<u8>, Vec<(usize, String)>) {
    let config = CutterConfig { max_bytes: 20_000, ..CutterConfig::new(Duration::from_secs(1)) };
    let mut cutter = Cutter::new(config);
    let (mut bytes, mut events) = (Vec::new(), Vec::new());
    let mut chunks = feed.chunks(chunk);
    loop {
        let mut rest = chunks.next().unwrap_or_else(|| {
            cutter.end();
            &[]
        });
        let last = rest.is_empty();
        loop {
            match cutter.poll(&mut rest) {
                Ok(Some(Event::Data(data))) => bytes.extend_from_slice(data),
                Ok(Some(Event::Notice(_))) => {}
                Ok(Some(event)) => events.push((bytes.len(), format!("{event:?}"))),
                Ok(None) => break,
                // Only a feed of which nothing was cut is unusable.
                Err(_) => {
                    assert!(bytes.is_empty());
                    return (bytes, events);
                }
            }
        }
        if last {
            let counted = cutter.counters();
            assert!(bytes.len() as u64 + counted.garbage_bytes + counted.skipped_bytes <= feed.len() as u64);
            return (bytes, events);
        }
    }
}
