//! Long-lived tasks under watch.
//!
//! # The rule
//! A long-lived task ends only when it is told to ([`Tasks::cancel`]). If it ends before, by a panic, by an error, or by
//! returning, that is a fault, and [`Tasks::fault`] says so in one sentence. The owner waits for faults beside
//! everything else that it waits for; it ends the program, or starts the part again. Nothing waits for the dead.
//!
//! A part that can begin anew is started with [`Spawner::spawn_again`]: its fault is told, and it is started again.
//!
//! Short work that a long-lived task hands out ([`Spawner::errand`]) ends as it likes, but a panic in it is a fault too:
//! somebody may wait for what it was to bring.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a task that has died is dead before it is started again, the first time and at most; it doubles in between.
pub const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A task that lived so long was well: its next death is its first.
pub const WELL: Duration = Duration::from_secs(120);

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
    kill: tokio::sync::watch::Sender<Kill>,
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
            kill: tokio::sync::watch::Sender::default(),
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

    /// Makes all long-lived tasks of this name panic, now and when they are started: for tests of who notices. Always
    /// there: a feature for tests alone would have all that stands on this crate built twice, and tests would not run
    /// what is shipped.
    pub fn kill(&self, task: &'static str) {
        self.spawner.kill.send_replace(Kill { task, once: false });
    }

    /// Makes one long-lived task of this name panic, and waits until it does.
    pub async fn kill_once(&self, task: &'static str) {
        let mut kill = self.spawner.kill.subscribe();
        self.spawner.kill.send_replace(Kill { task, once: true });
        // This set holds the sender.
        let _ = kill.wait_for(|kill| !kill.once).await;
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

    /// Starts a long-lived task that is started again, after a [`PAUSE`], whenever it ends before it is told to. `tell`
    /// hears of each fault; [`Tasks::fault`] does not. The work ends by itself once the set is cancelled, whose
    /// [`token`](Self::token) it has a clone of.
    pub fn spawn_again<F, E>(
        &self,
        task: &'static str,
        tell: impl Fn(&Fault) + Send + 'static,
        mut begin: impl FnMut() -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let cancel = self.cancel.clone();
        let kill = self.kill.clone();
        self.tasks.spawn(async move {
            let mut pause = PAUSE.0;
            while !cancel.is_cancelled() {
                let began = tokio::time::Instant::now();
                let work = begin();
                let work = mortal(task, work, kill.clone());
                let ended = tokio::spawn(work).await;
                if cancel.is_cancelled() {
                    return;
                }
                tell(&Fault { task, reason: reason(ended) });
                if began.elapsed() >= WELL {
                    pause = PAUSE.0;
                }
                let _ = cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        });
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
        let work = mortal(task, work, self.kill.clone());
        let handle = tokio::spawn(work);
        let Self { cancel, faults, .. } = self.clone();
        self.tasks.spawn(async move {
            let ended = handle.await;
            if cancel.is_cancelled() || (ending == Ending::Fine && matches!(ended, Ok(Ok(())))) {
                return;
            }
            // Nobody may listen any more: the set is being dropped.
            let _ = faults.send(Fault { task, reason: reason(ended) });
        });
    }
}

/// What it means when a task returns before it is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Fault,
    Fine,
}

/// Who is to be killed.
#[derive(Debug, Clone, Copy, Default)]
struct Kill {
    task: &'static str,
    /// One of that name, and none that is started later.
    once: bool,
}

/// `work` until it is killed.
async fn mortal<T>(
    task: &'static str,
    work: impl Future<Output = T>,
    kill: tokio::sync::watch::Sender<Kill>,
) -> T {
    let mut told = kill.subscribe();
    let killed = async {
        loop {
            let _ = told.wait_for(|kill| kill.task == task).await;
            // Of several that are told, one dies.
            let mine = |kill: &mut Kill| kill.task == task && std::mem::take(&mut kill.once);
            let once = kill.send_if_modified(|kill| mine(kill).then(|| kill.task = "").is_some());
            if once || kill.borrow().task == task {
                break;
            }
        }
    };
    tokio::select! {
        done = work => done,
        () = killed => std::panic::panic_any("killed by a test"),
    }
}

/// Why a task ended that was not told to.
fn reason<E: fmt::Display>(ended: Result<Result<(), E>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "it ended without being told to".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) if error.is_panic() => panic_text(error.into_panic()),
        Err(_) => "it was aborted".to_owned(),
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

    #[tokio::test(start_paused = true)]
    async fn one_that_is_killed_once_lives_on() {
        let (say, mut heard) = mpsc::unbounded_channel();
        let tasks = Tasks::new();
        let tell = move |fault: &Fault| drop(say.send(fault.to_string()));
        let live = || std::future::pending::<Result<(), Infallible>>();
        tasks.spawner().spawn_again("a part", tell, live);
        for _ in 0..3 {
            tasks.kill_once("a part").await;
            assert_eq!(
                heard.recv().await.as_deref(),
                Some("a part has stopped: internal error: killed by a test")
            );
        }
        tasks.spawner().spawn("another", live());
        tasks.kill_once("another").await;
        assert_eq!(tasks.fault().await.task, "another");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_is_started_again_until_it_is_told_to_end() {
        let (say, mut heard) = mpsc::unbounded_channel();
        let tasks = Tasks::new();
        let mut lives = 0;
        let token = tasks.spawner().token().clone();
        let tell = move |fault: &Fault| drop(say.send((fault.to_string(), tokio::time::Instant::now())));
        tasks.spawner().spawn_again("a part", tell, move || {
            lives += 1;
            let (life, token) = (lives, token.clone());
            async move {
                match life {
                    1 => Err("the first error"),
                    2 => std::panic::panic_any("a panic"),
                    3 => Ok(()),
                    _ => {
                        token.cancelled().await;
                        Ok(())
                    }
                }
            }
        });
        let mut times = Vec::new();
        for said in ["the first error", "internal error: a panic", "it ended without being told to"] {
            let (fault, at) = heard.recv().await.unwrap();
            assert_eq!(fault, format!("a part has stopped: {said}"));
            times.push(at);
        }
        assert!(times[1] - times[0] >= PAUSE.0 && times[2] - times[1] >= 2 * PAUSE.0);
        tasks.stop().await;
        assert!(heard.recv().await.is_none(), "told to end, it is no fault");
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
