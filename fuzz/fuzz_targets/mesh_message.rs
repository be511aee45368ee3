//! Any bytes as a mesh link's stream: every frame that decodes encodes to the same bytes again, in every form.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use minuet_proto::mesh::{Frame, Head, Message};

fuzz_target!(|input: &[u8]| {
    let mut stream = BytesMut::from(input);
    while let Ok(Some(frame)) = Frame::decode(&mut stream) {
        let Some(message) = frame.message else { continue };
        let mut header = BytesMut::new();
        message.encode(&mut header);
        assert_eq!(header.len() + frame.payload.len(), message.encoded_len());
        let again = Frame::decode_split(&header.freeze(), frame.payload.clone()).unwrap();
        // Unknown flag bits are dropped, so that the second form is the first one that must not change.
        assert_eq!((again.message.as_ref(), again.payload), (Some(&message), frame.payload));
        if let Message::Head(head) = message {
            if let Ok(decoded) = Head::decode(&head.body) {
                assert_eq!(Head::decode(&decoded.encode()).unwrap(), decoded);
            }
        }
    }
    let _ = Frame::decode_split(&Bytes::copy_from_slice(input), Bytes::from_static(&[0; 100]));
});
