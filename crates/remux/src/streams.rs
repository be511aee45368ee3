//! From packets to frames: the program's streams, each with what takes it apart, and the tracks that they go to.

use minuet_media::{
    Access, Codec, Programs, SCAN_LIMIT, Scanner, Sound, TeletextPage,
    packet::{PAT_PID, Packet},
};

use crate::{
    event::{TextId, TrackId},
    frame::{Entry, Frame},
    pes::{Assembler, Pes},
    sound::Frames,
    teletext::{Caption, Teletext},
    video::{Avc, Hevc, Pictures, Seen},
};

/// Sound tracks that are carried. Broadcasts have up to four.
const MAX_SOUND: usize = 8;

/// Tracks of subtitles that are carried.
const MAX_TEXTS: usize = 8;

/// Follows the program and takes its streams apart.
#[derive(Debug)]
pub struct Streams {
    programs: Programs,
    streams: Vec<Stream>,
    subtitles: Vec<Subtitles>,
    /// Tracks of subtitles: a page each. They stay while streams come and go.
    texts: Vec<TeletextPage>,
    slots: Vec<Slot>,
    leader: Option<TrackId>,
}

/// A track: of pictures, or the first, second… of sound. It stays while streams come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Of pictures.
    pub video: bool,
    /// Its language.
    pub language: Option<[u8; 3]>,
    /// Frames of it come as samples.
    pub carried: bool,
}

#[derive(Debug)]
struct Stream {
    pid: u16,
    slot: TrackId,
    kind: (Codec, Option<Sound>),
    assembler: Assembler,
    parser: Parser,
}

/// A stream of teletext, and which tracks its pages are.
#[derive(Debug)]
struct Subtitles {
    pid: u16,
    tracks: Vec<TextId>,
    assembler: Assembler,
    teletext: Teletext,
}

#[derive(Debug)]
enum Parser {
    Avc(Box<Avc>),
    Hevc(Box<Hevc>),
    Sound(Frames),
    /// Only where decoding can start is found out.
    Opaque(Box<Scanner>),
}

/// What came of a packet.
#[derive(Debug)]
pub enum Found {
    /// A frame of a track.
    Frame(TrackId, Frame),
    /// Frames of a track are lost that others refer to.
    Broken(TrackId),
    /// A track of subtitles shows something else.
    Caption(TextId, Caption),
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            programs: Programs::new(None),
            streams: Vec::new(),
            subtitles: Vec::new(),
            texts: Vec::new(),
            slots: Vec::new(),
            leader: None,
        }
    }
}

impl Streams {
    /// The track whose frames say where segments begin.
    pub fn leader(&self) -> Option<TrackId> {
        self.leader
    }

    /// All tracks.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// All tracks of subtitles.
    pub fn texts(&self) -> &[TeletextPage] {
        &self.texts
    }

    /// Takes the packet at `position` in the feed.
    pub fn packet(&mut self, packet: Packet<'_>, position: u64, out: &mut Vec<Found>) {
        let pid = packet.pid();
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.pid == pid) {
            return stream.packet(packet, position, out);
        }
        if let Some(subtitles) = self.subtitles.iter_mut().find(|subtitles| subtitles.pid == pid) {
            let Subtitles { assembler, teletext, tracks, .. } = subtitles;
            return assembler.push(packet, position, |pes| {
                teletext.push(&pes, |page, caption| {
                    out.extend(tracks.get(page).map(|track| Found::Caption(*track, caption)));
                });
            });
        }
        let is_table = pid == PAT_PID || self.programs.pmt_pids().any(|table| table == pid);
        // No program is wanted by number, so none can be missing.
        if is_table && self.programs.push(packet).unwrap_or(false) {
            self.tune(out);
        }
    }

    /// Appends the tables in force as packets; `last_counter` gives the last continuity counter of a PID.
    pub fn write_tables(&self, last_counter: impl Fn(u16) -> u8, out: &mut Vec<u8>) {
        self.programs.write_tables(last_counter, out);
    }

    /// Hands out what has begun. `cut_off`: the rest of it will not come.
    pub fn flush(&mut self, cut_off: bool, out: &mut Vec<Found>) {
        for stream in &mut self.streams {
            stream.flush(cut_off, out);
        }
    }

    fn tune(&mut self, out: &mut Vec<Found>) {
        let Some(selection) = self.programs.selection() else { return };
        let leading = selection.leading;
        let mut wanted = vec![(leading.pid, selection.codec, leading.sound, leading.language)];
        for stream in self.programs.streams() {
            let carried = stream.sound.is_some_and(|sound| sound != Sound::Other);
            if carried && stream.pid != leading.pid && wanted.len() <= MAX_SOUND {
                wanted.push((stream.pid, Codec::Audio, stream.sound, stream.language));
            }
        }
        let mut before = std::mem::take(&mut self.streams);
        let mut sounds = 0usize;
        for (pid, codec, sound, language) in wanted {
            let video = codec.is_video();
            let nth = if video { 0 } else { sounds };
            sounds = sounds.saturating_add(usize::from(!video));
            let slot = self.slot(video, nth);
            let parser = Parser::new(codec, sound);
            let carried = !matches!(parser, Parser::Opaque(_));
            self.slots[slot] = Slot { video, language, carried };
            let kept = before.iter().position(|old| old.pid == pid && old.kind == (codec, sound));
            let mut stream = match kept {
                Some(at) => before.swap_remove(at),
                None => Stream { pid, slot, kind: (codec, sound), assembler: Assembler::default(), parser },
            };
            stream.slot = slot;
            if pid == leading.pid {
                self.leader = Some(slot);
            }
            self.streams.push(stream);
        }
        for mut gone in before {
            gone.flush(false, out);
        }
        self.tune_subtitles();
    }

    fn tune_subtitles(&mut self) {
        let mut before = std::mem::take(&mut self.subtitles);
        for stream in self.programs.streams() {
            let pages: Vec<TeletextPage> = stream.subtitles.iter().flatten().copied().collect();
            let mut tracks = Vec::new();
            for page in &pages {
                match self.texts.iter().position(|known| known == page) {
                    Some(track) => tracks.push(track),
                    None if self.texts.len() < MAX_TEXTS => {
                        tracks.push(self.texts.len());
                        self.texts.push(*page);
                    }
                    None => {}
                }
            }
            if tracks.is_empty() {
                continue;
            }
            let pid = stream.pid;
            let kept = before.iter().position(|old| old.pid == pid && old.tracks == tracks);
            self.subtitles.push(match kept {
                Some(at) => before.swap_remove(at),
                None => {
                    let (assembler, teletext) = (Assembler::default(), Teletext::new(&pages));
                    Subtitles { pid, tracks, assembler, teletext }
                }
            });
        }
    }

    /// The nth track of this kind, made if there is none.
    fn slot(&mut self, video: bool, nth: usize) -> TrackId {
        let found = self.slots.iter().enumerate().filter(|(_, slot)| slot.video == video).nth(nth);
        if let Some((at, _)) = found {
            return at;
        }
        self.slots.push(Slot { video, language: None, carried: false });
        self.slots.len().saturating_sub(1)
    }
}

impl Parser {
    fn new(codec: Codec, sound: Option<Sound>) -> Self {
        match (codec, sound.and_then(Frames::new)) {
            (Codec::H264, _) => Self::Avc(Box::default()),
            (Codec::Hevc, _) => Self::Hevc(Box::default()),
            (Codec::Audio, Some(frames)) => Self::Sound(frames),
            _ => Self::Opaque(Box::new(Scanner::new(codec))),
        }
    }
}

impl Stream {
    fn packet(&mut self, packet: Packet<'_>, position: u64, out: &mut Vec<Found>) {
        let Self { assembler, parser, slot, .. } = self;
        assembler.push(packet, position, |pes| parser.push(*slot, &pes, out));
        if assembler.take_lost() && !matches!(parser, Parser::Avc(_) | Parser::Hevc(_)) {
            // Sound goes on with its next whole frame.
            parser.lost();
        }
    }

    fn flush(&mut self, cut_off: bool, out: &mut Vec<Found>) {
        let Self { assembler, parser, slot, .. } = self;
        assembler.flush(cut_off, |pes| parser.push(*slot, &pes, out));
        assembler.take_lost();
        let mut pictures = Pictures::default();
        match parser {
            Parser::Avc(avc) => avc.flush(&mut pictures),
            Parser::Hevc(hevc) => hevc.flush(&mut pictures),
            Parser::Sound(frames) => frames.flush(),
            Parser::Opaque(scanner) => scanner.restart(),
        }
        hand_out(*slot, pictures, out);
        if cut_off && matches!(parser, Parser::Avc(_) | Parser::Hevc(_)) {
            out.push(Found::Broken(*slot));
        }
    }
}

impl Parser {
    fn push(&mut self, slot: TrackId, pes: &Pes, out: &mut Vec<Found>) {
        let mut pictures = Pictures::default();
        match self {
            Self::Avc(avc) => avc.push(pes, &mut pictures),
            Self::Hevc(hevc) => hevc.push(pes, &mut pictures),
            Self::Sound(frames) => {
                let mut found = Vec::new();
                frames.push(pes, &mut found);
                out.extend(found.into_iter().map(|frame| Found::Frame(slot, frame)));
            }
            Self::Opaque(scanner) => {
                scanner.restart();
                let access = scanner.push(&pes.body[..pes.body.len().min(SCAN_LIMIT)]);
                let entry = match access {
                    Some(Access::Clean) => Entry::Clean,
                    Some(Access::Degraded) => Entry::Slow,
                    _ => Entry::None,
                };
                out.push(Found::Frame(
                    slot,
                    Frame {
                        pts: pes.pts,
                        dts: pes.dts,
                        data: Vec::new(),
                        entry,
                        disposable: false,
                        duration: None,
                        config: None,
                        position: pes.position,
                    },
                ));
            }
        }
        hand_out(slot, pictures, out);
    }

    fn lost(&mut self) {
        if let Self::Sound(frames) = self {
            frames.flush();
        }
    }
}

fn hand_out(slot: TrackId, pictures: Pictures, out: &mut Vec<Found>) {
    out.extend(pictures.0.into_iter().map(|seen| match seen {
        Seen::Frame(frame) => Found::Frame(slot, frame),
        Seen::Broken => Found::Broken(slot),
    }));
}
