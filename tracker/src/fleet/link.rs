//! A connection to the shared store, from when it opens until it breaks.
//!
//! News, samples and the comparison of windows go side by side, so that none waits for another. What concerns many channels
//! is asked for [`AT_ONCE`] at a time, in one round trip. What others than trackers have left in the store is passed over:
//! only a store that does not answer ends the connection. Nothing is fetched before it is known to be no longer than trackers
//! write, and what grows meanwhile is cut off ([`store`](super::store)).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use minuet_proto::channel_api::{MAX_PUBLICATION_LENGTH, Publication};
use minuet_proto::{ChannelId, SignedRecord};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, FromRedisValue, Pipeline, RedisError, RedisResult, pipe};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::news::{
    Kind, MAX_NEWS_LENGTH, MAX_SAMPLE_LENGTH, News, STATE_FIELD, Sample, TrackerId, field_record,
    record_field,
};
use super::samples::{sample_of, take_samples};
use super::store::{self, Backlog};
use super::{EXCHANGE_EVERY, Fleet, RECONCILE_EVERY, SAMPLE_TTL};
use crate::channel::window::PlaceError;
use crate::channel::{Channel, PublishError};
use crate::state::State;

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
/// Records that one round trip carries to the store, each with its torrent.
const RECORDS_AT_ONCE: usize = 8;
/// Bytes of values that one round trip carries from the store, unless one alone has more.
const BYTES_AT_ONCE: u64 = 4 << 20;
/// The longest name and key.
const MAX_NAME_LENGTH: u64 = 64;
/// Bytes of a message of news besides what was said.
const MESSAGE_OVERHEAD: usize = "message".len() + NEWS.len() + 6;
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
    state: &'a Arc<State>,
    tasks: &'a TaskTracker,
    fleet: &'a Fleet,
    /// For names, lengths, and all that is written.
    names: MultiplexedConnection,
    /// For values.
    values: MultiplexedConnection,
}

impl<'a> Link<'a> {
    /// Connects, compares the windows, and then passes news both ways until the store fails.
    pub(super) async fn serve(
        state: &'a Arc<State>,
        tasks: &'a TaskTracker,
        fleet: &'a Fleet,
        client: &redis::Client,
        waiting: &mut mpsc::Receiver<News>,
    ) -> RedisResult<()> {
        // Subscribed before the windows are compared, so that nothing falls in between.
        let settings = client.get_connection_info().redis_settings();
        let backlog = Arc::new(Backlog::default());
        let most = MAX_NEWS_LENGTH as u64;
        let stream = store::open(client, most, &fleet.oversized, Some(Arc::clone(&backlog)));
        let mut subscription = timely(PubSub::new(settings, timely(stream).await?)).await?;
        timely(subscription.subscribe(NEWS)).await?;
        let open = async |longest| {
            let stream = timely(store::open(client, longest, &fleet.oversized, None)).await?;
            let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
            let opened = MultiplexedConnection::new_with_config(settings, stream, config);
            let (connection, driver) = timely(opened).await?;
            RedisResult::Ok((connection, AbortOnDropHandle::new(tokio::spawn(driver))))
        };
        let (names, _driven) = open(MAX_NAME_LENGTH).await?;
        let (values, _driven_too) = open(MAX_PUBLICATION_LENGTH as u64).await?;
        let mut link = Self { state, tasks, fleet, names, values };
        link.share_nonces().await?;
        link.reconcile().await?;
        if !fleet.connected.swap(true, Ordering::Relaxed) {
            info!("connected with the shared store");
        }
        let (mut exchanging, mut reconciling) = (link.clone(), link.clone());
        // Each goes on until the store fails.
        tokio::select! {
            result = link.pass_news(subscription.on_message(), &backlog, waiting) => result,
            result = exchanging.exchange_often() => result,
            result = reconciling.reconcile_often() => result,
        }
    }

    async fn pass_news(
        &mut self,
        mut messages: impl Stream<Item = redis::Msg> + Unpin,
        backlog: &Backlog,
        waiting: &mut mpsc::Receiver<News>,
    ) -> RedisResult<()> {
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => {
                        let payload = message.get_payload_bytes();
                        self.hear(payload).await?;
                        backlog.taken(payload.len() + MESSAGE_OVERHEAD);
                    }
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
        let own = self.state.nonces.key();
        let mut commands = pipe();
        commands.cmd("SET").arg(NONCES).arg(&own[..]).arg("NX").ignore();
        commands.cmd("GETRANGE").arg(NONCES).arg(0).arg(own.len());
        let key: Option<(Vec<u8>,)> = self.ask(&commands).await?;
        if let Some(key) = key.and_then(|(key,)| key.try_into().ok()) {
            self.state.nonces.set_key(key);
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
        let state = Arc::clone(self.state);
        // In a task of its own, since it must not be dropped half-way.
        let task = self.tasks.spawn(async move {
            let (channels, now_ms) = (&state.channels, state.clock.unix_ms());
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
        let ttl = self.state.config.channels.ttl.as_secs().max(60);
        commands.cmd("HSET").arg(&key).arg(field).arg(body).ignore();
        commands.cmd("EXPIRE").arg(&key).arg(ttl).ignore();
        let score = self.state.clock.unix_ms();
        commands.cmd("ZADD").arg(CHANNELS).arg(score).arg(&channel.as_bytes()[..]).ignore();
    }

    /// Compares all windows with the store's, both ways.
    async fn reconcile(&mut self) -> RedisResult<()> {
        let ttl_ms = u64::try_from(self.state.config.channels.ttl.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.state.clock.unix_ms();
        let most = self.state.config.channels.channels;
        let mut commands = pipe();
        let (oldest, newest) = (now_ms.saturating_sub(ttl_ms), now_ms.saturating_add(ttl_ms));
        commands.cmd("ZREMRANGEBYSCORE").arg(CHANNELS).arg("-inf").arg(oldest).ignore();
        // What is said to be from the future would stay for ever.
        commands.cmd("ZREMRANGEBYSCORE").arg(CHANNELS).arg(newest).arg("+inf").ignore();
        commands.cmd("ZREVRANGE").arg(CHANNELS).arg(0).arg(most.saturating_sub(1));
        let known: Option<(Vec<Option<Vec<u8>>>,)> = self.ask(&commands).await?;
        let known = known.map_or_else(Vec::new, |(known,)| known);
        let known =
            known.iter().flatten().filter_map(|bytes| bytes.as_slice().try_into().ok()).map(ChannelId::new);
        let own = self.state.channels.all().into_iter().map(|channel| *channel.id());
        let all: Vec<ChannelId> = known.chain(own).collect::<BTreeSet<_>>().into_iter().collect();
        for some in all.chunks(AT_ONCE) {
            let fields = self.fields(some).await?;
            for (id, fields) in some.iter().zip(fields) {
                self.fetch(*id, &fields).await?;
                if let Some(channel) = self.state.channels.get(id) {
                    self.fill(&channel, &fields).await?;
                }
            }
        }
        Ok(())
    }

    /// The names of the fields of channels' hashes, as many as a window can need.
    async fn fields(&mut self, channels: &[ChannelId]) -> RedisResult<Vec<BTreeSet<String>>> {
        let most = self.state.config.channels.window.records.saturating_add(SPARE_FIELDS);
        let keys: Vec<String> = channels.iter().map(window_key).collect();
        let names = self.names_in(&keys, most).await?;
        Ok(names.into_iter().map(BTreeSet::from_iter).collect())
    }

    /// The names of the fields of hashes, at most so many of each.
    async fn names_in(&mut self, keys: &[String], most: usize) -> RedisResult<Vec<Vec<String>>> {
        // What is too long to be a tracker's is none.
        type Names = Vec<Option<Vec<u8>>>;
        let asked = |keys: &[String]| {
            let mut commands = pipe();
            for key in keys {
                // Names alone, and no more than this however many somebody has put there.
                commands.cmd("HRANDFIELD").arg(key).arg(most);
            }
            commands
        };
        let mut found: Option<Vec<Names>> = self.ask(&asked(keys)).await?;
        if found.is_none() {
            // One of them is no hash; then each is asked for alone.
            let mut each = Vec::with_capacity(keys.len());
            for key in keys {
                let one: Option<Vec<Names>> = self.ask(&asked(std::slice::from_ref(key))).await?;
                each.push(one.and_then(|mut one| one.pop()).unwrap_or_default());
            }
            found = Some(each);
        }
        let text = |names: Names| names.into_iter().flatten().filter_map(|name| String::from_utf8(name).ok());
        let mut names: Vec<Vec<String>> =
            found.unwrap_or_default().into_iter().map(|names| text(names).collect()).collect();
        names.resize_with(keys.len(), Vec::new);
        Ok(names)
    }

    /// Which of `wanted`, fields of hashes, may be fetched: those that are no longer than `longest`, in batches of
    /// [`BYTES_AT_ONCE`].
    async fn measure<'f>(&mut self, wanted: &'f [Field], longest: usize) -> RedisResult<Vec<Vec<&'f Field>>> {
        let mut commands = pipe();
        for (key, field) in wanted {
            commands.cmd("HSTRLEN").arg(key).arg(field);
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let lengths: Vec<u64> = self.ask(&commands).await?.unwrap_or_default();
        let measured = wanted.iter().zip(lengths).filter(|(_, length)| {
            let fits = *length <= longest as u64;
            if !fits {
                self.fleet.oversized.tell(*length);
            }
            fits
        });
        Ok(batches(measured, BYTES_AT_ONCE))
    }

    /// The values of fields, as far as they are there.
    async fn values_of(&mut self, fields: &[&Field]) -> RedisResult<Vec<Option<Vec<u8>>>> {
        let mut commands = pipe();
        for (key, field) in fields {
            commands.cmd("HGET").arg(key).arg(field);
        }
        let found = ask(&mut self.values, &commands).await?;
        Ok(found.unwrap_or_default())
    }

    /// Takes from the store what this tracker has not.
    async fn fetch(&mut self, id: ChannelId, fields: &BTreeSet<String>) -> RedisResult<()> {
        let channel = self.state.channels.get(&id);
        let mut records: Vec<_> = fields
            .iter()
            .filter_map(|field| field_record(field))
            .filter(|seq| channel.as_ref().is_none_or(|channel| channel.window().get(*seq).is_none()))
            .collect();
        // In order, since each has to follow the one before.
        records.sort_unstable();
        let state = fields.contains(STATE_FIELD).then_some((Kind::State, STATE_FIELD.to_owned()));
        let records = records.into_iter().map(|seq| (Kind::Record(seq), record_field(seq)));
        let key = window_key(&id);
        let (kinds, wanted): (HashMap<String, Kind>, Vec<Field>) = state
            .into_iter()
            .chain(records)
            .map(|(kind, field)| ((field.clone(), kind), (key.clone(), field)))
            .unzip();
        for some in self.measure(&wanted, MAX_PUBLICATION_LENGTH).await? {
            for ((_, field), body) in some.iter().zip(self.values_of(&some).await?) {
                if let (Some(kind), Some(body)) = (kinds.get(field), body) {
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
                let (state, id, seq) = (Arc::clone(self.state), *channel.id(), record.seq);
                let read = tokio::task::spawn_blocking(move || state.channels.torrent(&id, seq)).await;
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
        for some in self.state.channels.all().chunks(AT_ONCE) {
            self.run(&self.own_samples(some)).await?;
            let keys: Vec<String> = some.iter().map(|channel| sample_key(channel.id())).collect();
            let names = self.names_in(&keys, 2 * MOST_TRACKERS).await?;
            let own = self.fleet.id;
            // A field that is no tracker's is somebody else's.
            let is_other = |name: &String| name.parse().is_ok_and(|tracker: TrackerId| tracker != own);
            let others = |names: Vec<String>| names.into_iter().filter(is_other).take(MOST_TRACKERS);
            let wanted: Vec<Field> = keys
                .iter()
                .zip(names)
                .flat_map(|(key, names)| others(names).map(move |name| (key.clone(), name)))
                .collect();
            let mut samples: HashMap<&str, Vec<Sample>> = HashMap::new();
            for some in self.measure(&wanted, MAX_SAMPLE_LENGTH).await? {
                for ((key, _), json) in some.iter().copied().zip(self.values_of(&some).await?) {
                    if let Some(sample) = json.and_then(|json| Sample::decode(&json)) {
                        samples.entry(key).or_default().push(sample);
                    }
                }
            }
            for (channel, key) in some.iter().zip(&keys) {
                let samples = samples.remove(key.as_str()).unwrap_or_default();
                take_samples(self.state, channel, samples.into_iter());
            }
        }
        Ok(())
    }

    /// Leaves a sample of each channel.
    fn own_samples(&self, channels: &[Arc<Channel>]) -> Pipeline {
        let mut commands = pipe();
        for channel in channels {
            let (key, sample) = (sample_key(channel.id()), sample_of(self.state, channel));
            let json = serde_json::to_vec(&sample).unwrap_or_default();
            commands.cmd("HSET").arg(&key).arg(self.fleet.id).arg(&json[..]).ignore();
            commands.cmd("EXPIRE").arg(&key).arg(SAMPLE_TTL.as_secs()).ignore();
        }
        commands
    }

    /// Asks the store for what is short.
    async fn ask<T: FromRedisValue>(&mut self, commands: &Pipeline) -> RedisResult<Option<T>> {
        ask(&mut self.names, commands).await
    }

    async fn run(&mut self, commands: &Pipeline) -> RedisResult<()> {
        if !commands.is_empty() {
            let _: Option<()> = self.ask(commands).await?;
        }
        Ok(())
    }
}

/// The key of a hash and the name of a field.
type Field = (String, String);

/// Asks the store. `None` when it answers that it cannot do that with what is there; an error when it does not answer.
async fn ask<T: FromRedisValue>(
    store: &mut MultiplexedConnection,
    commands: &Pipeline,
) -> RedisResult<Option<T>> {
    match timely(commands.query_async(store)).await {
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

/// In the same order, in batches that have no more than `most` in all, unless one alone has more.
fn batches<T>(all: impl Iterator<Item = (T, u64)>, most: u64) -> Vec<Vec<T>> {
    let (mut batches, mut room) = (Vec::<Vec<T>>::new(), 0);
    for (one, length) in all {
        match batches.last_mut().filter(|_| length <= room) {
            Some(batch) => {
                batch.push(one);
                room -= length;
            }
            None => {
                batches.push(vec![one]);
                room = most.saturating_sub(length);
            }
        }
    }
    batches
}

fn lost(kind: std::io::ErrorKind) -> RedisError {
    RedisError::from(std::io::Error::from(kind))
}

async fn timely<T>(work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(lost(std::io::ErrorKind::TimedOut)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_at_once_is_bounded() {
        let lengths = [3, 4, 2, 9, 1, 0, 10, 11, 0];
        let batched = batches(lengths.into_iter().map(|length| (length, length)), 10);
        assert_eq!(batched, [vec![3, 4, 2], vec![9, 1, 0], vec![10], vec![11, 0]]);
    }
}
