//! Sound: from an elementary stream to frames.
//!
//! A frame may begin in one PES packet and end in the next. The time of a PES packet is that of the first frame that
//! begins in it (ISO/IEC 13818-1, 2.4.3.7).

mod aac;
mod ac3;
mod latm;
mod mpeg;
mod opus;

use std::{ops::Range, sync::Arc};

use minuet_media::Sound;
use mp4_atom::Audio;

use crate::{
    frame::{Config, Entry, Frame, Kind},
    pes::Pes,
};

/// Bytes of frames that are not complete. An ADTS frame has 8 KiB at the most, and one of LATM the same.
const MAX_BUFFER: usize = 64 << 10;

/// What stands at the beginning of some bytes.
#[derive(Debug)]
enum Found {
    /// A frame of so many bytes.
    Frame {
        /// Bytes of the stream that belong to it.
        len: usize,
        /// The sample: in the stream's bytes, or apart from them.
        sample: Sample,
        /// Its length in the config's timescale.
        duration: u32,
        /// How it is coded.
        coding: Coding,
    },
    /// Bytes that are no sample of their own: tables, empty frames.
    Skip(usize),
    /// More bytes are needed.
    Short,
    /// No frame.
    None,
}

#[derive(Debug)]
enum Sample {
    /// These of the stream's bytes.
    Part(Range<usize>),
    /// Bytes that do not stand in the stream as they are.
    Own(Vec<u8>),
}

/// How sound is coded, as far as its init segment says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Coding {
    /// AAC with this `AudioSpecificConfig`.
    Aac { config: Vec<u8>, object_type: u8, rate: u32, channels: u16 },
    /// MPEG audio.
    Mpeg { layer: u8, half_rate: bool, rate: u32, channels: u16 },
    /// AC-3.
    Ac3(ac3::Ac3Head),
    /// E-AC-3.
    Eac3(ac3::Eac3Head),
    /// Opus.
    Opus { channel_config: u8 },
}

/// Takes sound apart.
#[derive(Debug)]
pub struct Frames {
    sound: Sound,
    buffer: Vec<u8>,
    latm: latm::Latm,
    coding: Option<(Coding, Arc<Config>)>,
    /// Frames follow each other without gaps.
    synced: bool,
}

impl Frames {
    /// Of this kind. None if it is not carried.
    pub fn new(sound: Sound) -> Option<Self> {
        (sound != Sound::Other).then(|| Self {
            sound,
            buffer: Vec::new(),
            latm: latm::Latm::default(),
            coding: None,
            synced: false,
        })
    }

    /// Nothing of what came belongs to what follows.
    pub fn flush(&mut self) {
        self.buffer.clear();
        self.synced = false;
    }

    /// Takes a PES packet; appends its frames to `out`.
    pub fn push(&mut self, pes: &Pes, out: &mut Vec<Frame>) {
        if pes.damaged {
            return self.flush();
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        let mut stamp = pes.pts.map(|pts| (bytes.len(), pts));
        bytes.extend_from_slice(&pes.body);
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.find(rest) {
                Found::Frame { len, .. } if !self.synced && !self.confirmed(&rest[len..]) => {
                    at = at.saturating_add(1)
                }
                Found::Frame { len, sample, duration, coding } => {
                    self.synced = true;
                    let data = match sample {
                        Sample::Part(part) => rest.get(part).unwrap_or_default().to_vec(),
                        Sample::Own(bytes) => bytes,
                    };
                    let pts = stamp.filter(|(from, _)| at >= *from).map(|(_, pts)| pts);
                    if pts.is_some() {
                        stamp = None;
                    }
                    if let Some(config) = self.config(coding) {
                        out.push(Frame {
                            pts,
                            dts: None,
                            data,
                            entry: Entry::Clean,
                            disposable: true,
                            duration: Some(duration),
                            config: Some(config),
                            position: pes.position,
                        });
                    }
                    at = at.saturating_add(len.max(1));
                }
                Found::Skip(len) => at = at.saturating_add(len.max(1)),
                Found::Short => break,
                Found::None => {
                    self.synced = false;
                    at = at.saturating_add(1);
                }
            }
        }
        bytes.drain(..at.min(bytes.len()));
        if bytes.len() <= MAX_BUFFER {
            self.buffer = bytes;
        } else {
            self.synced = false;
        }
    }

    fn find(&mut self, bytes: &[u8]) -> Found {
        match self.sound {
            Sound::AacAdts => aac::find(bytes),
            Sound::AacLatm => self.latm.find(bytes),
            Sound::Mpeg => mpeg::find(bytes),
            Sound::Ac3 | Sound::Eac3 => ac3::find(bytes),
            Sound::Opus { channel_config } => opus::find(bytes, channel_config),
            Sound::Other => Found::None,
        }
    }

    /// Whether another frame follows, as far as can be seen.
    fn confirmed(&mut self, after: &[u8]) -> bool {
        after.is_empty() || !matches!(self.find(after), Found::None)
    }

    fn config(&mut self, coding: Coding) -> Option<Arc<Config>> {
        if let Some((known, config)) = &self.coding
            && *known == coding
        {
            return Some(Arc::clone(config));
        }
        let config = Arc::new(coding.config()?);
        self.coding = Some((coding, Arc::clone(&config)));
        Some(config)
    }
}

impl Coding {
    fn config(&self) -> Option<Config> {
        let (entry, codecs, timescale, channels) = match self {
            Self::Aac { config, object_type, rate, channels } => {
                let entry = aac::entry(0x40, Some(config.clone()), audio(*rate, *channels));
                (entry, format!("mp4a.40.{object_type}"), *rate, *channels)
            }
            Self::Mpeg { layer, half_rate, rate, channels } => {
                let object_type = if *half_rate { 0x69 } else { 0x6b };
                let entry = aac::entry(object_type, None, audio(*rate, *channels));
                // Browsers take this word for layer 3 alone.
                let codecs = if *layer == 3 { format!("mp4a.{object_type:X}") } else { format!("mp{layer}") };
                (entry, codecs, *rate, *channels)
            }
            Self::Ac3(head) => (head.entry(), "ac-3".into(), head.rate()?, head.channels()),
            Self::Eac3(head) => (head.entry(), "ec-3".into(), head.rate()?, head.channels()),
            Self::Opus { channel_config } => {
                let channels = opus::channels(*channel_config)?;
                (opus::entry(*channel_config)?, "opus".into(), opus::RATE, channels)
            }
        };
        Some(Config { entry, codecs, timescale, kind: Kind::Sound { channels } })
    }
}

/// What sample entries of all kinds say.
fn audio(rate: u32, channels: u16) -> Audio {
    // Rates that do not fit are in the decoder's own config.
    let rate = u16::try_from(rate).unwrap_or(0);
    Audio { data_reference_index: 1, channel_count: channels, sample_size: 16, sample_rate: rate.into() }
}
