//! Bytes that we have and ffmpeg is to read: given to its standard input by a thread of its own.
//!
//! What ffmpeg has taken is kept until it has said what is in it: it may have to be started again with other words, and
//! what came in does not come twice.

use std::{
    io::{PipeWriter, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use super::super::{MAX_WAIT, READ_LEN, Read, native::Native};

/// So much is kept at the most: ffmpeg looks at 5 MB to find out what is in an input.
const MAX_KEPT: usize = 12 << 20;

/// What goes into ffmpeg.
#[derive(Debug)]
pub struct Fed {
    /// Where bytes come from.
    pub native: Native,
    /// What has come already; `None` once it is too much.
    pub kept: Option<Vec<u8>>,
}

/// The thread; it ends when ffmpeg is gone, the bytes end, or it is told to.
#[derive(Debug)]
pub struct Pump {
    stop: Arc<AtomicBool>,
    /// Nothing need be kept any more.
    settled: Arc<AtomicBool>,
    thread: JoinHandle<Fed>,
}

impl Pump {
    /// Gives what has come, and then what comes, to `pipe`.
    pub fn start(fed: Fed, pipe: PipeWriter) -> Self {
        let (stop, settled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (told, enough) = (Arc::clone(&stop), Arc::clone(&settled));
        // A source over HTTP or RTMP reads on the runtime.
        let runtime = tokio::runtime::Handle::try_current().ok();
        let thread = std::thread::spawn(move || {
            let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
            pump(fed, pipe, &told, &enough)
        });
        Self { stop, settled, thread }
    }

    /// ffmpeg has what it needed to know.
    pub fn settled(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Ends it, after ffmpeg has been ended; what it was given can be given to another.
    pub fn stop(self) -> Option<Fed> {
        self.stop.store(true, Ordering::Relaxed);
        super::joined(self.thread)
    }
}

fn pump(mut fed: Fed, mut pipe: PipeWriter, stop: &AtomicBool, settled: &AtomicBool) -> Fed {
    if let Some(kept) = &fed.kept
        && pipe.write_all(kept).is_err()
    {
        return fed;
    }
    let mut buffer = vec![0; READ_LEN];
    while !stop.load(Ordering::Relaxed) {
        let len = match fed.native.read(&mut buffer, MAX_WAIT) {
            Ok(Read::Data(len)) => len,
            Ok(Read::Idle) => continue,
            Ok(Read::End) => break,
            Err(error) => {
                tracing::warn!("{error}");
                break;
            }
        };
        match &mut fed.kept {
            Some(kept) if !settled.load(Ordering::Relaxed) && kept.len() + len <= MAX_KEPT => {
                kept.extend_from_slice(&buffer[..len]);
            }
            _ => fed.kept = None,
        }
        // ffmpeg is gone, which its reader notices.
        if pipe.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    fed
}
