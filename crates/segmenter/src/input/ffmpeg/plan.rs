//! Which of an input's streams go out and how: copied where MPEG-TS can carry them, transcoded where it cannot, and named
//! where they are left out.

use super::{
    about::{About, about},
    listing::{Kind, Listing, Program, SCTE_35, Stream},
};

/// Subtitles that are text, as ffmpeg names them.
const TEXTS: &[&str] = &["ass", "mov_text", "srt", "ssa", "subrip", "text", "ttml", "webvtt"];

/// Moving pictures that MPEG-TS has a type for.
const VIDEO: &[&str] =
    &["h264", "hevc", "mpeg2video", "mpeg1video", "mpeg4", "vvc", "vc1", "cavs", "avs2", "dirac"];
/// Sound that MPEG-TS has a type for.
const AUDIO: &[&str] = &["aac", "aac_latm", "mp2", "mp3", "ac3", "eac3", "dts", "truehd", "opus", "s302m"];
/// Subtitles that MPEG-TS has a type for.
const SUBTITLES: &[&str] = &["dvb_subtitle", "dvb_teletext"];
/// Data that MPEG-TS has a type for and ffmpeg writes as it came.
const DATA: &[&str] = &["klv", "timed_id3"];
/// Data that belongs to the container it came in, and that nobody misses.
const PASSING: &[&str] = &["bin_data", "none", "epg", "otf", "ttf", "tmcd"];
/// What ffmpeg calls a stream of MPEG-TS whose kind it does not know.
const NAMELESS: &str = "bin_data";
/// Sound becomes this.
const TO_AUDIO: &str = "aac";
/// Pictures become this: quick to make, played by everything, with a key frame each two seconds.
const TO_VIDEO: &[&str] = &[
    "libx264",
    "-preset",
    "veryfast",
    "-tune",
    "zerolatency",
    "-pix_fmt",
    "yuv420p",
    "-force_key_frames",
    "expr:gte(t,n_forced*2)",
];

/// Pictures whose headers stand beside them in most containers, and which ffmpeg does not put into MPEG-TS by itself.
const WITHOUT_HEADERS: &[&str] = &["mpeg4", "vc1", "cavs"];
/// `stream_type` of AAC that says in each packet how it is coded.
const ADTS: u8 = 0x0f;

/// What ffmpeg has said against an input, when it had been started with other words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// It does not say when its pictures are to be shown, which a decoder finds out.
    pub untimed: bool,
    /// Its AAC sound does not say what it is.
    pub bare_sound: bool,
}

/// How a stream goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum How {
    /// As the user says.
    Theirs,
    /// As it is.
    Copied,
    /// As it is, with what its container says of it before each key frame.
    WithHeaders,
    /// By an encoder, with its options.
    Transcoded(Vec<String>),
}

/// What ffmpeg is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `-map` and `-c` options.
    pub arguments: Vec<String>,
    /// What the user should know: sentences.
    pub remarks: Vec<String>,
}

/// The plan for an input of which nothing is known: right for most.
pub fn blind(output: &[String]) -> Plan {
    let mut arguments = Vec::new();
    if !has_own_map(output) {
        arguments
            .extend(["-map", "0:V:0?", "-map", "0:a?", "-map", "0:s?", "-map", "0:d?"].map(String::from));
    }
    codecs(output, Vec::new(), &mut arguments);
    arguments.push("-ignore_unknown".to_owned());
    Plan { arguments, remarks: Vec::new() }
}

/// The plan for an input that is known, with its flaws: of several programs `program`, or the best one.
pub fn of(listing: &Listing, program: Option<u16>, output: &[String], flaws: Flaws) -> Plan {
    if has_own_map(output) || listing.streams.is_empty() {
        return blind(output);
    }
    let chosen = choose(&listing.programs, program, &listing.streams);
    // What belongs to other programs only is theirs.
    let ours = |stream: &Stream| {
        let mut programs = listing.programs.iter().filter(|other| other.streams.contains(&stream.index));
        chosen.is_none_or(|ours| ours.streams.contains(&stream.index) || programs.next().is_none())
    };
    let mut taken: Vec<(usize, How)> = Vec::new();
    let mut remarks = Vec::new();
    // In the order of `-map 0:V:0? -map 0:a? …`: for what that takes alike, ffmpeg need not be started again.
    let streams: Vec<&Stream> = listing.streams.iter().filter(|stream| ours(stream)).collect();
    let kind = |kind: Kind| streams.iter().copied().filter(move |stream| stream.kind == kind);
    let mut plain = true;
    for stream in kind(Kind::Video).take(1) {
        plain &= listing.streams.iter().find(|other| other.kind == Kind::Video) == Some(stream);
        taken.push((stream.index, pictures(stream, output, flaws, &mut remarks)));
    }
    for stream in kind(Kind::Audio) {
        taken.push((stream.index, sound(stream, output, flaws, &mut remarks)));
    }
    for stream in kind(Kind::Subtitle) {
        if SUBTITLES.contains(&stream.codec.as_str()) {
            taken.push((stream.index, How::Copied));
        } else {
            // ffmpeg turns pictures into pictures, and no text into pictures.
            let remedy = match TEXTS.contains(&stream.codec.as_str()) {
                true => "text has to be drawn into the picture before, as by ffmpeg's filter \"subtitles\"",
                false => "they can be made of these with --ffmpeg-output-args \"-c copy -map 0 -c:s dvbsub\"",
            };
            remarks.push(format!(
                "subtitles of kind {} (stream {}) are left out: MPEG-TS carries DVB subtitles and teletext; {remedy}",
                stream.codec, stream.index
            ));
        }
    }
    for stream in kind(Kind::Data) {
        if DATA.contains(&stream.codec.as_str()) {
            taken.push((stream.index, How::Copied));
        } else if let Some(stream_type) = stream.stream_type.filter(|_| stream.codec == NAMELESS) {
            remarks.push(unknown(stream_type, stream.index));
        } else if !PASSING.contains(&stream.codec.as_str()) {
            remarks.push(left_out(&stream.codec, stream.index));
        }
    }
    for stream in kind(Kind::Unknown) {
        match stream.stream_type {
            Some(SCTE_35) => remarks.push(left_out("scte_35", stream.index)),
            Some(stream_type) => remarks.push(unknown(stream_type, stream.index)),
            None => {}
        }
    }
    let all = |kinds: &[Kind]| listing.streams.iter().filter(|stream| kinds.contains(&stream.kind)).count();
    let expected = all(&[Kind::Video]).min(1) + all(&[Kind::Audio, Kind::Subtitle, Kind::Data]);
    let copied = taken.iter().all(|(_, how)| matches!(how, How::Copied | How::Theirs));
    if plain && taken.len() == expected && copied {
        return Plan { remarks, ..blind(output) };
    }
    let mut arguments: Vec<String> =
        taken.iter().flat_map(|(index, _)| ["-map".to_owned(), format!("0:{index}")]).collect();
    // By their number in the output: ffmpeg complains of two words for one stream.
    let each = taken.into_iter().enumerate().flat_map(|(nth, (_, how))| {
        let words = match how {
            How::Theirs => return Vec::<String>::new(),
            How::Copied => vec!["copy".to_owned()],
            How::WithHeaders => {
                ["copy", &format!("-bsf:{nth}"), "dump_extra=freq=keyframe"].map(str::to_owned).to_vec()
            }
            How::Transcoded(words) => words,
        };
        std::iter::once(format!("-c:{nth}")).chain(words).collect()
    });
    codecs(output, if copied { Vec::new() } else { each.collect() }, &mut arguments);
    Plan { arguments, remarks }
}

fn left_out(what: &str, index: usize) -> String {
    format!(
        "{what} (stream {index}) is lost on the way through ffmpeg; feed the MPEG-TS itself (standard input, udp://, \
         srt://, http://) to keep it"
    )
}

/// Says that MPEG-TS came with a stream that ffmpeg knows nothing of.
fn unknown(stream_type: u8, index: usize) -> String {
    format!(
        "stream {index} is of a kind that ffmpeg does not know (stream type {stream_type:#04x}), and is left out; if it is the \
         picture, as encoders send AV1 and VP9 in MPEG-TS, let the encoder send H.264 or HEVC"
    )
}

/// How streams are coded: copied, or as `each` says, but for the kinds that the user's words are about. Left to itself, ffmpeg
/// would make MPEG-2 pictures and sound of whatever they do not name.
fn codecs(output: &[String], each: Vec<String>, arguments: &mut Vec<String>) {
    let [video, audio] = ['v', 'a'].map(|letter| about(output, letter));
    let has_each = !each.is_empty();
    if output.is_empty() && !has_each {
        arguments.extend(["-c".to_owned(), "copy".to_owned()]);
    }
    arguments.extend(each);
    if !output.is_empty() {
        for (said, letter, encoder) in [(video, 'v', TO_VIDEO[0]), (audio, 'a', TO_AUDIO)] {
            let codec = match said {
                About::Nothing if has_each => continue,
                About::Nothing => "copy",
                About::Coding => encoder,
                About::Codec => continue,
            };
            arguments.extend([format!("-c:{letter}"), codec.to_owned()]);
        }
        if !has_each {
            arguments.extend(["-c:s", "copy", "-c:d", "copy"].map(String::from));
        }
    }
    arguments.extend_from_slice(output);
}

fn has_own_map(output: &[String]) -> bool {
    output.iter().any(|word| word == "-map")
}

/// Of several programs the one that is wanted, or the variant of the greatest rate, or the first with pictures, or the
/// first with sound.
fn choose<'a>(programs: &'a [Program], wanted: Option<u16>, streams: &[Stream]) -> Option<&'a Program> {
    if let Some(wanted) = wanted
        && let Some(program) = programs.iter().find(|program| program.number == u32::from(wanted))
    {
        return Some(program);
    }
    let has = |program: &Program, kind: Kind| {
        streams.iter().any(|stream| stream.kind == kind && program.streams.contains(&stream.index))
    };
    // Of equals, max_by_key takes the last.
    programs
        .iter()
        .rev()
        .max_by_key(|program| (has(program, Kind::Video), program.bit_rate, has(program, Kind::Audio)))
}

fn pictures(stream: &Stream, output: &[String], flaws: Flaws, remarks: &mut Vec<String>) -> How {
    if about(output, 'v') != About::Nothing {
        return How::Theirs;
    }
    let codec = stream.codec.as_str();
    let why = match () {
        () if !VIDEO.contains(&codec) => "MPEG-TS cannot carry them",
        () if stream.turned => "they are to be turned before they are shown, which MPEG-TS cannot say",
        () if flaws.untimed => "they come without times, and not in the order in which they are shown",
        // In MPEG-TS they stand before key frames already.
        () if WITHOUT_HEADERS.contains(&codec) && stream.stream_type.is_none() => return How::WithHeaders,
        () => return How::Copied,
    };
    remarks.push(format!(
        "pictures of kind {} (stream {}) are transcoded to H.264, which takes much of a processor: {why}; choose how with \
         --ffmpeg-output-args \"-c:v libx264 -preset veryfast -g 50 -c:a copy\"",
        stream.codec, stream.index
    ));
    How::Transcoded(TO_VIDEO.iter().map(|word| (*word).to_owned()).collect())
}

fn sound(stream: &Stream, output: &[String], flaws: Flaws, remarks: &mut Vec<String>) -> How {
    if about(output, 'a') != About::Nothing {
        return How::Theirs;
    }
    let codec = stream.codec.as_str();
    let why = match () {
        () if !AUDIO.contains(&codec) => "MPEG-TS cannot carry it",
        () if stream.bare && stream.stream_type != Some(ADTS)
            || flaws.bare_sound && codec == "aac" && stream.stream_type != Some(ADTS) =>
        {
            "the file or encoder does not say how it is coded (it lacks an AudioSpecificConfig), which ffmpeg guesses"
        }
        () => return How::Copied,
    };
    remarks.push(format!(
        "sound of kind {codec} (stream {}) is transcoded to AAC: {why}; choose how with --ffmpeg-output-args \"-c:v copy \
         -c:a aac -b:a 96k\"",
        stream.index
    ));
    How::Transcoded(vec![TO_AUDIO.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::{
        super::listing::tests::{MASTER, TUNER, listing},
        *,
    };

    fn streams(streams: &[&str]) -> Listing {
        let lines = streams.iter().enumerate().map(|(n, stream)| format!("  Stream #0:{n}: {stream}\n"));
        let head = "Input #0, matroska,webm, from 'x':\n  Duration: N/A, start: 0, bitrate: N/A\n".to_owned();
        listing(&(head + &lines.collect::<String>()))
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_can_be_carried_is_copied_without_another_start() {
        for listing in [
            streams(&["Video: h264 (High), yuv420p", "Audio: aac (LC), 48000 Hz", "Audio: ac3, 48000 Hz"]),
            streams(&["Audio: mp3, 44100 Hz"]),
            streams(&["Video: hevc, yuv420p", "Data: klv (KLVA / 0x41564C4B)", "Subtitle: dvb_subtitle"]),
        ] {
            assert_eq!(of(&listing, None, &[], Flaws::default()), blind(&[]));
        }
        assert!(blind(&[]).arguments.join(" ").contains("-c copy"));
    }

    #[test]
    fn the_best_variant_with_its_own_sound() {
        let plan = of(&listing(MASTER), None, &[], Flaws::default());
        assert_eq!(plan.arguments, words("-map 0:2 -map 0:3 -c copy"));
        assert!(plan.remarks.is_empty());
        assert_eq!(
            of(&listing(MASTER), Some(0), &[], Flaws::default()).arguments,
            words("-map 0:0 -map 0:1 -c copy")
        );
    }

    #[test]
    fn teletext_stays_and_scte_35_is_named() {
        let plan = of(&listing(TUNER), None, &[], Flaws::default());
        assert_eq!(plan.arguments, words("-map 0:0 -map 0:1 -map 0:2 -c copy"));
        let [remark] = &plan.remarks[..] else { panic!("{:?}", plan.remarks) };
        assert!(remark.contains("scte_35 (stream 3)"), "{remark}");
    }

    #[test]
    fn a_stream_that_ffmpeg_does_not_know_is_named() {
        // As ffmpeg 5.1 lists AV1 in MPEG-TS.
        let av1 = streams(&["Data: bin_data ([6][0][0][0] / 0x0006)", "Audio: aac (LC), 48000 Hz"]);
        let plan = of(&av1, None, &[], Flaws::default());
        let [remark] = &plan.remarks[..] else { panic!("{:?}", plan.remarks) };
        assert!(remark.contains("stream 0") && remark.contains("0x06") && remark.contains("AV1"), "{remark}");
        // What an MP4 keeps for itself is nothing that is missed.
        let film = streams(&["Video: h264 (High), yuv420p", "Data: bin_data (text / 0x74786574)"]);
        assert!(of(&film, None, &[], Flaws::default()).remarks.is_empty());
    }

    #[test]
    fn what_cannot_be_carried_is_transcoded_or_named() {
        let camera = streams(&["Video: h264 (Main), yuv420p", "Audio: pcm_alaw, 8000 Hz, mono"]);
        let plan = of(&camera, None, &[], Flaws::default());
        assert_eq!(plan.arguments, words("-map 0:0 -map 0:1 -c:0 copy -c:1 aac"));
        assert!(plan.remarks[0].contains("pcm_alaw"), "{:?}", plan.remarks);

        let web = streams(&["Video: vp9, yuv420p", "Audio: opus", "Audio: vorbis", "Subtitle: webvtt"]);
        let plan = of(&web, None, &[], Flaws::default());
        let text = plan.arguments.join(" ");
        assert!(text.starts_with("-map 0:0 -map 0:1 -map 0:2 -c:0 libx264"), "{text}");
        assert!(text.ends_with("-c:1 copy -c:2 aac"), "{text}");
        assert_eq!(plan.remarks.len(), 3);
    }

    #[test]
    fn pictures_that_are_turned_or_come_without_times_are_transcoded() {
        let mut phone = streams(&["Video: h264 (High), yuv420p", "Audio: aac (LC), 48000 Hz"]);
        assert_eq!(of(&phone, None, &[], Flaws::default()), blind(&[]));
        for plan in [of(&phone, None, &[], Flaws { untimed: true, ..Flaws::default() }), {
            phone.streams[0].turned = true;
            of(&phone, None, &[], Flaws::default())
        }] {
            let text = plan.arguments.join(" ");
            assert!(
                text.starts_with("-map 0:0 -map 0:1 -c:0 libx264") && text.ends_with("-c:1 copy"),
                "{text}"
            );
            assert_eq!(plan.remarks.len(), 1);
        }
    }

    #[test]
    fn what_does_not_say_what_it_is_is_decoded_or_gets_its_headers() {
        let sound = |text: &str| streams(&["Video: h264 (High), yuv420p", text]);
        for bare in [
            "Audio: aac (mp4a / 0x6134706D), 44100 Hz, stereo, fltp, 69 kb/s",
            "Audio: aac, 44100 Hz, stereo, fltp",
            "Audio: aac ([255][0][0][0] / 0x00FF), 44100 Hz, stereo, fltp",
        ] {
            let plan = of(&sound(bare), None, &[], Flaws::default());
            assert_eq!(plan.arguments, words("-map 0:0 -map 0:1 -c:0 copy -c:1 aac"), "{bare}");
            assert!(plan.remarks[0].contains("AudioSpecificConfig"), "{:?}", plan.remarks);
        }
        // Where nothing was decoded yet, ffmpeg says so when it writes it.
        let unseen = sound("Audio: aac (mp4a / 0x6134706D), 44100 Hz, stereo, 69 kb/s");
        assert_eq!(of(&unseen, None, &[], Flaws::default()), blind(&[]));
        let flaws = Flaws { bare_sound: true, ..Flaws::default() };
        assert_eq!(of(&unseen, None, &[], flaws).arguments, words("-map 0:0 -map 0:1 -c:0 copy -c:1 aac"));

        let old =
            streams(&["Video: mpeg4 (Simple Profile) (mp4v / 0x7634706D), yuv420p", "Audio: mp3, 44100 Hz"]);
        let plan = of(&old, None, &[], Flaws::default());
        let expected = "-map 0:0 -map 0:1 -c:0 copy -bsf:0 dump_extra=freq=keyframe -c:1 copy";
        assert_eq!((plan.arguments, plan.remarks), (words(expected), Vec::new()));
    }

    #[test]
    fn the_users_words_win() {
        let output = words("-c:v libx264 -c:a aac");
        let camera = streams(&["Video: mjpeg, yuvj422p", "Audio: pcm_alaw, 8000 Hz, mono"]);
        let plan = of(&camera, None, &output, Flaws::default());
        assert_eq!(plan, blind(&output));
        assert!(plan.remarks.is_empty());
        // What they do not name goes out as it would without them.
        let plain = streams(&["Video: h264 (High), yuv420p", "Audio: aac (LC), 48000 Hz, stereo, fltp"]);
        let coded = |input: &Listing, output: &str| {
            let arguments = of(input, None, &words(output), Flaws::default()).arguments.join(" ");
            arguments.split_once("-c:").map_or(String::new(), |(_, rest)| format!("-c:{rest}"))
        };
        let copied = "-c:v copy -c:a copy -c:s copy -c:d copy -metadata a=b -ignore_unknown";
        assert_eq!(coded(&plain, "-metadata a=b"), copied);
        assert!(coded(&plain, "-c:v libx264").starts_with("-c:a copy"), "{}", coded(&plain, "-c:v libx264"));
        assert!(coded(&plain, "-vf scale=640:-2").starts_with("-c:v libx264 -c:a copy"));
        let half = coded(&camera, "-c:v libx264");
        assert_eq!(half, "-c:1 aac -c:v libx264");
        let own = words("-map 0:1 -c copy");
        assert!(!of(&camera, None, &own, Flaws::default()).arguments.contains(&"0:V:0?".to_owned()));
        // Of a master playlist they have the best variant, too.
        let plan = of(&listing(MASTER), None, &output, Flaws::default());
        assert!(plan.arguments.join(" ").starts_with("-map 0:2 -map 0:3 "), "{plan:?}");
    }
}
