//! What ffmpeg's words and its end say of an input: whether it can be broadcast, and whether all of it was there.

use std::{process::ExitStatus, time::Duration};

use super::{
    super::InputError,
    Job, Origin,
    listing::{Kind, Listing},
    words::{LastWords, Rejected, Signs},
};

/// Formats in which any bytes are a picture: ffmpeg draws them as text.
const ANY_BYTES: &[&str] = &["tty", "bin", "xbin", "adf", "idf"];
/// One picture lasts no longer than this, by ffmpeg's account.
const ONE_PICTURE: Duration = Duration::from_millis(100);
/// What is taken may be so much shorter than the whole, of which it is a part (another track is longer, a picture is held):
/// two seconds, and a twentieth.
const SHORTER: (Duration, u32) = (Duration::from_secs(2), 20);

/// Why an input cannot be broadcast, now that it is known what is in it.
pub fn unfit(job: &Job, listing: &Listing, signs: Signs) -> Option<InputError> {
    // Whoever says what it is knows.
    let input = job.name.clone();
    let guessing = job.arguments.input.is_empty();
    if guessing && (signs.guessed || ANY_BYTES.contains(&listing.format.as_str())) {
        let guess = if listing.format.is_empty() { "nothing".to_owned() } else { listing.format.clone() };
        return Some(InputError::NoMedia { input, guess });
    }
    let opened = matches!(job.origin, Origin::Url(_) | Origin::StdinFile);
    if guessing && opened && !job.repeat && is_picture(listing) {
        return Some(InputError::StillPicture(input));
    }
    let pictures = listing.streams.iter().find(|stream| stream.kind == Kind::Video);
    if let Some(pictures) = pictures.filter(|stream| stream.bare && signs.bare_pictures)
        && job.arguments.output.is_empty()
    {
        return Some(InputError::WithoutHeaders { input, codec: pictures.codec.clone() });
    }
    None
}

/// Whether it is one still picture.
fn is_picture(listing: &Listing) -> bool {
    (listing.format == "image2" || listing.format.ends_with("_pipe"))
        && listing.length.is_none_or(|length| length <= ONE_PICTURE)
}

/// Whether no more has come than one still picture: of those that come through a pipe there may be many.
pub fn was_one_picture(job: &Job, listing: &Listing, signs: Signs) -> bool {
    is_picture(listing) && signs.written.is_some_and(|written| written <= ONE_PICTURE) && !job.repeat
}

/// After the end of something with a length, of which something came: a remark if there should have been more.
///
/// # Errors
/// That it broke off.
pub fn of_the_end(
    job: &Job,
    listing: &Listing,
    last: &LastWords,
    status: ExitStatus,
) -> Result<Option<String>, InputError> {
    let signs = last.signs;
    let written = signs.written.unwrap_or_default();
    // Where it goes round, what was written is no part of the whole.
    let whole = listing.length.filter(|whole| !job.repeat && !signs.estimated && *whole > written);
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    let came = match (signs.written.filter(|_| !job.repeat), whole) {
        (Some(written), Some(whole)) => format!("{} of {}", seconds(written), seconds(whole)),
        (Some(written), None) => seconds(written),
        (None, _) => "a part of it".to_owned(),
    };
    if signs.cut_short || !status.success() {
        let mut reason = job.secrets.mask(&last.lines.join("; "));
        if reason.is_empty() {
            reason = status.to_string();
        }
        return Err(InputError::Early { input: job.name.clone(), came, reason: format!("ffmpeg: {reason}") });
    }
    let missing = whole.map_or(Duration::ZERO, |whole| whole.saturating_sub(written));
    let much = whole.is_some_and(|whole| missing > SHORTER.0.max(whole / SHORTER.1));
    // The user's words may leave out as much as they like.
    Ok((much && !job.arguments.any()).then(|| {
        format!(
            "{} has ended after {came}, by its own account of its length: the rest is missing or cannot be read, or the account \
             is wrong",
            job.name
        )
    }))
}

/// Why nothing could be read of it.
pub fn failure(job: &Job, last: &LastWords, status: ExitStatus) -> InputError {
    let unknown = |url: &String| last.lines.contains(&format!("{url}: Protocol not found"));
    if matches!(&job.origin, Origin::Url(url) if unknown(url)) {
        return InputError::UnknownScheme(job.name.clone());
    }
    if let Some(why) = last.signs.rejected {
        return InputError::Passphrase {
            input: job.name.clone(),
            why: match (why, &job.origin) {
                (Rejected::WrongPassphrase, _) => {
                    "its passphrase is another than the one in the address; put the right one there"
                }
                (Rejected::OnePassphrase, Origin::Url(url)) if url.contains("passphrase=") => {
                    "it has no passphrase, and the address names one; leave that out, or set it there"
                }
                (Rejected::OnePassphrase, _) => {
                    "it has a passphrase, and the address names none; add it to the address, as its option passphrase"
                }
            },
        };
    }
    let mut last_words = job.secrets.mask(&last.lines.join("; "));
    let remedy = remedy(job, &last_words);
    last_words += remedy;
    InputError::Ffmpeg { input: job.name.clone(), status: status.to_string(), last_words }
}

/// What helps against what ffmpeg said last, as the rest of a sentence.
fn remedy(job: &Job, last_words: &str) -> &'static str {
    let says = |text: &str| last_words.contains(text);
    let url = if let Origin::Url(url) = &job.origin { url.as_str() } else { "" };
    let has_headers = job.arguments.input.iter().any(|word| word == "-headers" || word == "-cookies");
    match () {
        () if says("certificate failed verification") => "; if it is your own server, add --insecure-input",
        () if says("moov atom not found") && url.starts_with("file:") => {
            "; an MP4 has its index at its end or its beginning, and this one has none: it is cut off or still being written"
        }
        () if says("moov atom not found") || says("partial file") => {
            "; an MP4 with its index at the end must be a file, or on a server that takes ranges: have it written with \
             -movflags +faststart"
        }
        () if says("Server returned 403") && !has_headers => {
            "; if it wants a cookie or another header of those who have logged in, give it with --ffmpeg-args and ffmpeg's \
             option -headers"
        }
        () if says("Server returned 403") => "; the cookies or headers given are not those that it wants",
        () if says("Connection refused") && url.starts_with("rtmp://") => {
            "; to wait for an encoder that comes here, write an address of this machine, as 0.0.0.0, in place of the host"
        }
        () if says("Invalid data found when processing input") => "; ffmpeg finds no media in it",
        () => "",
    }
}
