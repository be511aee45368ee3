//! Packet synchronisation: from any bytes to whole 188-byte packets.
//!
//! Finds the sync byte, finds it again after garbage, and strips the four bytes before each packet of a
//! 192-byte stream (M2TS) and the sixteen after each of a 204-byte one (Reed-Solomon). Sync is believed
//! only when [`CONFIRMATIONS`] packets in a row begin with it (ISO/IEC 13818-1, annex G.1, suggests
//! five); in step, each packet must begin with it. What is found depends on the bytes alone, never on how
//! they were divided into calls.

use std::ops::Range;

use memchr::{memchr, memchr_iter};

use crate::{
    Error,
    packet::{NULL_PID, PACKET_LEN, Packet, SYNC_BYTE},
};

/// Sync bytes in a row, at one stride, that make a stream.
pub const CONFIRMATIONS: usize = 5;
/// A beginning of this length without sync is not MPEG-TS.
pub const SYNC_LIMIT: u64 = 1 << 20;

const STRIDES: [usize; 3] = [PACKET_LEN, 192, 204];
/// Bytes that must be at hand to judge one position: confirmations at the longest stride.
const LOOKAHEAD: usize = (CONFIRMATIONS - 1) * 204 + 1;
/// Bytes looked at in one go while out of step.
const SEARCH_WINDOW: usize = 4096;
/// The longest run handed out at once: what is parsed is still in the cache when it is hashed.
const MAX_RUN: usize = 1400 * PACKET_LEN;

/// Turns bytes into runs of whole packets; see the module.
#[derive(Debug)]
pub struct PacketSync {
    state: State,
    /// Bytes taken from the input and not handed out yet begin at `at`.
    buf: Vec<u8>,
    at: usize,
    /// Packets freed of what is between them.
    stripped: Vec<u8>,
    /// Null packets are passed over, too, and counted.
    strip_nulls: bool,
    nulls: u64,
    run: Run,
    /// Bytes between packets that are still to be passed over.
    skip: usize,
    ending: bool,
    /// Bytes passed over since sync was lost, or since the start.
    searched: u64,
    found_before: bool,
    found: Option<Found>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Searching,
    InStep { stride: usize },
}

#[derive(Debug, Clone)]
enum Run {
    None,
    /// In `buf`.
    Buffered(Range<usize>),
    /// `stripped`, whole.
    Stripped,
    /// The beginning of the input, this long.
    Input(usize),
}

/// Sync was found, at the start or again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Distance from packet to packet: 188, 192 or 204 bytes.
    pub stride: usize,
    /// Bytes before it that belong to no packet and were dropped.
    pub garbage: u64,
    /// The first sync of this stream, rather than one found again.
    pub first: bool,
}

impl Default for PacketSync {
    fn default() -> Self {
        Self {
            state: State::Searching,
            buf: Vec::new(),
            at: 0,
            stripped: Vec::new(),
            strip_nulls: false,
            nulls: 0,
            run: Run::None,
            skip: 0,
            ending: false,
            searched: 0,
            found_before: false,
            found: None,
        }
    }
}

impl PacketSync {
    /// Passes over null packets as if they were not there.
    #[must_use]
    pub fn without_nulls(self) -> Self {
        Self { strip_nulls: true, ..self }
    }

    /// How many null packets have been passed over since the last call.
    pub fn take_nulls(&mut self) -> u64 {
        std::mem::take(&mut self.nulls)
    }

    /// Makes the next run of whole packets ready, taking from `input` what it must. False: more input is
    /// needed, and all of `input` was taken.
    ///
    /// # Errors
    /// [`Error::NotMpegTs`] when the stream's first [`SYNC_LIMIT`] bytes hold no sync, or all of them if it is
    /// shorter.
    pub fn fill(&mut self, input: &mut &[u8]) -> Result<bool, Error> {
        loop {
            if !matches!(self.run, Run::None) {
                return Ok(true);
            }
            let more = match self.state {
                State::Searching => self.search(input)?,
                State::InStep { stride } => self.step(stride, input),
            };
            if !more {
                return Ok(false);
            }
        }
    }

    /// The run made ready by [`fill`](Self::fill): whole packets. `input` is what `fill` left of it.
    pub fn run<'s, 'i: 's>(&'s self, input: &'i [u8]) -> &'s [u8] {
        match &self.run {
            Run::None => &[],
            Run::Buffered(range) => self.buf.get(range.clone()).unwrap_or_default(),
            Run::Stripped => &self.stripped,
            Run::Input(len) => input.get(..*len).unwrap_or_default(),
        }
    }

    /// Drops the run, from `input` if that is where it lies.
    pub fn release(&mut self, input: &mut &[u8]) {
        match std::mem::replace(&mut self.run, Run::None) {
            Run::None | Run::Stripped => {}
            Run::Buffered(range) => self.at = range.end,
            Run::Input(len) => *input = input.get(len..).unwrap_or_default(),
        }
    }

    /// No input will follow: what is buffered is judged by what is there.
    pub fn end(&mut self) {
        self.ending = true;
    }

    /// What has been found since the last call.
    pub fn take_found(&mut self) -> Option<Found> {
        self.found.take()
    }

    /// Moves bytes of `input` behind the buffered ones until `wanted` are there or `input` is empty.
    fn gather(&mut self, wanted: usize, input: &mut &[u8]) -> usize {
        let have = self.buf.len() - self.at;
        if have < wanted {
            self.buf.drain(..self.at);
            self.at = 0;
            let (head, tail) = input.split_at(input.len().min(wanted - have));
            self.buf.extend_from_slice(head);
            *input = tail;
        }
        self.buf.len() - self.at
    }

    fn search(&mut self, input: &mut &[u8]) -> Result<bool, Error> {
        let have = self.gather(SEARCH_WINDOW, input);
        let window = &self.buf[self.at..];
        // Judged are the positions whose whole look-ahead is at hand.
        let judged = if self.ending { have } else { have.saturating_sub(LOOKAHEAD - 1) };
        let hit = memchr_iter(SYNC_BYTE, &window[..judged])
            .find_map(|at| Some((at, in_step(&window[at..], self.ending)?)));
        let Some((at, stride)) = hit else {
            self.at += judged;
            self.searched += judged as u64;
            let last = self.ending && self.searched > 0;
            if !self.found_before && (last || self.searched >= SYNC_LIMIT) {
                return Err(Error::NotMpegTs { searched: self.searched });
            }
            return Ok(judged > 0 && (!input.is_empty() || self.ending));
        };
        self.at += at;
        let prefix = if stride == 192 { 4 } else { 0 };
        let garbage = (self.searched + at as u64).saturating_sub(prefix);
        self.found = Some(Found { stride, garbage, first: !self.found_before });
        self.found_before = true;
        self.searched = 0;
        self.state = State::InStep { stride };
        Ok(true)
    }

    fn step(&mut self, stride: usize, input: &mut &[u8]) -> bool {
        if self.skip > 0 {
            let buffered = self.skip.min(self.buf.len() - self.at);
            self.at += buffered;
            self.skip -= buffered;
            let direct = self.skip.min(input.len());
            *input = &input[direct..];
            self.skip -= direct;
            if self.skip > 0 {
                return false;
            }
        }
        if self.at == self.buf.len() {
            self.buf.clear();
            self.at = 0;
            if input.len() >= PACKET_LEN {
                return self.step_input(stride, input);
            }
        }
        if self.gather(PACKET_LEN, input) < PACKET_LEN {
            return false;
        }
        let window = &self.buf[self.at..];
        let together = stride == PACKET_LEN && !self.strip_nulls;
        let len = if together { run_len(window) } else { run_len(&window[..PACKET_LEN]) };
        if len == 0 {
            self.state = State::Searching;
        } else if self.strip_nulls && is_null(window) {
            self.nulls += 1;
            self.at += PACKET_LEN;
            self.skip = stride - PACKET_LEN;
        } else {
            self.skip = stride - PACKET_LEN;
            self.run = Run::Buffered(self.at..self.at + len);
        }
        true
    }

    /// In step with nothing buffered: hands out the input itself, or what is left of it without the
    /// bytes between packets.
    fn step_input(&mut self, stride: usize, input: &mut &[u8]) -> bool {
        if stride == PACKET_LEN && !self.strip_nulls {
            match run_len(input) {
                0 => self.state = State::Searching,
                len => self.run = Run::Input(len),
            }
            return true;
        }
        self.stripped.clear();
        let nulls = self.nulls;
        while let Some((packet, rest)) = input.split_at_checked(PACKET_LEN)
            && packet[0] == SYNC_BYTE
            && self.skip == 0
            && self.stripped.len() < MAX_RUN
        {
            if self.strip_nulls && is_null(packet) {
                self.nulls += 1;
            } else {
                self.stripped.extend_from_slice(packet);
            }
            let between = (stride - PACKET_LEN).min(rest.len());
            self.skip = stride - PACKET_LEN - between;
            *input = &rest[between..];
        }
        if !self.stripped.is_empty() {
            self.run = Run::Stripped;
        } else if self.nulls == nulls {
            self.state = State::Searching;
        }
        true
    }
}

/// Whether the packet at the beginning of `bytes` is a null packet.
fn is_null(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|packet| Packet::new(packet).pid() == NULL_PID)
}

/// How many bytes of whole packets, each with its sync byte, `bytes` begins with; at most [`MAX_RUN`].
fn run_len(bytes: &[u8]) -> usize {
    let whole = bytes.len().min(MAX_RUN) / PACKET_LEN;
    let good = bytes.chunks_exact(PACKET_LEN).take(whole).position(|packet| packet[0] != SYNC_BYTE);
    good.unwrap_or(whole) * PACKET_LEN
}

/// The stride at which sync bytes follow from the beginning of `bytes`. At the stream's end two of them
/// are enough.
fn in_step(bytes: &[u8], ending: bool) -> Option<usize> {
    STRIDES.into_iter().find(|stride| {
        let mut seen = bytes.iter().step_by(*stride).take(CONFIRMATIONS);
        let enough = if ending { 2 } else { CONFIRMATIONS };
        seen.len() >= enough && seen.all(|&byte| byte == SYNC_BYTE)
    })
}

/// Whether the beginning of some bytes is that of media in another container: Matroska and WebM, FLV, sound with a tag, Ogg,
/// AVI and WAV, FLAC, MP4, playlists.
pub fn looks_like_other_media(head: &[u8]) -> bool {
    const MAGIC: &[(usize, &[u8])] = &[
        (0, b"\x1a\x45\xdf\xa3"),
        (0, b"FLV\x01"),
        (0, b"ID3"),
        (0, b"OggS"),
        (0, b"RIFF"),
        (0, b"fLaC"),
        (4, b"ftyp"),
        (0, b"#EXTM3U"),
    ];
    MAGIC.iter().any(|(at, magic)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
}

/// Whether `head`, the beginning of a file, looks like MPEG-TS: sync is found in it. A few kilobytes
/// are plenty.
pub fn looks_like_mpeg_ts(head: &[u8]) -> bool {
    memchr(SYNC_BYTE, head).is_some()
        && memchr_iter(SYNC_BYTE, head).any(|at| in_step(&head[at..], false).is_some())
}
