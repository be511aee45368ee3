//! A connection to the shared store, from when it opens until it breaks.
//!
//! News, samples and the comparison of windows go side by side, so that none waits for another. What concerns many channels
//! is asked for [`AT_ONCE`] at a time, in one round trip. What others than trackers have left in the store is passed over:
//! only a store that does not answer ends the connection.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use minuet_proto::channel_api::Publication;
use minuet_proto::{ChannelId, SignedRecord};
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline, RedisError, RedisResult, pipe};
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::news::{Kind, News, STATE_FIELD, Sample, TrackerId, field_record, record_field};
use super::{EXCHANGE_EVERY, Fleet, RECONCILE_EVERY, SAMPLE_TTL};
use crate::channel::window::PlaceError;
use crate::channel::{Channel, PublishError};
use crate::tracker::Shared;

/// Carries news.
const NEWS: &str = "minuet:news";
/// The channels that the store has a hash of, by when something was last added to it.
const CHANNELS: &str = "minuet:channels";
/// The key with which all trackers of the fleet make the nonces that nodes sign.
const NONCES: &str = "minuet:nonces";
/// How long connecting, and one answer of the store, may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most trackers whose samples of a channel are looked at.
const MOST_TRACKERS: usize = 64;
/// Channels that one round trip is about.
const AT_ONCE: usize = 16;
/// Records that one round trip carries, each with its torrent.
const RECORDS_AT_ONCE: usize = 8;
/// Fields of a channel's hash that are looked at besides as many as a window has records.
const SPARE_FIELDS: usize = 64;

fn window_key(channel: &ChannelId) -> String {
    format!("minuet:c:{channel}")
}

fn sample_key(channel: &ChannelId) -> String {
    format!("minuet:n:{channel}")
}

/// An open connection.
#[derive(Clone)]
pub(super) struct Link<'a> {
    shared: &'a Arc<Shared>,
    fleet: &'a Fleet,
    store: MultiplexedConnection,
}

impl<'a> Link<'a> {
    /// Connects, compares the windows, and then passes news both ways until the store fails.
    pub(super) async fn serve(
        shared: &'a Arc<Shared>,
        fleet: &'a Fleet,
        client: &redis::Client,
        waiting: &mut mpsc::Receiver<News>,
    ) -> RedisResult<()> {
        // Subscribed before the windows are compared, so that nothing falls in between.
        let mut subscription = timely(client.get_async_pubsub()).await?;
        timely(subscription.subscribe(NEWS)).await?;
        let store = timely(client.get_multiplexed_async_connection()).await?;
        let mut link = Self { shared, fleet, store };
        link.share_nonces().await?;
        link.reconcile().await?;
        if !fleet.connected.swap(true, Ordering::Relaxed) {
            info!("connected with the shared store");
        }
        let (mut exchanging, mut reconciling) = (link.clone(), link.clone());
        // Each goes on until the store fails.
        tokio::select! {
            result = link.pass_news(subscription.on_message(), waiting) => result,
            result = exchanging.exchange_often() => result,
            result = reconciling.reconcile_often() => result,
        }
    }

    async fn pass_news(
        &mut self,
        mut messages: impl Stream<Item = redis::Msg> + Unpin,
        waiting: &mut mpsc::Receiver<News>,
    ) -> RedisResult<()> {
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.hear(message.get_payload_bytes()).await?,
                    None => return Err(lost(std::io::ErrorKind::ConnectionReset)),
                },
                Some(news) = waiting.recv() => self.tell(news).await?,
            }
        }
    }

    async fn exchange_often(&mut self) -> RedisResult<()> {
        let mut every = tokio::time::interval(EXCHANGE_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.exchange().await?;
        }
    }

    async fn reconcile_often(&mut self) -> RedisResult<()> {
        loop {
            tokio::time::sleep(RECONCILE_EVERY).await;
            self.reconcile().await?;
        }
    }

    /// Takes the fleet's key for nonces, or brings one if there is none.
    async fn share_nonces(&mut self) -> RedisResult<()> {
        let own = self.shared.nonces.key();
        let mut commands = pipe();
        commands.cmd("SET").arg(NONCES).arg(&own[..]).arg("NX").ignore();
        commands.cmd("GET").arg(NONCES);
        let key: Option<(Option<Vec<u8>>,)> = self.ask(&commands).await?;
        if let Some(key) = key.and_then(|(key,)| key?.try_into().ok()) {
            self.shared.nonces.set_key(key);
        }
        Ok(())
    }

    /// Takes in a message of another tracker.
    async fn hear(&mut self, message: &[u8]) -> RedisResult<()> {
        match News::decode(message) {
            Ok((from, _)) if from == self.fleet.id => {}
            Ok((_, news)) => {
                let channel = news.channel;
                if !self.take(news).await {
                    // Something in between was missed.
                    let fields = self.fields(&[channel]).await?.pop().unwrap_or_default();
                    self.fetch(channel, &fields).await?;
                }
            }
            Err(error) => debug!(%error, "a message of the fleet makes no sense"),
        }
        Ok(())
    }

    /// Takes in what another tracker has accepted. Returns `false` when it would fit if this one had what is between.
    async fn take(&self, news: News) -> bool {
        let shared = Arc::clone(self.shared);
        // In a task of its own, since it must not be dropped half-way.
        let task = self.shared.tasks.spawn(async move {
            let (channels, now_ms) = (&shared.channels, shared.clock.unix_ms());
            match news.kind {
                Kind::Record(_) => {
                    channels.publish_record(news.channel, &news.body, None, now_ms).await.map(drop)
                }
                Kind::State => channels.publish_state(news.channel, &news.body, None, now_ms).await.map(drop),
                Kind::Heads => channels.publish_heads(news.channel, &news.body, None, now_ms).await.map(drop),
            }
        });
        match task.await {
            Ok(Ok(())) => self.fleet.received.increment(),
            Ok(Err(PublishError::Misplaced(PlaceError::Gap { .. }))) => return false,
            Ok(Err(error)) => debug!(%error, "what another tracker accepted does not fit here"),
            Err(error) => debug!(%error, "taking in news was cut short"),
        }
        true
    }

    /// Tells the others, and keeps it for those who are away.
    async fn tell(&mut self, news: News) -> RedisResult<()> {
        let message = news.encode(self.fleet.id);
        let mut commands = pipe();
        if let Some(field) = news.field() {
            self.keep(&mut commands, &news.channel, &field, &news.body);
        }
        commands.cmd("PUBLISH").arg(NEWS).arg(&message[..]).ignore();
        let _: Option<()> = self.ask(&commands).await?;
        self.fleet.told.increment();
        Ok(())
    }

    fn keep(&self, commands: &mut Pipeline, channel: &ChannelId, field: &str, body: &[u8]) {
        let key = window_key(channel);
        let ttl = self.shared.config.channels.ttl.as_secs().max(60);
        commands.cmd("HSET").arg(&key).arg(field).arg(body).ignore();
        commands.cmd("EXPIRE").arg(&key).arg(ttl).ignore();
        let score = self.shared.clock.unix_ms();
        commands.cmd("ZADD").arg(CHANNELS).arg(score).arg(&channel.as_bytes()[..]).ignore();
    }

    /// Compares all windows with the store's, both ways.
    async fn reconcile(&mut self) -> RedisResult<()> {
        let ttl_ms = u64::try_from(self.shared.config.channels.ttl.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.shared.clock.unix_ms();
        let most = self.shared.config.channels.channels;
        let mut commands = pipe();
        let (oldest, newest) = (now_ms.saturating_sub(ttl_ms), now_ms.saturating_add(ttl_ms));
        commands.cmd("ZREMRANGEBYSCORE").arg(CHANNELS).arg("-inf").arg(oldest).ignore();
        // What is said to be from the future would stay for ever.
        commands.cmd("ZREMRANGEBYSCORE").arg(CHANNELS).arg(newest).arg("+inf").ignore();
        commands.cmd("ZREVRANGE").arg(CHANNELS).arg(0).arg(most.saturating_sub(1));
        let known: Option<(Vec<Vec<u8>>,)> = self.ask(&commands).await?;
        let known = known.map_or_else(Vec::new, |(known,)| known);
        let known = known.iter().filter_map(|bytes| bytes.as_slice().try_into().ok()).map(ChannelId::new);
        let own = self.shared.channels.all().into_iter().map(|channel| *channel.id());
        let all: Vec<ChannelId> = known.chain(own).collect::<BTreeSet<_>>().into_iter().collect();
        for some in all.chunks(AT_ONCE) {
            let fields = self.fields(some).await?;
            for (id, fields) in some.iter().zip(fields) {
                self.fetch(*id, &fields).await?;
                if let Some(channel) = self.shared.channels.get(id) {
                    self.fill(&channel, &fields).await?;
                }
            }
        }
        Ok(())
    }

    /// The names of the fields of channels' hashes, as many as a window can need.
    async fn fields(&mut self, channels: &[ChannelId]) -> RedisResult<Vec<BTreeSet<String>>> {
        let most = self.shared.config.channels.window.records.saturating_add(SPARE_FIELDS);
        let mut fields = Vec::with_capacity(channels.len());
        let asked = |channels: &[ChannelId]| {
            let mut commands = pipe();
            for channel in channels {
                // Names alone, and no more than this however many somebody has put there.
                commands.cmd("HRANDFIELD").arg(window_key(channel)).arg(most);
            }
            commands
        };
        let mut found: Option<Vec<Vec<Vec<u8>>>> = self.ask(&asked(channels)).await?;
        if found.is_none() {
            // One of them is no hash; then each is asked for alone.
            let mut each = Vec::with_capacity(channels.len());
            for channel in channels {
                let one: Option<Vec<Vec<Vec<u8>>>> = self.ask(&asked(&[*channel])).await?;
                each.push(one.and_then(|mut one| one.pop()).unwrap_or_default());
            }
            found = Some(each);
        }
        for names in found.unwrap_or_default() {
            fields.push(names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect());
        }
        fields.resize_with(channels.len(), BTreeSet::new);
        Ok(fields)
    }

    /// Takes from the store what this tracker has not.
    async fn fetch(&mut self, id: ChannelId, fields: &BTreeSet<String>) -> RedisResult<()> {
        let channel = self.shared.channels.get(&id);
        let mut records: Vec<_> = fields
            .iter()
            .filter_map(|field| field_record(field))
            .filter(|seq| channel.as_ref().is_none_or(|channel| channel.window().get(*seq).is_none()))
            .collect();
        // In order, since each has to follow the one before.
        records.sort_unstable();
        let state = fields.contains(STATE_FIELD).then_some((Kind::State, STATE_FIELD.to_owned()));
        let records = records.into_iter().map(|seq| (Kind::Record(seq), record_field(seq)));
        let wanted: Vec<(Kind, String)> = state.into_iter().chain(records).collect();
        for some in wanted.chunks(RECORDS_AT_ONCE) {
            let mut command = pipe();
            command
                .cmd("HMGET")
                .arg(window_key(&id))
                .arg(some.iter().map(|(_, field)| field).collect::<Vec<_>>());
            let bodies: Option<(Vec<Option<Vec<u8>>>,)> = self.ask(&command).await?;
            for ((kind, _), body) in some.iter().zip(bodies.map_or_else(Vec::new, |(bodies,)| bodies)) {
                if let Some(body) = body {
                    self.take(News { channel: id, kind: *kind, body: body.into() }).await;
                }
            }
        }
        Ok(())
    }

    /// Gives the store what it has not, and takes from it what has left the window.
    async fn fill(&mut self, channel: &Arc<Channel>, fields: &BTreeSet<String>) -> RedisResult<()> {
        let (missing, gone, state) = {
            let window = channel.window();
            let missing: Vec<SignedRecord> = window
                .entries()
                .iter()
                .filter(|entry| !fields.contains(&record_field(entry.record.seq)))
                .map(|entry| entry.record.clone())
                .collect();
            let oldest = window.oldest();
            let is_gone = |field: &&String| field_record(field).is_some_and(|seq| Some(seq) < oldest);
            let gone: Vec<String> = fields.iter().filter(is_gone).cloned().collect();
            (missing, gone, window.state().map(|state| state.encode()))
        };
        for some in missing.chunks(RECORDS_AT_ONCE) {
            let mut commands = pipe();
            for record in some {
                // From disk, if need be, which this task must not wait for itself.
                let (shared, id, seq) = (Arc::clone(self.shared), *channel.id(), record.seq);
                let read = tokio::task::spawn_blocking(move || shared.channels.torrent(&id, seq)).await;
                let Ok(Ok(Some(torrent))) = read else { continue };
                let body = Publication { record: record.encode(), torrent }.encode();
                self.keep(&mut commands, channel.id(), &record_field(record.seq), &body);
            }
            self.run(&commands).await?;
        }
        let mut commands = pipe();
        if let Some(state) = state.filter(|_| !fields.contains(STATE_FIELD)) {
            self.keep(&mut commands, channel.id(), STATE_FIELD, &state);
        }
        if !gone.is_empty() {
            commands.cmd("HDEL").arg(window_key(channel.id())).arg(gone).ignore();
        }
        self.run(&commands).await
    }

    /// Leaves samples of this tracker's nodes and peers, and takes in the others'.
    async fn exchange(&mut self) -> RedisResult<()> {
        for some in self.shared.channels.all().chunks(AT_ONCE) {
            let found = match self.ask(&self.samples(some)).await? {
                Some(found) => found,
                None => {
                    let mut each: Vec<Scanned> = Vec::with_capacity(some.len());
                    for channel in some {
                        let one: Option<Vec<Scanned>> =
                            self.ask(&self.samples(std::slice::from_ref(channel))).await?;
                        each.push(one.and_then(|mut one| one.pop()).unwrap_or_default());
                    }
                    each
                }
            };
            for (channel, (_, fields)) in some.iter().zip(found) {
                let samples = fields
                    .iter()
                    // A field that is no tracker's is somebody else's.
                    .filter_map(|(name, json)| Some((std::str::from_utf8(name).ok()?.parse().ok()?, json)))
                    .filter(|(tracker, _): &(TrackerId, _)| *tracker != self.fleet.id)
                    .take(MOST_TRACKERS)
                    .filter_map(|(_, json)| Sample::decode(json));
                self.shared.take_samples(channel, samples);
            }
        }
        Ok(())
    }

    /// Leaves a sample of each channel and asks for those of all trackers.
    fn samples(&self, channels: &[Arc<Channel>]) -> Pipeline {
        let mut commands = pipe();
        for channel in channels {
            let (key, sample) = (sample_key(channel.id()), self.shared.sample(channel));
            let json = serde_json::to_vec(&sample).unwrap_or_default();
            commands.cmd("HSET").arg(&key).arg(self.fleet.id).arg(&json[..]).ignore();
            commands.cmd("EXPIRE").arg(&key).arg(SAMPLE_TTL.as_secs()).ignore();
            commands.cmd("HSCAN").arg(&key).arg(0).arg("COUNT").arg(2 * MOST_TRACKERS);
        }
        commands
    }

    /// Asks the store. `None` when it answers that it cannot do that with what is there; an error when it does not
    /// answer.
    async fn ask<T: FromRedisValue>(&mut self, commands: &Pipeline) -> RedisResult<Option<T>> {
        match timely(commands.query_async(&mut self.store)).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() => {
                Err(error)
            }
            Err(error) => {
                debug!(%error, "something in the shared store is not what a tracker has put there");
                Ok(None)
            }
        }
    }

    async fn run(&mut self, commands: &Pipeline) -> RedisResult<()> {
        if !commands.is_empty() {
            let _: Option<()> = self.ask(commands).await?;
        }
        Ok(())
    }
}

/// A cursor, and fields with their values.
type Scanned = (Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

fn lost(kind: std::io::ErrorKind) -> RedisError {
    RedisError::from(std::io::Error::from(kind))
}

async fn timely<T>(work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(lost(std::io::ErrorKind::TimedOut)))
}
