//! Signed statements, the publication that carries them, and what is inside: any bytes are read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minuet_proto::{ChannelKey, ChannelState, Record, SignedRecord, SignedState, channel_api::Publication, signed::Statement};

fuzz_target!(|bytes: &[u8]| {
    let _ = Publication::decode(bytes);
    let _ = SignedState::decode_any(bytes);
    // Nobody guesses a signature.
    assert!(SignedRecord::decode(bytes, ChannelKey::from_seed(&[7; 32]).channel()).is_err());
    if let Ok(record) = Record::decode(bytes) {
        assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(&record));
    }
    if let Ok(state) = ChannelState::decode(bytes) {
        assert_eq!(ChannelState::decode(&state.encode()).as_ref(), Ok(&state));
    }
});
