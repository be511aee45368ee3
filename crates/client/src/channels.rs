//! `minuet channels`: what is on air at some trackers, of what wants to be seen. Each entry carries its source's signature.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, stdout},
};

use anyhow::{Context as _, bail};
use minuet_node::TrackerClient;
use minuet_proto::{ChannelId, ChannelLink, Phase, SignedState, channel_api::directory::Listing};
use serde_json::json;
use url::Url;

use crate::options::Channels;

/// Parts of a tracker's list that are asked for: some fifty thousand channels.
const MAX_PARTS: usize = 100;
/// Characters of a title in a table.
const TITLE_WIDTH: usize = 40;

/// A channel, and the trackers that list it.
#[derive(Debug)]
struct Found {
    state: SignedState,
    bitrate_bps: Option<u64>,
    viewers: u64,
    trackers: Vec<Url>,
}

/// What all trackers together list.
#[derive(Debug, Default)]
struct Guide(BTreeMap<ChannelId, Found>);

/// Prints them: a table on a terminal, else a JSON object a line.
pub fn main(options: &Channels) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let guide = runtime.block_on(gather(options))?;
    let wanted = guide.search(&options.search);
    let text = match options.json || !stdout().is_terminal() {
        true => wanted.iter().map(|found| found.as_json()).collect(),
        false if wanted.is_empty() => "no channel is listed there\n".into(),
        false => table(&wanted),
    };
    minuet_console::print(&text).context("cannot write to standard output")
}

async fn gather(options: &Channels) -> anyhow::Result<Guide> {
    let mut guide = Guide::default();
    let mut failures = Vec::new();
    for url in &options.trackers {
        let tracker = TrackerClient::new(url.clone())?;
        if let Err(error) = ask(&tracker, &mut guide).await {
            failures.push(format!("{} {error}", tracker.name()));
        }
    }
    if failures.len() == options.trackers.len() {
        bail!("{}", failures.join("; "));
    }
    failures.iter().for_each(|failure| minuet_console::complain(&format!("minuet: {failure}")));
    Ok(guide)
}

async fn ask(tracker: &TrackerClient, guide: &mut Guide) -> Result<(), minuet_node::Error> {
    let mut after: Option<String> = None;
    for _ in 0..MAX_PARTS {
        let (listed, next) = tracker.channels(after.as_deref()).await?;
        listed.into_iter().for_each(|(state, listing)| guide.add(state, &listing, tracker.base()));
        match next {
            Some(next) if after.as_ref().is_none_or(|before| *before < next) => after = Some(next),
            _ => break,
        }
    }
    Ok(())
}

impl Guide {
    /// The newest state counts, whoever has it.
    fn add(&mut self, state: SignedState, listing: &Listing, tracker: &Url) {
        let found = self.0.entry(state.channel).or_insert_with(|| Found {
            state: state.clone(),
            bitrate_bps: None,
            viewers: 0,
            trackers: Vec::new(),
        });
        if found.state.at_ms < state.at_ms {
            found.state = state;
        }
        found.bitrate_bps = listing.bitrate_bps.max(found.bitrate_bps);
        // Viewers follow a channel at all trackers of their link.
        found.viewers = found.viewers.max(listing.viewers);
        found.trackers.push(tracker.clone());
    }

    /// Those whose titles have all the words, what is on air first, then by viewers.
    fn search(&self, words: &[String]) -> Vec<&Found> {
        let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
        let mut wanted: Vec<&Found> = self
            .0
            .values()
            .filter(|found| {
                let title = found.state.title.to_lowercase();
                words.iter().all(|word| title.contains(word))
            })
            .collect();
        wanted.sort_by_key(|found| (found.state.phase != Phase::Live, std::cmp::Reverse(found.viewers)));
        wanted
    }
}

impl Found {
    fn link(&self) -> String {
        let title = Some(self.state.title.clone()).filter(|title| !title.is_empty());
        ChannelLink { channel: self.state.channel, title, trackers: self.trackers.clone() }.to_string()
    }

    fn as_json(&self) -> String {
        let line = json!({
            "channel": self.state.channel.to_string(),
            "title": self.state.title,
            "phase": self.state.phase.to_string(),
            "bitrate_bps": self.bitrate_bps,
            "viewers": self.viewers,
            "link": self.link(),
        });
        format!("{line}\n")
    }
}

fn table(wanted: &[&Found]) -> String {
    let title = |found: &Found| -> String {
        match found.state.title.as_str() {
            "" => found.state.channel.to_string().chars().take(8).collect(),
            title => title.chars().take(TITLE_WIDTH).collect(),
        }
    };
    let width = wanted.iter().map(|found| title(found).chars().count()).max().unwrap_or(0).max(7);
    let mut text = format!("{:width$}  {:6}  {:>6}  {:>7}  LINK\n", "CHANNEL", "STATE", "MBIT/S", "VIEWERS");
    for found in wanted {
        let rate = found.bitrate_bps.map_or("-".into(), |bps| format!("{:.1}", bps as f64 / 1e6));
        let phase = found.state.phase.to_string();
        text.push_str(&format!(
            "{:width$}  {phase:6}  {rate:>6}  {:>7}  '{}'\n",
            title(found),
            found.viewers,
            found.link()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use minuet_proto::{ChannelKey, ChannelState, SegmentSeq};

    use super::*;

    fn listed(guide: &mut Guide, (n, at_ms): (u8, u64), title: &str, phase: Phase, viewers: u64) {
        let key = ChannelKey::from_seed(&[n; 32]);
        let state = ChannelState {
            channel: key.channel(),
            at_ms,
            phase,
            next: SegmentSeq(1),
            segment_ms: 60_000,
            title: title.into(),
            listed: true,
            origin: None,
        };
        let state = SignedState::sign(&key, state);
        let listing = Listing { state: String::new(), bitrate_bps: Some(2_000_000), viewers };
        let tracker = format!("http://t{at_ms}.example/").parse().unwrap();
        guide.add(state, &listing, &tracker);
    }

    #[test]
    fn the_newest_word_of_a_channel_counts_and_all_its_trackers_are_in_the_link() {
        let mut guide = Guide::default();
        listed(&mut guide, (1, 7), "Radio Tower", Phase::Ended, 2);
        listed(&mut guide, (1, 5), "Radio Towre", Phase::Live, 3);
        listed(&mut guide, (2, 6), "Tower Cam", Phase::Live, 1);
        let all = guide.search(&[]);
        assert_eq!(
            all.iter().map(|found| found.state.title.as_str()).collect::<Vec<_>>(),
            ["Tower Cam", "Radio Tower"]
        );
        assert_eq!(guide.search(&["TOWER".into(), "radio".into()]).len(), 1);
        assert!(guide.search(&["jazz".into()]).is_empty());
        let link = all[1].link();
        assert!(link.contains("t7.example") && link.contains("t5.example"), "{link}");
        let text = table(&all);
        assert!(text.lines().count() == 3 && text.contains("2.0"), "{text}");
        assert!(all[1].as_json().contains("\"viewers\":3"));
    }
}
