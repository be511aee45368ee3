//! How much may be on its way on a link: the larger of two windows.
//!
//! One is CUBIC's (RFC 9438), which takes a lost packet for a full queue: right beside the downloads of others, whose
//! share it gets, and wrong on a line that loses packets by itself. At 2 % loss and 100 ms it leaves a link 90 kB/s.
//! The other goes by the time that packets take (as FAST TCP, Wei et al., IEEE/ACM Transactions on Networking 2006): it
//! grows while few bytes stand in the queue, whatever is lost, and so never fills one. The larger of the two keeps both
//! merits, as Compound TCP does with the sum (Tan et al., INFOCOM 2006).

mod meter;

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use meter::Meter;
use noq_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig},
};

/// What may be on its way on a new link before the first acknowledgement: a piece, so that it does not take three round
/// trips. The core spaces blocks by the upload limit, so this is no burst.
const INITIAL_WINDOW: u64 = 72 << 10;
/// More is never on its way: what a peer is ready to take unread, on the media stream.
const MAX_WINDOW: u64 = 1 << 20;
/// Bytes a second at which the transport lets out what the window allows: a block at once. The core spaces blocks by the
/// upload limit, and a window's worth over a round trip would break each block in two, with a timer between.
const PACING_RATE: u64 = 16 << 20;
/// Bytes that a link keeps standing in the queue of a line that it fills, so that it notices when there is more room.
const STANDING: f64 = 8.0 * 1024.0;
/// A queue of this length ends the doubling at the start.
const NOTICEABLE: Duration = Duration::from_millis(25);
/// A larger share of lost bytes is no bad line but a full one (as in BBR, draft-ietf-ccwg-bbr, whose bound for a round
/// is lower: here it is of several).
const TOO_MUCH_LOST: f64 = 0.1;
/// What a round says of losses counts so much, if it is long.
const LOSS_GAIN: f64 = 0.1;
/// Packets that a round has at least, to say anything about losses.
const LOSS_SAMPLE: u64 = 32;
/// The shortest round trip of the last one to two of these counts as that of the empty line.
const BASE_AGE: Duration = Duration::from_secs(20);

/// Makes a [`Window`] for each path.
#[derive(Debug)]
pub(super) struct WindowFactory {
    cubic: Arc<CubicConfig>,
}

impl Default for WindowFactory {
    fn default() -> Self {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(INITIAL_WINDOW);
        Self { cubic: Arc::new(cubic) }
    }
}

impl ControllerFactory for WindowFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let by_loss = Cubic::new(Arc::clone(&self.cubic), now, current_mtu);
        Box::new(Window { by_loss, by_delay: ByDelay::new(now, current_mtu), meter: Arc::default() })
    }
}

/// Both windows of a path, and what is counted of it.
#[derive(Debug, Clone)]
struct Window {
    by_loss: Cubic,
    by_delay: ByDelay,
    /// One for all clones.
    meter: Arc<Meter>,
}

/// The meter of a path, given the state of its congestion control as the transport hands it out.
pub(super) fn meter_of(state: Box<dyn Controller>) -> Option<Arc<Meter>> {
    state.into_any().downcast::<Window>().ok().map(|window| window.meter)
}

impl Controller for Window {
    fn on_cwnd_limited(&mut self) {
        self.by_delay.full();
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.by_loss.on_ack(now, sent, bytes, pn, app_limited, rtt);
        self.by_delay.acknowledged(now, sent, bytes);
        self.meter.acknowledged(bytes, rtt.get(), rtt.min());
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.by_loss.on_end_acks(now, in_flight, app_limited, largest);
        self.by_delay.end_of_acknowledgements(now);
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.by_loss.on_packet_lost(lost_bytes, pn, now);
        self.by_delay.lost(lost_bytes.into());
        self.meter.lost(lost_bytes.into());
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        self.by_loss.on_congestion_event(
            now,
            sent,
            is_persistent_congestion,
            is_ecn,
            lost_bytes,
            largest_lost_pn,
        );
        if is_persistent_congestion {
            self.by_delay.cut_off();
        } else if is_ecn {
            self.by_delay.marked();
        }
    }

    fn on_spurious_congestion_event(&mut self) {
        self.by_loss.on_spurious_congestion_event();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.by_loss.on_mtu_update(new_mtu);
        self.by_delay.mtu = new_mtu.into();
    }

    fn window(&self) -> u64 {
        self.by_loss.window().max(self.by_delay.window())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.by_loss.metrics();
        metrics.congestion_window = self.window();
        metrics.pacing_rate = Some(PACING_RATE);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// The window that goes by the time that packets take. Pure: it reads no clock.
#[derive(Debug, Clone)]
struct ByDelay {
    /// Bytes.
    window: f64,
    mtu: u64,
    /// No queue was seen yet.
    doubling: bool,
    /// Smoothed share of bytes that are lost.
    loss: f64,
    base: Base,
    round: Round,
}

/// What was seen in the round trip that goes on.
#[derive(Debug, Clone)]
struct Round {
    begin: Instant,
    /// Something that was sent in it has been acknowledged.
    over: bool,
    /// The window kept bytes back.
    full: bool,
    /// The queue's length was signalled (RFC 3168).
    marked: bool,
    shortest: Option<Duration>,
    acknowledged: u64,
    lost: u64,
}

/// The round trip of the empty line: the shortest of this age and of the one before.
#[derive(Debug, Clone)]
struct Base {
    since: Instant,
    now: Duration,
    before: Duration,
}

impl Round {
    fn new(begin: Instant) -> Self {
        Self { begin, over: false, full: false, marked: false, shortest: None, acknowledged: 0, lost: 0 }
    }
}

impl Base {
    fn take(&mut self, sample: Duration, now: Instant) -> Duration {
        if now.saturating_duration_since(self.since) >= BASE_AGE {
            *self = Self { since: now, now: Duration::MAX, before: self.now };
        }
        self.now = self.now.min(sample);
        self.now.min(self.before)
    }
}

impl ByDelay {
    fn new(now: Instant, mtu: u16) -> Self {
        Self {
            window: INITIAL_WINDOW as f64,
            mtu: mtu.into(),
            doubling: true,
            loss: 0.0,
            base: Base { since: now, now: Duration::MAX, before: Duration::MAX },
            round: Round::new(now),
        }
    }

    /// Bytes that may be on their way.
    fn window(&self) -> u64 {
        (self.window as u64).clamp(self.least(), MAX_WINDOW)
    }

    fn least(&self) -> u64 {
        2 * self.mtu
    }

    /// More would have been sent.
    fn full(&mut self) {
        self.round.full = true;
    }

    fn acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64) {
        let sample = now.saturating_duration_since(sent);
        self.round.shortest = Some(self.round.shortest.map_or(sample, |shortest| shortest.min(sample)));
        self.round.acknowledged += bytes;
        self.round.over |= sent >= self.round.begin;
    }

    fn lost(&mut self, bytes: u64) {
        self.round.lost += bytes;
    }

    fn marked(&mut self) {
        self.round.marked = true;
    }

    /// Nothing has come through for several round trips.
    fn cut_off(&mut self) {
        self.window = self.least() as f64;
        self.doubling = true;
    }

    fn end_of_acknowledgements(&mut self, now: Instant) {
        if !self.round.over {
            return;
        }
        let round = std::mem::replace(&mut self.round, Round::new(now));
        let Some(shortest) = round.shortest else { return };
        let base = self.base.take(shortest, now);
        let bytes = round.acknowledged + round.lost;
        let weight = (bytes as f64 / (LOSS_SAMPLE * self.mtu) as f64).min(1.0);
        self.loss += LOSS_GAIN * weight * (round.lost as f64 / bytes.max(1) as f64 - self.loss);
        let queued = shortest - base;
        // A round with little in it says nothing of queues: the far end waits for more before it acknowledges.
        let telling = round.full || round.acknowledged as f64 > self.window / 2.0;
        let queue_seen = round.marked || (telling && queued >= NOTICEABLE);
        self.doubling &= !queue_seen;
        if round.marked || (self.loss > TOO_MUCH_LOST && round.lost > 0) {
            self.window *= 0.8;
            self.doubling = false;
        } else if self.doubling {
            if round.full {
                self.window *= 2.0;
            }
        } else {
            // What would leave `STANDING` bytes in the queue at the rate at which bytes went through in this round.
            let share = base.as_secs_f64() / shortest.as_secs_f64().max(1e-6);
            let fitting = self.window * share + STANDING;
            if round.full || (telling && fitting < self.window) {
                self.window = f64::midpoint(self.window, fitting);
            }
        }
        self.window = self.window.clamp(self.least() as f64, MAX_WINDOW as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const MTU: u16 = 1200;
    const PACKET: u64 = MTU as u64;

    /// A line with a queue that drops what does not fit, as seen by senders that always have something to send.
    struct Line {
        bytes_per_s: f64,
        round_trip: Duration,
        queue: Duration,
        /// One packet in so many is lost by itself; 0 for none.
        lost_one_in: u64,
    }

    struct Flow {
        window: ByDelay,
        on_its_way: u64,
        /// Arrival of what the far end says: when, when sent, and whether the packet came through.
        news: VecDeque<(Instant, Instant, bool)>,
        delivered: u64,
    }

    impl Flow {
        fn new(begin: Instant) -> Self {
            Self { window: ByDelay::new(begin, MTU), on_its_way: 0, news: VecDeque::new(), delivered: 0 }
        }
    }

    /// Sends for `seconds`. Returns the bytes a second of each flow in the second half, and the longest queue in it.
    fn send(line: &Line, flows: &mut [Flow], begin: Instant, seconds: u64) -> (Vec<f64>, Duration) {
        let step = Duration::from_micros(500);
        let end = begin + Duration::from_secs(seconds);
        let half = begin + Duration::from_secs(seconds) / 2;
        let (mut now, mut free_at, mut count) = (begin, begin, 0_u64);
        let mut longest = Duration::ZERO;
        let mut at_half = None;
        while now < end {
            if now >= half && at_half.is_none() {
                at_half = Some(flows.iter().map(|flow| flow.delivered).collect::<Vec<_>>());
            }
            for flow in flows.iter_mut() {
                while flow.news.front().is_some_and(|(at, ..)| *at <= now) {
                    let (_, sent, arrived) = flow.news.pop_front().unwrap();
                    flow.on_its_way -= PACKET;
                    if arrived {
                        flow.delivered += PACKET;
                        flow.window.acknowledged(now, sent, PACKET);
                    } else {
                        flow.window.lost(PACKET);
                    }
                }
                flow.window.end_of_acknowledgements(now);
            }
            // Turn by turn, so that none has the queue to itself.
            loop {
                let mut sent_any = false;
                for flow in flows.iter_mut() {
                    if flow.on_its_way + PACKET > flow.window.window() {
                        flow.window.full();
                        continue;
                    }
                    sent_any = true;
                    count += 1;
                    flow.on_its_way += PACKET;
                    let waits = free_at.saturating_duration_since(now);
                    let fits = waits <= line.queue;
                    if fits {
                        free_at =
                            free_at.max(now) + Duration::from_secs_f64(PACKET as f64 / line.bytes_per_s);
                        if now >= half {
                            longest = longest.max(waits);
                        }
                    }
                    let arrived =
                        fits && (line.lost_one_in == 0 || !(count * 7).is_multiple_of(line.lost_one_in));
                    flow.news.push_back((free_at.max(now) + line.round_trip, now, arrived));
                }
                if !sent_any {
                    break;
                }
            }
            now += step;
        }
        let at_half = at_half.unwrap();
        let rate = |(flow, before): (&Flow, u64)| (flow.delivered - before) as f64 / (seconds as f64 / 2.0);
        (flows.iter().zip(at_half).map(rate).collect(), longest)
    }

    const HOME: Line = Line {
        bytes_per_s: 1.5e6,
        round_trip: Duration::from_millis(90),
        queue: Duration::from_millis(500),
        lost_one_in: 0,
    };

    #[test]
    fn a_line_that_loses_packets_is_filled_without_a_long_queue() {
        for lost_one_in in [0, 50, 25] {
            let begin = Instant::now();
            let mut flows = [Flow::new(begin)];
            let (rates, queue) = send(&Line { lost_one_in, ..HOME }, &mut flows, begin, 20);
            assert!(rates[0] > 0.93 * HOME.bytes_per_s, "{rates:?} at one lost in {lost_one_in}");
            assert!(queue < Duration::from_millis(30), "{queue:?}");
        }
    }

    #[test]
    fn many_links_share_a_line_evenly() {
        let begin = Instant::now();
        let mut flows: Vec<Flow> = (0..8).map(|_| Flow::new(begin)).collect();
        let (rates, queue) = send(&Line { lost_one_in: 50, ..HOME }, &mut flows, begin, 40);
        let (least, most) =
            rates.iter().fold((f64::MAX, 0.0_f64), |(a, b), rate| (a.min(*rate), b.max(*rate)));
        assert!(most < 2.5 * least, "{rates:?}");
        assert!(rates.iter().sum::<f64>() > 0.9 * HOME.bytes_per_s, "{rates:?}");
        assert!(queue < Duration::from_millis(120), "{queue:?}");
    }

    #[test]
    fn a_line_without_a_queue_is_not_overrun() {
        let begin = Instant::now();
        let mut flows = [Flow::new(begin)];
        let line = Line { queue: Duration::from_millis(1), ..HOME };
        send(&line, &mut flows, begin, 20);
        let fits = line.bytes_per_s * line.round_trip.as_secs_f64();
        assert!(flows[0].window.window() as f64 <= 1.3 * fits, "{} of {fits}", flows[0].window.window());
    }

    #[test]
    fn who_has_little_to_send_keeps_the_window_and_does_not_widen_it() {
        let begin = Instant::now();
        let mut window = ByDelay::new(begin, MTU);
        for round in 1..100_u32 {
            let now = begin + HOME.round_trip * round;
            // The far end waits before it acknowledges a lone packet.
            let waited = Duration::from_millis(if round < 50 { 0 } else { 25 });
            window.acknowledged(now, now - HOME.round_trip - waited, PACKET);
            window.end_of_acknowledgements(now);
        }
        assert_eq!(window.window(), INITIAL_WINDOW);
    }

    #[test]
    fn a_marked_packet_narrows_the_window_and_ends_its_doubling() {
        let begin = Instant::now();
        let round = |window: &mut ByDelay, number: u32, marked: bool| {
            let now = begin + HOME.round_trip * number;
            window.full();
            if marked {
                window.marked();
            }
            window.acknowledged(now, now - HOME.round_trip, PACKET);
            window.end_of_acknowledgements(now);
            window.window()
        };
        let mut window = ByDelay::new(begin, MTU);
        assert_eq!(round(&mut window, 1, false), 2 * INITIAL_WINDOW);
        let narrowed = round(&mut window, 2, true);
        assert_eq!(narrowed, INITIAL_WINDOW * 8 / 5);
        assert!((narrowed..narrowed + STANDING as u64).contains(&round(&mut window, 3, false)));
    }

    #[test]
    fn what_was_cut_off_begins_anew_and_recovers() {
        let begin = Instant::now();
        let mut flows = [Flow::new(begin)];
        flows[0].window.cut_off();
        assert_eq!(flows[0].window.window(), 2 * PACKET);
        let (rates, _) = send(&HOME, &mut flows, begin, 10);
        assert!(rates[0] > 0.93 * HOME.bytes_per_s, "{rates:?}");
    }
}
