//! The limit: how much this node may send so that nothing waits long before its line, its own packets or others'.
//!
//! What is known of a line comes from what is sent anyway: the rate at which bytes are acknowledged (the delivery rate of
//! BBR, draft-ietf-ccwg-bbr), and how long packets wait before the line (as in LEDBAT, RFC 6817, and Google's congestion
//! control for calls, draft-ietf-rmcat-gcc), which `queue.rs` finds out. Rules:
//!
//! 1. *It begins small*, at [`FIRST`], or at a part of what an earlier run learned on the same network. A source begins
//!    with what the stream needs, since with less there is no broadcast.
//! 2. *It grows while it is used and nothing waits.* What nobody uses teaches nothing. As long as the line was never
//!    full, up to twelvefold a second, but never far beyond what was delivered: 40 Mbit/s are found in two to three. After
//!    that as CUBIC does (RFC 9438), but relative to the ceiling, so that each rate takes the same time: quickly to just
//!    below the rate at which the line was full, slowly around it, and quickly again once that is passed.
//! 3. *It stays where it is while a little waits*, and shrinks slowly where more does.
//! 4. *The line is full* where packets wait for [`FULL`] and more, or where more is lost than a bad line loses. Then the
//!    limit becomes a part of what was delivered, and stays until that shows.
//! 5. *A long queue is drained*, and so is the one that ends the start: what is seen of a queue is as old as a round trip and
//!    the queue itself, so it is longer than it looks, and little can be said of the line that was overrun while the limit
//!    doubled. The limit falls to [`DRAIN`] of what is delivered until, by what was sent since, nothing waits any more. The
//!    line is full all that time: what it delivers then is what it can do, and the limit goes on from there.
//! 6. *Somebody else sends* where the queue does not drain as it must, had this node alone filled it, in what was sent after
//!    the limit fell. Then the limit is halved, again and again, down to [`LEAST_PART`] of what the line is known to
//!    deliver: a call or an upload over the same line has it within a second or two, and a queue that stands for minutes
//!    does no harm to either.
//! 7. *A source never gives up the stream*: [`SOURCE_NEED`] of its rate stay.
//!
//! Waits are longer by a packet's time on a slow line, whatever the limit: that much is allowed for in all of these.
//!
//! `--upload-limit` is above all this: where it is given there is no estimate.

use std::time::Duration;

use crate::LOOK;
use crate::deliveries::Deliveries;
use crate::memory::Learned;
use crate::queue::{Queue, Seen};

/// The limit to begin with where nothing is known, in bytes a second: 0.6 Mbit/s, which nearly every line has.
const FIRST: f64 = 75_000.0;
/// What part of the remembered rate to begin with: the line may be in use today.
const REMEMBERED: f64 = 0.6;
/// Never less, in bytes a second: 64 kbit/s, for control messages.
const LEAST: f64 = 8_000.0;
/// Never less of what the line is known to deliver, so that an upload gets at least four fifths of what it gets alone, with
/// what the first second costs it. Neighbours that live on this line keep what is left.
const LEAST_PART: f64 = 0.15;
/// Never more, in bytes a second: 10 Gbit/s.
const MOST: f64 = 1_250_000_000.0;
/// What a source keeps of the stream's rate: headers, heads and what is sent again come on top.
const SOURCE_NEED: f64 = 1.15;
/// The line is full: a packet waits this long, and half as long again as the mean jitter, …
const FULL: Duration = Duration::from_millis(20);
/// … and this long it may wait without any change of the limit.
const LITTLE: Duration = Duration::from_millis(8);
/// How much the limit shrinks in a second in which packets wait longer than a little, but the line is not full.
const SHRINK: f64 = 0.3;
/// A queue of this length is no small overshoot: it is drained.
const LONG: Duration = Duration::from_millis(50);
/// What becomes of the limit where the line is full: a part of what was delivered, …
const BACK_OFF: f64 = 0.85;
/// … a smaller one while a long queue drains, …
const DRAIN: f64 = 0.4;
/// … which takes no longer than this, …
const MOST_DRAIN: Duration = Duration::from_millis(1500);
/// … and where somebody else sends.
const YIELD: f64 = 0.5;
/// One look never takes more than this: a count that stood still is not yet a line that does.
const AT_ONCE: f64 = 0.3;
/// No longer than this is waited for a limit to show that fell.
const SHOWS: Duration = Duration::from_millis(1500);
/// Bytes of a packet, about.
const PACKET: f64 = 1200.0;
/// A queue that has not drained so long after that is somebody else's, …
const PATIENCE: Duration = Duration::from_millis(300);
/// … and one that has grown by so much is at once.
const GROWN: Duration = Duration::from_millis(10);
/// A queue that drained by less than this part of what it must have, had this node alone filled it, is somebody else's.
const SURELY: f64 = 0.4;
/// A queue that is as long again so soon after was not drained.
const AGAIN: Duration = Duration::from_millis(1500);
/// More bytes lost than this are a queue that overflows, not a bad line.
const LOSS: f64 = 0.1;
/// Time over which losses are counted.
const LOSS_WINDOW: Duration = Duration::from_secs(1);
/// A rate is taken over the time of so many bytes, since acknowledgements come ten packets at a time, …
const RATE_BYTES: f64 = 76_800.0;
/// … but at least and at most over this time.
const RATE_WINDOW: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(1));
/// Time over which that is taken which the line is known to deliver.
const PROOF_WINDOW: Duration = Duration::from_secs(1);
/// Time over which a limit's use is looked at.
const SHORT_WINDOW: Duration = Duration::from_millis(200);
/// A limit of which so much is used grows.
const USED: f64 = 0.8;
/// Growth a second while the line was never full, and at most after that, …
const STARTUP: f64 = 12.0;
const REGROWTH: f64 = 4.0;
/// … as long as the limit is at most so many times what was delivered: what is in doubt is not doubled. More while the line was
/// never full, less beyond the rate at which it was: what overruns a line is not seen at once.
const AHEAD: f64 = 1.5;
const STARTUP_AHEAD: f64 = 1.7;
const BEYOND_AHEAD: f64 = 1.2;
/// While the limit grows manifold a second, what was delivered over a longer time than this is far less than what is now.
const STARTUP_WINDOW: Duration = Duration::from_millis(200);
/// The cubic's coefficient, for a second and a ceiling of one: back at the ceiling after a second and a half, twice the
/// ceiling three seconds later.
const CUBIC: f64 = 0.04;
/// Part of the limit that other parts of the program have in any case, at most.
const OTHERS_PART: f64 = 0.125;
/// What the line delivered in so long counts as what it can deliver.
const PROOF_SPAN: Duration = Duration::from_secs(150);

/// What the transport counts of a link.
#[derive(Debug, Clone, Copy)]
pub struct LinkSample {
    /// The link, and its path if that changes: another number is another base for round trips.
    pub link: u64,
    /// Bytes sent since the link began, everything included.
    pub sent_bytes: u64,
    /// Bytes acknowledged since then.
    pub delivered_bytes: u64,
    /// Bytes found lost since then.
    pub lost_bytes: u64,
    /// The shortest round trip that was measured since the last look, without the time for which the far end kept its
    /// acknowledgement back. None if nothing was acknowledged.
    pub round_trip: Option<Duration>,
}

/// What a look is given.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// All links that are up.
    pub links: &'a [LinkSample],
    /// Bytes that other parts of the program have sent over the same line since the start (HTTP, BitTorrent).
    pub others_bytes: u64,
    /// The stream's rate in bytes a second; 0 while it is not known.
    pub stream: u64,
}

/// What is known before the first look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// This node is the channel's source.
    pub is_source: bool,
    /// What [`Memory`](crate::Memory) has of this network.
    pub remembered: Option<Learned>,
}

/// Finds out what the line can send. Rates are in bytes a second as the transport counts them (UDP payload).
#[derive(Debug)]
pub struct Estimate {
    is_source: bool,
    limit: f64,
    growth: Growth,
    /// No growth and no back-off before this time.
    held_until: Duration,
    last_cut: Option<Cut>,
    draining: Option<Draining>,
    was_full: bool,
    /// What the last look saw.
    seen: Option<Seen>,
    /// Packets waited longer than a little at the last look.
    waited: bool,
    looked: Duration,
    proof: Proof,
    deliveries: Deliveries,
    queue: Queue,
}

#[derive(Debug, Clone, Copy)]
enum Growth {
    /// The line was never full.
    Startup,
    /// It was full at `ceiling`, then the limit fell to `from` parts of it; `used_s` seconds of growth since.
    Cubic { ceiling: f64, from: f64, used_s: f64 },
}

/// A long queue of this node's own making drains. As long as it does the line is full, so what is delivered meanwhile is
/// what the line can do.
#[derive(Debug, Clone, Copy)]
struct Draining {
    /// When it ends in any case.
    until: Duration,
    /// Since when the line was full.
    since: Duration,
    /// What the line was taken for, if the limit has just fallen before: what is delivered now may not be all that it can do.
    ceiling: Option<f64>,
}

/// What was seen when the limit fell last.
#[derive(Debug, Clone, Copy)]
struct Cut {
    at: Duration,
    /// When the queue was drained and the limit rose again.
    ends: Option<Duration>,
    /// The longest wait of what was sent before it.
    wait: Duration,
    /// By what part the queue must drain a second, if this node alone filled it.
    drains: f64,
    /// The queue was short, and the limit fell by little.
    gentle: bool,
}

impl Cut {
    /// How long after it that was sent which is seen now; none if before.
    fn since(&self, seen: Seen, now: Duration) -> Option<Duration> {
        now.checked_sub(self.at + lag(seen))
    }

    fn is_recent(&self, seen: Seen, now: Duration) -> bool {
        self.since(seen, now).is_none_or(|since| since <= AGAIN)
    }

    /// What is seen now was sent after the queue was drained.
    fn is_over(&self, seen: Seen, now: Duration) -> bool {
        let drained = self.ends.map(|ends| ends.saturating_sub(self.at));
        drained.zip(self.since(seen, now)).is_some_and(|(drained, since)| since > drained)
    }

    /// Whether it does not show in what was sent long enough after it, so that somebody else fills the queue.
    fn has_no_effect(&self, seen: Seen, now: Duration) -> bool {
        let Some(since) = self.since(seen, now) else { return false };
        let low = self.ends.map_or(since, |ends| since.min(ends.saturating_sub(self.at)));
        let must = self.drains * low.as_secs_f64() * SURELY;
        let drained = seen.wait.as_secs_f64() + must <= self.wait.as_secs_f64();
        seen.wait > self.wait + GROWN || since >= PATIENCE && !drained
    }
}

/// How long ago that was sent from which a wait is seen.
fn lag(seen: Seen) -> Duration {
    (seen.round_trip + seen.wait + LOOK).min(SHOWS)
}

/// The most that the line has delivered of late.
#[derive(Debug, Default)]
struct Proof {
    now: f64,
    before: f64,
    span_ends: Duration,
}

impl Estimate {
    /// Begins at `now`, on any clock that the later looks share.
    pub fn new(settings: Settings, now: Duration) -> Self {
        let (limit, growth) = match settings.remembered {
            None => (FIRST, Growth::Startup),
            Some(Learned { bytes_per_s, full }) => {
                let rate = (bytes_per_s as f64).clamp(LEAST, MOST);
                let growth = match full {
                    true => Growth::Cubic { ceiling: rate, from: REMEMBERED, used_s: 0.0 },
                    false => Growth::Startup,
                };
                ((rate * REMEMBERED).max(LEAST), growth)
            }
        };
        Self {
            is_source: settings.is_source,
            limit,
            growth,
            held_until: now,
            last_cut: None,
            draining: None,
            was_full: false,
            seen: None,
            waited: false,
            looked: now,
            proof: Proof { span_ends: now + PROOF_SPAN, ..Proof::default() },
            deliveries: Deliveries::default(),
            queue: Queue::default(),
        }
    }

    /// The most that may be sent from now on, in bytes a second.
    pub fn limit(&self) -> u64 {
        self.limit as u64
    }

    /// The part of it that is for the links: what others send anyway is taken off, up to [`OTHERS_PART`]. What they send
    /// beyond that they send only while the links leave it over.
    pub fn for_links(&self) -> u64 {
        let others = self.deliveries.others(PROOF_WINDOW).min(self.limit * OTHERS_PART);
        (self.limit - others) as u64
    }

    /// What neighbours may be told that this node sends, in bytes a second: no more than it has delivered.
    pub fn promise(&self) -> u64 {
        self.limit.min(self.proof.most()) as u64
    }

    /// How long a packet waits before the line, or behind it on the way back, beyond what jitter explains. None while
    /// nothing was measured.
    pub fn wait(&self) -> Option<Duration> {
        self.seen.map(|seen| seen.wait.saturating_sub(seen.jitter))
    }

    /// What the next run on this network should know; none if the line was hardly used.
    pub fn learned(&self) -> Option<Learned> {
        let most = self.proof.most();
        (most > FIRST).then_some(Learned { bytes_per_s: most as u64, full: self.was_full })
    }

    /// Takes a look. Returns the limit in bytes a second.
    pub fn look(&mut self, look: Look<'_>, now: Duration) -> u64 {
        let elapsed = now.saturating_sub(self.looked).as_secs_f64();
        if elapsed <= 0.0 {
            return self.limit();
        }
        self.looked = now;
        self.deliveries.look(look.links, look.others_bytes, now);
        self.queue.retain(|link| look.links.iter().any(|sample| sample.link == link));
        for sample in look.links {
            if let Some(round_trip) = sample.round_trip {
                self.queue.note(sample.link, round_trip, now);
            }
        }
        let seen = self.queue.look(now);
        self.seen = seen;
        self.proof.note(self.deliveries.delivered(PROOF_WINDOW), now);
        if let (Some(cut), Some(seen)) = (&mut self.last_cut, seen)
            && cut.since(seen, now).is_none()
        {
            cut.wait = cut.wait.max(seen.wait);
        }
        if let Some(seen) = seen {
            self.drain(seen, now);
            self.judge(seen, elapsed.min(1.0), now);
        }
        let least = self.least(look.stream as f64);
        self.limit = self.limit.clamp(least, MOST);
        self.limit()
    }

    fn judge(&mut self, seen: Seen, elapsed: f64, now: Duration) {
        let packet = self.packet();
        if self.draining.is_none()
            && seen.wait > LONG + packet + seen.jitter * 3 / 2
            && self.was_gentle(seen, now)
        {
            return self.cut(seen, false, true, now);
        }
        if now < self.held_until {
            return;
        }
        // What was lost of that which was sent before the limit fell was that queue's.
        let since = now.saturating_sub(self.held_until).max(LOOK);
        let overflows = self.deliveries.overflows(LOSS_WINDOW.min(since), LOSS);
        if overflows || seen.wait > FULL + packet + seen.jitter * 3 / 2 {
            self.back_off(seen, now);
        } else if self.draining.is_some() {
            // The limit is as low as it must be.
        } else if seen.wait > LITTLE + packet / 2 + seen.jitter {
            // One look may see a jitter.
            let again = std::mem::replace(&mut self.waited, true);
            if again {
                self.limit *= 1.0 - SHRINK * elapsed;
            }
        } else {
            self.waited = false;
            self.last_cut = None;
            self.grow(elapsed);
        }
    }

    /// A packet's time on the line.
    fn packet(&self) -> Duration {
        let rate = match self.growth {
            Growth::Startup => self.limit,
            Growth::Cubic { ceiling, .. } => ceiling.max(self.limit),
        };
        Duration::from_secs_f64(PACKET / rate.max(LEAST))
    }

    /// The limit fell a little, just now: if the queue is long for all that, it was longer than it looked.
    fn was_gentle(&self, seen: Seen, now: Duration) -> bool {
        self.last_cut.is_some_and(|cut| cut.gentle && cut.is_recent(seen, now))
    }

    fn least(&self, stream: f64) -> f64 {
        let least = LEAST.max(self.proof.most() * LEAST_PART);
        let least = if self.is_source { least.max(stream * SOURCE_NEED) } else { least };
        least.min(MOST)
    }

    fn back_off(&mut self, seen: Seen, now: Duration) {
        let last = self.last_cut.filter(|cut| cut.is_recent(seen, now));
        let stands = last.is_some_and(|cut| cut.has_no_effect(seen, now));
        // What was sent after the queue should have been empty waits all the same: the line has less than was thought.
        let again = last.is_some_and(|cut| cut.is_over(seen, now));
        if last.is_some() && !stands && !again {
            // It drains.
            return;
        }
        self.cut(seen, stands, last.is_some(), now);
    }

    /// The limit falls: to give way if the queue `stands` whatever this node does, to drain it if it falls `again`.
    fn cut(&mut self, seen: Seen, stands: bool, again: bool, now: Duration) {
        self.was_full = true;
        let delivered = match self.growth {
            Growth::Startup => self.deliveries.delivered(RATE_WINDOW.0),
            Growth::Cubic { .. } => self.delivered_lately(),
        };
        let delivered = delivered.min(self.limit);
        let starts = matches!(self.growth, Growth::Startup);
        let drains = !stands && (starts || again || seen.wait > LONG + self.packet());
        let part = match () {
            () if stands => YIELD,
            () if drains => DRAIN,
            () => BACK_OFF,
        };
        // A node that gives way to somebody else comes back to what the line delivered before that.
        let ceiling = match self.growth {
            Growth::Cubic { ceiling, .. } if again => ceiling,
            _ => delivered,
        };
        self.limit = (delivered * part).max(self.limit * AT_ONCE);
        self.rise_to(ceiling);
        let gentle = !stands && !drains;
        self.last_cut = Some(Cut { at: now, ends: None, wait: seen.wait, drains: 1.0 - part, gentle });
        self.held_until = now + lag(seen);
        self.draining = drains.then(|| Draining {
            until: now + MOST_DRAIN,
            since: now.saturating_sub(seen.wait),
            ceiling: again.then_some(ceiling),
        });
    }

    /// From now on the limit grows towards what the line could do before.
    fn rise_to(&mut self, ceiling: f64) {
        let ceiling = ceiling.max(self.limit);
        self.growth = Growth::Cubic { ceiling, from: self.limit / ceiling.max(1.0), used_s: 0.0 };
    }

    fn drain(&mut self, seen: Seen, now: Duration) {
        let Some(Draining { until, since, ceiling }) = self.draining else { return };
        if now > until + 2 * LOOK {
            // Nothing was heard in between.
            self.draining = None;
            return;
        }
        let line = self.deliveries.delivered(now.saturating_sub(since).max(RATE_WINDOW.0));
        // What waits now: what was seen of that which was sent some time ago, and what was sent since beyond what left.
        let ago = seen.round_trip + seen.wait + LOOK;
        let since = self.deliveries.sent(ago) / line.max(1.0) - 1.0;
        let waits = seen.wait.as_secs_f64() + since * ago.as_secs_f64();
        if now < until && waits > (LITTLE + self.packet()).as_secs_f64() {
            self.limit = (line * DRAIN).max(self.limit * AT_ONCE).min(self.limit);
            return;
        }
        self.draining = None;
        self.limit = line * BACK_OFF;
        self.rise_to(ceiling.unwrap_or(line));
        self.held_until = now + lag(seen);
        if let Some(cut) = &mut self.last_cut {
            cut.ends = Some(now);
        }
    }

    /// The rate at which the far ends got something, of late.
    fn delivered_lately(&self) -> f64 {
        let window =
            Duration::from_secs_f64(RATE_BYTES / self.limit.max(1.0)).clamp(RATE_WINDOW.0, RATE_WINDOW.1);
        self.deliveries.delivered(window)
    }

    fn grow(&mut self, elapsed: f64) {
        if self.deliveries.sent(SHORT_WINDOW) < self.limit * USED {
            return;
        }
        let (delivered, growth, ahead) = match self.growth {
            Growth::Startup => (self.deliveries.delivered(STARTUP_WINDOW), STARTUP, STARTUP_AHEAD),
            Growth::Cubic { .. } => (self.delivered_lately(), REGROWTH, AHEAD),
        };
        let fast = (self.limit * growth.powf(elapsed)).min(delivered * ahead).max(self.limit);
        self.limit = match &mut self.growth {
            Growth::Startup => fast,
            Growth::Cubic { ceiling, from, used_s } => {
                *used_s += elapsed;
                let back_at = ((1.0 - *from) / CUBIC).cbrt();
                let cubic = *ceiling * (1.0 + CUBIC * (*used_s - back_at).powi(3));
                let ahead = if cubic > *ceiling { BEYOND_AHEAD } else { AHEAD };
                cubic.min(delivered * ahead).clamp(self.limit, fast)
            }
        };
    }
}

impl Proof {
    fn note(&mut self, delivered: f64, now: Duration) {
        if self.span_ends <= now {
            *self = Self { now: 0.0, before: self.now, span_ends: now + PROOF_SPAN };
        }
        self.now = self.now.max(delivered);
    }

    fn most(&self) -> f64 {
        self.now.max(self.before)
    }
}
