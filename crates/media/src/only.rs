//! One program of a multiplex: what belongs to it passes, with a PAT that names no other (ISO/IEC 13818-1, 2.4.4.3).
//!
//! Packets pass as they came: those of the program's PMT, of its PCR and its streams, the tables of the whole multiplex
//! (PIDs below 0x20: services, events, the time) and null packets. Where the PAT does not name the program, all passes, so
//! that whoever reads on can say so.

use crate::{
    Error,
    packet::{NULL_PID, PACKET_LEN, PAT_PID, Packet},
    psi::{Pat, Pmt},
    section::{SectionAssembler, crc32, write_packets},
    sync::PacketSync,
};

/// PIDs below this carry tables.
const FIRST_STREAM: u16 = 0x20;

/// Passes one program; see the module.
#[derive(Debug)]
pub struct ProgramFilter {
    sync: PacketSync,
    state: State,
}

#[derive(Debug)]
struct State {
    wanted: u16,
    pat: SectionAssembler,
    pmt: SectionAssembler,
    pmt_pid: Option<u16>,
    /// Of the program's PCR and streams: at most what a PMT can list.
    pids: Vec<u16>,
    /// The PAT is here and does not name it.
    absent: bool,
    /// Continuity counter of the next PAT.
    counter: u8,
    out: Vec<u8>,
}

impl ProgramFilter {
    /// A filter for the program of this number.
    pub fn new(wanted: u16) -> Self {
        let state = State {
            wanted,
            pat: SectionAssembler::default(),
            pmt: SectionAssembler::default(),
            pmt_pid: None,
            pids: Vec::new(),
            absent: false,
            counter: 0,
            out: Vec::new(),
        };
        Self { sync: PacketSync::default(), state }
    }

    /// What of the next `bytes` belongs to the program.
    ///
    /// # Errors
    /// [`Error::NotMpegTs`] when the stream's first bytes hold no packets.
    pub fn push(&mut self, bytes: &[u8]) -> Result<&[u8], Error> {
        self.state.out.clear();
        let mut rest = bytes;
        while self.sync.fill(&mut rest)? {
            for packet in self.sync.run(rest).as_chunks().0 {
                self.state.take(packet);
            }
            self.sync.release(&mut rest);
        }
        Ok(&self.state.out)
    }

    /// The stream has ended: what is left of it.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn end(&mut self) -> Result<&[u8], Error> {
        self.sync.end();
        self.push(&[])
    }
}

impl State {
    fn take(&mut self, bytes: &[u8; PACKET_LEN]) {
        let packet = Packet::new(bytes);
        let pid = packet.pid();
        let mut sections = Vec::new();
        if pid == PAT_PID {
            self.pat.push(packet, |section| sections.push(section.to_vec()));
            sections.iter().for_each(|section| self.pat(section));
            if self.absent {
                self.out.extend_from_slice(bytes);
            }
            return;
        }
        if Some(pid) == self.pmt_pid {
            self.pmt.push(packet, |section| sections.push(section.to_vec()));
            for pmt in sections.iter().filter_map(|section| Pmt::parse(section)) {
                if pmt.program == self.wanted {
                    self.pids = pmt.streams.iter().map(|stream| stream.pid).chain([pmt.pcr_pid]).collect();
                }
            }
        }
        let passes = self.absent
            || Some(pid) == self.pmt_pid
            || pid < FIRST_STREAM
            || pid == NULL_PID
            || self.pids.contains(&pid);
        if passes {
            self.out.extend_from_slice(bytes);
        }
    }

    /// Takes a section of the PAT; writes one in its place that names the program alone.
    fn pat(&mut self, section: &[u8]) {
        let Some(pat) = Pat::parse(section) else { return };
        let Some(&(_, pid)) = pat.programs.iter().find(|(program, _)| *program == self.wanted) else {
            // Other sections may name it, and one that was there and is gone may come back.
            self.absent = pat.last_section == 0 && self.pmt_pid.is_none();
            return;
        };
        self.absent = false;
        if self.pmt_pid.replace(pid) != Some(pid) {
            self.pmt = SectionAssembler::default();
            self.pids.clear();
        }
        let mut own = vec![0x00, 0xb0, 13];
        // The multiplex's number, the version; one section.
        own.extend_from_slice(&section[3..6]);
        own.extend([0, 0]);
        own.extend(self.wanted.to_be_bytes());
        own.extend((0xe000 | pid).to_be_bytes());
        own.extend(crc32(&own).to_be_bytes());
        write_packets(&own, PAT_PID, self.counter, &mut self.out);
        self.counter = (self.counter + 1) & 0x0f;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::section::tests::with_crc;

    fn packet(pid: u16, fill: u8) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        [&[0x47, high, low, 0x10][..], &[fill; 184]].concat()
    }

    fn table(section: Vec<u8>, pid: u16) -> Vec<u8> {
        let mut out = Vec::new();
        write_packets(&with_crc(section), pid, 0, &mut out);
        out
    }

    /// Programs 1 and 2, each with a stream, and what stands between.
    fn multiplex() -> Vec<u8> {
        let pat = table(vec![0, 0xb0, 17, 0, 7, 0xc1, 0, 0, 0, 1, 0xe1, 0x00, 0, 2, 0xe2, 0x00], 0);
        let pmt = |program: u8, pid: u16, stream: u16| {
            let [high, low] = stream.to_be_bytes();
            let head = vec![2, 0xb0, 18, 0, program, 0xc1, 0, 0, 0xe0 | high, low, 0xf0, 0];
            table([head, vec![0x1b, 0xe0 | high, low, 0xf0, 0]].concat(), pid)
        };
        let once = [
            pat,
            pmt(1, 0x100, 0x101),
            pmt(2, 0x200, 0x201),
            packet(0x101, 1),
            packet(0x201, 2),
            packet(0x11, 3),
            packet(0x300, 4),
            packet(NULL_PID, 0xff),
        ];
        once.concat().repeat(3)
    }

    fn pids(bytes: &[u8]) -> Vec<u16> {
        bytes.as_chunks().0.iter().map(|packet: &[u8; PACKET_LEN]| Packet::new(packet).pid()).collect()
    }

    fn through(wanted: u16, bytes: &[u8], step: usize) -> Vec<u8> {
        let mut filter = ProgramFilter::new(wanted);
        let mut out = Vec::new();
        for bytes in bytes.chunks(step) {
            out.extend_from_slice(filter.push(bytes).unwrap());
        }
        out.extend_from_slice(filter.end().unwrap());
        out
    }

    #[test]
    fn what_belongs_to_the_program_passes_and_the_pat_names_no_other() {
        let out = through(2, &multiplex(), 1000);
        assert_eq!(pids(&out), [0, 0x200, 0x201, 0x11, NULL_PID].repeat(3));
        let mut programs = Vec::new();
        let mut assembler = SectionAssembler::default();
        for packet in out.as_chunks().0 {
            let packet = Packet::new(packet);
            if packet.pid() == PAT_PID {
                assembler.push(packet, |section| programs.push(Pat::parse(section).unwrap().programs));
            }
        }
        assert_eq!(programs, vec![vec![(2, 0x200)]; 3]);
    }

    #[test]
    fn where_there_is_no_such_program_all_passes_for_others_to_say_so() {
        assert_eq!(through(9, &multiplex(), 188), multiplex());
    }

    proptest! {
        #[test]
        fn any_division_gives_the_same(step in 1usize..900) {
            prop_assert_eq!(through(1, &multiplex(), step), through(1, &multiplex(), 100_000));
        }

        #[test]
        fn any_damage(at in 0usize..4000, byte in any::<u8>()) {
            let mut bytes = multiplex();
            bytes[at] = byte;
            let _ = ProgramFilter::new(1).push(&bytes);
        }
    }
}
