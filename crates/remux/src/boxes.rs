//! Init segments and fragments (ISO/IEC 14496-12; ISO/IEC 23000-19, CMAF): one track each, no edit lists.

use bytes::Bytes;
use mp4_atom::{
    Dinf, Dref, Encode as _, FourCC, Ftyp, Hdlr, Mdhd, Mdia, Mfhd, Minf, Moof, Moov, Mvex, Mvhd, Result,
    Smhd, Stbl, Stco, Stsd, Tfdt, Tfhd, Tkhd, Traf, Trak, Trex, Trun, TrunEntry, Url, Vmhd,
};

use crate::frame::{Config, Kind};

/// Every file has one track.
const TRACK: u32 = 1;
/// `sample_flags` (ISO/IEC 14496-12, 8.8.3.1): refers to no other; refers to others, and is no sync sample; the same, and no
/// other refers to it.
const SYNC: u32 = 0x0200_0000;
const OTHER: u32 = 0x0101_0000;
const DISPOSABLE: u32 = 0x0181_0000;

/// One sample of a fragment.
#[derive(Debug)]
pub struct Sample {
    /// Its bytes.
    pub data: Vec<u8>,
    /// How long it lasts, in the track's timescale.
    pub duration: u32,
    /// Presentation time less decoding time.
    pub offset: i32,
    /// Decoding can start here.
    pub sync: bool,
    /// No other sample refers to it.
    pub disposable: bool,
}

/// The init segment of a track.
pub fn init(config: &Config, language: Option<[u8; 3]>) -> Result<Bytes> {
    let brand = |name: &[u8; 4]| FourCC::new(name);
    let ftyp = Ftyp {
        major_brand: brand(b"iso6"),
        minor_version: 0,
        compatible_brands: vec![brand(b"iso6"), brand(b"cmfc"), brand(b"mp41")],
    };
    let (handler, name, size) = match config.kind {
        Kind::Video { width, height } => (brand(b"vide"), "video", Some((width, height))),
        Kind::Sound { .. } => (brand(b"soun"), "sound", None),
    };
    let language =
        language.map_or_else(|| "und".to_owned(), |letters| letters.map(char::from).iter().collect());
    let tkhd = Tkhd {
        track_id: TRACK,
        enabled: true,
        in_movie: true,
        volume: if size.is_none() { 1.into() } else { 0.into() },
        width: size.map_or(0, |(width, _)| width).into(),
        height: size.map_or(0, |(_, height)| height).into(),
        ..Tkhd::default()
    };
    let stbl = Stbl {
        stsd: Stsd { codecs: vec![config.entry.clone()] },
        stco: Some(Stco::default()),
        ..Stbl::default()
    };
    let minf = Minf {
        vmhd: size.map(|_| Vmhd::default()),
        smhd: size.is_none().then(Smhd::default),
        dinf: Dinf { dref: Dref { entries: vec![Url::default().into()] } },
        stbl,
        ..Minf::default()
    };
    let mdia = Mdia {
        mdhd: Mdhd { timescale: config.timescale, language, ..Mdhd::default() },
        hdlr: Hdlr { handler, name: name.into() },
        minf,
    };
    let moov = Moov {
        mvhd: Mvhd {
            creation_time: 0,
            modification_time: 0,
            timescale: config.timescale,
            duration: 0,
            rate: 1.into(),
            volume: 1.into(),
            matrix: Default::default(),
            next_track_id: TRACK + 1,
        },
        mvex: Some(Mvex {
            mehd: None,
            trex: vec![Trex { track_id: TRACK, default_sample_description_index: 1, ..Trex::default() }],
        }),
        trak: vec![Trak { tkhd, mdia, ..Trak::default() }],
        ..Moov::default()
    };
    let mut out = Vec::new();
    ftyp.encode(&mut out)?;
    moov.encode(&mut out)?;
    Ok(out.into())
}

/// Appends a fragment of `samples`, the first of which is decoded at `time`.
pub fn fragment(sequence: u32, time: u64, samples: &[Sample], out: &mut Vec<u8>) -> Result<()> {
    let length: usize = samples.iter().map(|sample| sample.data.len()).sum();
    let flags = |sample: &Sample| match (sample.sync, sample.disposable) {
        (true, _) => SYNC,
        (false, false) => OTHER,
        (false, true) => DISPOSABLE,
    };
    // What all samples have in common is said once.
    let first = samples.first();
    let common = |value: &dyn Fn(&Sample) -> u32| {
        let value_of_first = first.map(value)?;
        samples.iter().all(|sample| value(sample) == value_of_first).then_some(value_of_first)
    };
    let (duration, flag) = (common(&|sample| sample.duration), common(&flags));
    let no_offsets = samples.iter().all(|sample| sample.offset == 0);
    let entries: Vec<TrunEntry> = samples
        .iter()
        .map(|sample| TrunEntry {
            duration: duration.is_none().then_some(sample.duration),
            size: Some(u32::try_from(sample.data.len()).unwrap_or(u32::MAX)),
            flags: flag.is_none().then(|| flags(sample)),
            cts: (!no_offsets).then_some(i64::from(sample.offset)),
        })
        .collect();
    let tfhd = Tfhd {
        track_id: TRACK,
        default_sample_duration: duration,
        default_sample_flags: flag,
        default_base_is_moof: true,
        ..Tfhd::default()
    };
    let mut moof = Moof {
        mfhd: Mfhd { sequence_number: sequence },
        traf: vec![Traf {
            tfhd,
            tfdt: Some(Tfdt { base_media_decode_time: time }),
            trun: vec![Trun { data_offset: Some(0), samples: entries.into() }],
            ..Traf::default()
        }],
    };
    let start = out.len();
    moof.encode(out)?;
    // The samples begin behind the header of their box.
    let offset = i32::try_from(out.len().saturating_sub(start).saturating_add(8)).unwrap_or(i32::MAX);
    if let Some(trun) = moof.traf.first_mut().and_then(|traf| traf.trun.first_mut()) {
        trun.data_offset = Some(offset);
    }
    out.truncate(start);
    moof.encode(out)?;
    out.extend(u32::try_from(length.saturating_add(8)).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(b"mdat");
    for sample in samples {
        out.extend_from_slice(&sample.data);
    }
    Ok(())
}
