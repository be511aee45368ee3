//! The only place that reads a clock.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use minuet_announce::time::Uptime;

/// Time since the tracker started, and of day.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    /// The last second that was written as HTTP has it.
    http_date: Mutex<(u64, HttpDate)>,
}

/// A time as HTTP writes it (RFC 9110, 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
pub type HttpDate = [u8; 29];

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { started: Instant::now(), http_date: Mutex::new((0, [b' '; 29])) }
    }

    /// Seconds since the start.
    pub fn uptime(&self) -> Uptime {
        Uptime::default().after(self.started.elapsed())
    }

    /// Unix time in milliseconds.
    pub fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// The time of day for the header `Date`.
    pub fn http_date(&self) -> HttpDate {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let mut written = self.http_date.lock().unwrap_or_else(PoisonError::into_inner);
        if written.0 != second {
            let mut date = [b' '; 29];
            // As long as years have four digits it fits.
            let _ = write!(&mut date[..], "{}", httpdate::HttpDate::from(now));
            *written = (second, date);
        }
        written.1
    }
}
