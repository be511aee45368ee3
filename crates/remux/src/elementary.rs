//! The first sound track of a feed as a stream of its own: as it is coded, without MPEG-TS around it.

use minuet_media::{
    Programs, Sound,
    packet::{PACKET_LEN, PAT_PID, Packet},
};

use crate::pes::Assembler;

/// Takes the sound out of MPEG-TS.
#[derive(Debug)]
pub struct Elementary {
    programs: Programs,
    pid: Option<u16>,
    assembler: Assembler,
}

impl Default for Elementary {
    fn default() -> Self {
        Self { programs: Programs::new(None), pid: None, assembler: Assembler::default() }
    }
}

impl Elementary {
    /// Takes whole packets; appends their sound to `out`. PES packets of which bytes are missing are left out.
    pub fn push(&mut self, packets: &[u8], out: &mut Vec<u8>) {
        for packet in packets.as_chunks::<PACKET_LEN>().0 {
            let packet = Packet::new(packet);
            let pid = packet.pid();
            if Some(pid) == self.pid {
                self.assembler.push(packet, 0, |pes| {
                    if !pes.damaged {
                        out.extend_from_slice(&pes.body);
                    }
                });
            } else if pid == PAT_PID || self.programs.pmt_pids().any(|table| table == pid) {
                // No program is wanted by number, so none can be missing.
                let _ = self.programs.push(packet);
                let streams = self.programs.streams().iter();
                let plays = |sound: Sound| !matches!(sound, Sound::Other | Sound::Opus { .. });
                let first =
                    streams.filter(|stream| stream.sound.is_some_and(plays)).map(|stream| stream.pid).next();
                if first.is_some() && first != self.pid {
                    self.pid = first;
                    self.assembler = Assembler::default();
                }
            }
        }
    }
}
