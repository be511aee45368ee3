//! The cutter's view of each packet: counts it, follows the tables and the clock, judges access units and
//! marks where segments start and end.
//!
//! Offsets here count the bytes held back from before and the run after them as one row of bytes.

use std::collections::VecDeque;

use super::{
    CutterConfig,
    schedule::{Schedule, Verdict},
    state::{AccessUnit, CLOCK, COMPANION, LEADING, Mark, PidState, TABLE},
    timeline::Timeline,
};
use crate::{
    Error,
    access::{Access, Scanner},
    event::{Counters, Notice, RandomAccess},
    packet::{Adaptation, NULL_PID, PACKET_LEN, PAT_PID, PID_COUNT, Packet},
    pes::{NoHeader, PesHeader, repeat_parameters},
    program::{Programs, Selection},
    psi::{Codec, Stranger},
    sync::Found,
    time::{Pcr, TICKS_PER_SECOND, Ticks, Timestamp},
};

/// An access unit that is not judged after so many bytes of feed is not a random access point.
pub const HOLD_LIMIT: usize = 1 << 20;
/// Tables before an access unit begin its segment, if they are no more bytes than this.
const LEAD_IN_LIMIT: usize = 64 * PACKET_LEN;
/// PIDs below this carry tables: of programs, services, the time (ISO/IEC 13818-1, table 2-3).
const FIRST_STREAM_PID: u16 = 0x20;
/// A feed without a usable program in its first so many bytes has none.
const PROGRAM_LIMIT: u64 = 32 << 20;
/// Nor has one whose clock, on any PID, went on for so long meanwhile: tables come ten times a second, and each half a
/// second at the least (ETSI TR 101 290).
const PROGRAM_TIME: i64 = 5 * TICKS_PER_SECOND as i64;
/// A clock that leaps further than this between two PCRs says nothing about that.
const PROGRAM_LEAP: i64 = 2 * TICKS_PER_SECOND as i64;
/// Of the random access points that are told because there is nothing better, each is so far from the one before.
const LESSER_DISTANCE: u64 = TICKS_PER_SECOND;
/// After so much time on other streams of the program the leading one is silent, and they keep the time.
const SILENCE: Ticks = Ticks(5 * TICKS_PER_SECOND);
/// A PCR no further than this ahead of the one before goes on from it, whatever its flag says.
const PCR_STEP: i64 = TICKS_PER_SECOND as i64;

#[derive(Debug)]
pub struct Scan {
    config: CutterConfig,
    pub counters: Counters,
    /// Not tied to an offset; at most a few a run.
    pub notices: VecDeque<Notice>,
    marks: VecDeque<(usize, Mark)>,
    /// Handed out only when the access unit at its beginning has been judged.
    held: Vec<u8>,
    run_len: usize,
    /// Bytes of the feed before the held ones.
    before: u64,
    pids: Box<[PidState; PID_COUNT]>,
    programs: Programs,
    selection: Option<Selection>,
    timeline: Timeline,
    schedule: Schedule,
    scanner: Scanner,
    unit: Option<AccessUnit>,
    /// Offset of the first of the tables that directly precede the next packet.
    lead_in: Option<usize>,
    /// The payload of the packet in which the latest access unit starts.
    last_start: Vec<u8>,
    /// The PES header of the latest access unit.
    last_header: Vec<u8>,
    /// Where the segment under way started, and the feed's byte at which it is too large.
    segment: Option<Ticks>,
    full_at: u64,
    /// The next segment does not go on from the one before.
    discontinuity: bool,
    last_pcr: Option<Pcr>,
    flag_seen: bool,
    scrambled_noticed: bool,
    silent: bool,
    /// The program has sound.
    sound: bool,
    /// Streams of the program that players may leave out, as was said.
    strangers: Vec<(u16, Stranger)>,
    /// Where the latest clean random access point was, or the first segment's start.
    clean_at: Ticks,
    /// Where a random access point was told last.
    told_at: Ticks,
    /// Before there is a program: the first PID with a PCR, its latest one, and how long it has run.
    orphan_clock: Option<(u16, Pcr, i64)>,
}

impl Scan {
    pub fn new(config: CutterConfig) -> Self {
        let mut pids = Box::new([PidState::default(); PID_COUNT]);
        pids[usize::from(PAT_PID)].roles = TABLE;
        Self {
            counters: Counters::default(),
            notices: VecDeque::new(),
            marks: VecDeque::new(),
            held: Vec::new(),
            run_len: 0,
            before: 0,
            pids,
            programs: Programs::new(config.program),
            selection: None,
            timeline: Timeline::default(),
            schedule: Schedule::new(config.segment.into(), config.grace.into(), config.limit.into()),
            scanner: Scanner::new(Codec::Private),
            unit: None,
            lead_in: None,
            last_start: Vec::new(),
            last_header: Vec::new(),
            segment: None,
            full_at: u64::MAX,
            discontinuity: false,
            last_pcr: None,
            flag_seen: false,
            scrambled_noticed: false,
            silent: false,
            sound: false,
            strangers: Vec::new(),
            clean_at: Ticks(0),
            told_at: Ticks(0),
            orphan_clock: None,
            config,
        }
    }

    /// The bytes held back from before the run.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Sync was found.
    pub fn found(&mut self, found: Found) {
        self.counters.garbage_bytes += found.garbage;
        if !found.first {
            self.notices.push_back(Notice::Resynchronised { garbage: found.garbage });
        } else {
            self.notices.push_back(Notice::Synchronised { stride: found.stride });
        }
    }

    /// Scans the next run.
    pub fn packets(&mut self, run: &[u8]) -> Result<(), Error> {
        self.run_len = run.len();
        if self.selection.is_none() && self.before >= PROGRAM_LIMIT {
            return Err(Error::NoProgram { searched: self.before });
        }
        let mut at = self.held.len();
        for packet in run.as_chunks().0 {
            self.packet(Packet::new(packet), at)?;
            at += PACKET_LEN;
        }
        Ok(())
    }

    /// There are no more packets: what is open is closed.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.run_len = 0;
        self.lead_in = None;
        self.judge(Access::None);
        if self.segment.is_none() && self.counters.packets > 0 {
            return Err(match self.selection {
                None => Error::NoProgram { searched: self.before },
                Some(_) => Error::NothingToCut,
            });
        }
        if let Some(start) = self.segment.take() {
            let duration = Ticks(self.timeline.end().0.saturating_sub(start.0));
            self.marks.push_back((self.held.len(), Mark::End { duration }));
        }
        Ok(())
    }

    /// How far bytes may be handed out from `at` on, and what happens when they have been.
    pub fn next_mark(&mut self, at: usize) -> (usize, Option<Mark>) {
        match self.marks.front() {
            Some(&(target, _)) if at < target => (target, None),
            Some(_) => (at, self.marks.pop_front().map(|(_, mark)| mark)),
            None => (self.handed_out_to(), None),
        }
    }

    /// Offset of the first byte that waits for a decision, or the end.
    fn handed_out_to(&self) -> usize {
        let end = self.held.len() + self.run_len;
        let unit = self.unit.as_ref().map(|unit| unit.at);
        unit.into_iter().chain(self.lead_in).fold(end, usize::min)
    }

    /// The run is over: what was not handed out of it is held back.
    pub fn hold_back(&mut self, run: &[u8]) {
        let keep = self.handed_out_to();
        if keep >= self.held.len() {
            let rest = run.get(keep - self.held.len()..self.run_len).unwrap_or_default();
            self.held.clear();
            self.held.extend_from_slice(rest);
        } else {
            self.held.drain(..keep);
            self.held.extend_from_slice(&run[..self.run_len.min(run.len())]);
        }
        if let Some(unit) = &mut self.unit {
            unit.at -= keep;
        }
        if let Some(at) = &mut self.lead_in {
            *at -= keep;
        }
        self.before += keep as u64;
        self.run_len = 0;
    }

    fn packet(&mut self, packet: Packet<'_>, at: usize) -> Result<(), Error> {
        self.counters.packets += 1;
        if self.is_full(at) {
            self.too_large(at);
        }
        if let Some(unit) = &self.unit
            && at - unit.at >= HOLD_LIMIT
        {
            self.judge(Access::None);
        }
        let pid = packet.pid();
        if packet.transport_error() {
            self.counters.transport_errors += 1;
            self.lead_in = None;
            return Ok(());
        }
        if pid == NULL_PID {
            self.counters.null_packets += 1;
            return Ok(());
        }
        let state = &mut self.pids[usize::from(pid)];
        let last = std::mem::replace(&mut state.counter, packet.counter() + 1);
        let mut repeats = false;
        if packet.has_payload() && last != 0 && packet.counter() != last & 0x0f {
            repeats = packet.counter() + 1 == last && !state.repeated;
            if !repeats && !packet.adaptation().is_some_and(|field| field.discontinuity) {
                self.counters.continuity_errors += 1;
            }
        }
        state.repeated = repeats;
        let roles = state.roles;
        if self.selection.is_none() {
            self.run_without_program(pid, packet, at)?;
        }
        if pid < FIRST_STREAM_PID || roles & TABLE != 0 {
            self.lead_in = self.lead_in.filter(|first| at - first < LEAD_IN_LIMIT).or(Some(at));
        } else if roles & LEADING == 0 {
            self.lead_in = None;
        }
        if roles == 0 {
            return Ok(());
        }
        if roles & TABLE != 0 && self.programs.push(packet)? {
            self.tables_changed();
        }
        if roles & COMPANION != 0 && packet.unit_start() && !packet.scrambled() {
            self.companion(packet, at);
        }
        if roles & (CLOCK | LEADING) != 0 {
            let field = packet.adaptation().unwrap_or_default();
            if roles & CLOCK != 0 {
                self.clock(field);
            }
            // A source that starts again may happen on the counter of the one before.
            let again = repeats && (!packet.unit_start() || packet.payload() == self.last_start);
            if roles & LEADING != 0 {
                if !again {
                    self.leading(packet, field, at);
                }
                self.lead_in = None;
            }
        }
        Ok(())
    }

    /// Whether the feed has gone on for so long without a program that there is none.
    fn run_without_program(&mut self, pid: u16, packet: Packet<'_>, at: usize) -> Result<(), Error> {
        let Some(pcr) = packet.adaptation().and_then(|field| field.pcr) else { return Ok(()) };
        let (first, last, run) = self.orphan_clock.get_or_insert((pid, pcr, 0));
        if *first != pid {
            return Ok(());
        }
        let step = pcr.base.since(last.base);
        *last = pcr;
        if (0..=PROGRAM_LEAP).contains(&step) {
            *run += step;
        }
        if *run < PROGRAM_TIME {
            return Ok(());
        }
        Err(Error::NoProgram { searched: self.before + at as u64 })
    }

    fn clock(&mut self, field: Adaptation) {
        let Some(pcr) = field.pcr else { return };
        let last = self.last_pcr.replace(pcr);
        let goes_on = last.is_some_and(|last| (0..=PCR_STEP).contains(&pcr.base.since(last.base)));
        // Some encoders set the flag where nothing breaks.
        if field.discontinuity && last.is_some() && !goes_on {
            self.timeline.break_here();
        }
    }

    fn leading(&mut self, packet: Packet<'_>, field: Adaptation, at: usize) {
        if packet.scrambled() {
            self.scrambled(packet, field, at);
            return;
        }
        if packet.unit_start() {
            self.flag_seen |= field.random_access;
            self.last_start.clear();
            self.last_start.extend_from_slice(packet.payload());
            // Parameter sets in a PES packet of their own are where the access unit starts.
            match &mut self.unit {
                Some(unit) if unit.header.is_none() && self.scanner.parameters_only() => {
                    unit.flag |= field.random_access;
                    unit.header = Some(Vec::new());
                }
                _ => self.start_unit(packet, field.random_access, at),
            }
        }
        let Some(unit) = &mut self.unit else { return };
        let payload = packet.payload();
        let access = match &mut unit.header {
            None => self.scanner.push(payload),
            Some(bytes) => {
                bytes.extend_from_slice(payload);
                match PesHeader::parse(bytes) {
                    Ok(header) => {
                        unit.timestamp = unit.timestamp.or(header.decode_time());
                        let access = self.scanner.push(&bytes[header.len..]);
                        if self.last_header.is_empty() {
                            self.last_header.extend_from_slice(&bytes[..header.len]);
                        }
                        unit.header = None;
                        access
                    }
                    Err(NoHeader::Short) => None,
                    Err(NoHeader::Other) => Some(Access::None),
                }
            }
        };
        if let Some(access) = access {
            self.judge(access);
        }
    }

    /// Another stream of the program: its time counts when the leading stream's stands still.
    fn companion(&mut self, packet: Packet<'_>, at: usize) {
        let Some(time) = PesHeader::parse(packet.payload()).ok().and_then(|header| header.decode_time())
        else {
            return;
        };
        let silent = self.timeline.ahead(time).is_some_and(|ahead| ahead >= SILENCE);
        // Before the leading stream's first timestamp they start the time.
        let first = self.timeline.is_new() && self.unit.is_none();
        if !silent && !first {
            return;
        }
        self.judge(Access::None);
        if silent && !std::mem::replace(&mut self.silent, true) {
            let pid = self.selection.map_or(NULL_PID, |selection| selection.leading.pid);
            self.notices.push_back(Notice::LeadingSilent { pid });
        }
        // A segment may start with sound alone, if it must.
        self.unit = Some(AccessUnit { at, flag: false, timestamp: Some(time), counter: 0, header: None });
        self.last_header.clear();
        self.settle(Access::Degraded);
    }

    /// Of a scrambled stream only the adaptation field can be read.
    fn scrambled(&mut self, packet: Packet<'_>, field: Adaptation, at: usize) {
        self.counters.scrambled_packets += 1;
        if !std::mem::replace(&mut self.scrambled_noticed, true) {
            self.notices.push_back(Notice::Scrambled);
        }
        if packet.unit_start() {
            self.flag_seen |= field.random_access;
            self.start_unit(packet, field.random_access, at);
            if let Some(unit) = &mut self.unit {
                unit.timestamp = self.last_pcr.map(|pcr| pcr.base);
            }
            self.judge_by_flag();
        }
    }

    fn start_unit(&mut self, packet: Packet<'_>, flag: bool, at: usize) {
        self.judge(Access::None);
        let at = self.lead_in.take().unwrap_or(at);
        self.silent = false;
        self.scanner.restart();
        let counter = packet.counter().wrapping_sub(1) & 0x0f;
        self.last_header.clear();
        self.unit = Some(AccessUnit { at, flag, timestamp: None, counter, header: Some(Vec::new()) });
    }

    /// Judges an access unit that cannot be looked into. Where the flag is never set, none is better than
    /// another.
    fn judge_by_flag(&mut self) {
        let flag = self.unit.as_ref().is_some_and(|unit| unit.flag);
        self.settle(match (flag, self.flag_seen) {
            (true, _) => Access::Clean,
            (false, false) => Access::Degraded,
            (false, true) => Access::None,
        });
    }

    fn judge(&mut self, access: Access) {
        let opaque = matches!(
            self.selection.map(|selection| selection.codec),
            Some(Codec::OtherVideo | Codec::Private)
        );
        if opaque { self.judge_by_flag() } else { self.settle(access) }
    }

    /// The open access unit is this good a place to start: cuts before it, or lets it pass.
    fn settle(&mut self, access: Access) {
        let Some(unit) = self.unit.take() else { return };
        let jumped = unit.timestamp.is_some_and(|timestamp| self.timeline.observe(timestamp));
        let position = self.timeline.position();
        if jumped && self.segment.is_some() {
            self.notices.push_back(Notice::Discontinuity);
            self.discontinuity = true;
            self.schedule.force(position);
        }
        match self.schedule.judge(position, access) {
            Verdict::Cut => self.cut(unit.at, unit.timestamp, access, None),
            Verdict::Late { overdue } => {
                if !self.silent {
                    let degraded = access == Access::Degraded;
                    self.notices.push_back(Notice::NoRandomAccess { overdue, degraded });
                }
                self.cut(unit.at, unit.timestamp, access, Some(unit.counter));
            }
            Verdict::Pass => self.tell_lesser(&unit, access),
        }
        if access == Access::Clean && self.segment.is_some() {
            let position = self.timeline.position();
            (self.clean_at, self.told_at) = (position, position);
            self.marks.push_back((unit.at, Mark::RandomAccess(RandomAccess { position })));
        }
    }

    /// Tells of a degraded access point where clean ones have been missing for the grace period: whoever joins has
    /// nothing better. What a decoder needs and the access unit does not bring is repeated before it.
    fn tell_lesser(&mut self, unit: &AccessUnit, access: Access) {
        let position = self.timeline.position();
        let since = |at: Ticks| position.0.saturating_sub(at.0);
        let due = since(self.clean_at) >= Ticks::from(self.config.grace).0
            && since(self.told_at) >= LESSER_DISTANCE;
        if access != Access::Degraded || self.segment.is_none() || !due {
            return;
        }
        self.told_at = position;
        self.marks.push_back((unit.at, Mark::RandomAccess(RandomAccess { position })));
        let packets = self.repeated(Some(unit.counter));
        if self.scanner.missing_parameters().is_empty() || self.last_header.is_empty() {
            return;
        }
        self.full_at = self.full_at.saturating_sub(packets.len() as u64);
        self.marks.push_back((unit.at, Mark::Repeat(packets)));
    }

    /// The tables in force as packets and, with `counter`, that of the leading stream before the access unit, the
    /// parameter sets that this lacks.
    fn repeated(&self, counter: Option<u8>) -> Vec<u8> {
        let mut packets = Vec::new();
        let last_counter = |pid: u16| self.pids[usize::from(pid)].counter.wrapping_sub(1);
        self.programs.write_tables(last_counter, &mut packets);
        if let (Some(counter), Some(selection)) = (counter, self.selection) {
            let parameters = self.scanner.missing_parameters();
            repeat_parameters(selection.leading.pid, counter, &self.last_header, parameters, &mut packets);
        }
        packets
    }

    /// Ends the segment under way at offset `at` and starts the next. With `counter`, that of the leading stream before
    /// the access unit, the parameter sets that this lacks are repeated before it.
    fn cut(&mut self, at: usize, timestamp: Option<Timestamp>, access: Access, counter: Option<u8>) {
        self.lead_in = None;
        if self.segment.is_none() {
            self.timeline.start_here();
            (self.clean_at, self.told_at) = (Ticks(0), Ticks(0));
            let bytes = self.before + at as u64;
            if bytes > 0 {
                self.notices.push_back(Notice::Skipped { bytes });
            }
        }
        let position = self.timeline.position();
        if let Some(start) = self.segment.replace(position) {
            let duration = Ticks(position.0.saturating_sub(start.0));
            self.marks.push_back((at, Mark::End { duration }));
        }
        self.schedule.cut(position);
        let tables = self.repeated(counter);
        // However small the limit, a segment holds at least a packet.
        let room = self.config.max_bytes.saturating_sub(tables.len() as u64).max(PACKET_LEN as u64);
        self.full_at = (self.before + at as u64).saturating_add(room);
        let discontinuity = std::mem::take(&mut self.discontinuity);
        let access = access != Access::None;
        if access {
            self.told_at = position;
        }
        self.marks.push_back((at, Mark::Start { discontinuity, position, timestamp, access, tables }));
    }

    /// Whether the segment cannot take the packet at this offset.
    fn is_full(&self, at: usize) -> bool {
        self.before + (at + PACKET_LEN) as u64 > self.full_at
    }

    fn too_large(&mut self, at: usize) {
        self.judge(Access::None);
        if self.is_full(at) {
            self.notices.push_back(Notice::TooLarge { limit: self.config.max_bytes });
            self.cut(at, None, Access::None, None);
        }
    }

    fn tables_changed(&mut self) {
        let old = self.selection;
        self.selection = self.programs.selection();
        for state in self.pids.iter_mut() {
            state.roles = 0;
        }
        let pids = self.pids.as_mut_slice();
        let mut give = |pid: u16, role: u8| {
            if pid != NULL_PID {
                pids[usize::from(pid)].roles |= role;
            }
        };
        give(PAT_PID, TABLE);
        self.programs.pmt_pids().for_each(|pid| give(pid, TABLE));
        self.programs.companions().for_each(|pid| give(pid, COMPANION));
        let Some(new) = self.selection else { return };
        give(new.leading.pid, LEADING);
        give(new.pcr_pid, CLOCK);
        let sound = self.programs.has_sound();
        if new.codec.is_video() && !sound && (old.is_none() || self.sound) {
            self.notices.push_back(Notice::NoSound { program: new.program });
        }
        self.sound = sound;
        let strangers = self.programs.strangers();
        if strangers != self.strangers {
            self.strangers.clone_from(&strangers);
            if !strangers.is_empty() {
                self.notices.push_back(Notice::Strangers { program: new.program, streams: strangers });
            }
        }
        let follows = |old: Selection| (old.program, old.leading.pid, old.codec);
        if old.map(follows) == Some(follows(new)) {
            return;
        }
        // The open access unit belongs to the stream that was followed so far.
        self.settle(Access::None);
        self.scanner = Scanner::new(new.codec);
        self.flag_seen = false;
        self.notices.push_back(Notice::Leading {
            program: new.program,
            pid: new.leading.pid,
            stream_type: new.leading.stream_type,
            codec: new.codec,
        });
        if self.segment.is_some() {
            self.schedule.force(self.timeline.position());
        }
        if old.is_some_and(|old| old.program != new.program) {
            self.last_pcr = None;
            self.timeline.break_here();
        }
    }
}
