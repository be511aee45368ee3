//! The feed as the recorder reads it: the main input, or what stands in for it while it is silent.
//!
//! Rule: the first input that brings bytes is the feed. While another stands in, those before it are looked at all
//! the time, and the moment one of them brings bytes it is the feed again. With something that stands in, the end of
//! the main input is a silence too.

use std::time::Duration;

use minuet_proto::Phase;

use super::{Input, InputError, InputOptions, MAX_WAIT, Read, Source, level::Level};

/// What takes over when the main input is silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedOptions {
    /// After so long without bytes an input is silent.
    pub silence: Duration,
    /// Another input.
    pub fallback: Option<Input>,
    /// A file that is looped.
    pub slate: Option<Input>,
}

/// What a read of the feed brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// So many bytes that go on from those before.
    Data(usize),
    /// So many bytes of another input or another connection: nothing goes on from what was before. None when that has
    /// only ended yet.
    Other(usize),
    /// Nothing for now.
    Idle,
    /// There will be no more.
    End,
}

/// See the module.
#[derive(Debug)]
pub struct Feed {
    /// In the order of preference.
    levels: Vec<Level>,
    active: usize,
    /// The level and connection whose bytes came last.
    current: Option<(usize, u64)>,
    silence: Duration,
    /// The last of the levels is a slate.
    slate: bool,
}

impl Feed {
    /// A feed from `source`, which is `input` opened.
    pub fn new(input: Input, options: InputOptions, source: Source, more: FeedOptions) -> Self {
        let insecure = options.insecure;
        let aside = |input, realtime, repeat| {
            Level::closed(input, InputOptions { realtime, repeat, insecure, ..InputOptions::default() })
        };
        let slate = more.slate.is_some();
        let mut levels = vec![Level::open(input, options, source)];
        levels.extend(more.fallback.map(|input| aside(input, None, false)));
        levels.extend(more.slate.map(|input| aside(input, Some(true), true)));
        Self { levels, active: 0, current: None, silence: more.silence, slate }
    }

    /// Reads the next bytes into `buf`; waits a little.
    ///
    /// # Errors
    /// What cannot be mended by waiting.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<Fed, InputError> {
        for index in 0..self.active {
            match self.levels[index].read(buf, Duration::ZERO, self.silence) {
                Ok(Read::Data(len)) => {
                    tracing::info!("back to {}", self.levels[index].name());
                    self.levels[index + 1..].iter_mut().for_each(Level::close);
                    self.active = index;
                    return Ok(self.data(len));
                }
                Ok(Read::Idle | Read::End) => {}
                Err(error) => {
                    tracing::warn!("{error}");
                    self.levels[index].ended = true;
                }
            }
        }
        let stands_in = self.levels.len() > 1;
        let level = &mut self.levels[self.active];
        let patience = if self.active == 0 { MAX_WAIT } else { MAX_WAIT / 10 };
        let read = match level.read(buf, patience, self.silence) {
            // What stands in must not end the channel when it fails, and stands in when what was on air fails.
            Err(error) if self.active > 0 || stands_in && level.was_on_air() => {
                tracing::warn!("{error}");
                level.ended = true;
                Read::End
            }
            read => read?,
        };
        let (silent_for, count) = (level.silent_for(), self.levels.len());
        let last = self.active + 1 == count;
        match read {
            Read::Data(len) => return Ok(self.data(len)),
            Read::End if count == 1 => return Ok(Fed::End),
            Read::Idle if last || silent_for < self.silence => {}
            Read::End if last => {}
            Read::Idle | Read::End => {
                self.active += 1;
                let next = &mut self.levels[self.active];
                next.close();
                tracing::warn!("{} stands in for the main input", next.name());
            }
        }
        if let Some((index, _)) = self.current
            && !self.levels[index].is_open()
        {
            self.current = None;
            return Ok(Fed::Other(0));
        }
        Ok(Fed::Idle)
    }

    fn data(&mut self, len: usize) -> Fed {
        let now = (self.active, self.levels[self.active].connection);
        match self.current.replace(now) {
            Some(before) if before != now => Fed::Other(len),
            _ => Fed::Data(len),
        }
    }

    /// The bytes of the input in use cannot be used as a feed.
    ///
    /// # Errors
    /// When opening it again is no help and nothing stands in for it.
    pub fn reject(&mut self, error: InputError) -> Result<(), InputError> {
        let alone = self.levels.len() == 1;
        let level = &mut self.levels[self.active];
        match level.reject(error) {
            Err(error) if alone => Err(error),
            Err(error) => {
                tracing::warn!("{error}");
                level.ended = true;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What the input in use is, for a sentence.
    pub fn name(&self) -> String {
        self.levels[self.active].name()
    }

    /// Whether the user wants it as fast as it comes.
    pub fn is_hurried(&self) -> bool {
        self.levels[self.active].is_hurried()
    }

    /// Whether the input in use was made before: what is wrong with it went wrong then.
    pub fn is_recorded(&self) -> bool {
        self.levels[self.active].is_recorded()
    }

    /// Whether whoever reads the input in use passes one program on, as ffmpeg does.
    pub fn has_chosen(&self) -> bool {
        self.levels[self.active].has_chosen()
    }

    /// The bytes of the input in use make a feed.
    pub fn accepted(&mut self) {
        self.levels[self.active].accepted();
    }

    /// What the channel does, by what comes in.
    pub fn phase(&self) -> Phase {
        let level = &self.levels[self.active];
        let slate = self.slate && self.active + 1 == self.levels.len();
        if slate || level.silent_for() >= self.silence { Phase::Silent } else { Phase::Live }
    }
}
