//! Channel links: any text is read or refused, and what is read is written and read back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minuet_proto::ChannelLink;

fuzz_target!(|text: &str| {
    if let Ok(link) = text.parse::<ChannelLink>() {
        // A link may name more and longer trackers than fit when written out in full.
        if let Ok(again) = link.to_string().parse::<ChannelLink>() {
            assert_eq!(again, link);
        }
    }
});
