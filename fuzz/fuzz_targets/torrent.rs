//! `.torrent` files: any bytes are read or refused, and the info hash outlives writing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minuet_proto::Metainfo;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(torrent) = Metainfo::parse(bytes) {
        let again = Metainfo::parse(&torrent.encode()).expect("what was written is read");
        assert_eq!(again.info_hash(), torrent.info_hash());
    }
});
