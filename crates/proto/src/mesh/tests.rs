//! Properties of the codec: what is written can be read, and what cannot be read harms nobody.

use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::{PieceHash, PieceIndex, SegmentSeq};

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
}

fn flags() -> impl Strategy<Value = HelloFlags> {
    any::<[bool; 4]>().prop_map(|[dialable, no_upload, relay, source]| HelloFlags {
        dialable,
        no_upload,
        relay,
        source,
    })
}

fn serial() -> impl Strategy<Value = Serial> {
    any::<u64>().prop_map(Serial)
}

fn serials() -> impl Strategy<Value = SerialList> {
    btree_set(0..u64::MAX, 0..20).prop_map(|set| set.into_iter().map(Serial).collect())
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
    let piece = (any::<[u8; 20]>(), 1..=MAX_PIECE_LEN, any::<u64>(), any::<bool>()).prop_map(
        |(hash, len, ingest_ms, random_access)| HeadPiece {
            hash: PieceHash::new(hash),
            len,
            ingest_ms,
            random_access,
        },
    );
    (0..u64::MAX / 2, any::<u64>(), 0..u32::MAX / 2, vec(piece, 1..=MAX_HEAD_PIECES)).prop_map(
        |(first, segment, index, pieces)| Head {
            first: Serial(first),
            segment: SegmentSeq(segment),
            first_index: PieceIndex(index),
            pieces,
        },
    )
}

fn block() -> impl Strategy<Value = Block> {
    (serial(), 1..=MAX_BLOCK_LEN, 0..=MAX_PIECE_LEN - MAX_BLOCK_LEN).prop_map(|(serial, len, offset)| Block {
        serial,
        offset,
        len,
        piece_len: offset + len,
    })
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
        (0..u64::MAX / 2, bytes(200))
            .prop_map(|(first, bits)| { Message::Bitfield(Window { first: Serial(first), bits }) }),
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
        bytes(MAX_RECORD_LEN).prop_map(Message::Record),
        vec(peer(), 0..6).prop_map(Message::Peers),
        bye.prop_map(Message::Bye),
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
        let frame = Frame::decode_split(&header.freeze(), payload.clone()).unwrap();
        prop_assert_eq!(frame, Frame { message: Some(message), payload });
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
    fn unknown_messages_are_skipped(kind in 14u8..128, body in vec(any::<u8>(), 0..50)) {
        let mut stream = BytesMut::new();
        stream.extend([body.len() as u8 + 1, kind]);
        stream.extend(&body);
        let frame = Frame::decode(&mut stream).unwrap().unwrap();
        prop_assert_eq!(frame.message, None);
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
    let have = Message::Have(SerialList::from_slice(&[Serial(1_000_000)]));
    assert_eq!(have.encoded_len(), 5);
    assert!(Message::Request(Request { serial: Serial(1_000_000), due_in_ms: 4000 }).encoded_len() <= 8);
}
