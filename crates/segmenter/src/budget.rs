//! What the HTTP server may send when the upload is limited: what the live mesh and BitTorrent peers leave over.
//!
//! What the others sent is charged here afterwards: they have limiters of their own (`share`), and HTTP sends only while
//! they leave something over.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// An account holds at most so many seconds' worth: a burst of more would fill the queue before the uplink, and the
/// live mesh would wait in it.
const DEPTH_S: f64 = 0.25;
/// An account owes at most so many seconds' worth.
const DEBT_S: f64 = 2.0;
/// How long to wait when there is nothing to spend.
const PAUSE: Duration = Duration::from_millis(50);

/// The accounts: what the whole upload may be, and what HTTP may send of it. Without a limit everything may be sent, until
/// the live mesh has found out what the line can send: if HTTP filled the line, the mesh would have no room left, and
/// viewers would come for all that is late by HTTP, too.
#[derive(Debug)]
pub struct Budget {
    whole: Mutex<Option<Account>>,
    /// The whole was given, so what is found out does not count.
    given: bool,
    http: Option<Mutex<Account>>,
}

#[derive(Debug)]
struct Account {
    bytes_per_s: f64,
    balance: f64,
    filled: Instant,
    /// What the others had sent when they were charged last.
    charged: u64,
}

impl Budget {
    /// Accounts that fill at so many bytes a second: for everything that is sent, and for HTTP alone.
    pub fn new(whole: Option<u64>, http: Option<u64>) -> Self {
        Self {
            whole: Mutex::new(whole.map(Account::new)),
            given: whole.is_some(),
            http: http.map(Account::new).map(Mutex::new),
        }
    }

    /// The line seems to send so many bytes a second.
    pub fn found(&self, bytes_per_s: u64) {
        if !self.given {
            let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
            whole.get_or_insert_with(|| Account::new(bytes_per_s)).bytes_per_s = bytes_per_s as f64;
        }
    }

    /// Charges what others sent, given their total since the start.
    pub fn charge_total(&self, sent: u64) {
        self.charge_total_at(sent, Instant::now());
    }

    fn charge_total_at(&self, sent: u64, now: Instant) {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = &mut *whole {
            account.fill(now);
            account.balance -= sent.saturating_sub(account.charged) as f64;
            account.charged = sent;
        }
    }

    /// Waits until `bytes` may be sent.
    pub async fn spend(&self, bytes: usize) {
        while !self.try_spend(bytes, Instant::now()) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn try_spend(&self, bytes: usize, now: Instant) -> bool {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let mut http = self.http.as_ref().map(|http| http.lock().unwrap_or_else(PoisonError::into_inner));
        let mut accounts: Vec<&mut Account> = whole.as_mut().into_iter().chain(http.as_deref_mut()).collect();
        accounts.iter_mut().for_each(|account| account.fill(now));
        // In debt by at most one chunk.
        let may = accounts.iter().all(|account| account.balance > 0.0);
        if may {
            accounts.iter_mut().for_each(|account| account.balance -= bytes as f64);
        }
        may
    }
}

impl Account {
    fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s as f64, balance: 0.0, filled: Instant::now(), charged: 0 }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        let most = self.bytes_per_s * DEPTH_S;
        let debt = self.bytes_per_s * DEBT_S;
        self.balance = (self.balance + elapsed * self.bytes_per_s).clamp(-debt, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_gets_what_bittorrent_leaves() {
        let budget = Budget::new(Some(1000), None);
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let sent = |from: u64, to: u64, peers_per_s: u64| {
            (from..to)
                .map(|s| {
                    budget.charge_total_at(s * peers_per_s, at(s));
                    (0..1000).filter(|ms| budget.try_spend(10, at(s) + Duration::from_millis(*ms))).count()
                        * 10
                })
                .sum::<usize>()
        };
        let alone = sent(0, 10, 0);
        assert!((8_000..=12_500).contains(&alone), "{alone}");
        let beside = sent(10, 30, 1000);
        assert!(beside <= 4_000, "{beside}");
    }

    #[test]
    fn a_limit_of_its_own_is_not_charged_for_others() {
        let budget = Budget::new(None, Some(1000));
        let start = Instant::now();
        budget.charge_total_at(1_000_000, start);
        let sent =
            (0..10_000).filter(|ms| budget.try_spend(10, start + Duration::from_millis(*ms))).count() * 10;
        assert!((8_000..=12_500).contains(&sent), "{sent}");
    }

    #[test]
    fn what_is_found_out_counts_where_nothing_was_given() {
        let start = Instant::now();
        let sent = |budget: &Budget| {
            (0..10_000).filter(|ms| budget.try_spend(10, start + Duration::from_millis(*ms))).count() * 10
        };
        let (free, given) = (Budget::new(None, None), Budget::new(Some(5000), None));
        free.found(1000);
        given.found(1000);
        let (free, given) = (sent(&free), sent(&given));
        assert!((8_000..=12_500).contains(&free), "{free}");
        assert!(given > 40_000, "{given}");
    }

    #[test]
    fn no_limit_is_no_limit() {
        let budget = Budget::new(None, None);
        assert!(budget.try_spend(usize::MAX, Instant::now()));
    }
}
