//! Intake: how much may be under way to this node at one time.
//!
//! What is asked for at one time comes at one time. Where the way down is little wider than the stream, requests with sixteen
//! neighbours are a queue of half a second and more before the line. Pieces in it seem not to come: they are asked for a
//! second time, or pushed by somebody else, and the second copies fill the line that was to carry the first. The queue then
//! never ends, although the line could carry all. So the receiver holds back, as in transports that receivers drive (pHost,
//! CoNEXT 2015; Homa, SIGCOMM 2018), by what BBR goes by: the most that the line brings, and the time that is needed. Rules:
//!
//! 1. What the line brings is the most that came in any [`SPAN`] of the last [`KEPT`] to twice that.
//! 2. No more may be under way than the line brings in [`AHEAD`] and two round trips, which is what a request waits at a
//!    busy holder and on the way; and [`LEAST`] pieces in any case. So what comes can grow manifold in each span, and the rule
//!    binds nobody whose line is much wider than the stream.
//! 3. It holds for all requests, the late ones too: these are many just where the line is full.
//! 4. A request that has not begun to be served in that time does not count if its holder has never delivered anything: who
//!    serves nobody must not keep the node from asking others. Those who have delivered do count, since their answer may be
//!    in the queue before this node's own line. (If they did not, `thin_down` had 191 late stalls in place of 2.)

use std::time::Duration;

use smallvec::SmallVec;

use crate::Timestamp;
use crate::exchange::Incoming;
use crate::node::Node;
use crate::stream::tempo::Tempo;

/// At the nominal tempo (`tempo.rs`): time over which it is counted what comes, …
const SPAN: Duration = Duration::from_millis(200);
/// … how long the most of it counts, …
const KEPT: Duration = Duration::from_secs(5);
/// … and how far ahead is asked. 150 ms to 500 ms do nearly the same for narrow lines; the less, the more others wait in
/// their first seconds.
const AHEAD: Duration = Duration::from_millis(350);
/// Pieces that may be under way whatever has come so far.
const LEAST: u32 = 10;

#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// When this span began, and what had come by then.
    since: Timestamp,
    received: u64,
    /// The most that came in a span, in bytes a second: lately, and before that.
    most: [f32; 2],
    lately_ends: Timestamp,
    /// How far ahead is asked, and the bytes that may be under way so.
    ahead: Duration,
    room: f32,
}

impl Intake {
    /// Takes in what has come since the start, and the usual round trip.
    fn look(&mut self, received: u64, round_trip: Duration, tempo: &Tempo, now: Timestamp) {
        let elapsed = now.since(self.since);
        if elapsed >= tempo.time(SPAN) {
            let rate = received.saturating_sub(self.received) as f32 / elapsed.as_secs_f32();
            (self.since, self.received) = (now, received);
            if self.lately_ends <= now {
                self.most = [0.0, self.most[0]];
                self.lately_ends = now + tempo.time(KEPT);
            }
            self.most[0] = self.most[0].max(rate);
        }
        self.ahead = tempo.time(AHEAD).saturating_add(round_trip.saturating_mul(2));
        let least = LEAST.saturating_mul(tempo.piece_len) as f32;
        self.room = (self.most[0].max(self.most[1]) * self.ahead.as_secs_f32()).max(least);
    }
}

impl Node {
    /// Looks at what comes.
    pub(crate) fn intake_tick(&mut self, now: Timestamp) {
        let mut round_trips: SmallVec<[Duration; 64]> =
            self.neighbours.iter().map(|(_, neighbour)| neighbour.rtt).collect();
        round_trips.sort_unstable();
        let middle = round_trips.get(round_trips.len() / 2).copied().unwrap_or_default();
        self.intake.look(self.stats.payload_received, middle, &self.tempo, now);
    }

    /// Whether one more piece may be asked for.
    pub(crate) fn has_intake(&self, now: Timestamp) -> bool {
        let (len, ahead) = (self.tempo.piece_len, self.intake.ahead);
        let mut under_way = 0u64;
        for (_, neighbour) in self.neighbours.iter() {
            let counts = |i: &&Incoming| neighbour.taken > 0 || i.pace.is_some() || i.at + ahead > now;
            for incoming in neighbour.side.incoming().iter().filter(counts) {
                under_way = under_way.saturating_add(len.saturating_sub(incoming.received()).into());
            }
        }
        (under_way as f32) < self.intake.room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(75);

    /// What may be under way once so much has come every 100 ms for so long.
    fn room(intake: &mut Intake, now: &mut u64, bytes: u64, for_ms: u64) -> f32 {
        let mut received = intake.received;
        for _ in 0..for_ms / 100 {
            *now += 100;
            received += bytes;
            intake.look(received, ROUND_TRIP, &Tempo::default(), Timestamp(1000 * *now));
        }
        intake.room
    }

    #[test]
    fn what_is_under_way_is_what_the_line_brings_in_half_a_second() {
        let (mut intake, mut now) = (Intake::default(), 0);
        let least = 10.0 * 65_536.0;
        assert_eq!(room(&mut intake, &mut now, 0, 1000), least, "a first piece can be asked for at once");
        // 4.8 MB a second: half a second of it. A slow second does not count, …
        assert_eq!(room(&mut intake, &mut now, 480_000, 1000), 2_400_000.0);
        assert_eq!(room(&mut intake, &mut now, 80_000, 1000), 2_400_000.0);
        // … but ten of them do.
        assert_eq!(room(&mut intake, &mut now, 320_000, 11_000), 1_600_000.0);
        assert_eq!(room(&mut intake, &mut now, 0, 11_000), least);
    }

    #[test]
    fn a_wide_line_is_not_held_back() {
        // All that may be under way comes within a span, each time.
        let (mut intake, mut now) = (Intake::default(), 0);
        room(&mut intake, &mut now, 0, 1000);
        for _ in 0..5 {
            let all = intake.room as u64;
            room(&mut intake, &mut now, all / 2, 200);
        }
        assert!(intake.room > 64.0 * 65_536.0, "{}", intake.room);
    }
}
