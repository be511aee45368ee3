//! Long-lived tasks under watch.
//!
//! # The rule
//! A long-lived task ends only when it is told to ([`Tasks::cancel`]). If it ends before, by a panic, by an error, or by
//! returning, that is a fault, and [`Tasks::fault`] says so in one sentence. The owner waits for faults beside
//! everything else that it waits for; it ends the program, or starts the part again. Nothing waits for the dead.
//!
//! Short work that a long-lived task hands out ([`Spawner::errand`]) ends as it likes, but a panic in it is a fault too:
//! somebody may wait for what it was to bring.

use std::fmt;
use std::future::Future;

use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A long-lived task that ended although nobody told it to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{task} has stopped: {reason}")]
pub struct Fault {
    /// What the task was, as a user would call it: "the live mesh".
    pub task: &'static str,
    /// Why it ended.
    pub reason: String,
}

/// The handle with which tasks are started; cheap to clone.
#[derive(Debug, Clone)]
pub struct Spawner {
    tasks: TaskTracker,
    cancel: CancellationToken,
    faults: mpsc::UnboundedSender<Fault>,
    #[cfg(feature = "kill")]
    kill: tokio::sync::watch::Sender<&'static str>,
}

/// A set of long-lived tasks, and where their faults are heard of. Dropping it tells all of them to end.
#[derive(Debug)]
pub struct Tasks {
    spawner: Spawner,
    // At most one fault a task.
    faults: Mutex<mpsc::UnboundedReceiver<Fault>>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        let (say, faults) = mpsc::unbounded_channel();
        let spawner = Spawner {
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            faults: say,
            #[cfg(feature = "kill")]
            kill: tokio::sync::watch::Sender::new(""),
        };
        Self { spawner, faults: Mutex::new(faults) }
    }

    /// What starts tasks in this set.
    pub fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// The next fault; waits for ever while there is none. One of several listeners hears of it. Cancel-safe.
    pub async fn fault(&self) -> Fault {
        match self.faults.lock().await.recv().await {
            Some(fault) => fault,
            // Cannot be: this set holds a sender.
            None => std::future::pending().await,
        }
    }

    /// Tells all tasks to end.
    pub fn cancel(&self) {
        self.spawner.cancel.cancel();
    }

    /// Makes all long-lived tasks of this name panic, now and when they are started: for tests of who notices.
    #[cfg(feature = "kill")]
    pub fn kill(&self, task: &'static str) {
        self.spawner.kill.send_replace(task);
    }

    /// Tells all tasks to end, and waits until they have.
    pub async fn stop(self) {
        self.cancel();
        self.spawner.tasks.close();
        self.spawner.tasks.wait().await;
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Spawner {
    /// Starts a long-lived task. It is dropped where it stands when the set is cancelled; a task that has last words
    /// waits for its [`token`](Self::token) itself and is started with [`spawn_to_end`](Self::spawn_to_end).
    pub fn spawn<E: fmt::Display + Send + 'static>(
        &self,
        task: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let cancel = self.cancel.clone();
        let work = async move { cancel.run_until_cancelled_owned(work).await.unwrap_or(Ok(())) };
        self.watch(task, work, Ending::Fault);
    }

    /// Starts a long-lived task that ends by itself once the set is cancelled.
    pub fn spawn_to_end<E: fmt::Display + Send + 'static>(
        &self,
        task: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.watch(task, work, Ending::Fault);
    }

    /// Starts short work, which may end whenever it likes; it is dropped where it stands when the set is cancelled.
    pub fn errand(&self, task: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.errand_to_end(task, async move {
            cancel.run_until_cancelled_owned(work).await;
        });
    }

    /// Starts short work that has last words when the set is cancelled.
    pub fn errand_to_end(&self, task: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let work = async move {
            work.await;
            Ok::<_, std::convert::Infallible>(())
        };
        self.watch(task, work, Ending::Fine);
    }

    /// Is cancelled when the set is.
    pub fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    fn watch<E: fmt::Display + Send + 'static>(
        &self,
        task: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
        ending: Ending,
    ) {
        #[cfg(feature = "kill")]
        let work = mortal(task, work, self.kill.subscribe());
        let handle = tokio::spawn(work);
        let Self { cancel, faults, .. } = self.clone();
        self.tasks.spawn(async move {
            let ended = handle.await;
            let reason = match ended {
                _ if cancel.is_cancelled() => return,
                Ok(Ok(())) if ending == Ending::Fine => return,
                Ok(Ok(())) => "it ended without being told to".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) if error.is_panic() => panic_text(error.into_panic()),
                Err(_) => "it was aborted".to_owned(),
            };
            // Nobody may listen any more: the set is being dropped.
            let _ = faults.send(Fault { task, reason });
        });
    }
}

/// What it means when a task returns before it is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Fault,
    Fine,
}

/// `work` until it is killed.
#[cfg(feature = "kill")]
async fn mortal<T>(
    task: &'static str,
    work: impl Future<Output = T>,
    mut killed: tokio::sync::watch::Receiver<&'static str>,
) -> T {
    tokio::select! {
        done = work => done,
        Ok(_) = killed.wait_for(|killed| *killed == task) => std::panic::panic_any("killed by a test"),
    }
}

/// What a panic says.
fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("internal error: {}", text.unwrap_or_else(|| "unknown".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn each_way_to_end_is_heard_of() {
        let tasks = Tasks::new();
        tasks.spawner().spawn("the first", async { Ok::<_, Infallible>(()) });
        assert_eq!(tasks.fault().await.to_string(), "the first has stopped: it ended without being told to");
        tasks.spawner().spawn("the second", async { Err::<(), _>("the disk is full") });
        assert_eq!(tasks.fault().await.to_string(), "the second has stopped: the disk is full");
        tasks.spawner().spawn("the third", async {
            let none: Option<u8> = None;
            assert!(none.is_some(), "there is none");
            Ok::<_, Infallible>(())
        });
        assert_eq!(tasks.fault().await.to_string(), "the third has stopped: internal error: there is none");
    }

    #[tokio::test]
    async fn an_errand_may_return_but_not_panic() {
        let tasks = Tasks::new();
        tasks.spawner().errand("a short one", async {});
        tasks.spawner().errand("a bad one", async { std::panic::panic_any("no") });
        assert_eq!(tasks.fault().await.to_string(), "a bad one has stopped: internal error: no");
    }

    #[tokio::test]
    async fn tasks_that_are_told_to_end_are_no_fault() {
        let tasks = Tasks::new();
        tasks.spawner().spawn("one", std::future::pending::<Result<(), Infallible>>());
        let token = tasks.spawner().token().clone();
        tasks.spawner().spawn_to_end("two", async move {
            token.cancelled().await;
            Ok::<_, Infallible>(())
        });
        tasks.stop().await;
    }
}
