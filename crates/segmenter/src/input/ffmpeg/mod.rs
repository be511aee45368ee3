//! What ffmpeg opens for us: everything that we do not read ourselves.
//!
//! ffmpeg is started with words that are right for most inputs. It then says what is in this one; if that asks for
//! other words ([`plan`]), it is started once more, before anything of its output is used.

mod about;
mod command;
mod listing;
mod plan;
mod pump;
mod verdict;
mod words;

use std::{
    io::ErrorKind,
    os::fd::OwnedFd,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use minuet_proto::Secrets;
use rustix::process::{Pid, Signal, kill_process_group};

pub use command::{carries_bytes, is_live};
pub use pump::Fed;

use super::{
    InputError, Read,
    hls::Aired,
    pipe::{Pipe, wait_readable},
};
use listing::Listing;
use plan::{Flaws, Plan};
use pump::Pump;
use words::Words;

/// Output that is there for so long, while ffmpeg does not say what is in it, is taken as it is: the user's own words may
/// have silenced it.
const SPEECHLESS: Duration = Duration::from_secs(2);

/// How long ffmpeg may take to be gone once it has closed its output, or was killed, and its pipes to be let go.
const GONE: Duration = Duration::from_secs(1);
/// How often that is looked at.
const STEP: Duration = Duration::from_millis(2);

/// What the user adds to ffmpeg's command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FfmpegArguments {
    /// Before the input.
    pub input: Vec<String>,
    /// In place of `-c copy`.
    pub output: Vec<String>,
}

impl FfmpegArguments {
    /// Reads options that a shell would split into words.
    ///
    /// # Errors
    /// A quote that is not closed, as a sentence.
    pub fn parse(input: &str, output: &str) -> Result<Self, InputError> {
        let words = |option: &'static str, text: &str| {
            shlex::split(text).ok_or_else(|| InputError::Quotes { option, text: text.to_owned() })
        };
        Ok(Self { input: words("--ffmpeg-args", input)?, output: words("--ffmpeg-output-args", output)? })
    }

    /// Whether the user wants ffmpeg.
    pub fn any(&self) -> bool {
        !self.input.is_empty() || !self.output.is_empty()
    }
}

/// Where ffmpeg reads.
#[derive(Debug)]
pub enum Origin {
    /// It opens this itself.
    Url(String),
    /// An HLS playlist as a `data:` URL.
    Playlist(String),
    /// Our standard input, which is a file.
    StdinFile,
    /// It is given bytes; the format, if that is known.
    Fed { format: Option<&'static str> },
}

/// What ffmpeg is to do.
#[derive(Debug)]
pub struct Job {
    /// Where it reads.
    pub origin: Origin,
    /// What the input is called, without secrets.
    pub name: String,
    /// What must not be shown of what it says.
    pub secrets: Secrets,
    /// Bytes as they come, rather than MPEG-TS made of what is in them.
    pub raw: bool,
    /// Over and over.
    pub repeat: bool,
    /// The user's words.
    pub arguments: FfmpegArguments,
    /// Of several programs.
    pub program: Option<u16>,
    /// Certificates need not be good.
    pub insecure: bool,
    /// It is known to have a length, or not to.
    pub finite: Option<bool>,
    /// The segment of a live playlist to begin with, counted from the end.
    pub start: Option<usize>,
    /// So much at its beginning is left out.
    pub skip: Duration,
}

/// A running ffmpeg; killed and waited for when dropped.
#[derive(Debug)]
pub struct Ffmpeg {
    job: Job,
    plan: Plan,
    running: Running,
    /// Its output may be used.
    settled: bool,
    /// It has been started a second time.
    again: bool,
    /// What is in the input.
    listing: Listing,
    /// Some of its output has been seen.
    fruitful: bool,
    /// What it has said against the input: it was started once more for it.
    flaws: Flaws,
    /// Its output was first seen while it had not said what is in it.
    speechless: Option<Instant>,
    remarks: Vec<String>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    output: Pipe,
    words: Words,
    pump: Option<Pump>,
}

impl Ffmpeg {
    /// Starts ffmpeg; `fed` is what it reads if its origin says so.
    pub fn start(job: Job, fed: Option<Fed>) -> Result<Self, InputError> {
        let plan = plan::blind(&job.arguments.output);
        let running = Running::start(command::command(&job, &plan), &job, fed)?;
        let settled = job.raw;
        Ok(Self {
            job,
            plan,
            running,
            settled,
            again: false,
            listing: Listing::default(),
            fruitful: false,
            flaws: Flaws::default(),
            speechless: None,
            remarks: Vec::new(),
        })
    }

    /// Whether what it reads has a length; known once it has brought bytes.
    pub fn is_finite(&self) -> bool {
        self.job.finite.unwrap_or(self.listing.length.is_some())
            && !matches!(&self.job.origin, Origin::Url(url) if is_live(url))
    }

    /// Whether its end is one for good.
    pub fn ends(&self) -> bool {
        let has_end_mark = matches!(self.listing.format.as_str(), "hls" | "dash");
        self.is_finite() || has_end_mark || matches!(self.job.origin, Origin::StdinFile)
    }

    /// The segments of a playlist that it has opened; `None` if nothing has come of them.
    pub fn aired(&self) -> Option<Aired> {
        self.fruitful.then(|| self.running.words.aired())
    }

    /// Something that the user should know, and was not told yet.
    pub fn remark(&mut self) -> Option<String> {
        let warning = || {
            let warning = self.running.words.warning()?;
            Some(format!("ffmpeg, about {}: {}", self.job.name, self.job.secrets.mask(&warning)))
        };
        self.remarks.pop().or_else(warning)
    }

    /// Reads its output.
    pub fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        if !self.settled && !self.settle(patience)? {
            return Ok(Read::Idle);
        }
        match self.running.output.read(buf, patience)? {
            Read::End => self.ended(),
            Read::Data(len) => {
                let is_bare = self.running.words.signs().bare_sound;
                if !self.fruitful
                    && is_bare
                    && !std::mem::replace(&mut self.flaws.bare_sound, true)
                    && self.plan_again()?
                {
                    return Ok(Read::Idle);
                }
                if !self.fruitful
                    && let Some(pump) = &self.running.pump
                {
                    pump.settled();
                }
                self.fruitful = true;
                Ok(Read::Data(len))
            }
            Read::Idle => Ok(Read::Idle),
        }
    }

    /// Finds out what is in the input, and starts ffmpeg again if that asks for other words; false: not yet.
    fn settle(&mut self, patience: Duration) -> Result<bool, InputError> {
        let Some(listing) = self.running.words.listing(patience) else {
            if wait_readable(self.running.output.file(), Duration::ZERO)? {
                let since = *self.speechless.get_or_insert_with(Instant::now);
                self.settled = since.elapsed() >= SPEECHLESS;
            }
            return Ok(self.settled);
        };
        if let Some(error) = verdict::unfit(&self.job, &listing, self.running.words.signs()) {
            self.running.words.forget_all();
            return Err(error);
        }
        let plan = plan::of(&listing, self.job.program, &self.job.arguments.output, self.flaws);
        self.listing = listing;
        if self.again || plan.arguments == self.plan.arguments {
            if !self.again {
                self.remarks = plan.remarks;
            }
            self.settled = true;
            return Ok(true);
        }
        self.again = true;
        self.start_again(plan)?;
        Ok(false)
    }

    /// Starts it again if its flaws ask for other words; false: they do not.
    fn plan_again(&mut self) -> Result<bool, InputError> {
        let plan = plan::of(&self.listing, self.job.program, &self.job.arguments.output, self.flaws);
        let other = plan.arguments != self.plan.arguments;
        if other {
            self.start_again(plan)?;
        }
        Ok(other)
    }

    /// Starts it again with other words; what it was fed with it gets from the first byte on.
    fn start_again(&mut self, plan: Plan) -> Result<(), InputError> {
        self.remarks.clone_from(&plan.remarks);
        self.plan = plan;
        let was_fed = self.running.pump.is_some();
        let fed = self.running.stop();
        if was_fed && fed.as_ref().is_none_or(|fed| fed.kept.is_none()) {
            return Err(InputError::Ffmpeg {
                input: self.job.name.clone(),
                status: "given up".to_owned(),
                last_words: "it looked at too much of the input before it knew what is in it".to_owned(),
            });
        }
        self.running = Running::start(command::command(&self.job, &self.plan), &self.job, fed)?;
        Ok(())
    }

    fn ended(&mut self) -> Result<Read, InputError> {
        let status = self.running.wait()?;
        let last = self.running.words.end();
        if self.fruitful && verdict::was_one_picture(&self.job, &self.listing, last.signs) {
            return Err(InputError::StillPicture(self.job.name.clone()));
        }
        if self.fruitful && self.is_finite() && !self.job.raw {
            let ended = verdict::of_the_end(&self.job, &self.listing, &last, status);
            if ended.is_err() {
                self.running.words.forget(&last.lines);
            }
            self.remarks.extend(ended?);
            return Ok(Read::End);
        }
        // ffmpeg calls some things a success that are none: a playlist whose server went away, a film that it could open
        // and read nothing of.
        let failed = !self.fruitful && !self.job.raw && !last.lines.is_empty();
        if status.success() && !last.signs.playlist_lost && !failed {
            return Ok(Read::End);
        }
        self.running.words.forget(&last.lines);
        let untimed = last.signs.untimed && !self.fruitful;
        if untimed && !std::mem::replace(&mut self.flaws.untimed, true) && self.plan_again()? {
            return Ok(Read::Idle);
        }
        if last.signs.rejected.is_some() {
            // The error says it.
            self.running.words.forget_all();
        }
        Err(verdict::failure(&self.job, &last, status))
    }
}

impl Running {
    fn start(mut command: Command, job: &Job, fed: Option<Fed>) -> Result<Self, InputError> {
        let (reader, writer) = std::io::pipe()?;
        // A Ctrl-C on the terminal is for us; we end ffmpeg.
        command.process_group(0);
        command.stdout(writer).stderr(Stdio::piped());
        let mut feeding = None;
        match (&job.origin, fed) {
            (Origin::StdinFile, _) => {
                command.stdin(Stdio::inherit());
            }
            (_, Some(fed)) => {
                let (theirs, ours) = std::io::pipe()?;
                command.stdin(theirs);
                feeding = Some((fed, ours));
            }
            (_, None) => {
                command.stdin(Stdio::null());
            }
        }
        let mut child = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => InputError::NoFfmpeg { input: job.name.clone() },
            _ => InputError::Io(error),
        })?;
        // Our copies of the pipes' other ends would keep them open after ffmpeg's death.
        drop(command);
        let words = match child.stderr.take() {
            Some(stderr) => Words::listen(stderr),
            None => Words::listen(std::io::empty()),
        };
        let pump = feeding.map(|(fed, pipe)| Pump::start(fed, pipe));
        Ok(Self { child, output: Pipe::new(OwnedFd::from(reader)), words, pump })
    }

    /// Ends ffmpeg; gives back what it was fed with.
    fn stop(&mut self) -> Option<Fed> {
        self.kill();
        // Errors mean that it is gone already, which is what is wanted.
        let _ = self.gone();
        self.words.end();
        self.pump.take().and_then(Pump::stop)
    }

    /// Waits for the end of an ffmpeg that has closed its output. One that does not end then is killed.
    fn wait(&mut self) -> Result<ExitStatus, InputError> {
        if let Some(status) = self.gone()? {
            return Ok(status);
        }
        self.kill();
        Ok(self.gone()?.ok_or_else(|| std::io::Error::other("ffmpeg cannot be ended"))?)
    }

    /// Waits a moment for its end.
    fn gone(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let until = Instant::now() + GONE;
        loop {
            match self.child.try_wait()? {
                None if Instant::now() < until => sleep(STEP),
                status => return Ok(status),
            }
        }
    }

    /// Kills it with all that it has started, which would hold its pipes open: `ffmpeg` may be somebody's script.
    fn kill(&mut self) {
        // Its number is its own as long as nobody has waited for it.
        if matches!(self.child.try_wait(), Ok(None)) {
            let group = Pid::from_child(&self.child);
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// What a thread returns that ends in a moment; one that does not is left alone.
fn joined<T>(thread: JoinHandle<T>) -> Option<T> {
    let until = Instant::now() + GONE;
    while !thread.is_finished() {
        if Instant::now() >= until {
            return None;
        }
        sleep(STEP);
    }
    thread.join().ok()
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
