//! A source whose input falls silent, as a viewer sees it who is there.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{fs, path::Path, thread};

use minuet_tests::{Segmenter, Tracker, Viewer, clip_of, free_port, path_str, run};

/// Somebody who writes the feed to the pipe, as fast as it is taken.
fn write(feed: &Path, pipe: &Path) -> thread::JoinHandle<()> {
    let (feed, pipe) = (fs::read(feed).unwrap(), pipe.to_owned());
    thread::spawn(move || drop(fs::write(pipe, feed)))
}

#[test]
fn a_viewer_is_told_of_a_slate_and_of_its_end_once_each() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(12, dir);
    let pipe = dir.join("pipe");
    run("mkfifo", &[path_str(&pipe)]);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--realtime", "--slate", path_str(&feed), "--silence", "1s"];
    let writer = write(&feed, &pipe);
    let source = Segmenter::start_with(path_str(&pipe), "4s", &tracker.url, &dir.join("segmenter"), &more);
    let mut viewer = Viewer::start_in("live", "viewer", &source.link, dir, &[]);
    viewer.process.wait_for("behind the source, to");
    writer.join().unwrap();
    viewer.process.wait_for("the source shows its slate: its input is silent");
    let _writer = write(&feed, &pipe);
    viewer.process.wait_for("the source's input is back");
    let log = viewer.process.log();
    assert!(!log.iter().any(|line| line.contains("gets no media")), "{log:#?}");
    for line in ["shows its slate", "input is back"] {
        assert_eq!(log.iter().filter(|said| said.contains(line)).count(), 1, "{line}: {log:#?}");
    }
}
