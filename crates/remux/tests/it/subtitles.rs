//! Subtitles in teletext become WebVTT that players can lay over the pictures.

use minuet_media::{PesHeader, Timestamp};

use crate::{
    ffmpeg::{make, picture},
    tracks::remux,
};

const PICTURES: u16 = 0x100;
const TABLE: u16 = 0x1000;
const TELETEXT: u16 = 0x120;

fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 }
        })
    })
}

fn pid(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff
}

/// The program's table with a stream of teletext: page 150 is subtitles in German.
fn table(packet: &[u8]) -> Vec<u8> {
    let start = 5 + usize::from(packet[4]);
    let length = usize::from(u16::from_be_bytes([packet[start + 1], packet[start + 2]]) & 0xfff);
    let mut section = packet[start..start + 3 + length - 4].to_vec();
    section.extend([0x06, 0xe0 | (TELETEXT >> 8) as u8, TELETEXT as u8, 0xf0, 7]);
    section.extend([0x56, 5, b'd', b'e', b'u', 2 << 3 | 1, 0x50]);
    let length = (section.len() + 4 - 3) as u16 | 0xb000;
    section[1..3].copy_from_slice(&length.to_be_bytes());
    section.extend(crc(&section).to_be_bytes());
    let mut made = packet[..start].to_vec();
    made.extend(section);
    made.resize(188, 0xff);
    made
}

fn hamming(nibble: u8) -> u8 {
    let d = |bit: u8| nibble >> bit & 1;
    let p1 = 1 ^ d(0) ^ d(2) ^ d(3);
    let p2 = 1 ^ d(0) ^ d(1) ^ d(3);
    let p3 = 1 ^ d(0) ^ d(1) ^ d(2);
    let p4 = 1 ^ p1 ^ d(0) ^ p2 ^ d(1) ^ p3 ^ d(2) ^ d(3);
    p1 | d(0) << 1 | p2 << 2 | d(1) << 3 | p3 << 4 | d(2) << 5 | p4 << 6 | d(3) << 7
}

fn unit(row: u8, data: [u8; 40]) -> Vec<u8> {
    let address = [hamming(1 | (row & 1) << 3), hamming(row >> 1)];
    let bytes = address.iter().chain(&data).map(|byte| byte.reverse_bits());
    [0x03, 44, 0xff, 0xe4].into_iter().chain(bytes).collect()
}

/// A PES packet in one packet of the feed: a page with this text in row 20.
fn page(text: &str, pts: Timestamp, counter: u8) -> Vec<u8> {
    let mut header = [0x20; 40];
    for (byte, nibble) in header.iter_mut().zip([0, 5, 0, 8, 0, 8, 0, 0b1000]) {
        *byte = hamming(nibble);
    }
    let odd = |code: u8| if code.count_ones() % 2 == 1 { code } else { code | 0x80 };
    let mut row = [odd(0x20); 40];
    let boxed = [&[0x0b, 0x0b][..], text.as_bytes(), &[0x0a, 0x0a]].concat();
    row.iter_mut().zip(boxed).for_each(|(byte, code)| *byte = odd(code));
    let rows = if text.is_empty() { Vec::new() } else { unit(20, row) };
    let body = [&[0x10][..], &unit(0, header), &rows].concat();
    let ticks = pts.ticks();
    let time = [
        0x21 | (ticks >> 29 & 0xe) as u8,
        (ticks >> 22) as u8,
        (ticks >> 14 | 1) as u8,
        (ticks >> 7) as u8,
        (ticks << 1 | 1) as u8,
    ];
    let mut pes = vec![0, 0, 1, 0xbd];
    pes.extend((body.len() as u16 + 8).to_be_bytes());
    pes.extend([0x84, 0x80, 5]);
    pes.extend(time);
    pes.extend(body);
    // Stuffing in an adaptation field, so that the packet is full.
    let stuffing = 184 - pes.len();
    let mut packet = vec![0x47, 0x40 | (TELETEXT >> 8) as u8, TELETEXT as u8, 0x30 | counter & 0xf];
    packet.push((stuffing - 1) as u8);
    packet.push(0);
    packet.resize(4 + stuffing, 0xff);
    packet.extend(pes);
    assert_eq!(packet.len(), 188);
    packet
}

#[test]
fn teletext_becomes_webvtt() {
    let feed = make(&format!("{} -c:v libx264 -preset ultrafast -bf 0 -g 50", picture(8)));
    let (mut titled, mut pictures, mut counter) = (Vec::new(), 0, 0);
    for packet in feed.chunks(188) {
        if pid(packet) == TABLE {
            titled.extend(table(packet));
            continue;
        }
        titled.extend(packet);
        if pid(packet) != PICTURES || packet[1] & 0x40 == 0 {
            continue;
        }
        let payload = if packet[3] & 0x20 == 0 { 4 } else { 5 + usize::from(packet[4]) };
        let pts = PesHeader::parse(&packet[payload..]).unwrap().pts.unwrap();
        let said = match pictures {
            75 => Some("Gr}~e"),
            125 => Some(""),
            _ => None,
        };
        if let Some(text) = said {
            titled.extend(page(text, pts, counter));
            counter += 1;
        }
        pictures += 1;
    }
    let output = remux(&titled);
    assert_eq!(output.texts.len(), output.segments[&0].len());
    assert!(output.texts.iter().all(|text| text.language == *b"deu" && text.track == 0 && !text.impaired));
    let documents: Vec<String> =
        output.texts.iter().map(|text| String::from_utf8(text.bytes.to_vec()).unwrap()).collect();
    // Segments of two seconds, from 10 s of the tracks' clock on: shown from 3 s to 5 s.
    let head = |second: u64| {
        format!("WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:{},LOCAL:00:00:00.000\n", (10 + second) * 90_000)
    };
    assert_eq!(documents[0], head(0));
    assert_eq!(documents[1], head(2) + "\n00:00:01.000 --> 00:00:02.000\nGrüße\n");
    assert_eq!(documents[2], head(4) + "\n00:00:00.000 --> 00:00:01.000\nGrüße\n");
    assert_eq!(documents[3], head(6));
}
