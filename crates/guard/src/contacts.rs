//! The rule for outgoing contacts ([`contact`](crate::contact)) as the tasks of one process apply it.
//!
//! A task [opens](Contacts::open) each address that it is about to contact, and says when somebody answered there.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

use crate::{
    contact::{Budgets, Forbidden, Teller},
    net::{Net, household},
};

/// The budgets of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Contacts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    state: Mutex<State>,
    /// A contact has come to an end.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    budgets: Budgets,
    /// Contacts under way; entries exist only while there are any.
    under_way: HashMap<Net, u32>,
}

/// A contact under way. Dropped without [`succeeded`](Contact::succeeded), it has failed, and is paid for.
#[derive(Debug)]
pub struct Contact {
    contacts: Contacts,
    target: IpAddr,
}

impl Contacts {
    /// Budgets of their own: for tests. A program has one, [`Contacts::of_process`].
    pub fn new() -> Self {
        let (state, ended) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { began: Instant::now(), state, ended }))
    }

    /// The budgets of this process: a household has one budget, whatever part of the program contacts it.
    pub fn of_process() -> Self {
        static ALL: LazyLock<Contacts> = LazyLock::new(Contacts::new);
        ALL.clone()
    }

    /// Judges a contact, and charges the target's household for it. Where the household has no budget left but contacts
    /// with it are under way, waits for their end: if one succeeds, there is more. So of a school's many viewers behind
    /// one address all can be dialled together. Cancel-safe.
    ///
    /// # Errors
    /// [`Forbidden`]: the target is not to be contacted.
    pub async fn open(&self, target: SocketAddr, teller: Teller) -> Result<Contact, Forbidden> {
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            // From here on no end is missed.
            ended.as_mut().enable();
            match self.try_open(target, teller) {
                Err(Forbidden::TooOften(net)) if self.lock().under_way.contains_key(&net) => ended.await,
                judged => return judged,
            }
        }
    }

    /// The same, without waiting.
    ///
    /// # Errors
    /// [`Forbidden`]: the target is not to be contacted.
    pub fn try_open(&self, target: SocketAddr, teller: Teller) -> Result<Contact, Forbidden> {
        if target.port() == 0 {
            return Err(Forbidden::NoUnicast(target.ip()));
        }
        let now = self.0.began.elapsed();
        let mut state = self.lock();
        state.budgets.contact(target.ip(), teller, now)?;
        let under_way = state.under_way.entry(household(target.ip())).or_default();
        *under_way = under_way.saturating_add(1);
        Ok(Contact { contacts: self.clone(), target: target.ip() })
    }

    /// Somebody at `target` answered as expected.
    pub fn succeeded(&self, target: IpAddr) {
        let now = self.0.began.elapsed();
        self.lock().budgets.succeeded(target, now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each entry is whole by itself.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Contacts {
    fn default() -> Self {
        Self::new()
    }
}

impl Contact {
    /// What is contacted.
    pub fn target(&self) -> IpAddr {
        self.target
    }

    /// Somebody there answered as expected: the contact costs nothing.
    pub fn succeeded(self) {
        self.contacts.succeeded(self.target);
    }
}

impl Drop for Contact {
    fn drop(&mut self) {
        let net = household(self.target);
        let mut state = self.contacts.lock();
        if let Some(under_way) = state.under_way.get_mut(&net) {
            *under_way = under_way.saturating_sub(1);
            if *under_way == 0 {
                state.under_way.remove(&net);
            }
        }
        drop(state);
        self.contacts.0.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn addr(port: u16) -> SocketAddr {
        ([203, 0, 113, 9], port).into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_victim_is_contacted_three_times_under_whatever_port() {
        let contacts = Contacts::new();
        let mut opened = 0;
        for port in 0..1000 {
            opened += u32::from(contacts.open(addr(port), Teller::Unknown).await.is_ok());
        }
        assert_eq!(opened, crate::contact::BURST);
        assert!(contacts.lock().under_way.is_empty());
    }

    #[tokio::test]
    async fn many_behind_one_address_wait_for_the_first_to_answer() {
        let contacts = Contacts::new();
        let first: Vec<Contact> =
            (1..=3).map(|port| contacts.try_open(addr(port), Teller::Unknown).unwrap()).collect();
        let waiting: Vec<_> = (4..40)
            .map(|port| {
                let contacts = contacts.clone();
                tokio::spawn(async move { contacts.open(addr(port), Teller::Unknown).await.is_ok() })
            })
            .collect();
        tokio::task::yield_now().await;
        let mut first = first.into_iter();
        drop(first.next());
        first.next().unwrap().succeeded();
        for waited in waiting {
            assert!(waited.await.unwrap());
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_a_household_that_does_not_answer() {
        let contacts = Contacts::new();
        let first: Vec<Contact> =
            (1..=3).map(|port| contacts.try_open(addr(port), Teller::Unknown).unwrap()).collect();
        let waiting = contacts.open(addr(4), Teller::Unknown);
        let ending = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        let (waited, ()) =
            tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(waiting, ending) })
                .await
                .unwrap();
        assert!(matches!(waited, Err(Forbidden::TooOften(_))));
    }
}
