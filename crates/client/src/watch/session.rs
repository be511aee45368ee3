//! One channel being watched: following it, finding where to begin, playing, ending.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use minuet_guard::tasks::Tasks;
use minuet_node::{
    TrackerClient,
    follow::{Followed, Start, follow},
    units,
};
use minuet_proto::{ChannelLink, Phase, PieceId, PieceIndex, SignedState, mesh::Serial};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    cause::{Cause, ended_for, show_ago, tracker_fails},
    figures::Figures,
    filler::Filler,
    live::{self, LivePlayback},
    live_node::LiveNode,
    lookout::{LOOK, Lookout},
    now_ms,
    packets::Packets,
    past::{self, PastPlayback, Records},
    place::{self, Found, Place},
    playback::End,
    said::Said,
    sink::{self, Out, Sink},
};
use crate::{options::Watch, serve::Served};

/// How long no tracker may know the channel, or no node be reached, before watching fails.
pub(super) const FIND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last pieces of a broadcast that has ended may take to come.
const END_GRACE: Duration = Duration::from_secs(5);
/// How far this machine's clock and the source's may be apart, with what is on its way.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(120);

/// When what is kept is due at the live edge while the player is behind it: in no hurry.
const CALM: Duration = Duration::from_secs(4);
/// How to be at the live edge again.
const LEAP_HINT: &str = " (L in mpv, or live and Enter here, leaps to the live edge)";

/// Where what following brings goes.
struct Hearing {
    say: watch::Sender<Said>,
    say_records: watch::Sender<Records>,
}

/// One channel being watched.
pub struct Session {
    /// The command line.
    pub options: Box<Watch>,
    /// What is watched.
    pub link: ChannelLink,
    /// Where playing begins.
    pub start: Start,
    /// Whom to ask.
    pub trackers: Arc<[TrackerClient]>,
    /// The counts.
    pub figures: Arc<Figures>,
    /// Counts the user's wishes to be at the live edge.
    pub wishes: watch::Sender<u64>,
    /// The run's folder.
    pub folder: PathBuf,
    /// Long-lived tasks.
    pub tasks: Tasks,
    /// Those who watch over HTTP.
    pub served: Served,
}

impl Session {
    /// Plays over the mesh: the live edge, or what was on air before it.
    pub async fn play_mesh(&self, node: &LiveNode, out: Out) -> anyhow::Result<()> {
        let (channel, delay) = (self.link.channel, self.options.delay);
        let heard = Some(node.mesh.heard());
        let start = match self.start {
            Start::Ago(ago) => Start::At(now_ms().saturating_sub(millis(ago))),
            start => start,
        };
        let mut followed =
            follow(channel, self.trackers.to_vec(), heard, start, now_ms, self.tasks.spawner());
        let (say, said) = watch::channel(Said::default());
        let (say_records, records) = watch::channel(Records::default());
        let hearing = Hearing { say, say_records };
        self.figures.lock().0.playout().set_head_start(live::head_start(delay));
        let begin = match start {
            Start::Live => Place::Live(self.find_start(node, &mut followed, &hearing).await?, delay),
            start => self.find_place(start, node, &mut followed, &hearing).await?,
        };
        let title = self.title(said.borrow().state.as_ref());
        self.figures.lock().0.why = None;
        check_clock(node);
        let what = match (begin, ended(said.borrow().state.as_ref())) {
            (Place::Live(..), Some(ago)) => format!("the broadcast ended {ago}: playing its last seconds"),
            (Place::Live(_, delay), None) => {
                format!("playing {} behind the source", units::show(rounded(delay)))
            }
            (Place::Past(piece), Some(_)) => format!("playing from segment {} on", piece.segment),
            (Place::Past(piece), None) => format!("playing from segment {} on{}", piece.segment, LEAP_HINT),
        };
        tracing::info!("{title}: {what}, to {}; {}", out.name(), self.passes_on());
        let (player, mut sink) = out.open(&title, Some(&self.wishes))?;
        let closed = player.as_ref().map(|player| player.closed().clone());
        let following = async {
            while let Some(news) = followed.recv().await {
                self.take_live(news, node, &hearing).await;
            }
            std::future::pending().await
        };
        let moment = if let Start::At(at_ms) = start { Some(at_ms) } else { None };
        let playing = self.play_from(begin, moment, node, (said, records), &mut sink);
        let end = tokio::select! {
            end = playing => end,
            () = following => Ok(End::Closed),
            () = until_closed(closed) => Ok(End::Closed),
        };
        // Nothing more for the player: it sees the end of its input.
        drop(sink);
        let over = matches!(end, Ok(End::Ended));
        let lingering = async {
            if over {
                node.mesh.linger().await;
            }
        };
        let ((), finished) = tokio::join!(lingering, finish(end, player));
        finished
    }

    /// Plays, now at the live edge and now behind it, as it comes.
    async fn play_from(
        &self,
        begin: Place,
        mut moment: Option<u64>,
        node: &LiveNode,
        (said, records): (watch::Receiver<Said>, watch::Receiver<Records>),
        sink: &mut Sink,
    ) -> anyhow::Result<End> {
        let mesh = &node.mesh;
        // The player, and who holds this node at the live edge while the player is behind it.
        let (reader, edge) = (mesh.reader(), mesh.reader());
        let filler = Filler::new(mesh, &self.trackers, &self.folder, self.tasks.spawner());
        let (mut place, mut given, mut at_edge) = (begin, Duration::ZERO, false);
        // One for all, so that not a byte is lost where one goes on for the other.
        let mut packets = Packets::default();
        loop {
            match place {
                Place::Live(start, delay) => {
                    let mut playback = LivePlayback {
                        mesh: Arc::clone(mesh),
                        reader: &reader,
                        said: said.clone(),
                        wishes: self.wishes.subscribe(),
                        sink,
                        packets: &mut packets,
                        figures: Arc::clone(&self.figures),
                        delay,
                        give_up: self.options.give_up,
                    };
                    match playback.run(start, given).await? {
                        live::End::Ended => return Ok(End::Ended),
                        live::End::Closed => return Ok(End::Closed),
                        live::End::Leap(time) => {
                            tracing::info!("leaping to the live edge");
                            sink.leap();
                            packets.leap();
                            (place, given) = (place::edge(mesh, None, self.options.delay).await, time);
                        }
                        live::End::Behind(piece, time) => {
                            tracing::info!("playing on where the picture stood{LEAP_HINT}");
                            if let Some(newest) = mesh.window().newest() {
                                edge.playhead(newest.piece.serial, Instant::now() + CALM).await;
                            }
                            reader.leave_edge().await;
                            (place, given, at_edge) = (Place::Past(piece), time, true);
                        }
                    }
                }
                Place::Past(piece) => {
                    let piece = match moment.take() {
                        Some(at_ms) => place::at_moment(piece, at_ms, mesh, &records).await,
                        None => piece,
                    };
                    let mut playback = PastPlayback {
                        mesh: Arc::clone(mesh),
                        reader: &reader,
                        edge: at_edge.then_some(&edge),
                        records: records.clone(),
                        said: said.clone(),
                        wishes: self.wishes.subscribe(),
                        filler: &filler,
                        sink,
                        packets: &mut packets,
                        figures: Arc::clone(&self.figures),
                        give_up: self.options.give_up,
                    };
                    let (end, time) = playback.run(piece, given).await?;
                    given = time;
                    place = match end {
                        past::End::Ended if given.is_zero() => {
                            let ago = ended(said.borrow().state.as_ref()).unwrap_or_default();
                            bail!(
                                "the broadcast ended {ago}, and nobody who can be reached has its segments any more: only \
                                 who has kept a recording of it has them"
                            );
                        }
                        past::End::Ended => return Ok(End::Ended),
                        past::End::Closed => return Ok(End::Closed),
                        past::End::Edge(piece) => place::edge(mesh, Some(piece), self.options.delay).await,
                        past::End::Leap => {
                            tracing::info!("leaping to the live edge");
                            sink.leap();
                            packets.leap();
                            place::edge(mesh, None, self.options.delay).await
                        }
                    };
                    mesh.seek(None);
                    filler.rest();
                    reader.plan(Vec::new()).await;
                    if let Place::Live(start, delay) = place {
                        reader.playhead(start, Instant::now() + delay).await;
                        edge.leave_edge().await;
                        at_edge = false;
                    }
                }
            }
        }
    }

    /// Waits until the mesh knows where to begin, and says why when that takes long. What passes by itself is waited for as
    /// long as `--give-up` says.
    async fn find_start(
        &self,
        node: &LiveNode,
        followed: &mut mpsc::Receiver<Followed>,
        hearing: &Hearing,
    ) -> anyhow::Result<Serial> {
        let began = Instant::now();
        let mut lookout = Lookout::new(&self.trackers);
        let start = live::find_start(node.mesh.window());
        tokio::pin!(start);
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                start = &mut start => break Ok(start),
                Some(news) = followed.recv() => {
                    lookout.hear(&news);
                    if !matches!(news, Followed::Failed(_)) {
                        self.take_live(news, node, hearing).await;
                    }
                }
                _ = looks.tick() => {
                    let state = hearing.say.borrow().state.clone();
                    let newest = node.mesh.window().newest().map(|newest| newest.piece.ingest_ms);
                    let slate = newest.is_some_and(|newest_ms| self.figures.lock().0.is_slate(newest_ms));
                    let (cause, lasts) = lookout.look(node, state.as_ref().map(SignedState::get), slate);
                    self.figures.lock().0.why = Some(cause.to_string());
                    let patience = if matches!(cause, Cause::Ended(_)) { END_GRACE } else { FIND_TIMEOUT };
                    if !cause.is_passing() && began.elapsed() > patience && lasts > patience.min(END_GRACE) {
                        bail!("{cause}");
                    }
                    if began.elapsed() > self.options.give_up {
                        bail!("{cause}; gave up after {}", units::show(self.options.give_up));
                    }
                    lookout.say();
                }
            }
        }
    }

    /// Waits until it is known where in the past to begin.
    async fn find_place(
        &self,
        start: Start,
        node: &LiveNode,
        followed: &mut mpsc::Receiver<Followed>,
        hearing: &Hearing,
    ) -> anyhow::Result<Place> {
        let began = Instant::now();
        let mut why = Cause::NoAnswer.to_string();
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                Some(news) = followed.recv() => match news {
                    Followed::Failed(failure) => {
                        why = tracker_fails(&failure.0, &failure.1);
                        tracing::warn!("{why}; trying again");
                    }
                    news => self.take_live(news, node, hearing).await,
                },
                _ = looks.tick() => {}
            }
            let found = {
                let (said, records) = (hearing.say.borrow(), hearing.say_records.borrow());
                place::find(start, &records, said.state.as_ref(), began.elapsed())?
            };
            match found {
                Found::Past(segment) => {
                    let estimate = {
                        let (said, records) = (hearing.say.borrow(), hearing.say_records.borrow());
                        place::estimate(start, &records, said.state.as_ref())
                    };
                    let kept = match estimate {
                        Some(number) => place::oldest_kept(&node.mesh, number).await,
                        None => None,
                    };
                    let segment = kept.map_or(segment, |kept| kept.min(segment));
                    return Ok(Place::Past(PieceId { segment, piece: PieceIndex(0) }));
                }
                // It is on air still.
                Found::OnAir(at_ms) => {
                    if let Some(place) = place::on_air(node.mesh.window(), at_ms) {
                        return Ok(place);
                    }
                    why = "the first media is on its way".into();
                }
                Found::Unknown => {}
            }
            self.figures.lock().0.why = Some(why.clone());
            if began.elapsed() > FIND_TIMEOUT {
                bail!("{why}");
            }
        }
    }

    /// Takes in what following brought.
    async fn take_live(&self, news: Followed, node: &LiveNode, hearing: &Hearing) {
        match news {
            Followed::State(new, teller) => {
                self.figures.lock().0.hear(new.get());
                self.served.hear(&new);
                if self.start != Start::Live {
                    self.tell_of_end(&new, "what nodes still have of it");
                }
                node.mesh.state(&new).await;
                if let Some(teller) = teller {
                    node.mesh.set_origin(new.origin.clone(), teller).await;
                }
                hearing.say.send_modify(|said| said.state = Some(new));
            }
            Followed::Record(record) => {
                self.figures.lock().0.newest = Some(record.seq);
                self.served.record(&record);
                hearing.say.send_modify(|said| said.newest = Some(record.clone()));
                hearing.say_records.send_modify(|records| records.add(record.clone()));
                node.record(record).await;
            }
            Followed::Joined(..) => {}
            Followed::Failed(failure) => {
                tracing::debug!(
                    "{}; trying again, the stream goes on",
                    tracker_fails(&failure.0, &failure.1)
                );
            }
        }
    }

    /// Says that the broadcast had ended before anything of it was played, and that `what` is played now.
    pub(super) fn tell_of_end(&self, state: &SignedState, what: &str) {
        let has_begun = self.figures.look(0).segment.is_some();
        if let Some(ago) = ended(Some(state)).filter(|_| !has_begun) {
            tracing::info!("the broadcast ended {ago}: {what} is played");
        }
    }

    /// What is done for others, in half a sentence.
    pub(super) fn passes_on(&self) -> String {
        match (self.options.no_upload, self.options.common.upload_limit) {
            (true, _) => "nothing is passed on to other viewers".into(),
            (false, Some(limit)) => {
                format!("what is received is passed on to other viewers, at {limit} at most (--upload-limit)")
            }
            (false, None) => "what is received is passed on to other viewers, as far as the line allows \
                              (--upload-limit bounds it, --no-upload stops it)"
                .into(),
        }
    }

    pub(super) fn title(&self, state: Option<&SignedState>) -> String {
        let said = state.map(|state| state.title.clone()).filter(|title| !title.is_empty());
        said.or_else(|| self.link.title.clone()).unwrap_or_else(|| "Minuet".into())
    }
}

/// How long ago the broadcast ended, if it has.
fn ended(state: Option<&SignedState>) -> Option<String> {
    let state = state.filter(|state| state.phase == Phase::Ended)?;
    Some(show_ago(ended_for(state.get(), now_ms())))
}

/// Says so when this machine's clock and the source's differ: the delays that are shown then mean nothing.
fn check_clock(node: &LiveNode) {
    let Some(newest) = node.mesh.window().newest() else { return };
    let apart = Duration::from_millis(newest.piece.ingest_ms.abs_diff(now_ms()));
    if apart > CLOCK_TOLERANCE {
        tracing::warn!(
            "this machine's clock and the source's are {:.0} min apart: it plays all the same, but the delays that are shown \
             are wrong; set the clock if it is this one's fault",
            apart.as_secs_f64() / 60.0
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time as people say it.
fn rounded(time: Duration) -> Duration {
    if time < CALM * 3 { time } else { Duration::from_secs(time.as_secs()) }
}

/// Waits until the player is closed; for ever if there is none.
pub async fn until_closed(closed: Option<CancellationToken>) {
    match closed {
        Some(closed) => closed.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Ends the player as fits what became of playback.
pub(super) async fn finish(end: anyhow::Result<End>, player: Option<sink::Player>) -> anyhow::Result<()> {
    match (end, player) {
        (Ok(End::Ended), player) => {
            tracing::info!(
                "the broadcast has ended: --start oldest plays it again from the oldest segment that is still seeded"
            );
            match player {
                Some(mut player) => player.wait().await,
                None => Ok(()),
            }
        }
        (Ok(End::Closed), Some(player)) => player.stop().await,
        (Ok(End::Closed), None) => Ok(()),
        (Err(error), player) => {
            if let Some(player) = player {
                let _ = player.stop().await;
            }
            Err(error)
        }
    }
}
