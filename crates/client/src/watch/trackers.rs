//! The trackers that a viewer asks: those of the link and those of the command line.

use std::sync::Arc;

use anyhow::bail;
use minuet_node::TrackerClient;
use minuet_proto::link::Reading;
use url::Url;

use super::live_node::known_nodes;
use crate::options::Common;

/// The same for a node; there may be none where the channel can be found without: in the DHT, or at nodes that are known from
/// before.
pub fn of_node(reading: &Reading, more: &[Url], common: &Common) -> anyhow::Result<Arc<[TrackerClient]>> {
    let known = || known_nodes(common, reading.link.channel).is_some_and(|file| file.exists());
    match trackers(reading, more) {
        Err(_) if common.dht || common.local || known() => Ok([].into()),
        trackers => trackers,
    }
}

/// The trackers of link and options, each once. Says which hints of the link are of no use.
pub fn trackers(reading: &Reading, more: &[Url]) -> anyhow::Result<Arc<[TrackerClient]>> {
    let urls = urls(reading, more)?;
    if !reading.passed_over.is_empty() {
        tracing::warn!("passed over in the link: {}", listed(reading));
    }
    urls.into_iter().map(|url| TrackerClient::new(url).map_err(Into::into)).collect()
}

fn urls(reading: &Reading, more: &[Url]) -> anyhow::Result<Vec<Url>> {
    let mut urls = reading.link.trackers.clone();
    for url in more {
        if !urls.contains(url) {
            urls.push(url.clone());
        }
    }
    if !urls.is_empty() {
        return Ok(urls);
    }
    if !reading.passed_over.is_empty() {
        bail!(
            "the link names no tracker that can be used: {}; ask for one that does, name it with --tracker URL, or look for \
             the channel in BitTorrent's DHT with --dht",
            listed(reading)
        );
    }
    bail!("{}", lacks_trackers(reading));
}

/// What is to be said of a link that names no tracker at all.
pub fn lacks_trackers(reading: &Reading) -> &'static str {
    match reading.ends_after_key {
        true => {
            "the link ends after its key and names no tracker: if it was typed without quotes, the shell cut the link at \
             &: put it in quotes ('magnet:?…'), name a tracker with --tracker URL, or look for the channel in BitTorrent's DHT \
             with --dht"
        }
        false => {
            "the link names no tracker: ask for one that does, name it with --tracker URL, or look for the channel in \
             BitTorrent's DHT with --dht"
        }
    }
}

fn listed(reading: &Reading) -> String {
    reading.passed_over.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &str) -> Reading {
        format!("magnet:?xs=urn:btpk:{}{more}", "0a".repeat(32)).parse().unwrap()
    }

    #[test]
    fn one_usable_tracker_is_enough_wherever_it_comes_from() {
        let own = [Url::parse("http://own.example/").unwrap()];
        let udp = "&tr=udp://t.example";
        assert_eq!(urls(&read(udp), &own).unwrap(), own);
        assert_eq!(urls(&read(&format!("{udp}&tr=http://own.example/")), &own).unwrap(), own);
        assert!(urls(&read(""), &own).is_ok());
        assert!(urls(&"0a".repeat(32).parse().unwrap(), &own).is_ok());
    }

    #[test]
    fn a_link_without_a_usable_tracker_says_why_it_has_none() {
        let says = |more: &str| urls(&read(more), &[]).unwrap_err().to_string();
        assert!(says("").contains("put it in quotes"));
        assert!(says("&dn=Radio").contains("names no tracker:") && !says("&dn=Radio").contains("quotes"));
        assert!(says("&tr=udp://t.example").contains("udp://t.example"));
    }
}
