//! What the HTTP server may send: what the live mesh and BitTorrent peers leave over of the line.
//!
//! The whole is `--upload-limit`, else what the mesh finds out that the line can send ([`Uplink`]). What the others sent is
//! charged here afterwards: they have limiters of their own (`share`), and HTTP sends only while they leave something over.
//! The mesh is told in turn what HTTP sends, since it measures the line that both use.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use minuet_node::mesh::Uplink;

/// An account holds at most so many seconds' worth: a burst of more would fill the queue before the uplink, and the
/// live mesh would wait in it.
const DEPTH_S: f64 = 0.05;
/// An account owes at most so many seconds' worth.
const DEBT_S: f64 = 2.0;
/// How long to wait when there is nothing to spend.
const PAUSE: Duration = Duration::from_millis(20);

/// The accounts: what the whole upload may be, and what HTTP may send of it. Without a limit everything may be sent, until
/// the live mesh has found out what the line can send: if HTTP filled the line, the mesh would have no room left, and
/// viewers would come for all that is late by HTTP, too.
#[derive(Debug)]
pub struct Budget {
    whole: Mutex<Whole>,
    http: Option<Mutex<Account>>,
    /// The line that the mesh looks at.
    uplink: Uplink,
}

#[derive(Debug)]
struct Whole {
    /// None while there is no limit.
    account: Option<Account>,
    /// It was given, so what is found out does not count.
    given: bool,
    /// What the mesh, and then BitTorrent, had sent when they were charged last.
    charged: [u64; 2],
}

#[derive(Debug)]
struct Account {
    bytes_per_s: f64,
    balance: f64,
    filled: Instant,
}

impl Budget {
    /// Accounts that fill at so many bytes a second: for everything that is sent, and for HTTP alone.
    pub fn new(whole: Option<u64>, http: Option<u64>, uplink: Uplink) -> Self {
        let whole = Whole { account: whole.map(Account::new), given: whole.is_some(), charged: [0; 2] };
        Self { whole: Mutex::new(whole), http: http.map(Account::new).map(Mutex::new), uplink }
    }

    /// Charges what BitTorrent has sent, given its total since the start, and tells the mesh of it.
    pub fn charge_swarm(&self, total: u64) {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let more = whole.charge(1, total, Instant::now());
        self.uplink.note_others(more);
    }

    /// Waits until `bytes` may be sent, and counts them as sent.
    pub async fn spend(&self, bytes: usize) {
        while !self.try_spend(bytes, Instant::now()) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn try_spend(&self, bytes: usize, now: Instant) -> bool {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.found(self.uplink.limit());
        whole.charge(0, self.uplink.mesh_bytes(), now);
        let mut http = self.http.as_ref().map(|http| http.lock().unwrap_or_else(PoisonError::into_inner));
        let mut accounts: Vec<&mut Account> =
            whole.account.as_mut().into_iter().chain(http.as_deref_mut()).collect();
        accounts.iter_mut().for_each(|account| account.fill(now));
        // In debt by at most one chunk.
        let may = accounts.iter().all(|account| account.balance > 0.0);
        if may {
            accounts.iter_mut().for_each(|account| account.balance -= bytes as f64);
            self.uplink.note_others(bytes as u64);
        }
        may
    }
}

impl Whole {
    /// The line seems to send so many bytes a second; none: nothing is known of it.
    fn found(&mut self, bytes_per_s: Option<u64>) {
        if self.given {
            return;
        }
        match (&mut self.account, bytes_per_s) {
            (Some(account), Some(rate)) => account.bytes_per_s = rate as f64,
            (account, rate) => *account = rate.map(Account::new),
        }
    }

    /// Charges what the mesh (0) or BitTorrent (1) has sent since it was charged last, and returns it.
    fn charge(&mut self, whom: usize, total: u64, now: Instant) -> u64 {
        let more = total.saturating_sub(self.charged[whom]);
        self.charged[whom] = total;
        if let Some(account) = &mut self.account {
            account.fill(now);
            account.balance -= more as f64;
        }
        more
    }
}

impl Account {
    fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s as f64, balance: 0.0, filled: Instant::now() }
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

    fn budget(whole: Option<u64>, http: Option<u64>) -> Budget {
        Budget::new(whole, http, Uplink::default())
    }

    /// Bytes that HTTP sends in so many seconds, in chunks of ten, beside a mesh that sends so much and has found that limit.
    fn sent(budget: &Budget, seconds: u64, mesh_per_s: u64, found: Option<u64>) -> usize {
        let (start, mut sent) = (Instant::now(), 0);
        for ms in 0..seconds * 1000 {
            budget.uplink.say(ms * mesh_per_s / 1000, found);
            sent += if budget.try_spend(10, start + Duration::from_millis(ms)) { 10 } else { 0 };
        }
        sent
    }

    #[test]
    fn http_gets_what_the_mesh_leaves() {
        let sent = |mesh_per_s| sent(&budget(Some(1000), None), 20, mesh_per_s, None);
        let (alone, half, nothing) = (sent(0), sent(500), sent(1000));
        assert!((18_000..=22_000).contains(&alone), "{alone}");
        assert!((9_000..=11_000).contains(&half), "{half}");
        assert!(nothing <= 500, "{nothing}");
    }

    #[test]
    fn a_limit_of_its_own_is_not_charged_for_others() {
        let budget = budget(None, Some(1000));
        budget.charge_swarm(1_000_000);
        let sent = sent(&budget, 10, 5000, None);
        assert!((8_000..=12_500).contains(&sent), "{sent}");
    }

    #[test]
    fn what_is_found_out_counts_where_nothing_was_given_and_while_it_is_known() {
        let free = sent(&budget(None, None), 10, 0, Some(1000));
        assert!((8_000..=12_500).contains(&free), "{free}");
        assert!(sent(&budget(Some(5000), None), 10, 0, Some(1000)) > 40_000);
        assert_eq!(sent(&budget(None, None), 10, 0, None), 100_000);
    }

    #[test]
    fn the_mesh_hears_of_what_others_send() {
        let budget = budget(None, None);
        budget.charge_swarm(700);
        assert!(budget.try_spend(300, Instant::now()));
        assert_eq!(budget.uplink.others_bytes(), 1000);
    }

    #[test]
    fn no_limit_is_no_limit() {
        assert!(budget(None, None).try_spend(usize::MAX, Instant::now()));
    }
}
