//! Playing a recording: the folder that `minuet-segmenter --record` wrote, or that any BitTorrent client fetched by its
//! torrent.
//!
//! Rules: segments are played in the order of their numbers, each whole; playing can begin with any of them. What lies
//! on the user's own disk is played as it is: whoever fetched it has checked it. What is missing is said, and playing then
//! ends with an error: whoever keeps a recording wants to know.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use minuet_media::{Ticks, Timestamp, packet::Packet};
use minuet_node::units;
use tokio::io::AsyncReadExt as _;

use super::{
    parts::{Lack, LeftOut, Part, parts},
    signals,
    sink::{Out, Sink, Written},
    until_closed,
};
use crate::{
    media_file,
    options::{Begin, Watch},
};

/// How much is looked at for the time at either end of a segment.
const LOOK_LEN: u64 = 512 << 10;
/// Bytes given to the player at once.
const CHUNK: usize = 256 << 10;

/// Plays the recording at `path`.
pub fn main(options: &Watch, path: &Path) -> anyhow::Result<()> {
    refuse_what_is_for_channels(options)?;
    let segments = parts(&folder(path)?)?;
    let first = first(&segments, options.start)?;
    let out = Out::choose(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(play(out, &segments[first..]))
}

/// Options that would do nothing.
fn refuse_what_is_for_channels(options: &Watch) -> anyhow::Result<()> {
    let common = &options.common;
    let given = [
        ("--tracker", !common.tracker.is_empty()),
        ("--seed-minutes", common.seed_minutes.is_some()),
        ("--data", common.data.is_some()),
        ("--stats", common.stats.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) => bail!("{option} is for channels, and this is a recording: leave it out"),
        None => Ok(()),
    }
}

async fn play(out: Out, segments: &[Part]) -> anyhow::Result<()> {
    let mut signals = signals()?;
    tracing::info!("playing the recording to {}", out.name());
    let (player, mut sink) = out.open("Minuet", None)?;
    let closed = player.as_ref().map(|player| player.closed().clone());
    let mut left_out = LeftOut::default();
    let played = tokio::select! {
        played = give(segments, &mut sink, &mut left_out) => played?,
        () = until_closed(closed) => Written::Closed,
        () = signals.next() => Written::Closed,
    };
    // Nothing more for the player: it sees the end of its input.
    drop(sink);
    match (played, player) {
        (Written::Closed, None) => Ok(()),
        (Written::Yes, None) => left_out.check(),
        (Written::Yes, Some(mut player)) => tokio::select! {
            ended = player.wait() => ended.and_then(|()| left_out.check()),
            () = signals.next() => player.stop().await,
        },
        (Written::Closed, Some(player)) => player.stop().await,
    }
}

async fn give(segments: &[Part], sink: &mut Sink, left_out: &mut LeftOut) -> anyhow::Result<Written> {
    let mut chunk = vec![0; CHUNK];
    let mut has_media = false;
    for part in segments {
        let path = &part.path;
        let unreadable = || format!("{} cannot be read", path.display());
        if let Some((lack, lasts)) = part.lack().with_context(unreadable)? {
            tracing::warn!("{}", part.sentence(lack, lasts));
            left_out.add(part, lasts);
            if lack == Lack::Missing {
                continue;
            }
        }
        let mut file = tokio::fs::File::from_std(minuet_files::open_named(path).with_context(unreadable)?);
        sink.leap();
        loop {
            let count = file.read(&mut chunk).await.with_context(unreadable)?;
            if count == 0 {
                break;
            }
            has_media = has_media || looks_like_media(&chunk[..count]);
            if sink.write(&chunk[..count]).await? == Written::Closed {
                return Ok(Written::Closed);
            }
        }
    }
    if !has_media {
        bail!("the recording holds no media: its files are not MPEG-TS, or empty");
    }
    Ok(Written::Yes)
}

/// Whether some bytes of a file are MPEG-TS: three sync bytes, a packet apart, somewhere in them.
fn looks_like_media(bytes: &[u8]) -> bool {
    let sync = |at: usize| bytes.get(at) == Some(&0x47);
    (0..bytes.len().min(4 * 188)).any(|at| sync(at) && sync(at + 188) && sync(at + 376))
}

/// The folder of a recording, named by itself or by its torrent beside it.
fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    let folder = path.with_extension("");
    let shown = path.display();
    if path.extension().is_none_or(|extension| extension != "torrent") {
        if let Some(advice) = media_file::advice(path) {
            bail!("{advice}");
        }
        bail!("{shown} is no recording: name the folder of one");
    }
    if !folder.is_dir() {
        bail!(
            "{shown} is the torrent of a recording that is not here: fetch it first, as with aria2c {shown}, and name its \
             folder"
        );
    }
    Ok(folder)
}

/// The index of the segment to begin with: the one with the moment that is wanted.
fn first(segments: &[Part], begin: Begin) -> anyhow::Result<usize> {
    let after = match begin {
        Begin::Live | Begin::Oldest => return Ok(0),
        Begin::At(after) => after,
        Begin::Clock(..) | Begin::Segment(_) => anyhow::bail!(
            "in a recording --start says how long after its beginning, as in 20m, or before its end, as in -10m"
        ),
        Begin::Ago(before) => {
            let mut left = before;
            for (index, part) in segments.iter().enumerate().rev() {
                let duration = duration(part)?;
                if left <= duration {
                    return Ok(index);
                }
                left -= duration;
            }
            return Ok(0);
        }
    };
    let mut left = after;
    for (index, part) in segments.iter().enumerate() {
        let duration = duration(part)?;
        if left < duration {
            return Ok(index);
        }
        left -= duration;
    }
    bail!("the recording has no {} of media: begin sooner with --start", units::show(after))
}

/// How long a segment is by its own clock, or by its record if it is not there; nothing if neither tells.
fn duration(part: &Part) -> anyhow::Result<Duration> {
    let path = part.path.as_path();
    if !path.exists() {
        return Ok(part.recorded().unwrap_or_default());
    }
    let read = || -> std::io::Result<(Vec<u8>, Vec<u8>)> {
        let mut file = minuet_files::open_named(path)?;
        let length = file.metadata()?.len();
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        (&mut file).take(LOOK_LEN).read_to_end(&mut head)?;
        // Packets begin at multiples of their length.
        let from = length.saturating_sub(LOOK_LEN).next_multiple_of(188);
        file.seek(SeekFrom::Start(from))?;
        file.take(LOOK_LEN).read_to_end(&mut tail)?;
        Ok((head, tail))
    };
    let (head, tail) = read().with_context(|| format!("{} cannot be read", path.display()))?;
    let Some((pid, from)) = clocks(&head).next() else { return Ok(Duration::ZERO) };
    let to = clocks(&tail).filter(|(of, _)| *of == pid).last().map_or(from, |(_, to)| to);
    Ok(Ticks(u64::try_from(to.since(from)).unwrap_or(0)).as_duration())
}

/// The clock values of whole packets, with their PIDs.
fn clocks(bytes: &[u8]) -> impl Iterator<Item = (u16, Timestamp)> {
    bytes.as_chunks().0.iter().filter_map(|packet| {
        let packet = Packet::new(packet);
        let pcr = packet.adaptation()?.pcr?;
        Some((packet.pid(), pcr.base))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use minuet_media::Pcr;

    use super::*;
    use crate::options::{Command, Options};

    /// A segment of so many seconds, with a clock value at each.
    fn segment(folder: &Path, name: &str, seconds: u64) {
        let packet = |second: u64| {
            let mut packet = [0xff; 188];
            packet[..6].copy_from_slice(&[0x47, 0x01, 0x00, 0x20, 183, 0x10]);
            // Close to where the clock wraps.
            let base = Timestamp::new((1 << 33) - 90_000 + second * 90_000);
            packet[6..12].copy_from_slice(&Pcr { base, extension: 0 }.to_bytes());
            packet
        };
        let media: Vec<u8> = (0..=seconds).flat_map(packet).collect();
        std::fs::write(folder.join(name), media).unwrap();
    }

    #[test]
    fn segments_are_found_in_order_and_by_their_time() {
        let dir = tempfile::tempdir().unwrap();
        for (name, seconds) in
            [("0a0b0c0d-00000002.ts", 4), ("0a0b0c0d-00000010.ts", 6), ("0a0b0c0d-00000001.ts", 5)]
        {
            segment(dir.path(), name, seconds);
        }
        for other in ["0a0b0c0d-00000001.torrent", "notes.ts", "0a0b0c0d-x.ts", "0a0b0c0d-00000003.ts.part"] {
            std::fs::write(dir.path().join(other), b"").unwrap();
        }
        let found = parts(dir.path()).unwrap();
        let numbers: Vec<u64> = found.iter().map(|part| part.number).collect();
        assert_eq!(numbers, [1, 2, 10]);
        let at = |begin| first(&found, begin).unwrap();
        let s = Duration::from_secs;
        assert_eq!([at(Begin::Live), at(Begin::Oldest), at(Begin::At(s(0)))], [0, 0, 0]);
        assert_eq!([at(Begin::At(s(4))), at(Begin::At(s(5))), at(Begin::At(s(14)))], [0, 1, 2]);
        assert_eq!([at(Begin::Ago(s(6))), at(Begin::Ago(s(7))), at(Begin::Ago(s(99)))], [2, 1, 0]);
        assert!(first(&found, Begin::At(s(15))).is_err());
    }

    #[test]
    fn options_that_a_recording_has_no_use_for_are_refused() {
        let refused = |more: &[&str]| {
            let words = ["minuet", "watch", "/"].iter().chain(more);
            let Command::Watch(watch) = Options::parse_from(words).command else { panic!("no watch") };
            refuse_what_is_for_channels(&watch).err().map(|error| error.to_string())
        };
        assert_eq!(refused(&["--start", "20m", "-o", "-", "--no-upload"]), None);
        let tracker = ["--tracker", "http://127.0.0.1:7070"];
        for more in [&tracker[..], &["--seed-minutes"], &["--data", "d"], &["--stats", "s"]] {
            let option = more[0];
            assert!(refused(more).is_some_and(|error| error.starts_with(option)), "{option}");
        }
    }

    #[test]
    fn what_is_no_recording_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(parts(dir.path()).is_err());
        assert!(folder(&dir.path().join("lacking.torrent")).is_err());
        assert_eq!(folder(dir.path()).unwrap(), dir.path());
        segment(dir.path(), "0a0b0c0d-00000001.ts", 1);
        segment(dir.path(), "0a0b0c0e-00000002.ts", 1);
        assert!(parts(dir.path()).is_err(), "of two channels");
    }
}
