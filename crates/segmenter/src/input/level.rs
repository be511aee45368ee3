//! One input under watch: opened again when it fails, ends or falls silent, as its kind allows.
//!
//! Rule: nothing that a stranger or a broken encoder sends to where others can send ends the broadcast. What one writer of a
//! named pipe brings is his; the next one is waited for.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use minuet_node::Backoff;

use super::{Input, InputError, InputOptions, Read, Source, file, hls::Aired, remark::Remark};

/// The first wait before an input is opened again, and the longest.
const REOPEN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// How often the same failure is complained about.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(300);
/// An input that ran so long was well: its next failure is its first.
const WELL: Duration = Duration::from_secs(20);
/// ffmpeg may look for so long at what comes before it makes something of it: it looks at 5 s of media, and at most 5 MB. A
/// stranger's few bytes would keep it for ever, and the encoder out.
const LOOKS_LONGEST: Duration = Duration::from_secs(15);
/// How often a live playlist that stands still is looked at: most have segments of 2 to 6 s.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// More different remarks than this are not made.
const MAX_REMARKS: usize = 64;

/// An input, open or to be opened.
#[derive(Debug)]
pub struct Level {
    input: Input,
    options: InputOptions,
    source: Option<Source>,
    /// When it was opened last.
    opened: Instant,
    /// When bytes last came, or else it was opened.
    heard: Instant,
    /// Bytes have come since it was opened.
    fruitful: bool,
    /// How often it has been opened.
    pub connection: u64,
    backoff: Backoff,
    retry_at: Instant,
    /// It has ended for good.
    pub ended: bool,
    /// It is a named pipe, or an RTP session that worked: its failure is that of a writer.
    lasting: bool,
    /// It has brought something that could be broadcast.
    used: bool,
    /// What has been on air of it, if it is a live playlist.
    aired: Aired,
    /// It was said that the playlist stands still.
    stands: bool,
    /// What was complained of last, and when.
    complaint: Option<(String, Instant)>,
    /// Remarks that were made: each is made once.
    told: BTreeSet<Remark>,
}

impl Level {
    /// An input that is opened when it is first read.
    pub fn closed(input: Input, options: InputOptions) -> Self {
        let now = Instant::now();
        Self {
            input,
            options,
            source: None,
            opened: now,
            heard: now,
            fruitful: false,
            connection: 0,
            backoff: Backoff::new(REOPEN.0, REOPEN.1),
            retry_at: now,
            ended: false,
            lasting: false,
            used: false,
            aired: Aired::default(),
            stands: false,
            complaint: None,
            told: BTreeSet::new(),
        }
    }

    /// An input that is open.
    pub fn open(input: Input, options: InputOptions, source: Source) -> Self {
        let mut level = Self { source: Some(source), connection: 1, ..Self::closed(input, options) };
        level.note_kind();
        level
    }

    /// Whether there is a connection.
    pub fn is_open(&self) -> bool {
        self.source.is_some() && !self.ended
    }

    /// How long nothing has come.
    pub fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }

    /// Whether it has been on air.
    pub fn was_on_air(&self) -> bool {
        self.used
    }

    /// Whether it was made before, and has a length.
    pub fn is_recorded(&self) -> bool {
        self.source.as_ref().is_some_and(Source::is_recorded)
    }

    /// Whether the user wants it as fast as it comes.
    pub fn is_hurried(&self) -> bool {
        self.options.realtime == Some(false)
    }

    /// Whether whoever reads it passes one program on. What stands in is not chosen from.
    pub fn has_chosen(&self) -> bool {
        self.options.program.is_none() || self.source.as_ref().is_some_and(Source::has_chosen)
    }

    /// What it is, for a log line.
    pub fn name(&self) -> String {
        self.input.to_string()
    }

    /// Gives up the connection until it is read again.
    pub fn close(&mut self) {
        self.leave();
        self.fruitful = false;
        let now = Instant::now();
        (self.heard, self.retry_at, self.ended) = (now, now, false);
    }

    /// Reads, and opens first what is due to be opened; `Read::End` only at an end for good.
    pub fn read(
        &mut self,
        buf: &mut [u8],
        patience: Duration,
        silence: Duration,
    ) -> Result<Read, InputError> {
        if self.ended {
            std::thread::sleep(patience);
            return Ok(Read::End);
        }
        let source = match &mut self.source {
            Some(source) => source,
            None => {
                let wait = self.retry_at.saturating_duration_since(Instant::now());
                if !wait.is_zero() {
                    std::thread::sleep(wait.min(patience));
                    return Ok(Read::Idle);
                }
                match Source::open_after(&self.input, &self.options, self.aired.clone()) {
                    Ok(source) => {
                        self.note_kind();
                        self.opened = Instant::now();
                        self.connection += 1;
                        self.source.insert(source)
                    }
                    Err(error) => return self.failed(error),
                }
            }
        };
        let read = source.read(buf, patience);
        while let Some(remark) = source.remark() {
            if self.told.len() < MAX_REMARKS && self.told.insert(remark.clone()) {
                match remark {
                    Remark::Word(text) => tracing::info!("{text}"),
                    Remark::Warning(text) => tracing::warn!("{text}"),
                }
            }
        }
        if let Some(loss) = source.loss() {
            tracing::warn!("{loss}");
        }
        let looking = source.is_looking_for().is_some_and(|since| since >= LOOKS_LONGEST);
        match read {
            Ok(Read::Data(len)) => {
                self.heard = Instant::now();
                (self.fruitful, self.stands) = (true, false);
                Ok(Read::Data(len))
            }
            Ok(Read::Idle) => {
                // One that waits for an encoder to come is left alone; one that went dead is not.
                // What has a length would begin again; whoever reads it asks for the rest.
                let goes_on = self.input.reopens() && !source.is_recorded();
                if self.fruitful && goes_on && self.silent_for() >= silence {
                    tracing::info!("opening {} again", self.input);
                    self.put_off();
                } else if looking && self.input.reopens() {
                    tracing::warn!(
                        "ffmpeg makes nothing of what came at {} for {} s; waiting for whoever comes next",
                        self.input,
                        LOOKS_LONGEST.as_secs()
                    );
                    self.put_off();
                }
                Ok(Read::Idle)
            }
            Ok(Read::End) if source.is_endless() => {
                self.put_off();
                tracing::info!("{} was closed by the other side; opening it again", self.input);
                Ok(Read::Idle)
            }
            Ok(Read::End) => {
                self.ended = true;
                Ok(Read::End)
            }
            Err(error) => self.failed(error),
        }
    }

    /// What it sends cannot be used: ffmpeg tries, or it is opened again, if that may help.
    pub fn reject(&mut self, error: InputError) -> Result<(), InputError> {
        if let Some(source) = &mut self.source
            && source.reject(&error)?
        {
            self.ended = false;
            return Ok(());
        }
        self.failed(error).map(|_| ())
    }

    /// What it sends can be used as it is.
    pub fn accepted(&mut self) {
        if self.lasting {
            // What the next writer brings is news, and it is soon waited for.
            self.complaint = None;
            self.backoff.succeeded();
        }
        if !self.used {
            self.used = true;
            self.lasting |= matches!(&self.input, Input::File(path) if file::is_endless(path));
        }
        if let Some(source) = &mut self.source {
            source.accepted();
        }
    }

    fn failed(&mut self, error: InputError) -> Result<Read, InputError> {
        if let InputError::NothingNew { over, stands, aired, .. } = &error {
            self.aired = (**aired).clone();
            return Ok(self.stand_still(*over, *stands, &error));
        }
        if let InputError::Early { .. } = &error {
            return self.broke_off(error);
        }
        // Some things no other try does better, unless others send what is wrong.
        let theirs = self.lasting || self.used || matches!(self.input, Input::Udp(_));
        let hopeless = matches!(error, InputError::NoFfmpeg { .. } | InputError::UnknownScheme(_));
        if !(self.input.reopens() || self.lasting) || hopeless && !theirs {
            return Err(error);
        }
        let error = error.to_string();
        let came = self.source.as_ref().and_then(Source::came);
        // Before it is said: who hears of it may write at once.
        self.put_off();
        let told = |(text, at): &(String, Instant)| *text == error && at.elapsed() < COMPLAINT_INTERVAL;
        if !self.complaint.as_ref().is_some_and(told) {
            match came {
                Some(came) => tracing::warn!(
                    "a writer of {} brought {came} bytes that cannot be broadcast: {error}; waiting for the next writer",
                    self.input
                ),
                None => tracing::warn!("{error}; trying again"),
            }
            self.complaint = Some((error, Instant::now()));
        }
        Ok(Read::Idle)
    }

    /// Something with a length broke off, and cannot go on from there: its beginning is no news. In a loop it is what comes
    /// next.
    fn broke_off(&mut self, error: InputError) -> Result<Read, InputError> {
        if !self.options.repeat {
            self.leave();
            self.ended = true;
            return Err(error);
        }
        self.put_off();
        let warning = Remark::Warning(format!("{error}; it begins again"));
        if self.told.len() < MAX_REMARKS && self.told.insert(warning) {
            tracing::warn!("{error}; it begins again");
        }
        Ok(Read::Idle)
    }

    /// A live playlist has nothing that was not on air.
    fn stand_still(&mut self, over: bool, stands: bool, error: &InputError) -> Read {
        self.source = None;
        self.fruitful = false;
        self.retry_at = Instant::now() + LOOK_AGAIN;
        if over {
            self.ended = true;
            return Read::End;
        }
        if stands && !std::mem::replace(&mut self.stands, true) {
            tracing::warn!("{error}");
        }
        Read::Idle
    }

    fn put_off(&mut self) {
        self.leave();
        if self.fruitful && self.opened.elapsed() >= WELL {
            self.backoff.succeeded();
        }
        self.fruitful = false;
        self.retry_at = Instant::now() + self.backoff.failed(rand::random());
    }

    /// Gives up the connection, and remembers what has been on air of it.
    fn leave(&mut self) {
        if let Some(aired) = self.source.take().and_then(|source| source.aired()) {
            self.aired = aired;
        }
    }

    /// A named pipe stays one when whoever made it makes it anew.
    fn note_kind(&mut self) {
        self.lasting |= matches!(&self.input, Input::File(path) if file::is_named_pipe(path));
    }
}
