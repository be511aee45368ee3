//! Properties of the codec: what is written can be read, and what cannot be read harms nobody.

use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::{MAX_UNIX_MS, PieceHash, PieceId, PieceIndex, SegmentSeq};

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
}

fn flags() -> impl Strategy<Value = HelloFlags> {
    any::<[bool; 5]>().prop_map(|[dialable, no_upload, relay, source, elsewhere]| HelloFlags {
        dialable,
        no_upload,
        relay,
        source,
        elsewhere,
    })
}

fn serial() -> impl Strategy<Value = Serial> {
    (0..=Serial::MAX.get()).prop_map(Serial::new)
}

fn serials() -> impl Strategy<Value = SerialList> {
    btree_set(0..=Serial::MAX.get(), 0..20).prop_map(|set| set.into_iter().map(Serial::new).collect())
}

fn hello() -> impl Strategy<Value = Hello> {
    let extension = (any::<u64>(), bytes(40)).prop_map(|(id, data)| Extension { id, data });
    (1..u32::MAX, flags(), any::<u32>(), vec(extension, 0..4)).prop_map(
        |(version, flags, upload_kbps, extensions)| Hello { version, flags, upload_kbps, extensions },
    )
}

fn peer() -> impl Strategy<Value = PeerInfo> {
    (any::<[u8; 32]>(), flags(), any::<u32>(), bytes(256)).prop_map(|(node, flags, upload_kbps, address)| {
        PeerInfo { node: NodeId(node), flags, upload_kbps, address }
    })
}

fn head() -> impl Strategy<Value = Head> {
    let piece = (any::<[u8; 20]>(), 1..=MAX_PIECE_LEN, 0..=MAX_UNIX_MS, any::<bool>()).prop_map(
        |(hash, len, ingest_ms, random_access)| HeadPiece {
            hash: PieceHash::new(hash),
            len,
            ingest_ms,
            random_access,
        },
    );
    (0..1u64 << 61, 0..=SegmentSeq::MAX.0, 0..u32::MAX / 2, vec(piece, 1..=MAX_HEAD_PIECES)).prop_map(
        |(first, segment, index, pieces)| Head {
            first: Serial::new(first),
            segment: SegmentSeq(segment),
            first_index: PieceIndex(index),
            pieces,
        },
    )
}

fn block() -> impl Strategy<Value = Block> {
    (serial(), 1..=MAX_BLOCK_LEN, 0..=MAX_PIECE_LEN - 2 * MAX_BLOCK_LEN, 0..=MAX_BLOCK_LEN).prop_map(
        |(serial, len, offset, more)| {
            let more = if len < MIN_BLOCK_LEN { 0 } else { more };
            Block { serial, offset, len, piece_len: offset + len + more }
        },
    )
}

fn piece() -> impl Strategy<Value = PieceId> {
    (0..=SegmentSeq::MAX.0, 0..MAX_SEGMENT_PIECES)
        .prop_map(|(segment, piece)| PieceId { segment: SegmentSeq(segment), piece: PieceIndex(piece) })
}

fn kept() -> impl Strategy<Value = Kept> {
    let ranges = vec((1u64..1 << 50, 1u64..1 << 50), 0..5).prop_map(|steps| {
        let mut next = 0;
        let range = |(gap, count)| {
            let first = SegmentSeq(next + gap);
            next = first.0 + count;
            (first, count)
        };
        steps.into_iter().map(range).collect()
    });
    let indices = btree_set(0..MAX_SEGMENT_PIECES, 0..20);
    let minute = (piece(), bytes(MAX_STATEMENT_LEN), 0..30usize).prop_map(|(piece, record, hashes)| {
        let hashes = vec![9; 20 * hashes].into();
        Kept::Minute(Minute { segment: piece.segment, first: piece.piece, record, hashes })
    });
    prop_oneof![
        ranges.prop_map(Kept::Whole),
        (piece(), any::<bool>(), bytes(200)).prop_map(|(piece, wants, bits)| Kept::Map(KeptMap {
            segment: piece.segment,
            wants,
            bits
        })),
        (piece(), indices).prop_map(|(piece, indices)| Kept::Have {
            segment: piece.segment,
            pieces: indices.into_iter().map(PieceIndex).collect(),
        }),
        piece().prop_map(|piece| Kept::GetMinute { segment: piece.segment, first: piece.piece }),
        minute,
        (piece(), any::<u32>()).prop_map(|(piece, due_in_ms)| Kept::Request { piece, due_in_ms }),
        piece().prop_map(Kept::Cancel),
        (piece(), any::<bool>()).prop_map(|(piece, has)| Kept::Reject { piece, has }),
        (piece(), block()).prop_map(|(piece, Block { offset, len, piece_len, .. })| {
            Kept::Block(KeptBlock { piece, offset, len, piece_len })
        }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let bye = any::<u8>().prop_map(|byte| match byte {
        0 => ByeReason::Leaving,
        1 => ByeReason::Full,
        2 => ByeReason::Replaced,
        3 => ByeReason::Misbehaved,
        other => ByeReason::Other(other),
    });
    let signature = vec(any::<u8>(), SIGNATURE_LEN).prop_map(|v| {
        let mut signature = [0; SIGNATURE_LEN];
        signature.copy_from_slice(&v);
        signature
    });
    prop_oneof![
        hello().prop_map(Message::Hello),
        (0..1u64 << 61, bytes(200))
            .prop_map(|(first, bits)| { Message::Bitfield(Window { first: Serial::new(first), bits }) }),
        serials().prop_map(Message::Have),
        serials().prop_map(Message::DontHave),
        serial().prop_map(Message::Offer),
        (serial(), any::<u32>())
            .prop_map(|(serial, due_in_ms)| Message::Request(Request { serial, due_in_ms })),
        serial().prop_map(Message::Cancel),
        serial().prop_map(Message::Reject),
        block().prop_map(Message::Block),
        (head(), signature)
            .prop_map(|(head, signature)| Message::Head(SignedHead { body: head.encode(), signature })),
        (serial(), any::<u32>()).prop_map(|(first, count)| Message::GetHeads { first, count }),
        bytes(MAX_STATEMENT_LEN).prop_map(Message::Record),
        bytes(MAX_STATEMENT_LEN).prop_map(Message::State),
        vec(peer(), 0..6).prop_map(Message::Peers),
        bye.prop_map(Message::Bye),
        kept().prop_map(Message::Kept),
    ]
}

proptest! {
    #[test]
    fn messages_round_trip(messages in vec(message(), 1..5)) {
        let mut stream = BytesMut::new();
        for message in &messages {
            let before = stream.len();
            message.encode(&mut stream);
            stream.extend(std::iter::repeat_n(7, message.payload_len()));
            prop_assert_eq!(stream.len() - before, message.encoded_len());
        }
        for message in &messages {
            let frame = Frame::decode(&mut stream).unwrap().unwrap();
            prop_assert_eq!(frame.payload.len(), message.payload_len());
            prop_assert_eq!(frame.message.as_ref(), Some(message));
        }
        prop_assert!(stream.is_empty());
    }

    #[test]
    fn split_frames_decode_like_whole_ones(message in message()) {
        let mut header = BytesMut::new();
        message.encode(&mut header);
        let payload = Bytes::from(vec![7; message.payload_len()]);
        let len = header.len() + payload.len();
        let frame = Frame::decode_split(&header.freeze(), payload.clone()).unwrap();
        prop_assert!(frame.len < len && frame.len + 3 >= len);
        prop_assert_eq!((frame.message, frame.payload), (Some(message), payload));
    }

    #[test]
    fn heads_round_trip(head in head()) {
        prop_assert_eq!(Head::decode(&head.encode()), Ok(head));
    }

    #[test]
    fn a_frame_that_is_not_all_there_is_waited_for(message in message(), cut in any::<prop::sample::Index>()) {
        let mut whole = BytesMut::new();
        message.encode(&mut whole);
        whole.extend(std::iter::repeat_n(7, message.payload_len()));
        let mut part = BytesMut::from(&whole[..cut.index(whole.len())]);
        let before = part.clone();
        prop_assert_eq!(Frame::decode(&mut part), Ok(None));
        prop_assert_eq!(part, before);
    }

    #[test]
    fn any_bytes_end_in_an_answer(bytes in vec(any::<u8>(), 0..300)) {
        let mut stream = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = Frame::decode(&mut stream) {
            if let Some(Message::Head(head)) = frame.message {
                let _ = Head::decode(&head.body);
            }
        }
        let _ = Head::decode(&Bytes::from(bytes));
    }

    #[test]
    fn unknown_messages_are_skipped(kind in 24u8..128, body in vec(any::<u8>(), 0..50)) {
        let mut stream = BytesMut::new();
        stream.extend([body.len() as u8 + 1, kind]);
        stream.extend(&body);
        let frame = Frame::decode(&mut stream).unwrap().unwrap();
        prop_assert_eq!((frame.message, frame.len), (None, body.len() + 1));
        prop_assert!(stream.is_empty());
    }
}

#[test]
fn every_length_has_a_limit() {
    let frame = |body: &[u8]| {
        let mut stream = BytesMut::new();
        super::codec::put_varint(&mut stream, body.len() as u64);
        stream.extend(body);
        Frame::decode(&mut stream)
    };
    // A block without payload, a record of 4,097 bytes, a bitmap of 8,193, a hello of version 0.
    assert_eq!(frame(&[7, 0, 0, 1]), Err(DecodeError::OutOfRange("block")));
    assert_eq!(frame(&[&[10], &[0; 4097][..]].concat()), Err(DecodeError::OutOfRange("record")));
    assert_eq!(frame(&[&[14], &[0; 4097][..]].concat()), Err(DecodeError::OutOfRange("state")));
    assert_eq!(frame(&[&[1, 0], &[0; 8193][..]].concat()), Err(DecodeError::OutOfRange("bitmap")));
    assert_eq!(frame(&[0, 0, 0, 0]), Err(DecodeError::OutOfRange("version")));
    assert_eq!(frame(&[6, 0, 0]), Err(DecodeError::Trailing));
    let mut long = BytesMut::new();
    super::codec::put_varint(&mut long, MAX_FRAME_LEN as u64 + 1);
    assert_eq!(Frame::decode(&mut long), Err(DecodeError::FrameTooLong));
}

/// The figure that the control budget stands on: at 15 pieces a second and 16 neighbours, HAVEs are a few kbit/s.
#[test]
fn a_have_takes_five_bytes() {
    let have = Message::Have(SerialList::from_slice(&[Serial::new(1_000_000)]));
    assert_eq!(have.encoded_len(), 5);
    assert!(Message::Request(Request { serial: Serial::new(1_000_000), due_in_ms: 4000 }).encoded_len() <= 8);
}

/// Serials, segments and times that cannot be are no frames.
#[test]
fn numbers_that_cannot_be_are_refused() {
    let serial = |number: u64| {
        let mut out = BytesMut::new();
        super::codec::put_varint(&mut out, number);
        out.to_vec()
    };
    let frame = |kind: u8, fields: &[u8]| {
        let mut stream = BytesMut::new();
        super::codec::put_varint(&mut stream, fields.len() as u64 + 1);
        stream.extend([kind]);
        stream.extend(fields);
        Frame::decode(&mut stream).map(|frame| frame.is_some())
    };
    let beyond = Err(DecodeError::OutOfRange("serial"));
    for number in [1 << 62, (1 << 63) - 1, u64::MAX - 1, u64::MAX] {
        for kind in [2, 3, 5, 6, 13] {
            assert_eq!(frame(kind, &serial(number)), beyond, "{kind} {number}");
        }
        for kind in [1, 4, 7, 9] {
            assert_eq!(frame(kind, &[serial(number), vec![1; 4]].concat()), beyond, "{kind} {number}");
        }
    }
    for kind in 15..=23 {
        let segment = Err(DecodeError::OutOfRange("segment"));
        assert_eq!(frame(kind, &[serial(1 << 62), vec![0; 40]].concat()), segment, "{kind}");
    }
    let index = Err(DecodeError::OutOfRange("piece index"));
    for kind in [17, 18, 19, 20, 21, 22, 23] {
        assert_eq!(frame(kind, &[vec![0], serial(65_536), vec![0; 40]].concat()), index, "{kind}");
    }
    let beyond_ranges = Err(DecodeError::OutOfRange("segment"));
    assert_eq!(
        frame(15, &[serial((1 << 62) - 1), vec![1]].concat()),
        beyond_ranges,
        "the second is one later"
    );
    assert_eq!(frame(15, &[0; 130]), Err(DecodeError::OutOfRange("number of ranges")));
    let last = (1 << 62) - 1;
    assert_eq!(frame(3, &serial(last)), Ok(true));
    assert_eq!(frame(3, &[serial(last), vec![0]].concat()), beyond, "the second is one later");
    assert_eq!(frame(1, &[serial(last), vec![0x80]].concat()), beyond, "a bitmap ends beyond the last");
    let piece = HeadPiece { hash: PieceHash::new([0; 20]), len: 1, ingest_ms: 0, random_access: true };
    let head = |first, segment, ingest_ms| {
        let pieces = vec![HeadPiece { ingest_ms, ..piece }; 2];
        Head { first: Serial::new(first), segment: SegmentSeq(segment), first_index: PieceIndex(0), pieces }
    };
    let decode = |head: Head| Head::decode(&head.encode()).map(|_| ());
    assert_eq!(decode(head(last - 2, last, MAX_UNIX_MS)), Ok(()));
    assert_eq!(decode(head(last - 1, 0, 0)), Err(DecodeError::OutOfRange("serial")));
    assert_eq!(decode(head(0, 1 << 62, 0)), Err(DecodeError::OutOfRange("segment")));
    assert_eq!(decode(head(0, 0, MAX_UNIX_MS + 1)), Err(DecodeError::OutOfRange("ingest time")));
    assert_eq!(decode(head(0, 0, u64::MAX)), Err(DecodeError::OutOfRange("ingest time")));
}

#[test]
fn a_block_is_not_smaller_than_it_needs_to_be() {
    let block = |len: u32, piece_len: u32| {
        let block = Block { serial: Serial::new(7), offset: 0, len, piece_len };
        let mut header = BytesMut::new();
        Message::Block(block).encode(&mut header);
        Frame::decode_split(&header.freeze(), Bytes::from(vec![0; len as usize])).map(|_| ())
    };
    assert_eq!(block(1, 65_536), Err(DecodeError::OutOfRange("block")));
    assert_eq!(block(MIN_BLOCK_LEN - 1, 65_536), Err(DecodeError::OutOfRange("block")));
    assert_eq!(block(MIN_BLOCK_LEN, 65_536), Ok(()));
    assert_eq!(block(1, 1), Ok(()), "the last one has what is left");
}
