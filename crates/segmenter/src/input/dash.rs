//! Whether a live DASH manifest has anything new, and how much of it was on air (ISO/IEC 23009-1). Pure.
//!
//! A server whose encoder has died goes on to serve its last manifest. A reader that opens it anew gets its last segments once
//! more. So what a manifest names is compared with what it named after the last connection, and it is opened again only
//! when that is something else. One that names no segments but counts on the clock goes on by itself, and is not judged.

use std::time::Duration;

/// Beginnings of the elements that say which segments there are.
const NAMING: &[&str] =
    &["Period", "SegmentTemplate", "SegmentTimeline", "S ", "SegmentList", "SegmentURL", "Initialization"];
/// Of those, what stands for segments.
const SEGMENTS: &[&str] = &["S ", "SegmentURL"];
/// ffmpeg begins with what came so long before the end of a timeline.
const BEGINS_BEFORE_END: Duration = Duration::from_secs(60);

/// A manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// More may come.
    pub live: bool,
    /// The elements that name segments; empty where none are named.
    named: String,
    /// When its times began.
    epoch: String,
    /// The first and the last moment of its timeline, if it has one.
    span: Option<(Duration, Duration)>,
}

impl Manifest {
    /// Reads a manifest; `None` if the text is none.
    pub fn read(text: &str) -> Option<Self> {
        // What stands before the first is no element.
        let elements = || text.split('<').skip(1).map(|part| part.split('>').next().unwrap_or_default());
        let root = elements().find(|part| {
            part.strip_prefix("MPD").is_some_and(|rest| rest.starts_with(char::is_whitespace))
        })?;
        let is = |part: &str, names: &[&str]| names.iter().any(|name| part.starts_with(name));
        let segments = elements().any(|part| is(part, SEGMENTS));
        let naming: Vec<&str> = elements().filter(|part| segments && is(part, NAMING)).collect();
        Some(Self {
            live: attribute(root, "type") == Some("dynamic"),
            named: naming.join("\n"),
            epoch: attribute(root, "availabilityStartTime").unwrap_or_default().to_owned(),
            span: span(&naming),
        })
    }

    /// Whether it says which segments there are.
    pub fn names_segments(&self) -> bool {
        !self.named.is_empty()
    }

    /// Whether it names the same segments.
    pub fn names_the_same(&self, other: &Self) -> bool {
        self.named == other.named
    }

    /// How much of what ffmpeg begins with was on air, if all of `aired` was; none where that is not known.
    pub fn repeats(&self, aired: &Self) -> Duration {
        let (Some((first, last)), Some((_, known))) = (self.span, aired.span) else { return Duration::ZERO };
        if self.epoch != aired.epoch || last <= known {
            // Its encoder began anew.
            return Duration::ZERO;
        }
        known.saturating_sub(first.max(last.saturating_sub(BEGINS_BEFORE_END)))
    }
}

/// The value of an attribute of an element.
fn attribute<'a>(element: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = element;
    loop {
        let (name, after) = rest.split_once('=')?;
        let quote = after.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let (value, next) = after[1..].split_once(quote)?;
        if name.rsplit(char::is_whitespace).next() == Some(wanted) {
            return Some(value);
        }
        rest = next;
    }
}

/// From when to when the first timeline goes, where there is one period.
fn span(naming: &[&str]) -> Option<(Duration, Duration)> {
    if naming.iter().filter(|part| part.starts_with("Period")).count() != 1 {
        return None;
    }
    let at = naming.iter().position(|part| part.starts_with("SegmentTimeline"))?;
    let template = naming[..at].iter().rfind(|part| part.starts_with("SegmentTemplate"))?;
    let number = |element: &str, name: &str| attribute(element, name)?.parse::<u64>().ok();
    let scale = number(template, "timescale").unwrap_or(1).max(1);
    let mut begin = None;
    let mut end = 0_u64;
    for segment in naming[at + 1..].iter().take_while(|part| part.starts_with("S ")) {
        end = number(segment, "t").unwrap_or(end);
        begin.get_or_insert(end);
        let times = match attribute(segment, "r") {
            None => 1,
            // -1 stands for as many as there will be.
            Some(more) => more.parse::<u64>().ok()?.checked_add(1)?,
        };
        end = end.checked_add(number(segment, "d")?.checked_mul(times)?)?;
    }
    let time = |units: u64| Duration::from_millis(units / scale * 1000 + units % scale * 1000 / scale);
    Some((time(begin?), time(end)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As ffmpeg writes it, but for what does not matter.
    fn manifest(kind: &str, published: u32, segments: &str) -> Manifest {
        let text = format!(
            "<?xml version=\"1.0\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\"\n\ttype=\"{kind}\" publishTime=\"{published}\">\n\
             <Period id=\"0\" start=\"PT0.0S\"><AdaptationSet><Representation id=\"0\" codecs=\"avc1.42c00d\">\n\
             <SegmentTemplate timescale=\"1000\" media=\"$Number$.m4s\" startNumber=\"1\"><SegmentTimeline>{segments}\
             </SegmentTimeline></SegmentTemplate></Representation></AdaptationSet></Period></MPD>"
        );
        Manifest::read(&text).unwrap()
    }

    #[test]
    fn what_is_new_is_told_from_what_is_only_written_anew() {
        let first = manifest("dynamic", 1, "<S t=\"0\" d=\"2000\" r=\"3\" />");
        assert!(first.live && first.names_segments());
        assert!(manifest("dynamic", 2, "<S t=\"0\" d=\"2000\" r=\"3\" />").names_the_same(&first));
        assert!(!manifest("dynamic", 2, "<S t=\"0\" d=\"2000\" r=\"4\" />").names_the_same(&first));
        assert!(!manifest("static", 1, "<S t=\"0\" d=\"1\" />").live);
        // By the clock.
        assert!(!manifest("dynamic", 1, "").names_segments());
    }

    #[test]
    fn how_much_of_it_was_on_air() {
        let repeats =
            |before: &str, now: &str| manifest("dynamic", 2, now).repeats(&manifest("dynamic", 1, before));
        let eight = "<S t=\"0\" d=\"2000\" r=\"3\" />";
        assert_eq!(repeats(eight, "<S t=\"0\" d=\"2000\" r=\"5\" />"), Duration::from_secs(8));
        assert_eq!(
            repeats(eight, "<S t=\"4000\" d=\"2000\"/><S d=\"1500\" r=\"3\" />"),
            Duration::from_secs(4)
        );
        // ffmpeg leaves out what is older by itself.
        assert_eq!(repeats(eight, "<S t=\"0\" d=\"2000\" r=\"32\" />"), Duration::from_secs(2));
        // All of it is new, or it began anew, or it does not say.
        for now in [
            "<S t=\"9000\" d=\"2000\" />",
            "<S t=\"0\" d=\"2000\" />",
            "<S t=\"0\" d=\"2000\" r=\"-1\" />",
            "",
        ] {
            assert_eq!(repeats(eight, now), Duration::ZERO, "{now}");
        }
    }

    #[test]
    fn other_texts() {
        for text in ["", "#EXTM3U\n", "<html><body>MPD</body></html>", "MPD type=\"dynamic\"", "<"] {
            assert_eq!(Manifest::read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text(text in "<MPD (type=|\"dynamic\"|'|>|<Period |<SegmentTemplate |timescale=|<SegmentTimeline>|<S |[tdr]=|\"[0-9]{0,20}\"|é| )*") {
            if let Some(manifest) = Manifest::read(&text) {
                let _ = manifest.repeats(&manifest);
            }
        }
    }
}
