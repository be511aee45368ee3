//! From a feed's bytes to segments and parts: packets, frames, and the [`Director`] that arranges them.

use minuet_media::{
    Error, PacketSync,
    packet::{PACKET_LEN, Packet},
};

use crate::{
    director::Director,
    event::{Event, Transport},
    streams::{Found, Streams},
    transport::{MAX_SEGMENT, Packets},
    wall::Wall,
};

/// Takes a feed apart and gives out segments and parts; see the crate.
#[derive(Debug)]
pub struct Remuxer {
    sync: PacketSync,
    feed: Feed,
}

/// The feed behind the sync.
#[derive(Debug)]
struct Feed {
    streams: Streams,
    packets: Packets,
    wall: Wall,
    director: Director,
}

impl Remuxer {
    /// A remuxer whose first segment has this number. Numbers should go on over restarts, as those of a clock do: what has a
    /// number and a name is cached for ever.
    pub fn new(first_segment: u64) -> Self {
        let director = Director::new(first_segment);
        let feed = Feed {
            streams: Streams::default(),
            packets: Packets::default(),
            wall: Wall::default(),
            director,
        };
        Self { sync: PacketSync::default().without_nulls(), feed }
    }

    /// Takes the feed's next bytes, which the source took in at `ingest_ms` (Unix milliseconds). Appends what comes of them
    /// to `out`.
    ///
    /// # Errors
    /// [`Error::NotMpegTs`] when the first mebibyte holds no packets.
    pub fn push(&mut self, bytes: &[u8], ingest_ms: u64, out: &mut Vec<Event>) -> Result<(), Error> {
        let feed = &mut self.feed;
        feed.wall.note(feed.packets.end(), ingest_ms);
        let mut rest = bytes;
        while self.sync.fill(&mut rest)? {
            for packet in self.sync.run(rest).as_chunks().0 {
                feed.packet(packet);
            }
            self.sync.release(&mut rest);
        }
        out.append(&mut feed.director.out);
        Ok(())
    }

    /// What comes next does not follow what came before: bytes in between are missing.
    pub fn gap(&mut self, out: &mut Vec<Event>) {
        self.feed.flush(true);
        self.sync = PacketSync::default().without_nulls();
        out.append(&mut self.feed.director.out);
    }

    /// The feed has ended: all that is left comes out.
    pub fn end(&mut self, out: &mut Vec<Event>) {
        self.sync.end();
        // What is left is no packet.
        let _ = self.push(&[], 0, out);
        let feed = &mut self.feed;
        feed.flush(false);
        feed.director.end(&mut feed.wall, feed.packets.end());
        feed.cut_packets();
        out.append(&mut feed.director.out);
    }
}

impl Feed {
    fn packet(&mut self, packet: &[u8; PACKET_LEN]) {
        let position = self.packets.push(packet);
        let mut found = Vec::new();
        self.streams.packet(Packet::new(packet), position, &mut found);
        self.take(found);
        if self.packets.len() > MAX_SEGMENT {
            self.director.overflow(&mut self.wall, self.packets.end());
            self.cut_packets();
        }
    }

    fn flush(&mut self, cut_off: bool) {
        let mut found = Vec::new();
        self.streams.flush(cut_off, &mut found);
        self.take(found);
    }

    fn take(&mut self, found: Vec<Found>) {
        if found.is_empty() {
            return;
        }
        let director = &mut self.director;
        for found in found {
            director.arrange(&self.streams);
            match found {
                Found::Frame(track, frame) => director.frame(track, frame, &mut self.wall),
                Found::Broken(track) => director.broken(track, &mut self.wall),
                Found::Caption(track, caption) => director.caption(track, caption),
            }
        }
        self.cut_packets();
    }

    fn cut_packets(&mut self) {
        for (position, said) in std::mem::take(&mut self.director.cuts) {
            let mut head = Vec::new();
            self.streams.write_tables(|pid| self.packets.counter(pid), &mut head);
            let bytes = self.packets.cut(position, head);
            if let Some(said) = said {
                self.director.out.push(Event::Transport(Transport { bytes, ..said }));
            }
        }
    }
}
