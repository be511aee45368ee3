//! The playlists of what comes out, looked at after each event as a player would get them.

use std::collections::BTreeMap;

use minuet_remux::{
    Event, Remuxer,
    playlist::{Checker, PartInfo, Rendition, SegmentInfo, Style},
};

use crate::{
    ffmpeg::{make, picture, tone},
    tracks::paced,
};

const STYLE: Style<'_> = Style {
    low_latency: true,
    skip: false,
    from_ms: None,
    folder: "",
    ending: ".m4s",
    query: "",
    session: 1,
};

/// Remuxes feeds one after the other and checks every `each`th playlist on the way, as a player of low latency gets them; the
/// segments that are kept are `kept`. Returns the last playlists.
pub fn checked(feeds: &[Vec<u8>], kept: u64, each: usize) -> Vec<String> {
    let mut count = 0;
    let mut remuxer = Remuxer::new(100);
    let mut renditions: BTreeMap<usize, (Rendition, Checker, Checker)> = BTreeMap::new();
    let mut pace = None;
    let mut clock_ms = 1_700_000_000_000;
    for feed in feeds {
        let start_ms = clock_ms;
        for (now_ms, bytes) in paced(feed, 15_000, start_ms) {
            clock_ms = now_ms;
            let mut events = Vec::new();
            remuxer.push(bytes, clock_ms, &mut events).unwrap();
            for event in events {
                let track = match event {
                    Event::Ready(ready) => {
                        pace = Some(ready);
                        continue;
                    }
                    Event::Opened(opened) => {
                        let pace = pace.unwrap();
                        let rendition = Rendition::new(pace.segment_s, Some(pace.part));
                        let entry = renditions.entry(opened.track).or_insert((
                            rendition,
                            Checker::default(),
                            Checker::default(),
                        ));
                        let segment = SegmentInfo::new(
                            opened.number,
                            opened.start_ms,
                            opened.discontinuity,
                            opened.init,
                        );
                        entry.0.open(segment);
                        entry.0.forget_before(opened.number.saturating_sub(kept));
                        opened.track
                    }
                    Event::Part(part) => {
                        let info = PartInfo { duration: part.duration, independent: part.independent };
                        renditions.get_mut(&part.track).unwrap().0.part(info, part.bytes.len() as u64);
                        part.track
                    }
                    Event::Closed(closed) => {
                        renditions.get_mut(&closed.track).unwrap().0.close(closed.span);
                        closed.track
                    }
                    Event::Init(_) | Event::Transport(_) | Event::Text(_) => continue,
                };
                count += 1;
                if count % each != 0 {
                    continue;
                }
                let (rendition, checker, updates) = renditions.get_mut(&track).unwrap();
                let whole = rendition.write(&STYLE);
                assert_eq!(checker.next(&whole), Vec::<String>::new(), "{whole}");
                let update = rendition.write(&Style { skip: true, ..STYLE });
                assert_eq!(updates.next(&update), Vec::<String>::new(), "{update}");
                assert!(update.len() <= whole.len() + 64);
            }
        }
    }
    renditions.values().map(|(rendition, ..)| rendition.write(&STYLE)).collect()
}

#[test]
fn playlists_keep_the_rules_while_a_stream_is_remuxed() {
    let coding = "-c:v libx264 -preset ultrafast -g 50 -c:a aac";
    let feed = make(&format!("{} {} {coding}", picture(20), tone(20)));
    let last = checked(&[feed], 1000, 1);
    assert_eq!(last.len(), 2);
    assert!(last[0].contains("#EXTINF:2,\n") && last[0].contains("INDEPENDENT=YES"), "{}", last[0]);
    assert!(last[1].matches("#EXTINF").count() >= 8, "{}", last[1]);
}

#[test]
fn an_encoder_that_starts_again_makes_a_discontinuity_in_all_tracks() {
    let coding = "-c:v libx264 -preset ultrafast -g 25 -c:a aac";
    let first = make(&format!("{} {} {coding}", picture(8), tone(8)));
    let second = make(&format!("{} {} -s 160x120 {coding}", picture(8), tone(8)));
    let last = checked(&[first, second], 1000, 1);
    for playlist in &last {
        assert_eq!(playlist.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{playlist}");
    }
    assert_eq!(last[0].matches("#EXT-X-MAP").count(), 2, "{}", last[0]);
}
