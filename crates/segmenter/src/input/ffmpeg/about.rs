//! What the user's words for ffmpeg's output are about: pictures, sound, or neither.

/// Options for one stream, or all, that say nothing of how it is coded.
const NEUTRAL: &[&str] = &["metadata", "disposition", "bsf", "tag", "map", "map_metadata"];
/// Options for pictures, and for sound, that ffmpeg knows without `:v` and `:a`.
const PICTURES: &[&str] = &[
    "vf",
    "s",
    "r",
    "pix_fmt",
    "g",
    "bf",
    "preset",
    "tune",
    "crf",
    "vb",
    "b",
    "x264-params",
    "x265-params",
    "filter_complex",
    "lavfi",
    "vsync",
    "fps_mode",
    "aspect",
    "force_key_frames",
    "sc_threshold",
];
const SOUND: &[&str] = &["af", "ar", "ac", "ab", "aq", "sample_fmt", "filter_complex", "lavfi"];

/// What is said of a kind of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Nothing: it goes out as it would without these words.
    Nothing,
    /// How it is coded, as by a filter or a rate, and not with which encoder.
    Coding,
    /// Its encoder, or `copy`.
    Codec,
}

/// What these words say of pictures (`v`) or sound (`a`).
pub fn about(output: &[String], letter: char) -> About {
    let mut found = About::Nothing;
    for word in output.iter().filter_map(|word| word.strip_prefix('-')) {
        let (name, of) = word.split_once(':').unwrap_or((word, ""));
        let is_ours = |of: &str| of.starts_with(letter) || letter == 'v' && of.starts_with('V');
        // A stream by its number may be of any kind.
        let may_be_ours =
            of.is_empty() || is_ours(of) || of.starts_with(|first: char| first.is_ascii_digit());
        if matches!(name, "c" | "codec") && may_be_ours || name == format!("{letter}codec") {
            return About::Codec;
        }
        let bare = if letter == 'v' { PICTURES } else { SOUND };
        let coding = of.is_empty() && bare.contains(&name) || is_ours(of) && !NEUTRAL.contains(&name);
        if coding && !matches!(name, "c" | "codec") {
            found = About::Coding;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_about_pictures_sound_or_neither() {
        use About::{Codec, Coding, Nothing};
        for (words, pictures, sound) in [
            ("", Nothing, Nothing),
            ("-metadata service_name=Tower -mpegts_flags system_b", Nothing, Nothing),
            ("-metadata:s:v language=eng -metadata:v title=x -bsf:v dump_extra", Nothing, Nothing),
            ("-c copy", Codec, Codec),
            ("-c:0 copy", Codec, Codec),
            ("-c:s dvbsub", Nothing, Nothing),
            ("-c:v libx264 -g 50", Codec, Nothing),
            ("-vcodec libx264 -acodec aac", Codec, Codec),
            ("-codec:a:1 aac", Nothing, Codec),
            ("-vf drawtext=text=Hi", Coding, Nothing),
            ("-b:v 1M", Coding, Nothing),
            ("-filter:a volume=2", Nothing, Coding),
            ("-ar 48000", Nothing, Coding),
            ("-c:v libx264 -b:a 96k", Codec, Coding),
        ] {
            let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
            assert_eq!((about(&words, 'v'), about(&words, 'a')), (pictures, sound), "{words:?}");
        }
    }
}
