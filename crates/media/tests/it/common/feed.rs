//! Makes feeds packet by packet, so that a test knows where everything lies.

use std::collections::HashMap;

pub const PMT_PID: u16 = 0x1000;
pub const VIDEO_PID: u16 = 0x100;
pub const AUDIO_PID: u16 = 0x101;
/// Ticks from frame to frame: 25 a second.
pub const FRAME: u64 = 3600;

/// What a frame is made of, and whether a decoder can start there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// IDR with SPS and PPS.
    Key,
    /// I picture at a recovery point, with SPS and PPS.
    OpenKey,
    /// IDR without SPS and PPS.
    Bare,
    /// P picture.
    Inter,
}

impl Frame {
    pub fn is_clean(self) -> bool {
        matches!(self, Self::Key | Self::OpenKey)
    }

    fn nals(self) -> &'static [&'static [u8]] {
        const AUD: &[u8] = &[9, 0xf0];
        const SPS: &[u8] = &[0x67, 0x64, 0, 0x1f];
        const PPS: &[u8] = &[0x68, 0xee];
        match self {
            Self::Key => &[AUD, SPS, PPS, &[0x65, 0x88, 0x84]],
            Self::OpenKey => &[AUD, SPS, PPS, &[6, 6, 1, 0xc4, 0x80], &[0x41, 0b1000_1000]],
            Self::Bare => &[AUD, &[0x65, 0x88, 0x84]],
            Self::Inter => &[AUD, &[0x41, 0b1001_1000]],
        }
    }

    /// An access unit of about `len` bytes, some of them in a message before the slice, so that the slice comes
    /// packets later.
    pub fn bytes(self, len: usize) -> Vec<u8> {
        let mut nals = self.nals().to_vec();
        let mut message = vec![6, 5];
        message.resize(2 + len / 2 / 255, 255);
        message.push((len / 2 % 255) as u8);
        message.resize(message.len() + len / 2, 0xaa);
        message.push(0x80);
        nals.insert(nals.len() - 1, &message);
        let mut bytes: Vec<u8> = nals.iter().flat_map(|nal| [&[0, 0, 0, 1], *nal].concat()).collect();
        bytes.resize(bytes.len() + len / 2, 0x5a);
        bytes
    }
}

/// Flags of a PES packet's first transport packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    pub random_access: bool,
    pub discontinuity: bool,
    pub pcr: Option<u64>,
    pub scrambled: bool,
}

/// A feed under construction.
#[derive(Clone, Debug, Default)]
pub struct Feed {
    pub bytes: Vec<u8>,
    counters: HashMap<u16, u8>,
}

impl Feed {
    /// PAT and PMT of one program: H.264 and AAC.
    pub fn tables(&mut self) {
        self.pat(&[(1, PMT_PID)]);
        self.pmt(1, PMT_PID, &[(0x1b, VIDEO_PID), (0x0f, AUDIO_PID)], 0);
    }

    pub fn pat(&mut self, programs: &[(u16, u16)]) {
        let body =
            programs.iter().flat_map(|(program, pid)| [program.to_be_bytes(), (pid | 0xe000).to_be_bytes()]);
        let body: Vec<u8> = body.flatten().collect();
        self.section(0, &section(0, 1, 0, &body));
    }

    /// A PMT whose PCR comes with the first stream; `padding` bytes of descriptors make it long.
    pub fn pmt(&mut self, program: u16, pid: u16, streams: &[(u8, u16)], padding: usize) {
        let mut body = (streams.first().map_or(0x1fff, |stream| stream.1) | 0xe000).to_be_bytes().to_vec();
        body.extend((padding as u16 | 0xf000).to_be_bytes());
        // Private descriptors.
        let mut left = padding;
        while left > 0 {
            // Not so long that a single byte is left over, which no descriptor fits.
            let len = if left == 258 { 256 } else { left.min(257) };
            body.extend([0x80, (len - 2) as u8]);
            body.resize(body.len() + len - 2, 0xee);
            left -= len;
        }
        for (stream_type, pid) in streams {
            body.push(*stream_type);
            body.extend((pid | 0xe000).to_be_bytes());
            body.extend([0xf0, 0]);
        }
        self.section(pid, &section(2, program, padding as u8, &body));
    }

    fn section(&mut self, pid: u16, section: &[u8]) {
        let mut unit = vec![0];
        unit.extend_from_slice(section);
        unit.resize(unit.len().div_ceil(184) * 184, 0xff);
        for (index, payload) in unit.chunks(184).enumerate() {
            self.packet(pid, index == 0, false, None, payload);
        }
    }

    /// A PES packet in as many packets as it needs; returns the offset of the first.
    pub fn pes(&mut self, pid: u16, time: u64, flags: Flags, payload: &[u8]) -> usize {
        let at = self.bytes.len();
        let stream_id = if pid == AUDIO_PID { 0xc0 } else { 0xe0 };
        let mut pes = vec![0, 0, 1, stream_id, 0, 0, 0x80, 0x80, 5];
        let time = time % (1 << 33);
        pes.extend([
            0x21 | (time >> 29) as u8 & 0x0e,
            (time >> 22) as u8,
            (time >> 14) as u8 | 1,
            (time >> 7) as u8,
            (time << 1) as u8 | 1,
        ]);
        pes.extend_from_slice(payload);
        let mut field = None;
        if flags.random_access || flags.discontinuity || flags.pcr.is_some() {
            let bits = u8::from(flags.discontinuity) << 7 | u8::from(flags.random_access) << 6;
            let mut body = vec![bits | u8::from(flags.pcr.is_some()) << 4];
            if let Some(base) = flags.pcr {
                let [_, _, pcr @ ..] = ((base % (1 << 33)) << 15 | 0x7e00).to_be_bytes();
                body.extend(pcr);
            }
            field = Some(body);
        }
        let mut rest = pes.as_slice();
        let mut first = true;
        while !rest.is_empty() {
            let room = 184 - field.as_ref().map_or(0, |body| body.len() + 1);
            let (now, later) = rest.split_at(rest.len().min(room));
            self.packet(pid, first, flags.scrambled, field.take(), now);
            (rest, first) = (later, false);
        }
        at
    }

    pub fn null(&mut self) {
        self.packet(0x1fff, false, false, None, &[0xff; 184]);
    }

    /// One packet; what `payload` leaves empty is stuffed in the adaptation field.
    fn packet(&mut self, pid: u16, start: bool, scrambled: bool, field: Option<Vec<u8>>, payload: &[u8]) {
        let counter = self.counters.entry(pid).or_insert(0);
        let end = self.bytes.len() + 188;
        let [high, low] = (pid | u16::from(start) << 14).to_be_bytes();
        let field = field.or((payload.len() < 184).then(Vec::new));
        let control = 0x10 | u8::from(field.is_some()) << 5 | u8::from(scrambled) << 7 | *counter;
        *counter = (*counter + 1) & 0x0f;
        self.bytes.extend([0x47, high, low, control]);
        if let Some(mut body) = field {
            let len = 183 - payload.len();
            if body.is_empty() && len > 0 {
                body.push(0);
            }
            body.resize(len, 0xff);
            self.bytes.push(len as u8);
            self.bytes.extend(body);
        }
        self.bytes.extend_from_slice(payload);
        assert_eq!(self.bytes.len(), end);
    }
}

fn section(table: u8, extension: u16, version: u8, body: &[u8]) -> Vec<u8> {
    let mut section = vec![table];
    section.extend(((body.len() + 9) as u16 | 0xb000).to_be_bytes());
    section.extend(extension.to_be_bytes());
    section.extend([0xc1 | (version & 0x1f) << 1, 0, 0]);
    section.extend_from_slice(body);
    section.extend(crc(&section).to_be_bytes());
    section
}

/// CRC-32/MPEG-2, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 }
        })
    })
}
