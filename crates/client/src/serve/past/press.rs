//! Writing long playlists. One of a day has a megabyte and more, and takes some ten milliseconds of a processor: it is written
//! beside the tasks of the mesh, one at a time, so that whoever asks for thousands takes one processor and no picture. Households
//! share the places of those who wait.

use std::net::IpAddr;

use minuet_guard::pool::Pool;
use tokio::sync::Semaphore;

/// Requests that wait for their playlist.
const WAITING: u64 = 64;
/// Playlists that are written at a time.
const WRITING: usize = 1;

/// See the module.
#[derive(Debug)]
pub struct Press {
    places: Pool,
    turns: Semaphore,
}

impl Press {
    /// Nothing is written yet.
    pub fn new() -> Self {
        Self { places: Pool::new(WAITING), turns: Semaphore::new(WRITING) }
    }

    /// Writes something for somebody at `ip`. None if others wait who have asked for less.
    pub async fn write<T: Send + 'static>(
        &self,
        ip: IpAddr,
        write: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let place = self.places.take(ip, 1).ok()?;
        let turn = tokio::select! {
            turn = self.turns.acquire() => turn.ok()?,
            () = place.evicted() => return None,
        };
        // What has begun is written to its end, also for somebody who has gone meanwhile.
        let written = tokio::task::spawn_blocking(write).await.ok();
        drop(turn);
        written
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn home(n: u8) -> IpAddr {
        [192, 0, n, 1].into()
    }

    #[tokio::test]
    async fn one_is_written_at_a_time_and_nobody_waits_behind_one_household_for_long() {
        let (press, writing) = (Arc::new(Press::new()), Arc::new(AtomicUsize::new(0)));
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let first = {
            let press = Arc::clone(&press);
            tokio::spawn(async move { press.write(home(1), move || gate.recv()).await })
        };
        let ask = |ip| {
            let (press, writing) = (Arc::clone(&press), Arc::clone(&writing));
            tokio::spawn(async move {
                let write = move || {
                    assert_eq!(writing.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
                    writing.fetch_sub(1, Ordering::SeqCst);
                };
                press.write(ip, write).await
            })
        };
        let crowd: Vec<_> = (1..WAITING).map(|_| ask(home(1))).collect();
        while press.places.used() < WAITING {
            tokio::task::yield_now().await;
        }
        assert!(ask(home(1)).await.unwrap().is_none(), "it has all places already");
        let honest = ask(home(2));
        while press.places.held(minuet_guard::net::household(home(2))) == 0 {
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        assert!(first.await.unwrap().is_some());
        assert!(honest.await.unwrap().is_some(), "a newcomer gets its turn");
        let mut refused = 0;
        for asked in crowd {
            refused += u64::from(asked.await.unwrap().is_none());
        }
        assert_eq!(refused, 1, "one has made room");
    }
}
