//! The playlist of what is in the index.

use std::fmt::Write as _;

use minuet_remux::playlist::rfc3339;

use super::{Entry, LONGEST_MS, Reel};

/// What playlists say of the longest entry, in seconds.
const TARGET_S: u64 = LONGEST_MS / 1000;
/// Entries in one playlist, some 24 hours: then it ends.
const MAX_LISTED: usize = 21_600;

/// Why there is no playlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Nothing is known yet.
    Unknown,
    /// That long ago nobody has kept; the oldest is of this time, in Unix milliseconds.
    Gone(u64),
    /// It is still to come.
    ToCome,
}

/// Where a playlist begins, and where in it players begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// In Unix milliseconds.
    pub from_ms: u64,
    /// None: where players like, which is near the end.
    pub at_ms: Option<u64>,
    /// The playlist ends there, in Unix milliseconds; none: it grows.
    pub to_ms: Option<u64>,
}

impl Reel {
    /// Whether something can be listed from this time on; does not go through the index, so whoever waits may ask often.
    pub fn begins(&self, from_ms: u64) -> Result<(), Missing> {
        let oldest_ms = self.oldest_ms().ok_or(Missing::Unknown)?;
        // Who asks for the oldest may be told of it by another clock's milliseconds.
        if from_ms.saturating_add(1000) < oldest_ms {
            return Err(Missing::Gone(oldest_ms));
        }
        match self.listed_until_ms() {
            Some(until_ms) if until_ms > from_ms => Ok(()),
            _ => Err(Missing::ToCome),
        }
    }

    /// A playlist that begins with what was on air at the span's beginning, and grows as the broadcast goes on.
    pub fn playlist(&self, span: Span, query: &str) -> Result<String, Missing> {
        self.begins(span.from_ms)?;
        let mut listed = self
            .entries()
            .skip_while(|entry| entry.end_ms() <= span.from_ms)
            .take_while(|entry| span.to_ms.is_none_or(|to_ms| entry.start_ms < to_ms))
            .take(MAX_LISTED + 1)
            .peekable();
        let first = *listed.peek().ok_or(Missing::ToCome)?;
        let mut out = String::with_capacity(64 << 10);
        let kind = if span.to_ms.is_some() { "VOD" } else { "EVENT" };
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:{TARGET_S}\n#EXT-X-PLAYLIST-TYPE:{kind}\n\
             #EXT-X-MEDIA-SEQUENCE:{}\n#EXT-X-INDEPENDENT-SEGMENTS\n",
            first.number
        );
        if let Some(at_ms) = span.at_ms {
            let into_ms = at_ms.saturating_sub(first.start_ms);
            let _ = writeln!(
                out,
                "#EXT-X-START:TIME-OFFSET={}.{:03},PRECISE=YES",
                into_ms / 1000,
                into_ms % 1000
            );
        }
        let mut count = 0usize;
        for entry in listed {
            count = count.saturating_add(1);
            if count > MAX_LISTED {
                break;
            }
            if entry.discontinuity && count > 1 {
                out.push_str("#EXT-X-DISCONTINUITY\n");
            }
            let Entry { segment, from, duration_ms, start_ms, .. } = entry;
            let _ = write!(
                out,
                "#EXT-X-PROGRAM-DATE-TIME:{}\n#EXTINF:{}.{:03},\npast/{segment}-{from}.ts{query}\n",
                rfc3339(start_ms),
                duration_ms / 1000,
                duration_ms % 1000
            );
        }
        if self.ended || span.to_ms.is_some() || count > MAX_LISTED {
            out.push_str("#EXT-X-ENDLIST\n");
        }
        Ok(out)
    }
}
