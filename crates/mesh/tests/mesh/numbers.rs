//! Numbers from outside: nothing that decodes ends a node, or makes it hold more than it says it does.

use minuet_proto::mesh::{Message, Serial, Window};
use proptest::prelude::*;

use crate::chaos;
use crate::harness::{Alone, Mesh};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_strangers_say_a_node_lives_on_within_its_bounds(
        bytes in prop::collection::vec(any::<u8>(), 0..6000),
    ) {
        chaos::run(&bytes);
    }
}

/// What ended every node of a mesh with one message, as far as it can still be said.
#[test]
fn the_last_serials_that_can_be_end_nobody() {
    let last = Serial::MAX.get();
    for message in [
        Message::DontHave([Serial::MAX].into_iter().collect()),
        Message::Bitfield(Window { first: Serial::new(last - 8), bits: bytes::Bytes::from_static(&[255]) }),
        Mesh::have([last - 1, last]),
        Message::Offer(Serial::MAX),
        Message::GetHeads { first: Serial::MAX, count: u32::MAX },
    ] {
        for mut alone in [Alone::new(), Alone::settled()] {
            alone.say(message.clone());
            alone.say(message.clone());
            alone.mesh.run(crate::SECOND);
            assert_eq!(alone.bans(), []);
        }
    }
}
