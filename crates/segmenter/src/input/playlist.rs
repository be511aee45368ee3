//! Playlists: lists of radio stations, whose first entry is the feed (`.m3u`, `.pls`), and HLS (RFC 8216), of whose variants
//! the best is taken. Pure.
//!
//! ffmpeg fetches all variants of a master playlist before it chooses. So it is given a master playlist with one.

use url::Url;

/// More bytes than this no playlist has that is looked into.
pub const MAX_LEN: usize = 1 << 20;

/// What a text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Playlist {
    /// A list; this is its first entry.
    Entry(Url),
    /// An HLS master playlist, made smaller: one variant, with its own sound.
    Best {
        /// The smaller one; all addresses in it are whole.
        text: String,
        /// It has subtitles, which MPEG-TS cannot carry.
        subtitles: bool,
    },
    /// A media playlist of HLS, or one that only ffmpeg can read.
    Hls,
}

/// Reads a playlist that was found at `base`.
pub fn read(text: &str, base: &Url) -> Option<Playlist> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    if lines().next()?.eq_ignore_ascii_case("[playlist]") {
        let entry = |line: &str| {
            let (name, value) = line.split_once('=')?;
            name.trim().to_ascii_lowercase().starts_with("file").then(|| web(base, value.trim()))?
        };
        return lines().find_map(entry).map(Playlist::Entry);
    }
    let has = |tag: &str| lines().any(|line| line.starts_with(tag));
    if has("#EXT-X-STREAM-INF:") && !has("#EXT-X-DEFINE:") {
        return Some(best(text, base).unwrap_or(Playlist::Hls));
    }
    if has("#EXT-X-") {
        return Some(Playlist::Hls);
    }
    let is_list = has("#EXTM3U") || lines().all(|line| line.starts_with('#') || Url::parse(line).is_ok());
    let entry = || lines().filter(|line| !line.starts_with('#')).find_map(|line| web(base, line));
    is_list.then(entry).flatten().map(Playlist::Entry)
}

/// An address on the web: what a stranger's playlist says must not lead to a file of this machine.
fn web(base: &Url, text: &str) -> Option<Url> {
    base.join(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

fn best(text: &str, base: &Url) -> Option<Playlist> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let variants = lines.iter().enumerate().filter_map(|(at, line)| {
        let attributes = line.strip_prefix("#EXT-X-STREAM-INF:")?;
        let address = lines[at + 1..].iter().find(|line| !line.starts_with('#'))?;
        let rate: u64 = attribute(attributes, "BANDWIDTH")?.parse().ok()?;
        // A variant without pictures is not better, whatever its rate.
        let pictures = attribute(attributes, "RESOLUTION").is_some();
        Some(((pictures, rate), *line, attributes, web(base, address)?))
    });
    // Of equals the first.
    let (_, line, attributes, address) =
        variants.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
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
    Some(Playlist::Best { text: out, subtitles: attribute(attributes, "SUBTITLES").is_some() })
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
            Some(Playlist::Entry(url)) => Some(url.into()),
            _ => None,
        }
    }

    #[test]
    fn stations() {
        let pls =
            "[playlist]\nNumberOfEntries=2\nTitle1=x\nFile1=http://radio.example:8000/\nFile2=http://b/\n";
        assert_eq!(entry(pls).as_deref(), Some("http://radio.example:8000/"));
        let m3u = "\u{feff}#EXTM3U\r\n#EXTINF:-1,A radio\r\nhttp://radio.example/live\r\n";
        assert_eq!(entry(m3u).as_deref(), Some("http://radio.example/live"));
        assert_eq!(entry("http://radio.example/live\n").as_deref(), Some("http://radio.example/live"));
        assert_eq!(entry("#EXTM3U\nlive.mp3").as_deref(), Some("http://host/a/live.mp3"));
        assert_eq!(entry("#EXTM3U\nfile:///etc/passwd"), None);
        assert_eq!(entry("404 not found"), None);
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
        let Some(Playlist::Best { text, subtitles }) = read(master, &base()) else { panic!("a master") };
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
