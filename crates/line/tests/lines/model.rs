//! A line with a queue before it, this node's links over it, and others who use it too.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use minuet_line::{Estimate, LOOK, LinkSample, Look, Settings};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub const MBIT: f64 = 125_000.0;
const PACKET: f64 = 1200.0;
const STEP: f64 = 0.001;
/// The core sends blocks of this part of a second, at most 16 KiB at once.
const BLOCKS_PER_SECOND: f64 = 64.0;
const BLOCK: f64 = 16_384.0;
/// A far end acknowledges so many packets at once, or what came within this time, in seconds.
const ACK_PACKETS: u32 = 10;
const ACK_DELAY: f64 = 0.1;

/// The line and the paths behind it.
#[derive(Debug, Clone)]
pub struct Line {
    pub bytes_per_s: f64,
    /// What may wait before the line, in seconds.
    pub queue_s: f64,
    /// Round trips of this node's links, in seconds.
    pub round_trips: Vec<f64>,
    /// The most that is added to a packet's round trip, in seconds.
    pub jitter_s: f64,
    /// Share of packets lost behind the line.
    pub loss: f64,
    /// What is added to the round trips of every second link, in seconds: their own lines have a queue.
    pub far_s: f64,
}

/// Somebody else on the line.
#[derive(Debug, Clone, Copy)]
pub enum Other {
    /// Sends so many bytes a second whatever happens: a call.
    Call(f64),
    /// Sends all that it can: an upload under CUBIC (RFC 9438), with a round trip of 40 ms.
    Upload,
}

#[derive(Debug)]
struct Upload {
    window: f64,
    on_its_way: f64,
    most: f64,
    lost_at: f64,
    slow_start: bool,
}

/// What a far end has not acknowledged yet: packets, when the first came, and the newest one's round trip.
#[derive(Debug, Clone, Copy, Default)]
struct Unacknowledged {
    packets: u32,
    since: f64,
    round_trip: f64,
}

#[derive(Debug, PartialEq)]
struct News {
    at: f64,
    sent: f64,
    /// None: the upload's.
    link: Option<usize>,
    arrived: bool,
}

impl Eq for News {}

impl PartialOrd for News {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for News {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.total_cmp(&other.at)
    }
}

/// What was seen over some seconds.
#[derive(Debug, Default)]
pub struct Seen {
    /// Bytes a second that this node sent, and the others.
    pub own: f64,
    pub others: f64,
    /// What a stranger's packet waited, sampled each millisecond: sorted, in seconds.
    pub waits: Vec<f64>,
}

impl Seen {
    pub fn wait(&self, share: f64) -> f64 {
        self.waits[((self.waits.len() - 1) as f64 * share) as usize]
    }
}

/// A node on a line.
pub struct Node {
    pub line: Line,
    pub estimate: Estimate,
    /// What this node would send, in bytes a second.
    pub wanted: f64,
    pub stream: f64,
    pub others: Vec<Other>,
    pub now: f64,
    free_at: f64,
    /// Bytes that the limit allows by now.
    credit: f64,
    call_credit: f64,
    turn: usize,
    links: Vec<LinkSample>,
    unacknowledged: Vec<Unacknowledged>,
    upload: Option<Upload>,
    news: BinaryHeap<Reverse<News>>,
    looked: f64,
    rng: StdRng,
    sent: f64,
    others_sent: f64,
    pub trace: bool,
}

impl Node {
    pub fn new(line: Line, settings: Settings, seed: u64) -> Self {
        let links = (0..line.round_trips.len() as u64)
            .map(|link| LinkSample {
                link,
                sent_bytes: 0,
                delivered_bytes: 0,
                lost_bytes: 0,
                round_trip: None,
            })
            .collect();
        Self {
            unacknowledged: vec![Unacknowledged::default(); line.round_trips.len()],
            line,
            estimate: Estimate::new(settings, Duration::ZERO),
            wanted: f64::MAX,
            stream: 4.0 * MBIT,
            others: Vec::new(),
            now: 0.0,
            free_at: 0.0,
            credit: 0.0,
            call_credit: 0.0,
            turn: 0,
            links,
            upload: None,
            news: BinaryHeap::new(),
            looked: 0.0,
            rng: StdRng::seed_from_u64(seed),
            sent: 0.0,
            others_sent: 0.0,
            trace: std::env::var("TRACE").is_ok(),
        }
    }

    /// Puts a packet before the line; when it is through, or none if it did not fit.
    fn admit(&mut self) -> Option<f64> {
        let wait = (self.free_at - self.now).max(0.0);
        (wait <= self.line.queue_s).then(|| {
            self.free_at = self.free_at.max(self.now) + PACKET / self.line.bytes_per_s;
            self.free_at
        })
    }

    pub fn run(&mut self, seconds: f64) -> Seen {
        let end = self.now + seconds;
        let (sent, others_sent) = (self.sent, self.others_sent);
        let mut waits = Vec::new();
        while self.now < end {
            self.hear();
            for link in 0..self.links.len() {
                let waiting = self.unacknowledged[link];
                if waiting.packets > 0 && waiting.since + ACK_DELAY <= self.now {
                    self.acknowledge(link);
                }
            }
            self.send_others();
            self.send_own();
            waits.push((self.free_at - self.now).max(0.0));
            if self.now - self.looked >= LOOK.as_secs_f64() - STEP / 2.0 {
                self.look();
            }
            self.now += STEP;
        }
        waits.sort_unstable_by(f64::total_cmp);
        Seen { own: (self.sent - sent) / seconds, others: (self.others_sent - others_sent) / seconds, waits }
    }

    fn hear(&mut self) {
        while self.news.peek().is_some_and(|Reverse(news)| news.at <= self.now) {
            let Some(Reverse(news)) = self.news.pop() else { return };
            match news.link {
                Some(link) if news.arrived => {
                    let waiting = &mut self.unacknowledged[link];
                    if waiting.packets == 0 {
                        waiting.since = news.at;
                    }
                    waiting.packets += 1;
                    waiting.round_trip = news.at - news.sent;
                    if waiting.packets >= ACK_PACKETS {
                        self.acknowledge(link);
                    }
                }
                Some(link) => self.links[link].lost_bytes += PACKET as u64,
                None => self.hear_upload(&news),
            }
        }
    }

    fn acknowledge(&mut self, link: usize) {
        let waiting = std::mem::take(&mut self.unacknowledged[link]);
        let sample = &mut self.links[link];
        sample.delivered_bytes += u64::from(waiting.packets) * PACKET as u64;
        let round_trip = Duration::from_secs_f64(waiting.round_trip);
        sample.round_trip = Some(sample.round_trip.map_or(round_trip, |least| least.min(round_trip)));
    }

    fn hear_upload(&mut self, news: &News) {
        let now = self.now;
        let Some(upload) = &mut self.upload else { return };
        upload.on_its_way -= PACKET;
        if !news.arrived {
            if news.sent > upload.lost_at {
                upload.most = upload.window;
                upload.window = (upload.window * 0.7).max(2.0 * PACKET);
                upload.lost_at = now;
                upload.slow_start = false;
            }
        } else if upload.slow_start {
            upload.window += PACKET;
        } else {
            let back_at = (upload.most * 0.3 / PACKET / 0.4).cbrt();
            let target = upload.most + PACKET * 0.4 * (now - upload.lost_at - back_at).powi(3);
            let step = ((target - upload.window) / upload.window).clamp(0.01, 0.5) * PACKET;
            upload.window += step;
        }
    }

    fn send_others(&mut self) {
        let uploads = self.others.iter().any(|other| matches!(other, Other::Upload));
        if !uploads {
            self.upload = None;
        } else if self.upload.is_none() {
            self.upload = Some(Upload {
                window: 10.0 * PACKET,
                on_its_way: 0.0,
                most: 0.0,
                lost_at: 0.0,
                slow_start: true,
            });
        }
        while self.upload.as_ref().is_some_and(|upload| upload.on_its_way + PACKET <= upload.window) {
            let through = self.admit();
            self.others_sent += if through.is_some() { PACKET } else { 0.0 };
            let at = through.unwrap_or(self.now + 0.1) + 0.04;
            self.news.push(Reverse(News { at, sent: self.now, link: None, arrived: through.is_some() }));
            if let Some(upload) = &mut self.upload {
                upload.on_its_way += PACKET;
            }
        }
        for other in self.others.clone() {
            if let Other::Call(rate) = other {
                self.call_credit += rate * STEP;
            }
        }
        while self.call_credit >= PACKET {
            self.call_credit -= PACKET;
            if self.admit().is_some() {
                self.others_sent += PACKET;
            }
        }
    }

    fn send_own(&mut self) {
        let limit = self.estimate.limit() as f64;
        let block = (limit / BLOCKS_PER_SECOND).clamp(512.0, BLOCK);
        self.credit += limit.min(self.wanted) * STEP;
        if self.credit < block {
            return;
        }
        while self.credit >= PACKET {
            self.credit -= PACKET;
            self.sent += PACKET;
            let link = self.turn % self.links.len();
            self.links[link].sent_bytes += PACKET as u64;
            let through = self.admit();
            let lost = self.rng.random_bool(self.line.loss);
            let jitter = self.line.jitter_s * self.rng.random_range(0.0..=1.0);
            let arrived = through.is_some() && !lost;
            let at = through.unwrap_or(self.now + self.line.queue_s) + self.line.round_trips[link] + jitter;
            let at = if link.is_multiple_of(2) { at } else { at + self.line.far_s };
            self.news.push(Reverse(News { at, sent: self.now, link: Some(link), arrived }));
        }
        // A piece goes to one link, the next to another.
        if self.rng.random_bool(0.3) {
            self.turn = self.rng.random_range(0..self.links.len());
        }
    }

    fn look(&mut self) {
        self.looked = self.now;
        let look = Look { links: &self.links, others_bytes: 0, stream: self.stream as u64 };
        self.estimate.look(look, Duration::from_secs_f64(self.now));
        if self.trace {
            let mbit = |bytes: u64| bytes as f64 / MBIT;
            eprintln!(
                "{:6.2} limit {:6.2} promise {:6.2} of {:5.1}, wait {:4.0} ms",
                self.now,
                mbit(self.estimate.limit()),
                mbit(self.estimate.promise()),
                self.line.bytes_per_s / MBIT,
                (self.free_at - self.now).max(0.0) * 1e3
            );
        }
        self.links.iter_mut().for_each(|link| link.round_trip = None);
    }
}
