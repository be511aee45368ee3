//! The multivariant playlist: the tracks, and how they go together.
//!
//! A player takes a variant only if it can decode all that it names. So sound tracks that are coded alike are a group of their
//! own, each with a variant; and where a browser may be able to decode none of them, there is a variant without sound.

use std::fmt::Write as _;

use crate::{
    event::{TextId, TrackId},
    frame::Config,
    frame::Kind,
};

/// A track of subtitles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subtitles {
    /// Its number.
    pub track: TextId,
    /// Its language.
    pub language: [u8; 3],
    /// It is for those who hear badly.
    pub impaired: bool,
}

/// A sound track.
#[derive(Debug, Clone, Copy)]
pub struct Sound<'a> {
    /// Its number.
    pub track: TrackId,
    /// How it is coded.
    pub config: &'a Config,
    /// Its language.
    pub language: Option<[u8; 3]>,
    /// Its greatest rate in bits a second.
    pub peak: u64,
}

/// All tracks.
#[derive(Debug, Clone, Default)]
pub struct Listed<'a> {
    /// The pictures: number, how they are coded, and their greatest rate.
    pub video: Option<(TrackId, &'a Config, u64)>,
    /// The sound.
    pub sounds: Vec<Sound<'a>>,
    /// The subtitles.
    pub texts: Vec<Subtitles>,
}

/// The least rate that is said, in bits a second.
const LEAST_RATE: u64 = 64_000;

/// Writes the playlist. A track's media playlist is `track/<number>/<file>`, that of subtitles `text/<number>/index.m3u8`; `query` stands behind each.
pub fn multivariant(listed: &Listed<'_>, file: &str, query: &str) -> String {
    let mut out = String::from("#EXTM3U\n#EXT-X-VERSION:9\n");
    let address = |track: TrackId| format!("track/{track}/{file}{query}");
    let mut groups: Vec<(&str, Vec<&Sound<'_>>)> = Vec::new();
    for sound in &listed.sounds {
        let family = sound.config.codecs.as_str();
        match groups.iter_mut().find(|(known, _)| *known == family) {
            Some((_, sounds)) => sounds.push(sound),
            None => groups.push((family, vec![sound])),
        }
    }
    // Radio with one track has no alternatives.
    let alternatives = listed.video.is_some() || listed.sounds.len() > 1;
    if alternatives {
        for (number, (_, sounds)) in groups.iter().enumerate() {
            for (index, sound) in sounds.iter().enumerate() {
                write_sound(sound, number, index == 0, &address(sound.track), &mut out);
            }
        }
    }
    for text in &listed.texts {
        write_text(text, query, &mut out);
    }
    let texts = if listed.texts.is_empty() { "" } else { ",SUBTITLES=\"text\"" };
    for (number, (codecs, sounds)) in groups.iter().enumerate() {
        let peak = sounds.iter().map(|sound| sound.peak).max().unwrap_or(0);
        let group = format!(",AUDIO=\"sound{number}\"{texts}");
        match listed.video {
            Some((track, video, video_peak)) => {
                let codecs = format!("{},{codecs}", video.codecs);
                write_variant(
                    video_peak.saturating_add(peak),
                    &codecs,
                    Some(video),
                    &group,
                    &address(track),
                    &mut out,
                );
            }
            None => {
                let track = sounds.first().map_or(0, |sound| sound.track);
                let group = if alternatives { group.as_str() } else { "" };
                write_variant(peak, codecs, None, group, &address(track), &mut out);
            }
        }
    }
    let everywhere = groups.iter().any(|(codecs, _)| codecs.starts_with("mp4a."));
    if let Some((track, video, peak)) = listed.video.filter(|_| !everywhere) {
        write_variant(peak, &video.codecs, Some(video), texts, &address(track), &mut out);
    }
    out
}

fn write_text(text: &Subtitles, query: &str, out: &mut String) {
    let Subtitles { track, language, impaired } = text;
    let language: String = language.iter().copied().map(char::from).collect();
    let (kind, words) = match impaired {
        true => {
            let words = "public.accessibility.transcribes-spoken-dialog,public.accessibility.describes-music-and-sound";
            (" (hard of hearing)", format!(",CHARACTERISTICS=\"{words}\""))
        }
        false => ("", String::new()),
    };
    let _ = writeln!(
        out,
        "#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"text\",NAME=\"{language} {track}{kind}\",DEFAULT=NO,AUTOSELECT=YES,\
         LANGUAGE=\"{language}\"{words},URI=\"text/{track}/index.m3u8{query}\""
    );
}

fn write_sound(sound: &Sound<'_>, group: usize, first: bool, address: &str, out: &mut String) {
    let language: Option<String> = sound.language.map(|letters| letters.map(char::from).iter().collect());
    let track = sound.track;
    let name =
        language.as_ref().map_or_else(|| format!("Sound {track}"), |language| format!("{language} {track}"));
    let default = if first { "YES" } else { "NO" };
    let _ = write!(
        out,
        "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"sound{group}\",NAME=\"{name}\",DEFAULT={default},AUTOSELECT=YES"
    );
    if let Some(language) = language {
        let _ = write!(out, ",LANGUAGE=\"{language}\"");
    }
    if let Kind::Sound { channels } = sound.config.kind {
        let _ = write!(out, ",CHANNELS=\"{channels}\"");
    }
    let _ = writeln!(out, ",URI=\"{address}\"");
}

fn write_variant(
    peak: u64,
    codecs: &str,
    video: Option<&Config>,
    group: &str,
    address: &str,
    out: &mut String,
) {
    let _ = write!(out, "#EXT-X-STREAM-INF:BANDWIDTH={},CODECS=\"{codecs}\"", peak.max(LEAST_RATE));
    if let Some(Config { kind: Kind::Video { width, height }, .. }) = video {
        let _ = write!(out, ",RESOLUTION={width}x{height}");
    }
    let _ = writeln!(out, "{group}\n{address}");
}
