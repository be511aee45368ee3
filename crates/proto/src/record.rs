//! The record of a sealed segment: what its torrent is and where it stands in the channel.
//!
//! Records form a chain: each names the SHA-256 of the one before it, so the source cannot give two histories to
//! two viewers without it showing. A record is signed once, when its segment is sealed. A segment that was begun but
//! never sealed has no record: its number is left out, and the next record names the one before it.

use bytes::Bytes;

use crate::{
    ChannelId, Error, InfoHash, MAX_UNIX_MS, PieceLength, RecordHash, SegmentSeq,
    access::AccessPoints,
    bencode::{Dict, DictWriter},
    signed::{Signed, Statement},
};

/// The longest segment file in bytes: ten minutes at 800 Mbit/s.
pub const MAX_SEGMENT_LENGTH: u64 = 60_000_000_000;
/// The longest segment in milliseconds: one hour.
pub const MAX_SEGMENT_MS: u64 = 3_600_000;

/// A sealed segment. Bencode dictionary; keys in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The channel \[`channel`, 32 bytes].
    pub channel: ChannelId,
    /// Its number \[`seq`].
    pub seq: SegmentSeq,
    /// [`Signed::hash`] of the record before it \[`prev`, 32 bytes; absent in a channel's first record, always in that of
    /// segment 0].
    pub prev: Option<RecordHash>,
    /// Its torrent \[`info_hash`, 20 bytes].
    pub info_hash: InfoHash,
    /// Length of the file in bytes, above 0 and at most [`MAX_SEGMENT_LENGTH`] \[`length`].
    pub length: u64,
    /// Piece length \[`piece_length`].
    pub piece_length: PieceLength,
    /// Duration of the media in milliseconds, at most [`MAX_SEGMENT_MS`] \[`duration_ms`].
    pub duration_ms: u64,
    /// When the source got the first byte, in Unix milliseconds, at most [`MAX_UNIX_MS`] \[`ingest_ms`].
    pub ingest_ms: u64,
    /// When the source got the last byte, in Unix milliseconds, at most [`MAX_UNIX_MS`] \[`sealed_ms`].
    pub sealed_ms: u64,
    /// Whether the media's clock or content does not go on from the segment before \[`discontinuity`, 0 or 1].
    pub discontinuity: bool,
    /// Where decoding can start, besides its beginning \[`access`, as [`AccessPoints::encode`] writes them; absent if there are
    /// none].
    pub access: AccessPoints,
}

/// A record whose signature is good.
pub type SignedRecord = Signed<Record>;

impl Statement for Record {
    const WHAT: &'static str = "a record";
    const DOMAIN: &'static [u8] = b"minuet record 1\n";

    fn channel(&self) -> ChannelId {
        self.channel
    }

    fn encode(&self) -> Bytes {
        let mut out = DictWriter::new();
        if !self.access.is_empty() {
            out = out.bytes("access", self.access.encode());
        }
        out = out
            .bytes("channel", self.channel.as_bytes())
            .number("discontinuity", u8::from(self.discontinuity))
            .number("duration_ms", self.duration_ms)
            .bytes("info_hash", self.info_hash.as_bytes())
            .number("ingest_ms", self.ingest_ms)
            .number("length", self.length)
            .number("piece_length", self.piece_length.get());
        if let Some(prev) = &self.prev {
            out = out.bytes("prev", prev.as_bytes());
        }
        out.number("sealed_ms", self.sealed_ms).number("seq", self.seq.0).finish()
    }

    fn decode(payload: &[u8]) -> Result<Self, Error> {
        let dict = Dict::parse(Self::WHAT, payload)?;
        let check =
            |good: bool, why: &str| if good { Ok(()) } else { Err(Error::malformed(Self::WHAT, why)) };
        let record = Self {
            channel: dict.bytes("channel")?.try_into()?,
            seq: SegmentSeq(dict.number("seq")?),
            prev: dict.get("prev").map(|_| dict.bytes("prev")?.try_into()).transpose()?,
            info_hash: dict.bytes("info_hash")?.try_into()?,
            length: dict.number("length")?,
            piece_length: dict.number::<u32>("piece_length")?.try_into()?,
            duration_ms: dict.number("duration_ms")?,
            ingest_ms: dict.number("ingest_ms")?,
            sealed_ms: dict.number("sealed_ms")?,
            discontinuity: dict.flag("discontinuity")?,
            access: match dict.get("access") {
                Some(_) => AccessPoints::decode(dict.bytes("access")?)?,
                None => AccessPoints::default(),
            },
        };
        check(record.seq <= SegmentSeq::MAX, "its number is out of bounds")?;
        check(record.ingest_ms.max(record.sealed_ms) <= MAX_UNIX_MS, "its times are out of bounds")?;
        check((1..=MAX_SEGMENT_LENGTH).contains(&record.length), "its length is out of bounds")?;
        check(record.duration_ms <= MAX_SEGMENT_MS, "its duration is out of bounds")?;
        check(record.seq.0 > 0 || record.prev.is_none(), "segment 0 names a record before it")?;
        Ok(record)
    }
}

/// Why a record is not the next one of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not the next one.
    #[error("segment {found} does not follow segment {newest}")]
    NotNext {
        /// The newest known number.
        newest: SegmentSeq,
        /// The number found.
        found: SegmentSeq,
    },
    /// The next number, but of another history.
    #[error("segment {0} names another record before it than the one known")]
    BrokenLink(SegmentSeq),
}

impl Record {
    /// Whether this record is the one right after `newest`. Numbers between the two are those of segments that were
    /// never sealed.
    pub fn check_follows(&self, newest: &SignedRecord) -> Result<(), ChainError> {
        if self.seq > newest.seq && self.prev == Some(newest.hash()) {
            return Ok(());
        }
        Err(match self.seq == newest.seq.next() {
            true => ChainError::BrokenLink(self.seq),
            false => ChainError::NotNext { newest: newest.seq, found: self.seq },
        })
    }

    /// The segment's file name, which is also the torrent's `name`: the channel's first 8 digits and the number.
    pub fn file_name(&self) -> String {
        segment_file_name(&self.channel, self.seq)
    }
}

/// The file name of a channel's segment, as in `1f0c44d2-00000042.ts`.
pub fn segment_file_name(channel: &ChannelId, seq: SegmentSeq) -> String {
    let mut name = channel.to_string();
    name.truncate(8);
    format!("{name}-{:08}.ts", seq.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ChannelKey;

    pub(crate) fn any_record() -> impl Strategy<Value = (ChannelKey, Record)> {
        (
            any::<([u8; 32], u64, [u8; 32], [u8; 20], u64, u64, bool)>(),
            1..=MAX_SEGMENT_LENGTH,
            14u32..=20,
            0..=MAX_SEGMENT_MS,
            crate::access::tests::any_points(),
        )
            .prop_map(
                |(
                    (seed, seq, prev, hash, ingest_ms, sealed_ms, discontinuity),
                    length,
                    power,
                    duration_ms,
                    access,
                )| {
                    let key = ChannelKey::from_seed(&seed);
                    let seq = seq & SegmentSeq::MAX.0;
                    let record = Record {
                        channel: key.channel(),
                        seq: SegmentSeq(seq),
                        prev: (seq != 0).then_some(RecordHash::new(prev)),
                        info_hash: InfoHash::new(hash),
                        length,
                        piece_length: PieceLength::try_from(1 << power).unwrap(),
                        duration_ms,
                        ingest_ms: ingest_ms % (MAX_UNIX_MS + 1),
                        sealed_ms: sealed_ms % (MAX_UNIX_MS + 1),
                        discontinuity,
                        access,
                    };
                    (key, record)
                },
            )
    }

    proptest! {
        #[test]
        fn signed_records_round_trip((key, record) in any_record()) {
            let signed = SignedRecord::sign(&key, record.clone());
            let decoded = SignedRecord::decode(&signed.encode(), key.channel()).unwrap();
            prop_assert_eq!(&decoded, &signed);
            prop_assert_eq!(decoded.get(), &record);
            prop_assert_eq!(SignedRecord::from_base64(&signed.to_base64(), key.channel()), Ok(signed));
        }

        #[test]
        fn one_changed_byte_is_never_accepted((key, record) in any_record(), at: prop::sample::Index, change in 1u8..) {
            let signed = SignedRecord::sign(&key, record);
            let mut encoded = signed.encode().to_vec();
            let at = at.index(encoded.len());
            encoded[at] ^= change;
            prop_assert!(SignedRecord::decode(&encoded, key.channel()).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = SignedRecord::decode_any(&bytes);
            let _ = Record::decode(&bytes);
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        let key = ChannelKey::from_seed(&[1; 32]);
        let good = record(&key, 1, None).get().clone();
        let read = |record| SignedRecord::decode(&SignedRecord::sign(&key, record).encode(), key.channel());
        assert!(read(Record { seq: SegmentSeq::MAX, sealed_ms: MAX_UNIX_MS, ..good.clone() }).is_ok());
        for bad in [
            Record { seq: SegmentSeq(1 << 62), ..good.clone() },
            Record { ingest_ms: MAX_UNIX_MS + 1, ..good.clone() },
            Record { sealed_ms: u64::MAX, ..good.clone() },
        ] {
            assert!(read(bad.clone()).is_err(), "{bad:?}");
        }
    }

    fn record(key: &ChannelKey, seq: u64, prev: Option<RecordHash>) -> SignedRecord {
        SignedRecord::sign(
            key,
            Record {
                channel: key.channel(),
                seq: SegmentSeq(seq),
                prev,
                info_hash: InfoHash::new([7; 20]),
                length: 1,
                piece_length: PieceLength::MIN,
                duration_ms: 1,
                ingest_ms: 1,
                sealed_ms: 2,
                discontinuity: false,
                access: AccessPoints::default(),
            },
        )
    }

    #[test]
    fn only_the_next_of_the_same_history_follows() {
        let key = ChannelKey::from_seed(&[1; 32]);
        let first = record(&key, 0, None);
        assert_eq!(record(&key, 1, Some(first.hash())).check_follows(&first), Ok(()));
        assert_eq!(record(&key, 2, Some(first.hash())).check_follows(&first), Ok(()), "1 was never sealed");
        assert_eq!(
            record(&key, 2, Some(RecordHash::new([0; 32]))).check_follows(&first),
            Err(ChainError::NotNext { newest: SegmentSeq(0), found: SegmentSeq(2) })
        );
        let later = record(&key, 5, None);
        assert!(record(&key, 5, Some(later.hash())).check_follows(&later).is_err());
        assert_eq!(
            record(&key, 1, Some(RecordHash::new([0; 32]))).check_follows(&first),
            Err(ChainError::BrokenLink(SegmentSeq(1)))
        );
    }

    #[test]
    fn anothers_signature_and_anothers_channel_are_refused() {
        let (mine, other) = (ChannelKey::from_seed(&[1; 32]), ChannelKey::from_seed(&[2; 32]));
        let signed = record(&mine, 0, None);
        assert!(matches!(
            SignedRecord::decode(&signed.encode(), other.channel()),
            Err(Error::WrongChannel { .. })
        ));
        // A record that names my channel, signed by the other's key.
        let payload = signed.get().encode();
        let forged = Signed {
            statement: signed.get().clone(),
            signature: other.sign(Record::DOMAIN, &payload),
            payload,
        };
        assert_eq!(
            SignedRecord::decode(&forged.encode(), mine.channel()),
            Err(Error::BadSignature { what: "a record" })
        );
    }
}
