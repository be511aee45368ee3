//! An hour of output with faults in the feed, checked in fast time.

use crate::{
    faults::{feed, without},
    ffmpeg::{make, picture, tone},
    playlists::checked,
};

/// Half a minute of each kind of trouble, as an encoder and a network make it.
fn troubles() -> Vec<Vec<u8>> {
    let coding = "-c:v libx264 -preset ultrafast -bf 2 -c:a aac";
    let whole = feed(30);
    let packets = whole.len() / 188;
    let part = |from: usize, to: usize| packets * from / 30..packets * to / 30;
    let (pictures, sound) = (0x100, 0x101);
    vec![
        whole.clone(),
        // One packet in 700 is lost.
        without(&whole, |number, _| number % 700 == 699),
        // A hole of four seconds.
        without(&whole, |number, _| part(10, 14).contains(&number)),
        // Nothing to see, then nothing to hear.
        without(&whole, |number, pid| pid == pictures && part(5, 15).contains(&number)),
        without(&whole, |number, pid| pid == sound && part(5, 15).contains(&number)),
        // Another encoder: other sizes, other sound, key frames farther apart.
        make(&format!("{} {} -s 160x120 {coding} -g 100 -ar 44100", picture(30), tone(30))),
        make(&format!("{} {} {coding} -g 13 -keyint_min 5 -sc_threshold 0", picture(30), tone(30))),
        // A clock that wraps.
        make(&format!("{} {} {coding} -g 25 -output_ts_offset 95430", picture(30), tone(30))),
    ]
}

#[test]
fn an_hour_of_playlists_keeps_the_rules() {
    let troubles = troubles();
    // No two kinds follow each other in the same order twice.
    let order = (0..120).map(|n: usize| (n * n + n / 8) % troubles.len());
    let feeds: Vec<Vec<u8>> = order.map(|kind| troubles[kind].clone()).collect();
    let last = checked(&feeds, 120, 7);
    assert_eq!(last.len(), 2);
    let numbers = |playlist: &str| -> u64 {
        let first = playlist.split("MEDIA-SEQUENCE:").nth(1).unwrap().lines().next().unwrap();
        first.parse::<u64>().unwrap() - 100
    };
    // Some 3600 segments of a second or two, of which 120 are kept.
    assert!(numbers(&last[0]) > 1500 && numbers(&last[0]).abs_diff(numbers(&last[1])) < 3, "{}", last[0]);
}
