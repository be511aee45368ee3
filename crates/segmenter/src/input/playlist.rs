//! Playlists: lists of radio stations, whose first entry that can be had is the feed (`.m3u`, `.pls`), and HLS (RFC 8216),
//! of whose variants the best that can be had is taken. Pure.
//!
//! ffmpeg fetches all variants of a master playlist before it chooses. So it is given a master playlist with one.

use url::Url;

use super::headers::Place;

/// More bytes than this no playlist has that is looked into.
pub const MAX_LEN: usize = 1 << 20;
/// More entries of a list, and variants, are not tried.
const MAX_ENTRIES: usize = 16;

/// What a text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Playlist {
    /// A list of stations: its entries, one at least.
    Entries(Vec<Place>),
    /// An HLS master playlist: its variants, the best first, one at least.
    Master(Vec<Variant>),
    /// A media playlist of HLS, or one that only ffmpeg can read.
    Hls,
}

/// One variant of a master playlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The master playlist, made smaller: this variant, with its own sound. All addresses in it are whole.
    pub text: String,
    /// Where its media playlist is.
    pub address: Url,
    /// Bits a second.
    pub rate: u64,
    /// It has subtitles, which MPEG-TS cannot carry.
    pub subtitles: bool,
}

/// Reads a playlist that was found at `base`.
pub fn read(text: &str, base: &Url) -> Option<Playlist> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    if lines().next()?.eq_ignore_ascii_case("[playlist]") {
        let entry = |line: &str| {
            let (name, value) = line.split_once('=')?;
            name.trim()
                .to_ascii_lowercase()
                .starts_with("file")
                .then(|| place(base, value, &Place::default()))?
        };
        return entries(lines().filter_map(entry));
    }
    let has = |tag: &str| lines().any(|line| line.starts_with(tag));
    if has("#EXT-X-STREAM-INF:") && !has("#EXT-X-DEFINE:") {
        let variants = variants(text, base);
        return Some(if variants.is_empty() { Playlist::Hls } else { Playlist::Master(variants) });
    }
    if has("#EXT-X-") {
        return Some(Playlist::Hls);
    }
    let is_list = has("#EXTM3U") || lines().all(|line| line.starts_with('#') || Url::parse(line).is_ok());
    let mut said = Place::default();
    let named = lines().filter_map(|line| {
        // What VLC's lists say of the entry that follows.
        if let Some((name, value)) =
            line.strip_prefix("#EXTVLCOPT:").and_then(|option| option.split_once('='))
        {
            match name.trim() {
                "http-user-agent" => said.say("User-Agent", value),
                "http-referrer" => said.say("Referer", value),
                _ => {}
            }
        }
        if line.starts_with('#') {
            return None;
        }
        place(base, line, &std::mem::take(&mut said))
    });
    if is_list { entries(named) } else { None }
}

/// An entry, and what is said where it is.
fn place(base: &Url, text: &str, said: &Place) -> Option<Place> {
    let mut place = Place::read(text);
    place.url = web(base, &place.url)?.into();
    if place.words.is_empty() {
        place.words.clone_from(&said.words);
    }
    Some(place)
}

/// Whether media of this playlist is encrypted in a way that ffmpeg has no key for.
pub fn has_drm(text: &str) -> bool {
    let keys = text.lines().filter_map(|line| {
        let line = line.trim();
        line.strip_prefix("#EXT-X-KEY:").or_else(|| line.strip_prefix("#EXT-X-SESSION-KEY:"))
    });
    let mut keys = keys.map(|key| {
        let method = attribute(key, "METHOD").unwrap_or_default();
        let format = attribute(key, "KEYFORMAT").unwrap_or_else(|| "identity".to_owned());
        method != "NONE" && (method.starts_with("SAMPLE-AES") || format != "identity")
    });
    keys.any(|locked| locked)
}

fn entries(named: impl Iterator<Item = Place>) -> Option<Playlist> {
    let mut entries: Vec<Place> = Vec::new();
    for entry in named.take(MAX_ENTRIES) {
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    (!entries.is_empty()).then_some(Playlist::Entries(entries))
}

/// An address on the web: what a stranger's playlist says must not lead to a file of this machine.
fn web(base: &Url, text: &str) -> Option<Url> {
    base.join(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

fn variants(text: &str, base: &Url) -> Vec<Variant> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let found = lines.iter().enumerate().filter_map(|(at, line)| {
        let attributes = line.strip_prefix("#EXT-X-STREAM-INF:")?;
        let address = lines[at + 1..].iter().find(|line| !line.starts_with('#'))?;
        let rate: u64 = attribute(attributes, "BANDWIDTH")?.parse().ok()?;
        // A variant without pictures is not better, whatever its rate.
        let pictures = attribute(attributes, "RESOLUTION").is_some();
        Some(((pictures, rate), *line, attributes, web(base, address)?))
    });
    let mut found: Vec<_> = found.collect();
    // Of equals the first.
    found.sort_by_key(|(rank, ..)| std::cmp::Reverse(*rank));
    let alone = found.into_iter().filter_map(|((_, rate), line, attributes, address)| {
        let text = alone(&lines, base, line, attributes, &address)?;
        let subtitles = attribute(attributes, "SUBTITLES").is_some();
        Some(Variant { text, address, rate, subtitles })
    });
    alone.take(MAX_ENTRIES).collect()
}

/// A master playlist with one variant, and the sound that belongs to it.
fn alone(lines: &[&str], base: &Url, line: &str, attributes: &str, address: &Url) -> Option<String> {
    let mut out = "#EXTM3U\n".to_owned();
    let group = attribute(attributes, "AUDIO");
    for media in lines.iter().filter(|line| line.starts_with("#EXT-X-MEDIA:")) {
        let about = &media["#EXT-X-MEDIA:".len()..];
        let ours = attribute(about, "TYPE").as_deref() == Some("AUDIO")
            && attribute(about, "GROUP-ID") == group
            && group.is_some();
        if !ours {
            continue;
        }
        match attribute(about, "URI") {
            Some(uri) => out += &media.replace(&format!("\"{uri}\""), &format!("\"{}\"", web(base, &uri)?)),
            None => out += media,
        }
        out.push('\n');
    }
    out += &format!("{line}\n{address}\n");
    Some(out)
}

/// The value of an attribute (RFC 8216, 4.2), without its quotes.
fn attribute(list: &str, wanted: &str) -> Option<String> {
    let mut rest = list;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, next) = quoted.split_once('"')?;
                (value, next.trim_start_matches(','))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if name.trim() == wanted {
            return Some(value.trim().to_owned());
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base() -> Url {
        Url::parse("http://host/a/list").unwrap()
    }

    fn entry(text: &str) -> Option<String> {
        match read(text, &base()) {
            Some(Playlist::Entries(all)) => Some(all[0].url.clone()),
            _ => None,
        }
    }

    #[test]
    fn stations() {
        let pls =
            "[playlist]\nNumberOfEntries=2\nTitle1=x\nFile1=http://radio.example:8000/\nFile2=http://b/\n";
        assert_eq!(entry(pls).as_deref(), Some("http://radio.example:8000/"));
        let Some(Playlist::Entries(all)) = read(pls, &base()) else { panic!("a list") };
        assert_eq!(
            all.iter().map(|place| place.url.as_str()).collect::<Vec<_>>(),
            ["http://radio.example:8000/", "http://b/"]
        );
        let m3u = "\u{feff}#EXTM3U\r\n#EXTINF:-1,A radio\r\nhttp://radio.example/live\r\n";
        assert_eq!(entry(m3u).as_deref(), Some("http://radio.example/live"));
        assert_eq!(entry("http://radio.example/live\n").as_deref(), Some("http://radio.example/live"));
        assert_eq!(entry("#EXTM3U\nlive.mp3").as_deref(), Some("http://host/a/live.mp3"));
        assert_eq!(entry("#EXTM3U\nfile:///etc/passwd"), None);
        assert_eq!(entry("404 not found"), None);
        let said = "#EXTM3U\n#EXTINF:-1,One\n#EXTVLCOPT:http-user-agent=TV 1\n#EXTVLCOPT:http-referrer=http://x/\n\
                    http://radio.example/1\nhttp://radio.example/2|User-Agent=Box\nhttp://radio.example/3\n";
        let Some(Playlist::Entries(all)) = read(said, &base()) else { panic!("a list") };
        let words: Vec<Vec<&str>> =
            all.iter().map(|place| place.words.iter().map(String::as_str).collect()).collect();
        assert_eq!(
            words,
            [vec!["-user_agent", "TV 1", "-referer", "http://x/"], vec!["-user_agent", "Box"], vec![]]
        );
    }

    #[test]
    fn media_that_is_locked() {
        let with = |key: &str| format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n{key}\n#EXTINF:6,\n0.ts\n");
        for (key, locked) in [
            ("#EXT-X-KEY:METHOD=AES-128,URI=\"k\"", false),
            ("#EXT-X-KEY:METHOD=NONE", false),
            (
                "#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://x\",KEYFORMAT=\"com.apple.streamingkeydelivery\"",
                true,
            ),
            ("#EXT-X-SESSION-KEY:METHOD=AES-128,URI=\"k\",KEYFORMAT=\"com.microsoft.playready\"", true),
        ] {
            assert_eq!(has_drm(&with(key)), locked, "{key}");
        }
    }

    #[test]
    fn the_best_variant_with_its_own_sound() {
        let master = "#EXTM3U\n\
            #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"lo\",NAME=\"a, b\",URI=\"lo.m3u8\"\n\
            #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"hi\",NAME=\"en\",DEFAULT=YES,URI=\"hi/en.m3u8?x=1\"\n\
            #EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"s\",NAME=\"en\",URI=\"s.m3u8\"\n\
            #EXT-X-STREAM-INF:BANDWIDTH=9000000,AUDIO=\"hi\"\nsound.m3u8\n\
            #EXT-X-STREAM-INF:BANDWIDTH=100000,RESOLUTION=160x90,AUDIO=\"lo\"\nlo.m3u8\n\
            #EXT-X-STREAM-INF:AVERAGE-BANDWIDTH=1,CODECS=\"avc1.4d,mp4a.40.2\",BANDWIDTH=2000000,RESOLUTION=320x180,\
            AUDIO=\"hi\",SUBTITLES=\"s\"\nhttps://cdn.example/hi.m3u8\n\
            #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=99999999,URI=\"i.m3u8\"\n";
        let Some(Playlist::Master(variants)) = read(master, &base()) else { panic!("a master") };
        assert_eq!(variants.iter().map(|it| it.rate).collect::<Vec<_>>(), [2_000_000, 100_000, 9_000_000]);
        let Variant { text, subtitles, .. } = &variants[0];
        assert!(subtitles);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].ends_with("URI=\"http://host/a/hi/en.m3u8?x=1\""), "{text}");
        assert_eq!(lines[3], "https://cdn.example/hi.m3u8");
    }

    #[test]
    fn media_playlists_are_for_ffmpeg() {
        let media = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n0.ts\n";
        assert_eq!(read(media, &base()), Some(Playlist::Hls));
        let defines =
            "#EXTM3U\n#EXT-X-DEFINE:NAME=\"a\",VALUE=\"b\"\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{$a}.m3u8\n";
        assert_eq!(read(defines, &base()), Some(Playlist::Hls));
        let nowhere = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nfile:///etc/passwd\n";
        assert_eq!(read(nowhere, &base()), Some(Playlist::Hls));
    }

    proptest! {
        #[test]
        fn any_text(text in "(#EXTM3U\n)?(#EXT-X-STREAM-INF:|[A-Z]+=|\"|,|[a-z0-9/.:\n])*") {
            read(&text, &base());
        }
    }
}
