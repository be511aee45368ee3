//! Tells what goes on: the status line, and the lines of `--stats`.

use std::{
    convert::Infallible,
    fs::File,
    io::{BufWriter, Write as _},
    sync::Arc,
    time::Duration,
};

use minuet_guard::tasks::Tasks;
use minuet_node::units::Rate;
use minuet_proto::Phase;
use tokio_util::sync::CancellationToken;

use super::{
    console::Console,
    figures::{Figures, Look, Traffic},
    now_ms,
};

/// How long after a warning the same one comes again.
const WARN_AGAIN: Duration = Duration::from_secs(120);

/// Writes what is counted.
pub struct Reporter {
    /// The counts.
    pub figures: Arc<Figures>,
    /// The bytes.
    pub traffic: Box<dyn Fn() -> Traffic + Send + Sync>,
    /// Where the status goes.
    pub console: Console,
    /// `--stats`.
    pub stats: Option<BufWriter<File>>,
}

impl Reporter {
    /// Reports until `tasks` are cancelled, then writes the summary.
    pub fn start(self, tasks: &Tasks) {
        let reporting = self.run(tasks.spawner().token().clone());
        tasks.spawner().spawn_to_end("the status report", async {
            reporting.await;
            Ok::<_, Infallible>(())
        });
    }

    async fn run(mut self, cancel: CancellationToken) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let mut status = tokio::time::interval(self.console.interval());
        let mut warned: Option<tokio::time::Instant> = None;
        let (mut before, mut before_at) = (Traffic::default(), tokio::time::Instant::now());
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = seconds.tick() => {
                    self.line(false);
                    if let Some(narrow) = (self.traffic)().narrow
                        && warned.is_none_or(|at| at.elapsed() >= WARN_AGAIN)
                    {
                        tracing::warn!("{}", too_narrow(narrow));
                        warned = Some(tokio::time::Instant::now());
                    }
                }
                _ = status.tick() => {
                    let (stats, elapsed) = ((self.traffic)(), before_at.elapsed());
                    let look = self.figures.look(now_ms());
                    self.console.status(sentence(&look, &before, &stats, elapsed));
                    (before, before_at) = (stats, before_at + elapsed);
                }
            }
        }
        self.line(true);
        self.console.finish();
    }

    fn line(&mut self, summary: bool) {
        let now_ms = now_ms();
        let look = self.figures.look(now_ms);
        let Some(out) = &mut self.stats else { return };
        let mut line = look.to_json(now_ms, &(self.traffic)());
        if summary {
            line["summary"] = true.into();
            line["handover_gap_ms"] = self.figures.gaps_ms().into();
        }
        if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
            tracing::warn!("--stats cannot be written any more: {error}");
            self.stats = None;
        }
    }
}

/// What a viewer is told whose line cannot carry the stream.
fn too_narrow((brings, needs): (u64, u64)) -> String {
    format!(
        "this line brings {} and the stream needs {}: the picture will stand still; end other downloads, or watch on a \
         faster line",
        Rate::from_bytes_per_s(brings),
        Rate::from_bytes_per_s(needs)
    )
}

fn sentence(look: &Look, before: &Traffic, now: &Traffic, elapsed: Duration) -> String {
    let received = |t: &Traffic| t.from_source + t.from_peers + t.from_http;
    let rate = |from: u64, to: u64| {
        let per_s = to.saturating_sub(from) as f64 / elapsed.as_secs_f64().max(0.001);
        Rate::from_bytes_per_s(per_s as u64)
    };
    let what = match (look.segment, look.phase) {
        (None, _) => "joining".to_owned(),
        (Some(_), Some(Phase::Ended)) => "ended".to_owned(),
        (Some(_), Some(Phase::Silent)) => "source silent".to_owned(),
        (Some(_), _) if look.lack > Duration::ZERO => "waiting for media".to_owned(),
        (Some(seq), _) => format!("minute {seq}"),
    };
    // The picture is behind what was written by what the player holds.
    let behind = look.live_delay_ms.map_or("–".to_owned(), |delay| {
        format!("{:.0} s", (Duration::from_millis(delay) + look.buffer).as_secs_f64())
    });
    let mut text = format!(
        "{what} · {behind} behind live · buffer {:.0} s · {} peers · down {} · up {}",
        look.buffer.as_secs_f64(),
        now.peers,
        rate(received(before), received(now)),
        rate(before.sent, now.sent),
    );
    if look.stalls.0 > 0 || look.skipped > 0 {
        text += &format!(" · {} stalls, {} skipped", look.stalls.0, look.skipped);
    }
    text
}
