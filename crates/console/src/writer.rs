//! The one thread that writes to standard error.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;

/// Lines that wait while standard error takes nothing; later ones are dropped.
const QUEUE: usize = 512;
/// The longest line in bytes; what is longer is cut. With [`QUEUE`] it bounds the memory of a log that stands still to
/// 8 MiB.
const MAX_LINE: usize = 16 << 10;
/// How long a line is tried on a standard error that takes nothing at the moment (`EAGAIN`: whoever shares the terminal
/// made it non-blocking).
const RETRY_FOR: Duration = Duration::from_secs(1);
const RETRY_EVERY: Duration = Duration::from_millis(5);
/// How often a full queue is looked at by [`Writer::flush`].
const FLUSH_EVERY: Duration = Duration::from_millis(2);

/// What the thread is told.
enum Message {
    /// A log line, with its line break.
    Line(Vec<u8>),
    /// The status line's new text; `None` takes it away.
    Status(Option<String>),
    /// All before it is to be written. Dropping the sender is the answer.
    Flush(SyncSender<()>),
}

/// Hands lines to the thread. Cheap to clone; never blocks.
#[derive(Debug, Clone)]
pub struct Writer {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Writer {
    /// Starts the thread. It writes to `sink`, above the status line `bar`.
    pub fn start(sink: impl Write + Send + 'static, bar: Option<ProgressBar>) -> Self {
        let (queue, messages) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let pen = Pen { sink, bar, lost: Arc::clone(&lost) };
        // Without the thread the receiver is dropped, so that every line counts as lost: a program that cannot start
        // a thread has other worries than its log.
        let _ = thread::Builder::new().name("log".into()).spawn(move || pen.run(&messages));
        Self { queue, lost }
    }

    /// Queues a line; `text` ends in a line break.
    pub fn line(&self, mut text: Vec<u8>) {
        if text.len() > MAX_LINE {
            text.truncate(MAX_LINE - 1);
            text.push(b'\n');
        }
        if self.queue.try_send(Message::Line(text)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues a status. One that finds no place is dropped: the next one is newer.
    pub fn status(&self, text: Option<String>) {
        let _ = self.queue.try_send(Message::Status(text));
    }

    /// Waits until all lines so far are written, at most `timeout`. False if they are not.
    pub fn flush(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let (done, written) = sync_channel(0);
        let mut message = Message::Flush(done);
        loop {
            match self.queue.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(back)) if Instant::now() < until => {
                    message = back;
                    thread::sleep(FLUSH_EVERY);
                }
                Err(TrySendError::Full(_)) => return false,
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        // The other end is dropped, never sent on.
        written.recv_timeout(left) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
    }
}

/// What the thread writes with.
struct Pen<W> {
    sink: W,
    bar: Option<ProgressBar>,
    lost: Arc<AtomicU64>,
}

impl<W: Write> Pen<W> {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Line(text) => self.line(&text),
                Message::Status(text) => self.status(text),
                Message::Flush(done) => drop(done),
            }
        }
    }

    fn line(&mut self, text: &[u8]) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let (sink, bar) = (&mut self.sink, &self.bar);
        let mut write = || {
            if lost > 0 {
                let notice = match lost {
                    1 => "(1 line of this log was lost: it could not be written)\n".to_owned(),
                    _ => format!("({lost} lines of this log were lost: they could not be written)\n"),
                };
                write_line(sink, notice.as_bytes())?;
            }
            Ok::<_, io::Error>(write_line(sink, text))
        };
        let written = match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        let more = match written {
            Ok(Ok(())) => 0,
            Ok(Err(_)) => 1,
            Err(_) => lost.saturating_add(1),
        };
        self.lost.fetch_add(more, Ordering::Relaxed);
    }

    fn status(&self, text: Option<String>) {
        let Some(bar) = &self.bar else { return };
        match text {
            Some(text) => {
                bar.set_message(text);
                bar.tick();
            }
            None => bar.finish_and_clear(),
        }
    }
}

/// Writes all of `text`; waits a little where the sink takes nothing at the moment.
fn write_line(sink: &mut impl Write, mut text: &[u8]) -> io::Result<()> {
    let until = Instant::now() + RETRY_FOR;
    while !text.is_empty() {
        match sink.write(text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => text = &text[count.min(text.len())..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                thread::sleep(RETRY_EVERY);
            }
            Err(error) => return Err(error),
        }
    }
    sink.flush()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Mutex, mpsc},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Writes as told: each call takes the next answer from the list, then all is taken.
    #[derive(Clone, Default)]
    struct Faulty {
        answers: Arc<Mutex<VecDeque<io::ErrorKind>>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Faulty {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(error) = self.answers.lock().unwrap().pop_front() {
                return Err(error.into());
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Faulty {
        fn text(&self) -> String {
            String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_dropped_and_counted() {
        use io::ErrorKind::{BrokenPipe, Interrupted, StorageFull, WouldBlock};
        let sink = Faulty::default();
        *sink.answers.lock().unwrap() = [BrokenPipe, StorageFull, Interrupted, WouldBlock].into();
        let writer = Writer::start(sink.clone(), None);
        // The first is lost; so are the notice of that and the second line; the third is only delayed.
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            writer.line(line.into());
        }
        assert!(writer.flush(LONG));
        let notice = "(2 lines of this log were lost: they could not be written)\n";
        assert_eq!(sink.text(), format!("{notice}three\nfour\n"));
    }

    #[test]
    fn a_reader_that_stands_still_holds_up_nobody() {
        struct Stuck(mpsc::Receiver<()>, Faulty);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                self.1.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (go, stuck) = mpsc::channel();
        let sink = Faulty::default();
        let writer = Writer::start(Stuck(stuck, sink.clone()), None);
        for number in 0..QUEUE + 10 {
            writer.line(format!("{number}\n").into());
        }
        assert!(!writer.flush(Duration::from_millis(1)));
        drop(go);
        assert!(writer.flush(LONG));
        let text = sink.text();
        // One was being written while the others waited, unless the thread had not come to it yet.
        assert!(text.contains(&format!("{}\n", QUEUE - 1)) && text.contains("lines of this log were lost"));
        assert!(!text.contains(&format!("{}\n", QUEUE + 9)));
    }

    #[test]
    fn a_line_has_a_greatest_length() {
        let sink = Faulty::default();
        let writer = Writer::start(sink.clone(), None);
        writer.line(vec![b'x'; MAX_LINE + 100]);
        assert!(writer.flush(LONG));
        assert!(sink.text().len() == MAX_LINE && sink.text().ends_with("x\n"));
    }
}
