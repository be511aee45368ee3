//! Any bytes as a feed: the remuxer does not panic, gives segments and parts in their order, and its playlists keep their
//! rules.
//!
//! The first byte says into how long chunks the rest is divided, and whether there is a gap. Sync bytes are set at each
//! packet's start unless that byte is odd, so that the fuzzer gets past synchronisation.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use minuet_remux::{
    Elementary, Event, Remuxer,
    playlist::{Checker, PartInfo, Rendition, SegmentInfo, Style},
};

const STYLE: Style<'_> =
    Style { low_latency: true, skip: false, from_ms: None, folder: "", ending: ".m4s", query: "", session: 1 };

fuzz_target!(|input: &[u8]| {
    let Some((&how, body)) = input.split_first() else { return };
    let mut feed = body.to_vec();
    if how & 1 == 0 {
        feed.iter_mut().step_by(188).for_each(|byte| *byte = 0x47);
    }
    let mut remuxer = Remuxer::new(7);
    let mut events = Vec::new();
    for (number, bytes) in feed.chunks(usize::from(how) * 7 + 188).enumerate() {
        if remuxer.push(bytes, number as u64 * 100, &mut events).is_err() {
            break;
        }
        if how & 2 != 0 && number == 3 {
            remuxer.gap(&mut events);
        }
    }
    remuxer.end(&mut events);
    let mut sound = Vec::new();
    Elementary::default().push(&feed, &mut sound);
    assert!(sound.len() <= feed.len());

    let mut renditions: BTreeMap<usize, (Rendition, Checker)> = BTreeMap::new();
    let mut pace = None;
    for event in events {
        let track = match event {
            Event::Ready(ready) => {
                pace = Some(ready);
                continue;
            }
            Event::Opened(opened) => {
                let pace = pace.expect("the pace comes first");
                let new = || (Rendition::new(pace.segment_s, Some(pace.part)), Checker::default());
                let (rendition, _) = renditions.entry(opened.track).or_insert_with(new);
                let last = rendition.segments().next_back();
                assert!(last.is_none_or(|last| last.complete && last.number + 1 == opened.number));
                rendition.open(SegmentInfo::new(opened.number, opened.start_ms, opened.discontinuity, opened.init));
                opened.track
            }
            Event::Part(part) => {
                let (rendition, _) = renditions.get_mut(&part.track).expect("a segment is open");
                let info = PartInfo { duration: part.duration, independent: part.independent };
                rendition.part(info, part.bytes.len() as u64);
                part.track
            }
            Event::Closed(closed) => {
                let (rendition, _) = renditions.get_mut(&closed.track).expect("a segment is open");
                rendition.close(closed.span);
                closed.track
            }
            Event::Init(_) | Event::Transport(_) | Event::Text(_) => continue,
        };
        let (rendition, checker) = renditions.get_mut(&track).expect("it was told of");
        let playlist = rendition.write(&STYLE);
        // How long frames are is the feed's to say; all else is ours.
        let wrong = checker.next(&playlist).into_iter().find(|rule| !rule.contains("85 %") && !rule.contains("longer"));
        assert_eq!(wrong, None, "{playlist}");
    }
});
