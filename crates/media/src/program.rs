//! Which program and which stream of it the cutter follows, from the tables as they pass.

use std::collections::{BTreeMap, HashMap};

use crate::{
    Error,
    packet::{PAT_PID, Packet},
    psi::{Codec, ElementaryStream, Pat, Pmt, Stranger},
    section::{SectionAssembler, write_packets},
};

/// A PAT lists no more sections than this that are kept (253 programs each).
const MAX_PAT_SECTIONS: u8 = 8;
/// When a PMT has come this often and another not once, the other is not waited for.
const PMT_ROUNDS: u32 = 3;

/// The program and stream in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// `program_number`.
    pub program: u16,
    /// PID of its PMT.
    pub pmt_pid: u16,
    /// PID of its PCR.
    pub pcr_pid: u16,
    /// The stream whose frames decide where to cut.
    pub leading: ElementaryStream,
    /// How that is coded.
    pub codec: Codec,
}

fn may_be_sound(codec: Option<Codec>) -> bool {
    matches!(codec, Some(Codec::Audio | Codec::Private))
}

impl Programs {
    /// Whether the program in use has sound, or may have: private data without a word on what it is may be sound, as AAC
    /// in a `.m2ts` is.
    pub fn has_sound(&self) -> bool {
        let table = self.selection.and_then(|selection| self.tables.get(&selection.program));
        table.is_some_and(|table| table.pmt.streams.iter().any(|stream| may_be_sound(stream.codec)))
    }

    /// The streams of the program in use, in the table's order.
    pub fn streams(&self) -> &[ElementaryStream] {
        let table = self.selection.and_then(|selection| self.tables.get(&selection.program));
        table.map_or(&[], |table| &table.pmt.streams)
    }

    /// The program's streams that players may leave out.
    pub fn strangers(&self) -> Vec<(u16, Stranger)> {
        let table = self.selection.and_then(|selection| self.tables.get(&selection.program));
        let streams = table.into_iter().flat_map(|table| &table.pmt.streams);
        streams.filter_map(|stream| Some((stream.pid, stream.stranger?))).collect()
    }

    /// The PIDs of the program's other sound and pictures.
    pub fn companions(&self) -> impl Iterator<Item = u16> {
        let leading = self.selection.map(|selection| selection.leading.pid);
        let table = self.selection.and_then(|selection| self.tables.get(&selection.program));
        let streams = table.into_iter().flat_map(|table| &table.pmt.streams);
        streams
            .filter(|stream| stream.codec.is_some())
            .map(|stream| stream.pid)
            .filter(move |pid| Some(*pid) != leading)
    }
}

/// Follows PAT and PMT; see the module.
#[derive(Debug)]
pub struct Programs {
    wanted: Option<u16>,
    pat: SectionAssembler,
    /// Sections of the PAT version in force, by number.
    pat_sections: BTreeMap<u8, (Pat, Vec<u8>)>,
    /// Sorted as in the PAT; at most what its sections can list.
    pmts: HashMap<u16, SectionAssembler>,
    /// By program number.
    tables: HashMap<u16, Table>,
    rounds: u32,
    selection: Option<Selection>,
}

#[derive(Debug)]
struct Table {
    pid: u16,
    section: Vec<u8>,
    pmt: Pmt,
}

impl Programs {
    /// Follows the program `wanted`, or the first with video.
    pub fn new(wanted: Option<u16>) -> Self {
        Self {
            wanted,
            pat: SectionAssembler::default(),
            pat_sections: BTreeMap::new(),
            pmts: HashMap::new(),
            tables: HashMap::new(),
            rounds: 0,
            selection: None,
        }
    }

    /// The program and stream in use.
    pub fn selection(&self) -> Option<Selection> {
        self.selection
    }

    /// The PIDs whose packets [`push`](Self::push) wants, besides the PAT's.
    pub fn pmt_pids(&self) -> impl Iterator<Item = u16> {
        self.pmts.keys().copied()
    }

    /// Takes a packet of the PAT or of a PMT; true when something has changed: the tables, their PIDs or
    /// the selection.
    ///
    /// # Errors
    /// [`Error::NoSuchProgram`] when the PAT does not list the program that is wanted and none has been
    /// followed so far.
    pub fn push(&mut self, packet: Packet<'_>) -> Result<bool, Error> {
        let pid = packet.pid();
        let mut sections = Vec::new();
        if pid == PAT_PID {
            self.pat.push(packet, |section| sections.push(section.to_vec()));
        } else if let Some(assembler) = self.pmts.get_mut(&pid) {
            assembler.push(packet, |section| sections.push(section.to_vec()));
        }
        let mut changed = false;
        for section in sections {
            changed |=
                if pid == PAT_PID { self.pat_section(section)? } else { self.pmt_section(pid, section) };
        }
        if changed {
            self.select();
        }
        Ok(changed)
    }

    /// PAT and PMT in force as packets, repeated with the continuity counters that `last_counter` gives
    /// for their PIDs.
    pub fn write_tables(&self, last_counter: impl Fn(u16) -> u8, out: &mut Vec<u8>) {
        let Some(selection) = self.selection else { return };
        let after = self.pat_sections.len() as u8;
        for (index, (_, section)) in self.pat_sections.values().enumerate() {
            let back = after - 1 - index as u8;
            write_packets(section, PAT_PID, last_counter(PAT_PID).wrapping_sub(back), out);
        }
        if let Some(table) = self.tables.get(&selection.program) {
            write_packets(&table.section, table.pid, last_counter(table.pid), out);
        }
    }

    fn pat_section(&mut self, section: Vec<u8>) -> Result<bool, Error> {
        let Some(pat) = Pat::parse(&section) else { return Ok(false) };
        if pat.section > pat.last_section || pat.section >= MAX_PAT_SECTIONS {
            return Ok(false);
        }
        if self.pat_sections.get(&pat.section).is_some_and(|(_, known)| *known == section) {
            return Ok(false);
        }
        let other_version = |(known, _): &(Pat, Vec<u8>)| {
            known.version != pat.version || known.last_section != pat.last_section
        };
        if self.pat_sections.values().any(other_version) {
            self.pat_sections.clear();
        }
        self.pat_sections.insert(pat.section, (pat, section));
        if !self.pat_complete() {
            return Ok(false);
        }
        let listed: Vec<(u16, u16)> = self.listed().collect();
        if let Some(wanted) = self.wanted
            && self.selection.is_none()
            && !listed.iter().any(|&(program, _)| program == wanted)
        {
            let available = listed.iter().map(|&(program, _)| program).collect();
            return Err(Error::NoSuchProgram { wanted, available });
        }
        self.pmts.retain(|pid, _| listed.iter().any(|(_, listed)| listed == pid));
        // A program whose PMT moves to another PID is the same program until that brings another table.
        self.tables.retain(|program, table| {
            let place = listed.iter().find(|(listed, pid)| listed == program && *pid == table.pid);
            let moved = || listed.iter().find(|(listed, _)| listed == program);
            place.or_else(moved).map(|&(_, pid)| table.pid = pid).is_some()
        });
        for &(program, pid) in &listed {
            if pid != PAT_PID && self.wanted.is_none_or(|wanted| wanted == program) {
                self.pmts.entry(pid).or_default();
            }
        }
        self.rounds = 0;
        Ok(true)
    }

    fn pmt_section(&mut self, pid: u16, section: Vec<u8>) -> bool {
        let Some(pmt) = Pmt::parse(&section) else { return false };
        if self.wanted.is_some_and(|wanted| wanted != pmt.program)
            || !self.listed().any(|entry| entry == (pmt.program, pid))
        {
            return false;
        }
        if self.tables.get(&pmt.program).is_some_and(|known| known.section == section) {
            self.rounds = self.rounds.saturating_add(1);
            // Only while choosing: afterwards a repeated table changes nothing.
            return self.selection.is_none();
        }
        self.tables.insert(pmt.program, Table { pid, section, pmt });
        true
    }

    fn pat_complete(&self) -> bool {
        let last = self.pat_sections.values().next().map_or(0, |(pat, _)| pat.last_section);
        self.pat_sections.len() == usize::from(last.min(MAX_PAT_SECTIONS - 1)) + 1
    }

    /// Program numbers and PMT PIDs in the order of the PAT.
    fn listed(&self) -> impl Iterator<Item = (u16, u16)> {
        self.pat_sections.values().flat_map(|(pat, _)| pat.programs.iter().copied())
    }

    /// Chooses when all tables are there that could be preferred, or have had time to come. What is in
    /// use stays in use while it exists.
    fn select(&mut self) {
        if let Some(old) = self.selection
            && let Some(table) = self.tables.get(&old.program)
            && let Some(selection) = table.selection(Some(old.leading.pid))
        {
            self.selection = Some(selection);
            return;
        }
        let patient = self.rounds < PMT_ROUNDS * (self.tables.len() as u32).max(1);
        let mut best: Option<Selection> = None;
        for (program, _) in self.listed() {
            match self.tables.get(&program) {
                Some(table) if table.pmt.has_video() => {
                    best = table.selection(None);
                    break;
                }
                Some(table) => best = best.or_else(|| table.selection(None)),
                None if patient && self.wanted.is_none_or(|wanted| wanted == program) => return,
                None => {}
            }
        }
        // A program that has gone from the PAT is followed until there is another.
        self.selection = best.or(self.selection);
    }
}

impl Table {
    /// This program, followed by the stream `keep` if it is still there and still the best kind.
    fn selection(&self, keep: Option<u16>) -> Option<Selection> {
        let best = self.pmt.leading_stream()?;
        let kept =
            self.pmt.streams.iter().find(|stream| Some(stream.pid) == keep && stream.codec == best.codec);
        let leading = *kept.unwrap_or(&best);
        Some(Selection {
            program: self.pmt.program,
            pmt_pid: self.pid,
            pcr_pid: self.pmt.pcr_pid,
            leading,
            codec: leading.codec?,
        })
    }
}
