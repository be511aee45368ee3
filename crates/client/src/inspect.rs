//! `minuet inspect`: what a link, a signed record, a signed state or a .torrent says, checked as a viewer checks it.

use std::{io::Read as _, path::Path};

use anyhow::{Context as _, bail};
use minuet_node::{
    mesh::{DhtOptions, InDht, find_in_dht},
    units,
};
use minuet_proto::{
    Metainfo, SignedRecord, SignedState, link::Reading, mask::mask, metainfo::MAX_METAINFO_LENGTH,
    title::is_format,
};

use crate::{media_file, options::Inspect, watch::trackers::lacks_trackers};

/// Prints it, a line a fact.
pub fn main(options: &Inspect) -> anyhow::Result<()> {
    let path = Path::new(&options.what);
    if path.exists() {
        let mut bytes = Vec::new();
        let limit = MAX_METAINFO_LENGTH as u64 + 1;
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        file.take(limit)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {}", path.display()))?;
        return match (describe_file(&bytes), media_file::advice(path)) {
            (Ok(text), _) => print(&text),
            (Err(_), Some(advice)) => bail!("{advice}"),
            (Err(error), None) => {
                Err(error.context(format!("{} holds nothing that can be shown here", path.display())))
            }
        };
    }
    match options.what.parse::<Reading>() {
        Ok(reading) if options.dht => {
            let found = look_up(&reading, DhtOptions::new(&options.dht_bootstrap, None))?;
            print(&format!("{}{}", describe_link(&reading), describe_item(found.as_ref())))
        }
        Ok(reading) => print(&describe_link(&reading)),
        Err(error) => bail!("{} is no file, and {error}", options.what),
    }
}

fn look_up(reading: &Reading, options: DhtOptions) -> anyhow::Result<Option<InDht>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    Ok(runtime.block_on(find_in_dht(options, reading.link.channel))?)
}

/// What the DHT says, a line a fact.
fn describe_item(found: Option<&InDht>) -> String {
    let Some(InDht { seq, copies, beacon }) = found else {
        return table(&[("in the DHT", "nothing: its source is not on air with --dht".into())]);
    };
    let nodes = |count: usize| units::count(count as u64, "node", "nodes");
    let mut lines = vec![
        ("in the DHT", format!("an item that the channel has signed, at {} of the DHT", nodes(*copies))),
        ("written", format!("{seq} (Unix seconds)")),
    ];
    lines.extend(
        beacon.info_hash.iter().map(|hash| ("newest segment", format!("magnet:?xt=urn:btih:{hash}"))),
    );
    lines.extend(beacon.nodes.iter().map(|(_, addr)| ("node", addr.to_string())));
    lines.extend(beacon.trackers.iter().map(|url| ("tracker", mask(url.as_str()))));
    table(&lines)
}

fn print(text: &str) -> anyhow::Result<()> {
    minuet_console::print(text).context("cannot write to standard output")
}

fn describe_link(reading: &Reading) -> String {
    let link = &reading.link;
    let mut lines = vec![("kind", "channel link".into()), ("channel", link.channel.to_string())];
    lines.extend(link.title.iter().map(|title| ("title (a hint)", title.clone())));
    lines.extend(link.trackers.iter().map(|tracker| ("tracker", mask(tracker.as_str()))));
    lines.extend(reading.passed_over.iter().map(|hint| ("passed over", hint.to_string())));
    if link.trackers.is_empty() && reading.passed_over.is_empty() {
        lines.push(("tracker", format!("none: {}", lacks_trackers(reading))));
    }
    lines.push(("link", link.to_string()));
    table(&lines)
}

fn describe_file(bytes: &[u8]) -> anyhow::Result<String> {
    let record = SignedRecord::decode_any(bytes);
    if let Ok(record) = &record {
        return Ok(table(&[
            ("kind", "record of a sealed segment; its signature is good".into()),
            ("channel", record.channel.to_string()),
            ("segment", record.seq.to_string()),
            ("info hash", record.info_hash.to_string()),
            ("file", record.file_name()),
            ("length", format!("{} bytes", record.length)),
            ("piece length", format!("{} KiB", record.piece_length.get() >> 10)),
            ("duration", seconds(record.duration_ms)),
            ("first byte in", format!("{} (Unix ms)", record.ingest_ms)),
            ("last byte in", format!("{} (Unix ms)", record.sealed_ms)),
            ("discontinuity", if record.discontinuity { "yes" } else { "no" }.into()),
            ("record hash", record.hash().to_string()),
            (
                "record before",
                record.prev.map_or("none: the channel's first".into(), |prev| prev.to_string()),
            ),
        ]));
    }
    if let Ok(state) = SignedState::decode_any(bytes) {
        return Ok(table(&[
            ("kind", "channel state; its signature is good".into()),
            ("channel", state.channel.to_string()),
            ("title", state.title.clone()),
            ("phase", state.phase.to_string()),
            ("next segment", state.next.to_string()),
            ("segment length", seconds(state.segment_ms)),
            ("listed", if state.listed { "yes" } else { "no" }.into()),
            ("stated", format!("{} (Unix ms)", state.at_ms)),
        ]));
    }
    match (Metainfo::parse(bytes), record) {
        (Ok(torrent), _) => {
            let info = torrent.info();
            let mut lines = vec![
                ("kind", ".torrent of one file".into()),
                ("info hash", torrent.info_hash().to_string()),
                ("file", info.name.clone()),
                ("length", format!("{} bytes", info.length)),
                ("piece length", format!("{} KiB", info.piece_length.get() >> 10)),
                ("pieces", info.pieces.len().to_string()),
            ];
            lines.extend(torrent.announce.iter().map(|url| ("announce", printable(url))));
            lines.extend(torrent.web_seeds.iter().map(|url| ("web seed", printable(url))));
            lines.push(("magnet link", format!("magnet:?xt=urn:btih:{}", torrent.info_hash())));
            Ok(table(&lines))
        }
        // A record that is one but for its signature or bounds: that is the news.
        (Err(_), Err(error @ minuet_proto::Error::BadSignature { .. })) => bail!("{error}; do not trust it"),
        (Err(torrent), Err(record)) => {
            bail!("neither a record nor a .torrent of one file: {record}; {torrent}")
        }
        (Err(torrent), Ok(_)) => bail!("{torrent}"),
    }
}

/// Text from a stranger, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !is_format(*c)).collect()
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

fn table(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use minuet_proto::{ChannelKey, ChannelState, Phase, SegmentSeq};

    use super::*;

    #[test]
    fn a_state_is_shown_and_a_forged_one_is_not() {
        let key = ChannelKey::from_seed(&[1; 32]);
        let state = ChannelState {
            channel: key.channel(),
            at_ms: 5,
            phase: Phase::Live,
            next: SegmentSeq(9),
            segment_ms: 60_000,
            title: "Radio Tower".into(),
            listed: false,
            origin: None,
        };
        let mut bytes = SignedState::sign(&key, state).encode().to_vec();
        let text = describe_file(&bytes).unwrap();
        assert!(text.contains("Radio Tower") && text.contains("60.000 s"), "{text}");
        let at = bytes.windows(5).position(|w| w == b"Radio").unwrap();
        bytes[at] = b'X';
        assert!(describe_file(&bytes).is_err());
    }
}
