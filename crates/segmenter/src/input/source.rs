//! One input, open: read by ourselves if we can, else by ffmpeg.
//!
//! Rule: what we cannot read goes to ffmpeg before the user is told no: bytes that do not look like MPEG-TS, a server
//! that speaks another HTTP, packets without usable tables. Why is said once. Files and servers ffmpeg opens itself;
//! what comes to us, it is given, from the first byte on.

mod kept;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use minuet_proto::Secrets;

use super::{
    Input, InputError, InputOptions, Read,
    dash::Manifest,
    error::Listed,
    ffmpeg::{self, Fed, Ffmpeg, Job, Origin},
    file::{self, FileInput, Kind},
    headers::{self, Place},
    hls::Aired,
    http::{self, Http},
    native::{Looks, Native, looks},
    pace::{Pace, Paced},
    pipe::Pipe,
    remark::Remark,
    rtmp::Rtmp,
    udp::Udp,
};

/// Datagrams with so much in them that is not MPEG-TS are for ffmpeg. A few of a stranger's are not enough.
const DATAGRAMS_LOOKED_AT: usize = 128 << 10;
/// Playlists that lead to playlists.
const MAX_HOPS: u32 = 3;

/// An open input.
#[derive(Debug)]
pub struct Source {
    reader: Reader,
    about: About,
    pace: Pace,
}

#[derive(Debug)]
enum Reader {
    Native(Native),
    Ffmpeg(Box<Ffmpeg>),
    /// Nobody has come yet.
    Waiting,
    Failed,
}

#[derive(Debug)]
struct About {
    input: Input,
    options: InputOptions,
    /// What ffmpeg can open.
    url: Option<String>,
    /// What was read ourselves, while ffmpeg may still have to begin with it.
    kept: Option<Vec<u8>>,
    /// So much of it was handed out; `None` until it is known to be MPEG-TS.
    handed_out: Option<usize>,
    /// It is known to have a length, or not to.
    finite: Option<bool>,
    hops: u32,
    /// Other entries of the list that led here, to be tried if this one brings nothing.
    others: VecDeque<Place>,
    /// What is said at `url`, in words for ffmpeg.
    words: Vec<String>,
    /// How many bytes the writer of a pipe has brought.
    came: Option<Arc<AtomicU64>>,
    /// Since when an ffmpeg is given what comes.
    fed: Option<Instant>,
    /// Bytes have come of it that can be used.
    fruitful: bool,
    /// Of a live playlist: what was on air when it was opened, and what was found in it then.
    aired: Aired,
    listed: Listed,
    remarks: VecDeque<Remark>,
    /// Where encoders come to; nobody else gets in while one is on air.
    door: Option<Rtmp>,
}

impl Source {
    /// Opens `input`. Must be called where a runtime is entered.
    ///
    /// # Errors
    /// What keeps it from being opened, as a sentence that names the remedy.
    pub fn open(input: &Input, options: &InputOptions) -> Result<Self, InputError> {
        Self::open_after(input, options, Aired::default())
    }

    /// The same where `aired` has been on air of it, if it is a live playlist.
    ///
    /// # Errors
    /// What keeps it from being opened, as a sentence that names the remedy.
    pub fn open_after(input: &Input, options: &InputOptions, aired: Aired) -> Result<Self, InputError> {
        if options.repeat && !matches!(input, Input::File(_)) {
            return Err(InputError::NotRepeatable(input.to_string()));
        }
        let mut about = About {
            input: input.clone(),
            options: options.clone(),
            url: None,
            kept: Some(Vec::new()),
            handed_out: None,
            finite: None,
            hops: 0,
            others: VecDeque::new(),
            words: Vec::new(),
            came: None,
            fed: None,
            fruitful: false,
            aired,
            listed: Listed::default(),
            remarks: VecDeque::new(),
            door: None,
        };
        let reader = about.open()?;
        Ok(Self { reader, about, pace: Pace::Undecided })
    }

    /// Waits as long as `patience` for bytes and puts them into `buf`, which should hold [`READ_LEN`](super::READ_LEN).
    ///
    /// # Errors
    /// What ended the input before its time, as a sentence that names the remedy.
    pub fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        let Self { reader, about, pace } = self;
        if let Pace::Own(paced) = pace {
            return paced.read(|buf, patience| reader.read(about, buf, patience), buf, patience);
        }
        let read = match reader.read(about, buf, patience) {
            Err(error) => reader.another(about, error)?,
            Ok(read) => read,
        };
        about.fruitful |= matches!(read, Read::Data(_));
        let (Pace::Undecided, Read::Data(len)) = (&pace, read) else { return Ok(read) };
        if !about.options.realtime.unwrap_or_else(|| about.is_finite(reader)) {
            *pace = Pace::None;
            return Ok(read);
        }
        *pace = Pace::Own(Box::new(Paced::new(&buf[..len])));
        Ok(Read::Idle)
    }

    /// Whether it was made before: it has a length.
    pub fn is_recorded(&self) -> bool {
        self.about.is_finite(&self.reader)
    }

    /// How many bytes the writer of a named pipe has brought, or of a device; `None` if it is neither.
    pub fn came(&self) -> Option<u64> {
        self.about.came.as_ref().map(|came| came.load(Ordering::Relaxed))
    }

    /// Whether one program of several has been chosen.
    pub fn has_chosen(&self) -> bool {
        matches!(self.reader, Reader::Ffmpeg(_))
    }

    /// How long an ffmpeg has been given what comes, and nothing has come of it.
    pub fn is_looking_for(&self) -> Option<Duration> {
        self.about.fed.filter(|_| !self.about.fruitful).map(|since| since.elapsed())
    }

    /// What has been on air of a live playlist by now; `None` if nothing has come of this connection.
    pub fn aired(&self) -> Option<Aired> {
        let Reader::Ffmpeg(ffmpeg) = &self.reader else { return None };
        let aired = ffmpeg.aired()?;
        if self.about.listed.manifest {
            return Some(Aired::all_of_manifest(Manifest::default()));
        }
        Some(aired.after(Some(self.about.listed.newest.clone()?)))
    }

    /// Whether its end is only that of a connection: what has no length and no mark of its end goes on later.
    pub fn is_endless(&self) -> bool {
        match (&self.about.input, &self.reader) {
            (Input::File(path), _) => file::is_endless(path),
            (Input::Stdin, _) => false,
            (Input::Udp(_) | Input::Rtmp(_), _) => true,
            (_, Reader::Native(native)) => !native.is_finite(),
            (_, Reader::Ffmpeg(ffmpeg)) => !ffmpeg.ends() && self.about.finite != Some(true),
            (_, Reader::Waiting | Reader::Failed) => true,
        }
    }

    /// The feed cannot be used as it is; true: ffmpeg reads it from now on.
    ///
    /// # Errors
    /// What keeps ffmpeg from it.
    pub fn reject(&mut self, error: &InputError) -> Result<bool, InputError> {
        let why = match error {
            InputError::Media(minuet_media::Error::NoProgram { .. }) => {
                "has packets of MPEG-TS without tables that name a program (PAT and PMT)"
            }
            InputError::Media(minuet_media::Error::NotMpegTs { .. }) => "is not MPEG-TS",
            _ => return Ok(false),
        };
        let Self { reader, about, pace } = self;
        if !matches!(reader, Reader::Native(_)) {
            return Ok(false);
        }
        reader.hand_over(about, why, None)?;
        *pace = Pace::Undecided;
        Ok(true)
    }

    /// The feed is usable as it is.
    pub fn accepted(&mut self) {
        let about = &mut self.about;
        if about.handed_out == about.kept.as_ref().map(Vec::len) {
            about.kept = None;
        }
    }

    /// What datagrams were lost on the way here, now and then.
    pub fn loss(&mut self) -> Option<String> {
        if let Reader::Native(Native::Udp(udp)) = &mut self.reader { udp.loss() } else { None }
    }

    /// Something that the user should know: the same again from a connection to the next.
    pub fn remark(&mut self) -> Option<Remark> {
        let warning = match &mut self.reader {
            Reader::Native(Native::Udp(udp)) => udp.remark(),
            Reader::Ffmpeg(ffmpeg) | Reader::Native(Native::Raw(ffmpeg)) => ffmpeg.remark(),
            _ => None,
        };
        warning.map(Remark::Warning).or_else(|| self.about.remarks.pop_front())
    }
}

impl About {
    fn open(&mut self) -> Result<Reader, InputError> {
        let wants_ffmpeg = self.options.ffmpeg.any();
        let live = match &self.input {
            Input::Udp(_) | Input::Rtmp(_) => true,
            Input::Ffmpeg(url) => ffmpeg::is_live(url),
            _ => false,
        };
        // Whatever length an encoder says its film has.
        self.finite = live.then_some(false);
        let native = match &self.input {
            Input::Stdin => Native::Pipe(Pipe::stdin()?),
            Input::Udp(address) => {
                // Datagrams are whole packets, and a stranger's must not make another thing of it.
                self.handed_out = Some(0);
                Native::Udp(Box::new(Udp::bind(address)?))
            }
            Input::Rtmp(address) => {
                self.door = Some(Rtmp::listen(address)?);
                return Ok(Reader::Waiting);
            }
            Input::Http(url) => return Ok(Reader::Native(self.http(Place::read(url)))),
            Input::List(path) => {
                let mut entries = VecDeque::from(file::list(path)?);
                let Some(first) = entries.pop_front() else { return Err(InputError::List(path.clone())) };
                self.others = entries;
                self.remarks
                    .push_back(Remark::Word(format!("{} is a list: its first entry is taken", self.input)));
                return Ok(Reader::Native(self.http(first)));
            }
            Input::Ffmpeg(url) if wants_ffmpeg || !ffmpeg::carries_bytes(url) => {
                return self.ffmpeg(Origin::Url(url.clone()), false, None);
            }
            Input::Ffmpeg(url) => {
                let origin = Origin::Url(url.clone());
                Native::Raw(Box::new(Ffmpeg::start(self.job(origin, true), None)?))
            }
            Input::File(path) => {
                let path = path.clone();
                return self.file(&path, wants_ffmpeg);
            }
        };
        let mut reader = Reader::Native(native);
        if wants_ffmpeg {
            reader.give_to_ffmpeg(self, None)?;
        }
        Ok(reader)
    }

    /// Begins with another address.
    fn http(&mut self, place: Place) -> Native {
        let Place { url, words } = place;
        let reader = if self.options.ffmpeg.any() { http::Reader::Ffmpeg } else { http::Reader::Ourselves };
        // The user's own words come last, and so count.
        let said = [words.as_slice(), &self.options.ffmpeg.input].concat();
        let headers = headers::of(&said, &url);
        let http = Http::start(&url, self.options.insecure, reader, headers, self.aired.clone());
        (self.kept, self.handed_out, self.finite) = (Some(Vec::new()), Some(0), None);
        (self.url, self.words) = (Some(url), words);
        Native::Http(Box::new(http))
    }

    fn file(&mut self, path: &Path, wants_ffmpeg: bool) -> Result<Reader, InputError> {
        if wants_ffmpeg {
            // A device plays at its own pace. Other words of ffmpeg's, such as a test picture, are taken for files.
            self.finite = Some(!file::is_stream(path));
            return self.ffmpeg(Origin::Url(path.to_string_lossy().into_owned()), false, None);
        }
        let url = file::as_url(path);
        let kind = file::sniff(path)?;
        self.finite = Some(kind != Kind::Stream && !file::is_session(path));
        Ok(match kind {
            Kind::MpegTs => {
                self.url = Some(url);
                self.handed_out = Some(0);
                Reader::Native(Native::File(FileInput::open(path, self.options.repeat)?))
            }
            Kind::Stream => {
                let pipe = Pipe::open(path)?;
                self.came = Some(pipe.came());
                Reader::Native(Native::Pipe(pipe))
            }
            Kind::Other => return self.ffmpeg(Origin::Url(url), false, None),
        })
    }

    fn job(&self, origin: Origin, raw: bool) -> Job {
        let secrets = match &self.input {
            Input::Http(url) | Input::Ffmpeg(url) => Secrets::of(url),
            Input::List(_) => Secrets::of(self.url.as_deref().unwrap_or_default()),
            _ => Secrets::of(""),
        };
        let mut arguments = self.options.ffmpeg.clone();
        arguments.input.splice(0..0, self.words.iter().cloned());
        Job {
            origin,
            name: self.input.to_string(),
            secrets,
            raw,
            repeat: self.options.repeat,
            arguments,
            program: self.options.program,
            insecure: self.options.insecure,
            finite: self.finite,
            start: self.listed.start,
            skip: self.listed.skip,
        }
    }

    fn ffmpeg(&self, origin: Origin, raw: bool, fed: Option<Fed>) -> Result<Reader, InputError> {
        Ok(Reader::Ffmpeg(Box::new(Ffmpeg::start(self.job(origin, raw), fed)?)))
    }

    /// Whether what the reader has begun to bring has a length.
    fn is_finite(&self, reader: &Reader) -> bool {
        self.finite.unwrap_or_else(|| match reader {
            Reader::Native(native) => native.is_finite(),
            Reader::Ffmpeg(ffmpeg) => ffmpeg.is_finite(),
            Reader::Waiting | Reader::Failed => false,
        })
    }
}

impl Reader {
    fn read(&mut self, about: &mut About, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        match self {
            Self::Native(_) => self.read_native(about, buf, patience),
            Self::Ffmpeg(ffmpeg) => ffmpeg.read(buf, patience),
            Self::Waiting => {
                if let Some(tags) = about.door.as_mut().and_then(|door| door.encoder(patience)) {
                    tracing::info!("an encoder at {} is on air", tags.from.ip());
                    *self = Self::Native(Native::Tags(Box::new(tags)));
                    self.give_to_ffmpeg(about, Some("flv"))?;
                }
                Ok(Read::Idle)
            }
            Self::Failed => Ok(Read::End),
        }
    }

    fn read_native(
        &mut self,
        about: &mut About,
        buf: &mut [u8],
        patience: Duration,
    ) -> Result<Read, InputError> {
        if let Some(len) = about.take_kept(buf) {
            return Ok(Read::Data(len));
        }
        let Self::Native(native) = self else { return Ok(Read::Idle) };
        match native.read(buf, patience) {
            Ok(Read::Data(len)) if about.handed_out.is_some() => {
                about.keep(&buf[..len]);
                let is_udp = matches!(native, Native::Udp(_));
                let strange =
                    |kept: &Vec<u8>| kept.len() >= DATAGRAMS_LOOKED_AT && looks(kept) != Looks::MpegTs;
                if is_udp && about.kept.as_ref().is_some_and(strange) {
                    self.hand_over(about, "brings datagrams that are not MPEG-TS", None)?;
                    return Ok(Read::Idle);
                }
                Ok(Read::Data(len))
            }
            Ok(Read::Data(len)) => {
                about.keep(&buf[..len]);
                match looks(about.kept.as_deref().unwrap_or_default()) {
                    Looks::MpegTs => about.handed_out = Some(0),
                    Looks::Other => self.hand_over(about, "is not MPEG-TS", None)?,
                    Looks::Short => {}
                }
                Ok(Read::Idle)
            }
            Ok(Read::End)
                if about.handed_out.is_none() && about.kept.as_ref().is_some_and(|kept| !kept.is_empty()) =>
            {
                // A reader that opens a pipe once more may get the next writer's bytes.
                if matches!(about.input, Input::Stdin) {
                    self.hand_over(about, "is not MPEG-TS", None)?;
                } else {
                    about.handed_out = Some(0);
                }
                Ok(Read::Idle)
            }
            Err(InputError::ForFfmpeg { why, finite, listed, .. }) => {
                about.finite = finite.then_some(true);
                about.listed = listed.map_or_else(Listed::default, |it| *it);
                about.remarks.extend(about.listed.warnings.drain(..).map(Remark::Warning));
                let playlist = about.listed.playlist.take();
                self.hand_over(about, &why, playlist)?;
                Ok(Read::Idle)
            }
            Err(InputError::Elsewhere { input, to }) => {
                about.hops += 1;
                if about.hops > MAX_HOPS {
                    let reason = "is a playlist of playlists of playlists".to_owned();
                    return Err(InputError::Http { input, reason });
                }
                let mut entries = VecDeque::from(to);
                let Some(first) = entries.pop_front() else { return Ok(Read::Idle) };
                // Those of the list that led here come after its own; each list has a bound, and so have hops.
                entries.append(&mut about.others);
                about.others = entries;
                about.remarks.push_back(Remark::Word(format!("{input} is a list: its first entry is taken")));
                *native = about.http(first);
                Ok(Read::Idle)
            }
            read => read,
        }
    }

    /// What led here failed: the next entry of the list, if there is one and nothing has come of this one.
    fn another(&mut self, about: &mut About, error: InputError) -> Result<Read, InputError> {
        let hopeless = matches!(error, InputError::NoFfmpeg { .. } | InputError::NothingNew { .. });
        if about.fruitful || hopeless {
            return Err(error);
        }
        let Some(next) = about.others.pop_front() else { return Err(error) };
        about.remarks.push_back(Remark::Warning(format!("{error}: the next entry of the list is tried")));
        *self = Self::Native(about.http(next));
        Ok(Read::Idle)
    }

    /// We cannot read it; ffmpeg tries.
    fn hand_over(
        &mut self,
        about: &mut About,
        why: &str,
        playlist: Option<String>,
    ) -> Result<(), InputError> {
        // Where the user wants ffmpeg there is no reason.
        if !why.is_empty() {
            about.remarks.push_back(Remark::Word(format!("{} {why}; ffmpeg reads it", about.input)));
        }
        let origin = playlist.map(Origin::Playlist).or_else(|| about.url.clone().map(Origin::Url));
        let Some(origin) = origin else { return self.give_to_ffmpeg(about, None) };
        *self = Self::Failed;
        *self = about.ffmpeg(origin, false, None)?;
        Ok(())
    }

    /// Gives what has come and what comes to an ffmpeg.
    fn give_to_ffmpeg(&mut self, about: &mut About, format: Option<&'static str>) -> Result<(), InputError> {
        let Self::Native(native) = std::mem::replace(self, Self::Failed) else { return Ok(()) };
        let is_file = matches!(&native, Native::Pipe(pipe) if pipe.is_regular_file());
        *self = if is_file && matches!(about.input, Input::Stdin) {
            about.finite = Some(true);
            about.ffmpeg(Origin::StdinFile, false, None)?
        } else {
            about.fed = Some(Instant::now());
            let kept = about.kept.take().unwrap_or_default();
            about.ffmpeg(Origin::Fed { format }, false, Some(Fed { native, kept: Some(kept) }))?
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
