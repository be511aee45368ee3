//! What of a live HLS playlist has been on air (RFC 8216, 6.3.4). Pure.
//!
//! A server whose encoder has died goes on to serve its last playlist, without an end mark. A reader that opens it anew gets
//! its last segments once more. So the segments that ffmpeg has opened are remembered from one connection to the next, and
//! a playlist is opened again only when there is a segment behind them.
//!
//! A segment is known by its number (media sequence) and its address without the query, in which servers renew tokens.

use std::collections::VecDeque;

use url::Url;

use super::dash::Manifest;

/// Segments that are remembered: more than a live playlist has.
const MAX_OPENED: usize = 64;
/// ffmpeg begins with so many segments of a live playlist. With fewer that are new, it begins with those.
const USUAL_START: usize = 3;
/// What ffmpeg says when it opens something.
const OPENING: (&str, &str) = ("Opening '", "' for reading");

/// A segment of a playlist: its number and its address.
pub type Segment = (u64, String);

/// A media playlist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Media {
    /// The number of the first segment.
    first: u64,
    /// Where the segments are.
    segments: Vec<String>,
    /// There will be no more.
    ended: bool,
}

impl Media {
    /// Reads a playlist that was found at `base`; `None` if it is no media playlist.
    pub fn read(text: &str, base: &Url) -> Option<Self> {
        let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        if !lines.find(|line| !line.is_empty())?.starts_with("#EXTM3U") {
            return None;
        }
        let (mut media, mut is_media) = (Self::default(), false);
        for line in lines {
            if let Some(number) = line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:") {
                media.first = number.trim().parse().ok()?;
            }
            media.ended |= line.starts_with("#EXT-X-ENDLIST");
            is_media |= line.starts_with("#EXT-X-TARGETDURATION:");
            if !line.is_empty() && !line.starts_with('#') {
                media.segments.push(place(base.join(line).ok()?.as_str()));
            }
        }
        is_media.then_some(media)
    }

    /// The newest segment.
    pub fn newest(&self) -> Option<Segment> {
        let last = self.segments.len().checked_sub(1)?;
        Some((self.first.saturating_add(last as u64), self.segments[last].clone()))
    }
}

/// An address without what changes from one look at a playlist to the next.
fn place(url: &str) -> String {
    // As a parser writes it: two ways to write one address are one.
    let url = Url::parse(url).map_or_else(|_| url.to_owned(), String::from);
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// What has been on air of a playlist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aired {
    /// The newest segment that is known to have been.
    newest: Option<Segment>,
    /// What ffmpeg opened last.
    opened: VecDeque<String>,
    /// A DASH manifest, as it was when it was looked at after the last connection, or an empty one before that look.
    manifest: Option<Manifest>,
}

/// What a playlist holds besides what has been on air.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// All of it.
    All,
    /// So many segments at its end.
    Last(usize),
    /// Nothing yet.
    Nothing,
    /// Nothing, and there will be no more.
    Over,
}

impl News {
    /// Where ffmpeg is to begin, counted from the end, if not where it would.
    pub fn start(self) -> Option<usize> {
        match self {
            Self::Last(count) if count < USUAL_START => Some(count),
            _ => None,
        }
    }
}

impl Aired {
    /// Takes a line of ffmpeg's.
    pub fn hear(&mut self, line: &str) {
        let Some((_, rest)) = line.split_once(OPENING.0) else { return };
        let Some((url, _)) = rest.rsplit_once(OPENING.1) else { return };
        if self.opened.len() == MAX_OPENED {
            self.opened.pop_front();
        }
        self.opened.push_back(place(url));
    }

    /// After a connection that brought media and began with a playlist that ended in `newest`.
    pub fn after(mut self, newest: Option<Segment>) -> Self {
        // One that broke off early had not come so far. One that said nothing of what it opened is believed to have.
        let reached = |(_, url): &Segment| self.opened.is_empty() || self.opened.contains(url);
        self.newest = newest.filter(reached);
        self
    }

    /// All of `media` has been on air.
    pub fn all_of(media: &Media) -> Self {
        Self { newest: media.newest(), ..Self::default() }
    }

    /// All that a DASH manifest names has been on air; an empty one stands for what is not known yet.
    pub fn all_of_manifest(manifest: Manifest) -> Self {
        Self { manifest: Some(manifest), ..Self::default() }
    }

    /// The DASH manifest of which all has been on air.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// What `media` holds that has not been on air.
    pub fn judge(&self, media: &Media) -> News {
        if *self == Self::default() {
            return News::All;
        }
        let len = media.segments.len();
        let known = match (&self.newest, media.newest()) {
            (Some((known, url)), Some((number, last))) => {
                if number < *known || number == *known && last != *url {
                    // Its encoder began anew.
                    return News::All;
                }
                let count = known.saturating_sub(media.first).saturating_add(1);
                if *known < media.first { 0 } else { usize::try_from(count).unwrap_or(len).min(len) }
            }
            _ => 0,
        };
        let opened = media.segments.iter().rposition(|url| self.opened.contains(url)).map_or(0, |at| at + 1);
        match len - known.max(opened) {
            0 if media.ended => News::Over,
            0 => News::Nothing,
            new if new == len => News::All,
            new => News::Last(new),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base() -> Url {
        Url::parse("http://host/a/list.m3u8").unwrap()
    }

    fn media(first: u64, names: &[&str], more: &str) -> Media {
        let segments: String = names.iter().map(|name| format!("#EXTINF:2,\n{name}\n")).collect();
        let text =
            format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n{segments}{more}");
        Media::read(&text, &base()).unwrap()
    }

    /// After a connection that began with `began` and opened these.
    fn aired(began: &Media, opened: &[&str]) -> Aired {
        let mut aired = Aired::default();
        aired.hear("[hls] Skip ('#EXT-X-VERSION:3')");
        opened.iter().for_each(|url| aired.hear(&format!("[hls] Opening 'http://host/a/{url}' for reading")));
        aired.after(began.newest())
    }

    #[test]
    fn what_stands_still_is_no_news_and_what_comes_after_it_is() {
        let standing = media(7, &["7.ts?t=1", "8.ts?t=1", "9.ts?t=1"], "");
        assert_eq!(Aired::default().judge(&standing), News::All);
        // It began two segments earlier, and grew while it was open.
        let aired = aired(&media(5, &["5.ts", "6.ts", "7.ts"], ""), &["6.ts", "7.ts", "8.ts", "9.ts?t=0"]);
        assert_eq!(aired.judge(&standing), News::Nothing);
        assert_eq!(aired.judge(&media(7, &["7.ts", "8.ts", "9.ts"], "#EXT-X-ENDLIST\n")), News::Over);
        let one = aired.judge(&media(8, &["8.ts", "9.ts", "10.ts"], ""));
        assert_eq!((one, one.start()), (News::Last(1), Some(1)));
        let four = aired.judge(&media(8, &["8.ts", "9.ts", "10.ts", "11.ts", "12.ts", "13.ts"], ""));
        assert_eq!((four, four.start()), (News::Last(4), None));
        assert_eq!(aired.judge(&media(20, &["20.ts", "21.ts"], "")), News::All);
        assert_eq!(aired.judge(&media(0, &[], "")), News::Nothing);
    }

    #[test]
    fn an_encoder_that_began_anew_is_news() {
        let all = Aired::all_of(&media(7, &["7.ts", "8.ts", "9.ts"], ""));
        assert_eq!(all.judge(&media(7, &["7.ts", "8.ts", "9.ts"], "")), News::Nothing);
        assert_eq!(all.judge(&media(0, &["0.ts"], "")), News::All);
        assert_eq!(all.judge(&media(9, &["other-0.ts"], "")), News::All);
    }

    #[test]
    fn names_that_come_again_are_told_by_their_numbers() {
        let ring = ["a.ts", "b.ts", "c.ts"];
        let heard = aired(&media(0, &ring, ""), &ring);
        // All names are known, so the first look finds nothing; the numbers tell at the second.
        let standing = media(0, &ring, "");
        assert_eq!(heard.judge(&standing), News::Nothing);
        assert_eq!(Aired::all_of(&standing).judge(&media(2, &["c.ts", "a.ts", "b.ts"], "")), News::Last(2));
    }

    #[test]
    fn a_connection_that_broke_off_early_leaves_the_rest_to_the_next() {
        let began = media(7, &["7.ts", "8.ts", "9.ts"], "");
        assert_eq!(aired(&began, &["7.ts"]).judge(&began), News::Last(2));
        assert_eq!(aired(&began, &[]).judge(&began), News::Nothing, "it was not heard");
    }

    #[test]
    fn only_a_media_playlist_is_one() {
        for other in
            ["", "<html>", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nx.m3u8\n", "#EXTM3U\nhttp://a/\n"]
        {
            assert_eq!(Media::read(other, &base()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_text(
            text in "(#EXTM3U\n#EXT-X-TARGETDURATION:1\n)(#EXT-X-MEDIA-SEQUENCE:[0-9]{0,21}|[a-z0-9/.:?\n])*",
            other in "(#EXTM3U\n#EXT-X-TARGETDURATION:1\n)(#EXT-X-MEDIA-SEQUENCE:[0-9]{0,21}|[a-z0-9/.:?\n])*",
        ) {
            let [Some(one), Some(two)] = [&text, &other].map(|text| Media::read(text, &base())) else {
                return Ok(());
            };
            if one.newest().is_some() {
                let again = Aired::all_of(&one).judge(&one);
                prop_assert!(matches!(again, News::Nothing | News::Over));
            }
            Aired::all_of(&one).judge(&two);
        }
    }
}
