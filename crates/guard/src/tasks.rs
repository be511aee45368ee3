//! Long-lived tasks under watch.
//!
//! # The rule
//! A long-lived task ends only when it is told to ([`Tasks::cancel`]). If it ends before, by a panic, by an error, or by
//! returning, that is a fault, and [`Tasks::fault`] says so in one sentence. The owner waits for faults beside
//! everything else that it waits for; it ends the program, or starts the part again. Nothing waits for the dead.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
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
    /// Of the tasks that run, for [`Tasks::kill`]. As many as there are long-lived tasks.
    running: Arc<Mutex<Vec<(&'static str, AbortHandle)>>>,
}

/// A set of long-lived tasks, and where their faults are heard of. Dropping it tells all of them to end.
#[derive(Debug)]
pub struct Tasks {
    spawner: Spawner,
    // At most one fault a task.
    faults: mpsc::UnboundedReceiver<Fault>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        let (say, faults) = mpsc::unbounded_channel();
        let spawner = Spawner {
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            faults: say,
            running: Arc::default(),
        };
        Self { spawner, faults }
    }

    /// What starts tasks in this set.
    pub fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// The next fault; waits for ever while there is none. Cancel-safe.
    pub async fn fault(&mut self) -> Fault {
        match self.faults.recv().await {
            Some(fault) => fault,
            // Cannot be: this set holds a sender.
            None => std::future::pending().await,
        }
    }

    /// Names of the tasks that run, each once for each task.
    pub fn running(&self) -> Vec<&'static str> {
        let mut running = self.spawner.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|(_, handle)| !handle.is_finished());
        running.iter().map(|(task, _)| *task).collect()
    }

    /// Kills a task of this name, which is a fault as any other; false if there is none. For tests and drills: what
    /// happens when it dies?
    pub fn kill(&self, task: &str) -> bool {
        let running = self.spawner.running.lock().unwrap_or_else(PoisonError::into_inner);
        let found = running.iter().find(|(name, handle)| *name == task && !handle.is_finished());
        found.inspect(|(_, handle)| handle.abort()).is_some()
    }

    /// Tells all tasks to end.
    pub fn cancel(&self) {
        self.spawner.cancel.cancel();
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
        self.watch(task, async move { cancel.run_until_cancelled_owned(work).await.unwrap_or(Ok(())) });
    }

    /// Starts a long-lived task that ends by itself once the set is cancelled.
    pub fn spawn_to_end<E: fmt::Display + Send + 'static>(
        &self,
        task: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.watch(task, work);
    }

    /// Is cancelled when the set is.
    pub fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    fn watch<E: fmt::Display + Send + 'static>(
        &self,
        task: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = tokio::spawn(work);
        {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.retain(|(_, handle)| !handle.is_finished());
            running.push((task, handle.abort_handle()));
        }
        let Self { cancel, faults, .. } = self.clone();
        self.tasks.spawn(async move {
            let ended = handle.await;
            let reason = match ended {
                _ if cancel.is_cancelled() => return,
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
        let mut tasks = Tasks::new();
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
    async fn a_task_that_is_killed_is_a_fault() {
        let mut tasks = Tasks::new();
        tasks.spawner().spawn("one", std::future::pending::<Result<(), Infallible>>());
        tasks.spawner().spawn("two", std::future::pending::<Result<(), Infallible>>());
        assert_eq!(tasks.running(), ["one", "two"]);
        assert!(!tasks.kill("three") && tasks.kill("two"));
        assert_eq!(tasks.fault().await.to_string(), "two has stopped: it was aborted");
        assert_eq!(tasks.running(), ["one"]);
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
