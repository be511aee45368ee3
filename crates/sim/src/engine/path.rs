//! One direction of a link as a reliable transport sees it: propagation, jitter, loss, slow start.
//!
//! Rule: nothing is lost for good. A lost packet costs its bytes again and the round trip after
//! which QUIC's loss detection resends it (RFC 9002, 6.1: nine eighths of a round trip; a control
//! message, with nothing behind it, also the acknowledgement delay). A link has two ordered streams,
//! one for control and one for media, so that what waits for a resent packet holds up only its own kind.
//!
//! Losses follow Gilbert (1960) and Elliott (1963): independent in the good state, dense in the bad one.

use std::collections::VecDeque;

use rand::{RngExt, rngs::Xoshiro256PlusPlus};

use super::{
    MILLISECOND, Micros,
    access::{ACK_WITHIN, PACKET_BYTES, PACKETS_PER_ACK, packets},
    topology::Geography,
};

/// Largest deviation of a packet's delay from the path's own, unless a scenario says otherwise.
pub const JITTER: Micros = 2 * MILLISECOND;
/// What a sender may have in flight on a new connection (quinn's default).
pub const INITIAL_WINDOW_BYTES: u64 = 14_720;
/// A window does not grow beyond what any line here has in flight.
const WINDOW_MAX_BYTES: u64 = 16 << 20;
/// Delay of an acknowledgement that nothing follows (RFC 9000, `max_ack_delay`).
const ACK_DELAY: Micros = 25 * MILLISECOND;
/// A packet lost so often in a row is delivered: a bound on the work that one message can cost.
const RESENDS_MAX: u32 = 8;

/// Loss on every path of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossModel {
    /// Chance of losing a packet in the good state.
    pub good: f64,
    /// Chance of losing a packet in the bad state.
    pub bad: f64,
    /// Mean time in the good state; 0 means that there is no bad one.
    pub good_for: Micros,
    /// Mean time in the bad state.
    pub bad_for: Micros,
}

impl LossModel {
    /// 2 % on average, half of it at random and half in bursts: 1 % always, and 22 % for 200 ms
    /// every 5 s.
    pub const BURSTY_2_PERCENT: Self =
        Self { good: 0.01, bad: 0.22, good_for: 4_800 * MILLISECOND, bad_for: 200 * MILLISECOND };

    /// Whether any packet can be lost.
    pub fn any(&self) -> bool {
        self.good > 0.0 || (self.good_for > 0 && self.bad > 0.0)
    }
}

/// What all paths of a network are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// What they lose.
    pub loss: LossModel,
    /// Largest deviation of a packet's delay from the path's own.
    pub jitter: Micros,
    /// How long they are.
    pub geography: Geography,
}

impl From<LossModel> for Conditions {
    fn from(loss: LossModel) -> Self {
        Self { loss, jitter: JITTER, geography: Geography::default() }
    }
}

/// What loss costs one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// Packets sent again.
    pub packets: u64,
    /// How often the last of them to arrive was sent again.
    pub rounds: u32,
}

/// State of one direction of a link.
#[derive(Clone, Debug)]
pub struct Path {
    /// When the last control message arrives: the stream is ordered.
    control_arrives: Micros,
    /// When the last media message arrives.
    media_arrives: Micros,
    /// Congestion window, which only grows here: congestion of the core network is not modelled.
    window: u64,
    /// Media sent in this round trip, and when it is acknowledged.
    in_flight: u64,
    acked_at: Micros,
    /// When the last media message left the transport.
    media_left: Micros,
    /// Whether the loss process is in its bad state, and until when it stays.
    bad: bool,
    state_until: Micros,
    /// When the last control message was handed over, and the room left in its packet.
    packet_at: Micros,
    packet_room: u64,
    /// Control bytes that have left and that the sender was not told of.
    pub unreported: u64,
    /// What the sender's transport has counted.
    pub counts: Counts,
    /// What is on its way, where somebody looks at it: when it will be acknowledged, its bytes, and its round trip.
    flights: VecDeque<(Micros, u64, Option<Micros>)>,
    /// What came from the other end and is not acknowledged.
    pub owed: Acks,
    /// How long what comes from the other end waited in the queue there: acknowledgements do, too. Smoothed.
    pub far_wait: Micros,
}

/// Acknowledgements that one end owes the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acks {
    packets: u64,
    /// When the first of them came.
    since: Micros,
}

impl Acks {
    /// Packets come in; returns how many acknowledgements go out by themselves for them and for what came before.
    pub fn receive(&mut self, now: Micros, packets: u64) -> u64 {
        let mut acks = self.overdue(now);
        if self.packets == 0 || self.packets + packets >= PACKETS_PER_ACK {
            self.since = now;
        }
        self.packets += packets;
        acks += self.packets / PACKETS_PER_ACK;
        self.packets %= PACKETS_PER_ACK;
        acks
    }

    /// Something goes the other way; returns how many acknowledgements have gone out before, and whether one goes along.
    pub fn send(&mut self, now: Micros) -> (u64, bool) {
        (self.overdue(now), std::mem::take(&mut self.packets) > 0)
    }

    /// An acknowledgement that had to go out by itself before now.
    fn overdue(&mut self, now: Micros) -> u64 {
        let overdue = self.packets > 0 && self.since + ACK_WITHIN < now;
        if overdue {
            self.packets = 0;
        }
        u64::from(overdue)
    }
}

/// What a transport counts of one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes given to the socket.
    pub bytes: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets found lost.
    pub lost: u64,
    /// Bytes acknowledged.
    pub acked: u64,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            control_arrives: 0,
            media_arrives: 0,
            window: INITIAL_WINDOW_BYTES,
            in_flight: 0,
            acked_at: 0,
            media_left: 0,
            bad: false,
            state_until: 0,
            packet_at: Micros::MAX,
            packet_room: 0,
            unreported: 0,
            counts: Counts::default(),
            flights: VecDeque::new(),
            owed: Acks::default(),
            far_wait: 0,
        }
    }
}

impl Path {
    /// Whether `bytes` of control handed over now still fit into the packet of the message before;
    /// if so they are put there, else a new packet is opened.
    pub fn join_packet(&mut self, now: Micros, bytes: u64, wire: u64) -> bool {
        if self.packet_at == now && bytes <= self.packet_room {
            self.packet_room -= bytes;
            return true;
        }
        self.packet_at = now;
        self.packet_room = (packets(bytes) * PACKET_BYTES).saturating_sub(wire);
        false
    }

    /// When a control message arrives that has left at `left`.
    pub fn control_arrival(
        &mut self,
        left: Micros,
        (rtt, jitter): (Micros, Micros),
        resent: Resent,
        rng: &mut Xoshiro256PlusPlus,
    ) -> Micros {
        let resending = u64::from(resent.rounds) * (rtt * 9 / 8 + ACK_DELAY);
        let arrives = left + rtt / 2 + rng.random_range(0..=jitter) + resending;
        self.control_arrives = self.control_arrives.max(arrives);
        self.control_arrives
    }

    /// When a media transfer of `wire` bytes arrives whose last byte has left at `left`. On a young
    /// connection it waits in the sender's transport whenever a window is in flight (slow start).
    pub fn media_arrival(
        &mut self,
        left: Micros,
        wire: u64,
        (rtt, jitter): (Micros, Micros),
        resent: Resent,
        rng: &mut Xoshiro256PlusPlus,
    ) -> Micros {
        let mut leaves = left.max(self.media_left);
        if leaves >= self.acked_at {
            self.next_round(leaves + rtt);
        }
        self.in_flight += wire;
        while self.in_flight > self.window {
            let waiting = self.in_flight - self.window;
            leaves = leaves.max(self.acked_at);
            self.in_flight = self.window;
            self.next_round(leaves + rtt);
            self.in_flight = waiting;
        }
        self.media_left = leaves;
        let resending = u64::from(resent.rounds) * (rtt * 9 / 8);
        let arrives = leaves + rtt / 2 + rng.random_range(0..=jitter) + resending;
        self.media_arrives = self.media_arrives.max(arrives);
        self.media_arrives
    }

    /// What was in flight is acknowledged and lets the window grow by as much; what follows will be at
    /// `acked_at`.
    fn next_round(&mut self, acked_at: Micros) {
        self.window = (self.window + self.in_flight).min(WINDOW_MAX_BYTES);
        self.in_flight = 0;
        self.acked_at = acked_at;
    }

    /// Counts what was sent, and what of it was lost.
    pub fn count(&mut self, wire: u64, packets: u64, lost: u64) {
        self.counts.bytes += wire;
        self.counts.packets += packets + lost;
        self.counts.lost += lost;
    }

    /// Notes what was sent now, for a sender that looks at what becomes of it. `acked_after` is the time until its
    /// acknowledgement is here; one for a packet that was sent twice is no measure of a round trip.
    pub fn watch(&mut self, now: Micros, wire: u64, acked_after: Micros, resent: bool) {
        let acked_after = acked_after + self.far_wait;
        self.flights.push_back((now + acked_after, wire, (!resent).then_some(acked_after)));
    }

    /// What is acknowledged by now; returns the shortest round trip since the last look.
    pub fn look(&mut self, now: Micros) -> (Counts, Option<Micros>) {
        let mut shortest = None;
        // Not in order of acknowledgement, but in that of sending, which is the same but for jitter.
        while let Some((at, wire, rtt)) = self.flights.front().copied().filter(|(at, ..)| *at <= now) {
            debug_assert!(at <= now);
            self.counts.acked += wire;
            shortest = shortest.into_iter().chain(rtt).min();
            self.flights.pop_front();
        }
        (self.counts, shortest)
    }

    /// Something came from the other end that waited there so long.
    pub fn note_far_wait(&mut self, waited: Micros) {
        self.far_wait = (7 * self.far_wait + waited) / 8;
    }

    /// When the last control message arrives that was sent so far.
    pub fn last_control_arrival(&self) -> Micros {
        self.control_arrives
    }

    /// Draws what loss does to a message of `count` packets sent now.
    pub fn lose(
        &mut self,
        model: &LossModel,
        now: Micros,
        count: u64,
        rng: &mut Xoshiro256PlusPlus,
    ) -> Resent {
        let mut resent = Resent::default();
        if !model.any() {
            return resent;
        }
        let chance = self.loss_at(model, now, rng);
        let mut outstanding = count;
        while outstanding > 0 && resent.rounds < RESENDS_MAX {
            outstanding = (0..outstanding).filter(|_| rng.random_bool(chance)).count() as u64;
            resent.packets += outstanding;
            resent.rounds += u32::from(outstanding > 0);
        }
        resent
    }

    fn loss_at(&mut self, model: &LossModel, now: Micros, rng: &mut Xoshiro256PlusPlus) -> f64 {
        if model.good_for == 0 {
            return model.good;
        }
        while self.state_until <= now {
            // A new path begins in its good state at a random point of it; later states alternate.
            self.bad = self.state_until > 0 && !self.bad;
            let mean = if self.bad { model.bad_for } else { model.good_for };
            let uniform: f64 = rng.random();
            let stay = (-(1.0 - uniform).ln() * mean as f64) as Micros;
            let from = if self.state_until == 0 { now } else { self.state_until };
            self.state_until = from + stay.max(1);
        }
        if self.bad { model.bad } else { model.good }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::engine::SECOND;

    #[test]
    fn losses_average_two_percent_and_come_in_bursts() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let (mut lost, mut in_bursts, mut total) = (0, 0, 0);
        for _ in 0..200 {
            let mut path = Path::default();
            for tick in 0..3_000u64 {
                let resent = path.lose(&LossModel::BURSTY_2_PERCENT, 1 + tick * 10_000, 10, &mut rng);
                lost += resent.packets;
                in_bursts += u64::from(path.bad) * resent.packets;
                total += 10 + resent.packets;
            }
        }
        let share = lost as f64 / total as f64;
        assert!((0.019..0.022).contains(&share), "{share}");
        let burst_share = in_bursts as f64 / lost as f64;
        assert!((0.45..0.6).contains(&burst_share), "{burst_share}");
    }

    #[test]
    fn a_young_connection_waits_for_its_window_and_an_old_one_does_not() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut path = Path::default();
        let rtt = 80 * MILLISECOND;
        let mut arrive =
            |left, wire| path.media_arrival(left, wire, (rtt, JITTER), Resent::default(), &mut rng) - rtt / 2;
        // Four blocks, one every 11 ms. 14,720 bytes are in flight at first, then 29,440, then 58,880.
        let arrivals = [11, 22, 33, 44].map(|at| arrive(at * MILLISECOND, 17_000) / MILLISECOND);
        for (at, expected) in arrivals.into_iter().zip([91, 91, 171, 171]) {
            assert!((expected..=expected + 2).contains(&at), "{arrivals:?}");
        }
        let later = arrive(SECOND, 68_000) / MILLISECOND;
        assert!((1_000..=1_002).contains(&later), "{later}");
    }

    #[test]
    fn what_comes_is_acknowledged_ten_at_a_time_or_late_or_along_with_what_goes() {
        let mut acks = Acks::default();
        assert_eq!(acks.receive(0, 9), 0);
        assert_eq!(acks.receive(10_000, 2), 1);
        assert_eq!(acks.send(20_000), (0, true), "one of them is left over");
        assert_eq!(acks.send(20_000), (0, false));
        assert_eq!(acks.receive(30_000, 47), 4);
        assert_eq!(acks.receive(140_000, 1), 1, "seven of them waited too long");
        assert_eq!(acks.send(300_000), (1, false));
    }

    #[test]
    fn control_stays_in_order_across_a_resent_packet() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut path = Path::default();
        let rtt = 100 * MILLISECOND;
        let lost = Resent { packets: 1, rounds: 1 };
        let first = path.control_arrival(0, (rtt, JITTER), lost, &mut rng);
        assert!(first >= rtt / 2 + rtt * 9 / 8 + ACK_DELAY);
        let second = path.control_arrival(1_000, (rtt, JITTER), Resent::default(), &mut rng);
        assert_eq!(second, first);
    }
}
