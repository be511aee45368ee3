//! Whole MPEG-TS packets for the player, and nothing else (ISO 13818-1). Pure.
//!
//! Pieces end anywhere in a packet. Where playback begins, and where it leaps, a player would take the rest of a packet for
//! damage. And a player that is given something else guesses its format: a playlist would make it contact whomever the
//! broadcaster likes.

use std::ops::{Range, RangeInclusive};

/// Length of a transport stream packet in bytes.
const PACKET: usize = 188;
/// First byte of each packet.
const SYNC: u8 = 0x47;
/// So many packets in a row are taken for a stream.
const CONFIRM: usize = 3;
/// `stream_id` of a PES packet with pictures.
const PICTURES: RangeInclusive<u8> = 0xe0..=0xef;
/// What must be here before one can say that no stream begins at a place.
const SPAN: usize = (CONFIRM - 1) * PACKET + 1;

/// Lets whole packets through.
#[derive(Debug, Default)]
pub struct Packets {
    /// Whether the stream's packets have been found.
    synced: bool,
    /// Media has been given since the beginning, or the last leap.
    begun: bool,
    /// What could not be given yet: less than [`SPAN`] plus a packet.
    rest: Vec<u8>,
    /// Bytes in no packet since the start, those at a beginning or a leap aside.
    alien: u64,
}

impl Packets {
    /// The whole packets that are complete with these bytes, which follow those given before.
    pub fn next(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut input = std::mem::take(&mut self.rest);
        input.extend_from_slice(bytes);
        let mut media = Vec::with_capacity(input.len());
        let mut at = 0;
        loop {
            while self.synced && input.len() - at >= PACKET {
                if input[at] == SYNC {
                    media.extend_from_slice(&input[at..at + PACKET]);
                    at += PACKET;
                } else {
                    self.synced = false;
                }
            }
            if self.synced || input.len() - at < SPAN {
                break;
            }
            let places = input.len() - at - SPAN + 1;
            let fits =
                |from: &usize| input[at + from..].iter().step_by(PACKET).take(CONFIRM).all(|b| *b == SYNC);
            let skipped = (0..places).find(fits);
            self.synced = skipped.is_some();
            let skipped = skipped.unwrap_or(places);
            at += skipped;
            self.alien += skipped as u64;
        }
        self.rest = input.split_off(at);
        if !media.is_empty() && !std::mem::replace(&mut self.begun, true) {
            let (tables, from) = beginning(&media);
            let tables = media[tables].to_vec();
            media.splice(..from, tables);
        }
        media
    }

    /// What comes next does not follow what came before.
    pub fn leap(&mut self) {
        (self.synced, self.begun, self.rest) = (false, false, Vec::new());
    }

    /// Bytes so far that were in no packet. A few are the rest of a packet before the first whole one.
    pub fn alien(&self) -> u64 {
        self.alien
    }
}

/// Where a decoder begins best, in bytes: the tables (the PAT, and the sections that follow it) that stand last before the
/// first random access point that is marked, and that point: of pictures, if any are marked, since a multiplexer may mark
/// each piece of sound as well. What lies between are pictures that refer to earlier ones,
/// and what comes before the tables are the ends of pictures whose beginnings nobody has: decoders complain about both. Nothing,
/// and the first packet, where there is no such place.
fn beginning(media: &[u8]) -> (Range<usize>, usize) {
    let mut tables = 0..0;
    // Whether nothing but sections has come since: a segment's own tables may stand before those of the feed.
    let mut only_sections = false;
    let mut of_sound = None;
    for (number, packet) in media.chunks_exact(PACKET).enumerate() {
        let at = number * PACKET;
        let starts = packet[1] & 0x40 != 0;
        let pid = u16::from(packet[1] & 0x1f) << 8 | u16::from(packet[2]);
        let has_field = packet[3] & 0x20 != 0;
        let marked = has_field && packet[4] > 0 && packet[5] & 0x40 != 0;
        let body = if has_field { 5 + usize::from(packet[4]) } else { 4 };
        let is_pes = packet.get(body..body + 3) == Some(&[0, 0, 1]);
        if starts && pid == 0 {
            if !only_sections {
                tables.start = at;
            }
            only_sections = true;
            tables.end = at + PACKET;
        } else if starts && marked {
            let found = if tables.is_empty() { (0..0, 0) } else { (tables.clone(), at) };
            if is_pes && packet.get(body + 3).is_some_and(|id| PICTURES.contains(id)) {
                return found;
            }
            of_sound.get_or_insert(found);
            only_sections = false;
        } else if only_sections && starts && !is_pes {
            tables.end = at + PACKET;
        } else {
            only_sections = false;
        }
    }
    of_sound.unwrap_or((0..0, 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(packets: usize) -> Vec<u8> {
        let packet = |n: usize| [&[SYNC, n as u8][..], &[0xff; PACKET - 2]].concat();
        (0..packets).flat_map(packet).collect()
    }

    proptest! {
        #[test]
        fn begins_and_leaps_at_packets_and_loses_nothing_else(
            begin in 0usize..2000, length in 1000usize..4000, from in 6000usize..8000, cut in 1usize..900
        ) {
            let stream = stream(100);
            let mut packets = Packets::default();
            let mut given = Vec::new();
            for piece in stream[begin..begin + length].chunks(cut) {
                given.extend(packets.next(piece));
            }
            let first = begin.next_multiple_of(PACKET);
            let end = (begin + length) / PACKET * PACKET;
            prop_assert_eq!(&given, &stream[first..end]);
            packets.leap();
            let after = packets.next(&stream[from..from + 2000]);
            let first = from.next_multiple_of(PACKET);
            prop_assert_eq!(&after[..], &stream[first..(from + 2000) / PACKET * PACKET]);
        }

        #[test]
        fn what_is_no_packet_is_dropped_wherever_it_stands(
            before in 3usize..20, alien in "[^G]{1,400}", after in 3usize..20, cut in 1usize..900
        ) {
            let stream = stream(40);
            let (first, second) = (&stream[..before * PACKET], &stream[before * PACKET..][..after * PACKET]);
            let whole = [first, alien.as_bytes(), second].concat();
            let mut packets = Packets::default();
            let given: Vec<u8> = whole.chunks(cut).flat_map(|piece| packets.next(piece)).collect();
            prop_assert_eq!(given, [first, second].concat());
            prop_assert_eq!(packets.alien(), alien.len() as u64);
        }

        #[test]
        fn all_that_is_given_is_packets(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..900), 0..20)) {
            let mut packets = Packets::default();
            for piece in pieces {
                let given = packets.next(&piece);
                prop_assert!(given.len() % PACKET == 0 && given.iter().step_by(PACKET).all(|byte| *byte == SYNC));
                prop_assert!(packets.rest.len() < SPAN + PACKET);
            }
        }
    }

    /// A packet that starts a section or a PES packet; `marked` as a random access point.
    fn start(pid: u8, marked: bool) -> Vec<u8> {
        let mut packet =
            vec![SYNC, 0x40, pid, if marked { 0x30 } else { 0x10 }, 1, if marked { 0x40 } else { 0 }];
        packet.resize(PACKET, 0xff);
        packet
    }

    #[test]
    fn playing_begins_with_the_tables_before_the_first_picture_that_needs_no_other() {
        let before = [start(0, false), stream(3), start(0x50, false)].concat();
        let from =
            [start(0, false), start(0x20, false), start(0x50, true), stream(7), start(0x50, true)].concat();
        let whole = [&before[..], &from].concat();
        let mut packets = Packets::default();
        assert_eq!(packets.next(&whole), from);
        assert_eq!(packets.next(&whole), whole, "all that follows is whole");
        packets.leap();
        assert_eq!(packets.next(&whole[50..]), from);
        // Without a mark, or without tables before it, nothing is left out.
        for unmarked in [before.clone(), from[2 * PACKET..].to_vec()] {
            packets.leap();
            assert_eq!(packets.next(&unmarked), unmarked);
        }
    }

    #[test]
    fn pictures_of_one_packet_are_pictures_and_not_tables() {
        let small = |pid| {
            let mut packet = start(pid, false);
            packet[4..7].copy_from_slice(&[0, 0, 1]);
            packet
        };
        let tables = [start(0, false), start(0x20, false)].concat();
        let key = [start(0x50, true), stream(4)].concat();
        let pictures = [small(0x50), small(0x51), small(0x50)].concat();
        let mut packets = Packets::default();
        // Tables again right before the key frame, and not.
        for again in [&tables[..], &[]] {
            packets.leap();
            let given = packets.next(&[&tables[..], &pictures, again, &key].concat());
            assert_eq!(given, [&tables[..], &key].concat());
        }
    }

    #[test]
    fn marked_sound_is_no_place_to_begin_where_there_are_pictures() {
        let pes = |pid, stream_id, marked| {
            let mut packet = start(pid, marked);
            packet[3] = 0x30;
            packet[6..10].copy_from_slice(&[0, 0, 1, stream_id]);
            packet
        };
        let tables = [start(0, false), start(0x20, false)].concat();
        let sound = [pes(0x51, 0xc0, true), stream(2)].concat();
        let key = [pes(0x50, 0xe0, true), stream(2)].concat();
        let mut packets = Packets::default();
        let whole = [&tables[..], &sound, &pes(0x50, 0xe0, false), &key].concat();
        assert_eq!(packets.next(&whole), [&tables[..], &key].concat());
        // A radio.
        packets.leap();
        assert_eq!(
            packets.next(&[&sound[PACKET..], &tables, &sound].concat()),
            [&tables[..], &sound].concat()
        );
    }

    #[test]
    fn a_playlist_never_comes_through() {
        let mut packets = Packets::default();
        let playlist = "#EXTM3U\nhttp://router.example/reboot\n".repeat(100);
        assert!(packets.next(playlist.as_bytes()).is_empty());
        assert!(packets.alien() > 3000);
        assert_eq!(packets.next(&stream(5)), stream(5));
    }
}
