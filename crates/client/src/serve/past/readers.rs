//! Who reads what was on air before, and what the mesh is told of it.
//!
//! Rules:
//! 1. A request for something that is not here takes a seat, of [`SEATS`] that households share. It goes with the answer, but
//!    for [`LINGER`]: what comes next is fetched meanwhile, and the next request of the household for it takes the same seat.
//! 2. The mesh has one reader for all seats, with one plan for each minute: from the seat that is farthest back in it.
//! 3. Whoever waits is due now. What an idle seat will ask for next is due as it plays.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use minuet_guard::{
    net::{Net, household},
    pool::{Pool, Taken},
    shares::Refused,
};
use minuet_node::mesh::Need;
use minuet_proto::SegmentSeq;
use tokio::sync::Notify;

use super::later;

/// Seats: so many minutes the mesh fetches at a time.
const SEATS: u64 = 12;
/// How long a seat stays when its request is answered: players ask again after an entry or two.
const LINGER: Duration = Duration::from_secs(10);
/// Idle seats of one household: whoever leaps about leaves them behind.
const MAX_IDLE: usize = 2;
/// A piece is due no sooner: what is past is asked for by nobody.
const REPRIEVE: Duration = Duration::from_millis(300);
/// When what an idle seat will ask for is due.
const CALM: Duration = Duration::from_secs(2);
/// What somebody waits for comes so many times faster than it plays.
const HURRY: u32 = 4;
/// The same where several wait in one minute at places far apart.
const GREAT_HURRY: u32 = 16;
/// The next minute is planned when so much of this one is left.
const NEXT: Duration = Duration::from_secs(20);
/// Parts of a minute.
const WHOLE: u32 = 1_000_000;

/// A place in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The minute.
    pub segment: SegmentSeq,
    /// How much of it lies before, in millionths.
    pub from: u32,
    /// How long all of it plays.
    pub span: Duration,
}

/// How a reader fares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fare {
    /// Answers that took longer than they play.
    pub stalls: u64,
    /// How much longer, in all.
    pub stalled: Duration,
    /// Answers that could not be given, or not to their end.
    pub skipped: u64,
}

#[derive(Debug)]
struct Sitting {
    household: Net,
    taken: Taken,
    place: Place,
    busy: bool,
    since: Instant,
    fare: Fare,
}

#[derive(Debug, Default)]
struct State {
    seats: BTreeMap<u64, Sitting>,
    next: u64,
    /// Of all who were ever there.
    total: Fare,
}

/// All seats.
#[derive(Debug)]
pub struct Readers {
    pool: Pool,
    state: Mutex<State>,
    changed: Notify,
}

/// A seat, for as long as a request is answered.
#[derive(Debug)]
pub struct Seat {
    readers: Arc<Readers>,
    id: u64,
}

impl Readers {
    /// Nobody is there.
    pub fn new() -> Self {
        Self { pool: Pool::new(SEATS), state: Mutex::default(), changed: Notify::new() }
    }

    /// A seat for a request from `ip`.
    ///
    /// # Errors
    /// All are taken, and nobody has more of them.
    pub fn sit(self: &Arc<Self>, ip: IpAddr, place: Place) -> Result<Seat, Refused> {
        let home = household(ip);
        let mut state = self.lock();
        let idle = |(_, sitting): &(&u64, &mut Sitting)| !sitting.busy && sitting.household == home;
        let fits = |sitting: &Sitting| {
            let near =
                sitting.place.segment == place.segment || sitting.place.segment.next() == place.segment;
            near && !sitting.taken.is_evicted()
        };
        let own = state.seats.iter_mut().filter(idle).find(|(_, sitting)| fits(sitting));
        let id = if let Some((id, sitting)) = own {
            (sitting.place, sitting.busy) = (place, true);
            *id
        } else {
            let idle = |sitting: &Sitting| !sitting.busy && sitting.household == home;
            let mut left: Vec<(Instant, u64)> = state
                .seats
                .iter()
                .filter(|(_, sitting)| idle(sitting))
                .map(|(id, sitting)| (sitting.since, *id))
                .collect();
            left.sort_unstable();
            for (_, id) in left.iter().take(left.len().saturating_add(1).saturating_sub(MAX_IDLE)) {
                state.seats.remove(id);
            }
            let taken = self.pool.take(ip, 1)?;
            let id = state.next;
            state.next = state.next.wrapping_add(1);
            let sitting = Sitting {
                household: home,
                taken,
                place,
                busy: true,
                since: Instant::now(),
                fare: Fare::default(),
            };
            state.seats.insert(id, sitting);
            id
        };
        drop(state);
        self.changed.notify_one();
        Ok(Seat { readers: Arc::clone(self), id })
    }

    /// Where everybody is who goes back now, and how each fares; and how all have fared since the start.
    pub fn fares(&self) -> (Vec<(Place, Fare)>, Fare) {
        let state = self.lock();
        (state.seats.values().map(|seat| (seat.place, seat.fare)).collect(), state.total)
    }

    /// Waits for a change.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What the mesh is to bring when. Seats that nobody came back to are gone.
    pub fn plan(&self, now: Instant) -> Vec<Need> {
        let mut state = self.lock();
        state.seats.retain(|_, seat| {
            seat.busy || !seat.taken.is_evicted() && now.saturating_duration_since(seat.since) < LINGER
        });
        let places: Vec<(Place, bool)> = state.seats.values().map(|seat| (seat.place, seat.busy)).collect();
        drop(state);
        merged(&places, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each seat is whole by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The request goes on there.
    pub fn move_to(&self, place: Place) {
        let mut state = self.readers.lock();
        let Some(seat) = state.seats.get_mut(&self.id) else { return };
        // A waiting request says so again and again.
        if std::mem::replace(&mut seat.place, place) != place {
            self.readers.changed.notify_one();
        }
    }

    /// An answer that plays for so long was waited for so long.
    pub fn answered(&self, waited: Duration, plays: Duration) {
        let longer = waited.saturating_sub(plays);
        if longer > Duration::ZERO {
            self.fare(|fare| {
                fare.stalls = fare.stalls.saturating_add(1);
                fare.stalled = fare.stalled.saturating_add(longer);
            });
        }
    }

    /// An answer could not be given, or not to its end.
    pub fn skipped(&self) {
        self.fare(|fare| fare.skipped = fare.skipped.saturating_add(1));
    }

    fn fare(&self, note: impl Fn(&mut Fare)) {
        let mut state = self.readers.lock();
        note(&mut state.total);
        if let Some(seat) = state.seats.get_mut(&self.id) {
            note(&mut seat.fare);
        }
    }

    /// Whether the seat went to another household.
    pub fn is_lost(&self) -> bool {
        self.readers.lock().seats.get(&self.id).is_none_or(|seat| seat.taken.is_evicted())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.readers.lock();
        let Some(seat) = state.seats.get_mut(&self.id) else { return };
        if seat.taken.is_evicted() {
            state.seats.remove(&self.id);
        } else {
            (seat.busy, seat.since) = (false, Instant::now());
        }
        drop(state);
        self.readers.changed.notify_one();
    }
}

fn faster(span: Duration, by: u32) -> Duration {
    span.checked_div(by).unwrap_or(span)
}

/// One plan a minute for all who read in it.
fn merged(places: &[(Place, bool)], now: Instant) -> Vec<Need> {
    let mut needs: BTreeMap<SegmentSeq, Need> = BTreeMap::new();
    let mut add = |need: Need| {
        needs
            .entry(need.segment)
            .and_modify(|known| {
                let apart = known.from.abs_diff(need.from) > WHOLE / 50;
                known.from = known.from.min(need.from);
                known.due = known.due.min(need.due);
                known.span = known.span.min(need.span);
                if apart {
                    known.span = faster(known.span, GREAT_HURRY / HURRY);
                }
            })
            .or_insert(need);
    };
    for (place, busy) in places {
        let Place { segment, from, span } = *place;
        let due = later(now, if *busy { REPRIEVE } else { CALM });
        let left = faster(span, WHOLE).saturating_mul(WHOLE.saturating_sub(from));
        add(Need { segment, from, due, span: if *busy { faster(span, HURRY) } else { span } });
        if left < NEXT {
            add(Need { segment: segment.next(), from: 0, due: later(due, left), span });
        }
    }
    let mut needs: Vec<Need> = needs.into_values().collect();
    needs.sort_by_key(|need| need.due);
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(segment: u64, from: u32) -> Place {
        Place { segment: SegmentSeq(segment), from, span: Duration::from_secs(60) }
    }

    fn home(n: u8) -> IpAddr {
        [192, 0, n, 1].into()
    }

    #[test]
    fn a_minute_has_one_plan_from_the_seat_that_is_farthest_back() {
        let now = Instant::now();
        let needs =
            merged(&[(place(7, 900_000), true), (place(7, 100_000), false), (place(3, 0), true)], now);
        let of = |segment| needs.iter().filter(|need| need.segment.0 == segment).collect::<Vec<_>>();
        assert_eq!(of(7).len(), 1);
        let need = of(7)[0];
        assert_eq!((need.from, need.due), (100_000, now + REPRIEVE));
        // What the second waits for is 48 s behind that, and must not come as late as that.
        assert!(need.span < Duration::from_secs(4), "{need:?}");
        // Six seconds before the end of a minute the next one is planned.
        assert_eq!(of(8).len(), 1);
        assert!(of(4).is_empty() && of(3)[0].span == Duration::from_secs(15));
    }

    #[test]
    fn a_household_that_leaps_about_takes_no_seats_from_others() {
        let readers = Arc::new(Readers::new());
        for minute in 0..100 {
            drop(readers.sit(home(1), place(minute * 10, 0)).unwrap());
        }
        assert!(readers.lock().seats.len() <= MAX_IDLE);
        // Those who go on where they were keep theirs.
        let before = readers.lock().next;
        drop(readers.sit(home(1), place(990, 500_000)).unwrap());
        drop(readers.sit(home(1), place(991, 0)).unwrap());
        assert_eq!(readers.lock().next, before);
    }

    #[test]
    fn each_reader_is_told_how_it_fares() {
        let readers = Arc::new(Readers::new());
        let (slow, quick) =
            (readers.sit(home(1), place(1, 0)).unwrap(), readers.sit(home(2), place(9, 0)).unwrap());
        let second = Duration::from_secs(1);
        quick.answered(second, second * 2);
        slow.answered(second * 3, second * 2);
        slow.answered(second * 5, second * 2);
        slow.skipped();
        let expected = Fare { stalls: 2, stalled: second * 4, skipped: 1 };
        let (each, total) = readers.fares();
        assert_eq!(each, [(place(1, 0), expected), (place(9, 0), Fare::default())]);
        drop((slow, quick));
        assert!(readers.plan(Instant::now() + LINGER).is_empty());
        assert_eq!((readers.fares().0.len(), total, readers.fares().1), (0, expected, expected));
    }

    #[test]
    fn seats_are_shared_by_households_and_end() {
        let readers = Arc::new(Readers::new());
        let greedy: Vec<Seat> =
            (0..SEATS).map(|minute| readers.sit(home(1), place(minute * 10, 0)).unwrap()).collect();
        assert!(readers.sit(home(1), place(500, 0)).is_err());
        let other = readers.sit(home(2), place(600, 0)).unwrap();
        assert_eq!(greedy.iter().filter(|seat| seat.is_lost()).count(), 1);
        drop((greedy, other));
        let now = Instant::now();
        assert!(!readers.plan(now).is_empty());
        assert!(readers.plan(now + LINGER).is_empty());
        assert!(readers.lock().seats.is_empty() && readers.pool.used() == 0);
    }
}
