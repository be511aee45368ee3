//! Tells what goes on: the status line, and the lines of `--stats`.

use std::{
    convert::Infallible,
    fs::File,
    io::{BufWriter, Write as _},
    sync::Arc,
    time::Duration,
};

use minuet_console::Screen;
use minuet_guard::tasks::Tasks;
use minuet_node::{
    mesh::{Shortage, ShortageCause},
    units::{self, Rate},
};
use minuet_proto::Phase;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    figures::{Figures, Look, Traffic},
    now_ms,
};

/// How long after a warning the same one comes again.
const WARN_AGAIN: Duration = Duration::from_secs(120);
/// How often the status line is renewed.
const STATUS: Duration = Duration::from_millis(500);
/// How long a situation lasts before it is worth a line in the log.
const LASTING: Duration = Duration::from_secs(3);

/// Writes what is counted.
pub struct Reporter {
    /// The counts.
    pub figures: Arc<Figures>,
    /// The bytes.
    pub traffic: Box<dyn Fn() -> Traffic + Send + Sync>,
    /// Where the status goes.
    pub screen: Screen,
    /// How everybody fares who goes back over HTTP, if anybody can.
    pub readers: Box<dyn Fn() -> Option<Value> + Send + Sync>,
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
        let mut warned: Option<tokio::time::Instant> = None;
        let mut status = tokio::time::interval(STATUS);
        let mut log = ChangeLog::default();
        let (mut before, mut before_at) = (Traffic::default(), tokio::time::Instant::now());
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = seconds.tick() => {
                    self.line(false);
                    let may_warn = warned.is_none_or(|at| at.elapsed() >= WARN_AGAIN);
                    if let Some(warning) = may_warn.then(|| warning(&(self.traffic)())).flatten() {
                        tracing::warn!("{warning}");
                        warned = Some(tokio::time::Instant::now());
                    }
                }
                _ = status.tick() => {
                    let (stats, elapsed) = ((self.traffic)(), before_at.elapsed());
                    let look = self.figures.look(now_ms());
                    let situation = Situation::of(&look);
                    let text = sentence(situation, &look, &before, &stats, elapsed);
                    if let Some(line) = log.note(situation, before_at + elapsed) {
                        tracing::info!("{line}");
                    }
                    self.screen.status(text);
                    (before, before_at) = (stats, before_at + elapsed);
                }
            }
        }
        self.line(true);
        self.screen.clear_status();
        tracing::info!("{}", balance(&self.figures.look(now_ms()), &(self.traffic)()));
    }

    fn line(&mut self, summary: bool) {
        let now_ms = now_ms();
        let look = self.figures.look(now_ms);
        let Some(out) = &mut self.stats else { return };
        let mut line = look.to_json(now_ms, &(self.traffic)());
        if let Some(readers) = (self.readers)() {
            line["readers"] = readers;
        }
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

/// What a viewer is told who does not get the stream, for whatever reason is known.
fn warning(traffic: &Traffic) -> Option<String> {
    traffic.narrow.map(too_narrow).or_else(|| traffic.shortage.map(too_little))
}

/// What a viewer is told who gets less than the stream.
fn too_little(Shortage { cause, percent }: Shortage) -> String {
    match cause {
        ShortageCause::Upload => format!(
            "not enough upload among viewers: {percent} % of the stream comes in, and the picture may stand still; more \
             viewers who pass on, or a relay (minuet relay), would help"
        ),
        ShortageCause::Downlink => format!(
            "this line brings {percent} % of the stream, and the picture may stand still; end other downloads, or watch on a \
             faster line"
        ),
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

/// What a viewer's picture does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Situation {
    Joining,
    Playing,
    Waiting,
    Silent,
    /// It plays what stands in for the source's silent input.
    Slate,
    Ended,
}

impl Situation {
    fn of(look: &Look) -> Self {
        match (look.segment, look.phase) {
            (None, _) => Self::Joining,
            (Some(_), Some(Phase::Ended)) => Self::Ended,
            (Some(_), Some(Phase::Silent)) if !look.slate => Self::Silent,
            (Some(_), _) if look.lack > Duration::ZERO => Self::Waiting,
            (Some(_), _) if look.slate => Self::Slate,
            (Some(_), _) => Self::Playing,
        }
    }

    /// What the log says of it, after `before` was said. How playing begins, why it does not, and how it ends is said
    /// elsewhere.
    fn line(self, before: Option<Self>) -> Option<&'static str> {
        match self {
            Self::Playing if before == Some(Self::Slate) => Some("the source's input is back"),
            Self::Playing => Some("playing again"),
            Self::Waiting => Some("waiting for media: the picture stands still"),
            Self::Silent => Some("waiting: the source is there, but gets no media at the moment"),
            Self::Slate => Some("the source shows its slate: its input is silent"),
            Self::Joining | Self::Ended => None,
        }
    }
}

/// Says each situation once, when it lasts.
#[derive(Debug, Default)]
struct ChangeLog {
    /// The newest, and since when.
    newest: Option<(Situation, Instant)>,
    /// Said last.
    said: Option<Situation>,
}

impl ChangeLog {
    /// What is to be said at `now`, if anything.
    fn note(&mut self, situation: Situation, now: Instant) -> Option<&'static str> {
        let since = match self.newest {
            Some((newest, since)) if newest == situation => since,
            _ => now,
        };
        self.newest = Some((situation, since));
        // That it plays is news only after it did not.
        if self.said.is_none() && situation == Situation::Playing {
            self.said = Some(situation);
        }
        let lasts = now.saturating_duration_since(since) >= LASTING;
        if !lasts {
            return None;
        }
        let before = self.said.replace(situation);
        if before == Some(situation) { None } else { situation.line(before) }
    }
}

/// What came and went in all.
fn balance(look: &Look, traffic: &Traffic) -> String {
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let received = traffic.from_source + traffic.from_peers + traffic.from_http;
    let mut text = format!("received {}, passed on {} to other viewers", mb(received), mb(traffic.sent));
    if look.stalls.0 > 0 {
        text += &format!(
            "; the picture stood still {}, {:.1} s in all",
            units::count(look.stalls.0.into(), "time", "times"),
            look.stalls.1.as_secs_f64()
        );
    }
    text
}

fn sentence(situation: Situation, look: &Look, before: &Traffic, now: &Traffic, elapsed: Duration) -> String {
    let received = |t: &Traffic| t.from_source + t.from_peers + t.from_http;
    let rate = |from: u64, to: u64| {
        let per_s = to.saturating_sub(from) as f64 / elapsed.as_secs_f64().max(0.001);
        Rate::from_bytes_per_s(per_s as u64)
    };
    let what = match (situation, look.segment) {
        (Situation::Joining, _) | (_, None) => match &look.why {
            Some(why) => return format!("waiting: {why}"),
            None => "joining".to_owned(),
        },
        (Situation::Ended, _) => "ended".to_owned(),
        (Situation::Silent, _) => "source silent".to_owned(),
        (Situation::Slate, _) => "slate: the source's input is silent".to_owned(),
        (Situation::Waiting, _) => "waiting for media".to_owned(),
        (Situation::Playing, Some(seq)) => format!("minute {seq}"),
    };
    // The picture is behind what was written by what the player holds.
    let behind = look.live_delay_ms.map_or("–".to_owned(), |delay| {
        format!("{:.0} s", (Duration::from_millis(delay) + look.buffer).as_secs_f64())
    });
    let mut text = format!(
        "{what} · {behind} behind live · buffer {:.0} s · {} · down {} · up {}",
        look.buffer.as_secs_f64(),
        units::count(now.peers as u64, "peer", "peers"),
        rate(received(before), received(now)),
        rate(before.sent, now.sent),
    );
    if look.stalls.0 > 0 || look.skipped > 0 {
        let stalls = units::count(look.stalls.0.into(), "stall", "stalls");
        text += &format!(" · {stalls}, {} skipped", look.skipped);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_too_little_is_told_why_and_what_to_do() {
        let mut traffic = Traffic::default();
        assert_eq!(warning(&traffic), None);
        traffic.shortage = Some(Shortage { cause: ShortageCause::Upload, percent: 83 });
        let said = warning(&traffic).unwrap();
        assert!(
            said.starts_with("not enough upload among viewers: 83 %") && said.contains("relay"),
            "{said}"
        );
        traffic.shortage = Some(Shortage { cause: ShortageCause::Downlink, percent: 83 });
        assert!(warning(&traffic).unwrap().contains("this line brings 83 %"));
        // A line that was measured says it better.
        traffic.narrow = Some((300_000, 500_000));
        assert!(warning(&traffic).unwrap().contains("the stream needs"));
    }

    #[test]
    fn the_log_says_each_situation_once_and_only_when_it_lasts() {
        use Situation::{Joining, Playing, Silent, Slate, Waiting};
        let mut log = ChangeLog::default();
        let began = Instant::now();
        let mut said = Vec::new();
        let seconds = |situation, count| std::iter::repeat_n(situation, count);
        let lived = seconds(Joining, 60)
            .chain(seconds(Playing, 600))
            .chain(seconds(Waiting, 2))
            .chain(seconds(Playing, 600))
            .chain(seconds(Waiting, 60))
            .chain(seconds(Silent, 600))
            .chain(seconds(Playing, 2))
            .chain(seconds(Silent, 60))
            .chain(seconds(Playing, 600))
            .chain(seconds(Slate, 600))
            .chain(seconds(Playing, 600));
        for (second, situation) in (0..).zip(lived) {
            said.extend(log.note(situation, began + Duration::from_secs(second)));
        }
        let expected = [
            "playing again",
            "waiting for media: the picture stands still",
            "waiting: the source is there, but gets no media at the moment",
            "playing again",
            "the source shows its slate: its input is silent",
            "the source's input is back",
        ];
        assert_eq!(said, expected);
    }
}
