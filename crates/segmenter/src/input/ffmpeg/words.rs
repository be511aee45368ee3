//! What ffmpeg says: listened to by a thread of its own, so that ffmpeg never waits for us.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{BufRead as _, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use super::{super::hls::Aired, listing::Listing};

/// Lines that are kept for when ffmpeg dies.
const LAST_LINES: usize = 4;
/// A line is cut off here.
const MAX_LINE: u64 = 1000;
/// Warnings that wait to be passed on, and different ones of one ffmpeg that are.
const MAX_WARNINGS: usize = 16;
/// What ffmpeg says when an HLS playlist cannot be had any more.
const PLAYLIST_LOST: &str = "Failed to reload playlist";
/// What it says when the first picture comes without the time at which it is to be shown.
const UNTIMED: &str = "first pts and dts value must be set";
/// What it says when it gives up to find out what AAC sound without a description is, and writes it as it is.
const BARE_SOUND: &str = "AAC bitstream not in ADTS format and extradata missing";
/// What it says of pictures with neither start codes in them nor a description beside them.
const BARE_PICTURES: (&str, &str) = ("extract_extradata", "No start code is found");
/// What it says when a file, or a server's answer, is shorter than it should be.
const CUT_SHORT: &[&str] = &[
    "partial file",
    "File ended prematurely",
    "Stream ends prematurely",
    "Input/output error",
    "Connection timed out",
    "Connection reset by peer",
    "Failed to reconnect",
];
/// What it says before it asks a server for the rest.
const GOES_ON: &str = "Will reconnect at";
/// What it says when what was cut off is within a packet.
const CORRUPT: &str = "corrupt input packet";
/// What it says when it guesses what bytes are, and when that is more than the name it goes by: parts of films have 25.
const LOW_SCORE: &str = "detected only with low score of ";
const NO_MERE_GUESS: u32 = 5;
/// How it says that it only believes to know how long something is.
const ESTIMATED: &str = "Estimating duration from bitrate";
/// What stands before how much it has written, in its last words.
const WRITTEN: &str = " time=";
/// Warnings that say nothing that a broadcaster could mend, or that we say ourselves.
const IDLE_TALK: &[&str] = &[
    "Consider increasing the value",
    "Could not find codec parameters",
    "Estimating duration from bitrate",
    "Guessed Channel Layout",
    "No trailing CRLF found in HTTP header",
    "deprecated",
    "detected only with low score",
    "does not match the expected", // of ID3 tags
    "Found duplicated MOOV Atom",  // each segment of fragmented MP4 behind HLS begins with one
    "frame size not set",
    "is muxed as a private data stream",
    "max_analyze_duration",
    "mime type is not rfc8216 compliant",
    "parameters: none",
    "per frame requested, clamping to max", // a camera's 8 kHz
    "should be 18446744073709551615",       // an answer without a length has ended
    "start time for stream",
    "Timestamps are unset in a packet",
    "unsupported type",
];

/// What the SRT library says, without a level, when it turns a sender away or is turned away, and what that means.
const REJECTED: &[(&str, Rejected)] = &[
    ("Incorrect passphrase", Rejected::WrongPassphrase),
    ("BADSECRET", Rejected::WrongPassphrase),
    ("Password required or unexpected", Rejected::OnePassphrase),
    ("ERROR:UNSECURE", Rejected::OnePassphrase),
];

/// Levels of ffmpeg's log, as `-loglevel level+…` puts them before a line.
const LOUD: &[&str] = &["[panic] ", "[fatal] ", "[error] ", "[warning] "];
const QUIET: &[&str] = &["[info] ", "[verbose] ", "[debug] ", "[trace] "];

/// What has been heard so far.
#[derive(Debug, Default)]
struct Heard {
    listing: Listing,
    /// Segments of a playlist that it opened.
    aired: Aired,
    last: VecDeque<String>,
    warnings: VecDeque<String>,
    /// Warnings that were passed on, without their numbers.
    passed: BTreeSet<String>,
    signs: Signs,
    ended: bool,
}

/// What ffmpeg's words show of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// A playlist could not be had any more.
    pub playlist_lost: bool,
    /// The first picture came without its time.
    pub untimed: bool,
    /// AAC sound came without a description, and was written without.
    pub bare_sound: bool,
    /// Pictures came without a description.
    pub bare_pictures: bool,
    /// There is less than there should be.
    pub cut_short: bool,
    /// A packet is not whole.
    pub corrupt: bool,
    /// What the bytes are was a guess.
    pub guessed: bool,
    /// How long it is was a guess.
    pub estimated: bool,
    /// So much was written in all.
    pub written: Option<Duration>,
    /// The two ends of an SRT connection did not agree.
    pub rejected: Option<Rejected>,
}

/// Why there is no SRT connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Each end has a passphrase, and they differ.
    WrongPassphrase,
    /// One end has a passphrase, and the other has none.
    OnePassphrase,
}

/// The end of what ffmpeg said.
pub struct LastWords {
    /// Its last lines.
    pub lines: Vec<String>,
    /// What all that it said shows.
    pub signs: Signs,
}

/// Listens to one ffmpeg.
#[derive(Debug)]
pub struct Words {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Words {
    /// Listens to `stderr` until its end.
    pub fn listen(stderr: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let ours = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            listen(stderr, &ours);
            ours.lock().ended = true;
            ours.changed.notify_all();
        });
        Self { shared, thread: Some(thread) }
    }

    /// What is in the input, once ffmpeg has said all of it or is gone; waits so long for that.
    pub fn listing(&self, patience: Duration) -> Option<Listing> {
        let heard = self.shared.lock();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(heard, patience, |heard| !heard.listing.is_complete() && !heard.ended);
        let (heard, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (heard.listing.is_complete() || heard.ended).then(|| heard.listing.clone())
    }

    /// The segments of a playlist that ffmpeg has opened.
    pub fn aired(&self) -> Aired {
        self.shared.lock().aired.clone()
    }

    /// What its words have shown so far.
    pub fn signs(&self) -> Signs {
        self.shared.lock().signs
    }

    /// A warning that was not passed on yet.
    pub fn warning(&self) -> Option<String> {
        self.shared.lock().warnings.pop_front()
    }

    /// Waits until ffmpeg has closed its standard error.
    pub fn end(&mut self) -> LastWords {
        if let Some(thread) = self.thread.take() {
            // A panic there loses its words only, and so does somebody who holds its standard error.
            let _ = super::joined(thread);
        }
        let mut heard = self.shared.lock();
        let lines = heard.last.drain(..).collect();
        LastWords { lines, signs: heard.signs }
    }

    /// What is wrong is told otherwise.
    pub fn forget_all(&self) {
        self.shared.lock().warnings.clear();
    }

    /// These lines are told otherwise.
    pub fn forget(&self, lines: &[String]) {
        self.shared.lock().warnings.retain(|warning| !lines.contains(warning));
    }
}

fn listen(stderr: impl Read, shared: &Shared) {
    let mut reader = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let mut heard = shared.lock();
        heard.take(text.trim_end());
        drop(heard);
        shared.changed.notify_all();
    }
}

impl Heard {
    fn take(&mut self, line: &str) {
        if is_of_srt(line) {
            // Its other lines are about its own inside.
            if let Some((_, why)) = REJECTED.iter().find(|(words, _)| line.contains(words))
                && self.signs.rejected.replace(*why) != Some(*why)
            {
                let sentence = match why {
                    Rejected::WrongPassphrase => {
                        "an SRT connection was refused: the passphrases of the two ends differ"
                    }
                    Rejected::OnePassphrase => {
                        "an SRT connection was refused: one end has a passphrase, and the other has none"
                    }
                };
                self.warnings.push_back(sentence.to_owned());
            }
            return;
        }
        let line = without_address(line);
        let find = |tags: &[&str]| {
            // The level stands first or after what speaks.
            let place = if line.starts_with('[') { line.find("] [").map(|at| at + 2) } else { None };
            [Some(0), place].into_iter().flatten().find_map(|at| {
                let tag = tags.iter().find(|tag| line[at..].starts_with(**tag))?;
                Some(format!("{}{}", &line[..at], &line[at + tag.len()..]))
            })
        };
        if let Some(text) = find(QUIET) {
            self.listing.line(&text);
            self.aired.hear(&text);
            if let Some((_, rest)) = text.rsplit_once(WRITTEN) {
                self.signs.written = rest.split(' ').next().and_then(clock);
            }
            return;
        }
        let loud = find(LOUD);
        let is_loud = loud.is_some();
        let text = loud.unwrap_or(line).trim().to_owned();
        if text.is_empty() {
            return;
        }
        self.signs.hear(&text);
        if IDLE_TALK.iter().any(|idle| text.contains(idle)) {
            return;
        }
        if is_loud && self.passed.len() < MAX_WARNINGS && self.passed.insert(kind(&text)) {
            self.warnings.push_back(text.clone());
        }
        self.last.retain(|line| *line != text);
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(text);
    }
}

impl Signs {
    fn hear(&mut self, line: &str) {
        let says = |text: &str| line.contains(text);
        self.playlist_lost |= says(PLAYLIST_LOST);
        self.untimed |= says(UNTIMED);
        self.bare_sound |= says(BARE_SOUND);
        self.bare_pictures |= says(BARE_PICTURES.0) && says(BARE_PICTURES.1);
        self.cut_short = !says(GOES_ON) && (self.cut_short || CUT_SHORT.iter().any(|text| says(text)));
        self.corrupt |= says(CORRUPT);
        let score =
            line.split_once(LOW_SCORE).and_then(|(_, rest)| rest.split(',').next()?.parse::<u32>().ok());
        self.guessed |= score.is_some_and(|score| score < NO_MERE_GUESS);
        self.estimated |= says(ESTIMATED);
    }
}

/// Whether the SRT library speaks, as in `11:09:24.526664/SRT:RcvQ:w1!W:SRT.cn: …`.
fn is_of_srt(line: &str) -> bool {
    line.split_once("/SRT:").is_some_and(|(time, _)| {
        time.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.'))
    })
}

/// Reads a time as ffmpeg writes it: `00:00:08.03`.
pub fn clock(text: &str) -> Option<Duration> {
    let mut parts = text.splitn(3, ':');
    let hours: u64 = parts.next()?.parse().ok()?;
    let minutes: u64 = parts.next()?.parse().ok()?;
    let seconds = Duration::try_from_secs_f64(parts.next()?.parse().ok()?).ok()?;
    let whole = hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?;
    Duration::from_secs(whole).checked_add(seconds)
}

/// A line without its numbers: lines of one kind differ in those.
fn kind(line: &str) -> String {
    line.chars().filter(|character| !character.is_ascii_digit()).collect()
}

/// ffmpeg begins its lines with what speaks and where that lies in memory, as in `[http @ 0x564b516f0240] `: of no use,
/// and never twice the same.
fn without_address(line: &str) -> String {
    let Some((before, after)) = line.split_once(" @ 0x") else { return line.to_owned() };
    let after = after.trim_start_matches(|character: char| character.is_ascii_hexdigit());
    format!("{before}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn warnings_are_passed_on_once_and_the_listing_is_none_of_them() {
        let said = "[info] Input #0, hls, from 'x':\n[info]   Duration: N/A, start: 0\n\
            [info]   Stream #0:0: Audio: aac, 48000 Hz\n\
            [warning] Guessed Channel Layout for Input Stream #0.1 : mono\n\
            [mpegts @ 0x5ab] [warning] Non-monotonous DTS 17 in output stream 0\n\
            [mpegts @ 0x5ab] [warning] Non-monotonous DTS 18 in output stream 0\n\
            [hls @ 0x5ab] [error] Failed to reload playlist 0\n[info] Output #0, mpegts, to 'pipe:1':\n";
        let mut words = Words::listen(said.as_bytes());
        let listing = words.listing(PATIENCE).unwrap();
        assert!(listing.is_complete());
        assert_eq!(listing.streams.len(), 1);
        let last = words.end();
        let warnings: Vec<_> = std::iter::from_fn(|| words.warning()).collect();
        assert_eq!(
            warnings,
            ["[mpegts] Non-monotonous DTS 17 in output stream 0", "[hls] Failed to reload playlist 0"]
        );
        assert!(last.signs.playlist_lost);
        assert_eq!(last.lines.len(), 3);
    }

    #[test]
    fn a_passphrase_that_does_not_fit_is_told_in_plain_words_and_once() {
        let said = "11:09:24.526664/SRT:RcvQ:w1!W:SRT.cn: KMREQ/rcv: (snd) Rx process failure - BADSECRET\n\
            11:09:24.527013/SRT:RcvQ:w1*E:SRT.cn: interpretSrtHandshake: KMREQ result abnornal - rejecting\n\
            11:09:24.527048/SRT:RcvQ:w1!W:SRT.cn: processConnectRequest: rsp(REJECT): 1010 - Incorrect passphrase\n\
            11:09:25.527048/SRT:RcvQ:w1!W:SRT.cn: processConnectRequest: rsp(REJECT): 1010 - Incorrect passphrase\n";
        let mut words = Words::listen(said.as_bytes());
        let last = words.end();
        assert_eq!((last.signs.rejected, last.lines.len()), (Some(Rejected::WrongPassphrase), 0));
        let warning = words.warning().unwrap();
        assert!(warning.contains("passphrases") && !warning.contains("REJECT"), "{warning}");
        assert_eq!(words.warning(), None);
        let said = "11:09:29.98/SRT:RcvQ:w1!W:SRT.cn: processAsyncConnectRequest: REJECT reported from HS processing: \
            Password required or unexpected - not processing further\n";
        let one = Words::listen(said.as_bytes()).end().signs.rejected;
        assert_eq!(one, Some(Rejected::OnePassphrase));
    }

    #[test]
    fn signs_of_what_is_wrong_with_an_input() {
        let said = "[extract_extradata @ 0x5ab] [error] No start code is found.\n\
            [mp3 @ 0x5ab] [warning] Format mp3 detected only with low score of 1, misdetection possible!\n\
            [mov,mp4 @ 0x5ab] [error] stream 0, offset 0x1: partial file\n\
            [info] frame=   14 fps=0.0 q=-1.0 Lsize=     90kB time=01:02:03.40 bitrate=  64.0kbits/s\n";
        let mut words = Words::listen(said.as_bytes());
        let Signs { bare_pictures, bare_sound, guessed, cut_short, written, .. } = words.end().signs;
        assert!(bare_pictures && guessed && cut_short && !bare_sound);
        assert_eq!(written, Some(Duration::from_millis(3_723_400)));
        for text in ["", "N/A", "1:2", "-1:00:00", "00:00:NaN", "18446744073709551615:9:1"] {
            assert_eq!(clock(text), None, "{text}");
        }
    }
}
