//! A connection to the shared store, from when it opens until it breaks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use minuet_proto::ChannelId;
use minuet_proto::channel_api::Publication;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, cmd, pipe};
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
/// How long connecting, and one answer of the store, may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most trackers whose samples of a channel are looked at.
const MOST_TRACKERS: usize = 64;

fn window_key(channel: &ChannelId) -> String {
    format!("minuet:c:{channel}")
}

fn sample_key(channel: &ChannelId) -> String {
    format!("minuet:n:{channel}")
}

/// An open connection.
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
        link.reconcile().await?;
        if !fleet.connected.swap(true, Ordering::Relaxed) {
            info!("connected with the shared store");
        }
        let mut messages = subscription.on_message();
        let mut exchange = tokio::time::interval(EXCHANGE_EVERY);
        let mut reconcile =
            tokio::time::interval_at(tokio::time::Instant::now() + RECONCILE_EVERY, RECONCILE_EVERY);
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => link.hear(message.get_payload_bytes()).await?,
                    None => return Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset))),
                },
                Some(news) = waiting.recv() => link.tell(news).await?,
                _ = exchange.tick() => link.exchange().await?,
                _ = reconcile.tick() => link.reconcile().await?,
            }
        }
    }

    /// Takes in a message of another tracker.
    async fn hear(&mut self, message: &[u8]) -> RedisResult<()> {
        match News::decode(message) {
            Ok((from, _)) if from == self.fleet.id => {}
            Ok((_, news)) => {
                let channel = news.channel;
                if !self.take(news).await {
                    // Something in between was missed.
                    self.fetch(channel).await?;
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
        timely(commands.exec_async(&mut self.store)).await?;
        self.fleet.told.increment();
        Ok(())
    }

    fn keep(&self, commands: &mut redis::Pipeline, channel: &ChannelId, field: &str, body: &[u8]) {
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
        let oldest = self.shared.clock.unix_ms().saturating_sub(ttl_ms);
        let mut prune = cmd("ZREMRANGEBYSCORE");
        prune.arg(CHANNELS).arg("-inf").arg(oldest);
        let () = timely(prune.query_async(&mut self.store)).await?;
        let most = self.shared.config.channels.channels;
        let mut newest = cmd("ZREVRANGE");
        newest.arg(CHANNELS).arg(0).arg(most.saturating_sub(1));
        let known: Vec<Vec<u8>> = timely(newest.query_async(&mut self.store)).await?;
        for channel in known.iter().filter_map(|bytes| bytes.as_slice().try_into().ok()).map(ChannelId::new) {
            self.fetch(channel).await?;
        }
        for channel in self.shared.channels.all() {
            self.fill(&channel).await?;
        }
        Ok(())
    }

    /// Takes from the store what this tracker has not.
    async fn fetch(&mut self, id: ChannelId) -> RedisResult<()> {
        let key = window_key(&id);
        let fields: Vec<String> = timely(cmd("HKEYS").arg(&key).query_async(&mut self.store)).await?;
        let channel = self.shared.channels.get(&id);
        let mut records: Vec<_> = fields
            .iter()
            .filter_map(|field| field_record(field))
            .filter(|seq| channel.as_ref().is_none_or(|channel| channel.window().get(*seq).is_none()))
            .collect();
        // In order, since each has to follow the one before.
        records.sort_unstable();
        let wanted =
            fields.iter().any(|field| field == STATE_FIELD).then_some((Kind::State, STATE_FIELD.to_owned()));
        let wanted =
            wanted.into_iter().chain(records.into_iter().map(|seq| (Kind::Record(seq), record_field(seq))));
        for (kind, field) in wanted {
            let body: Option<Vec<u8>> =
                timely(cmd("HGET").arg(&key).arg(&field).query_async(&mut self.store)).await?;
            if let Some(body) = body {
                self.take(News { channel: id, kind, body: body.into() }).await;
            }
        }
        Ok(())
    }

    /// Gives the store what it has not, and takes from it what has left the window.
    async fn fill(&mut self, channel: &Arc<Channel>) -> RedisResult<()> {
        let key = window_key(channel.id());
        let fields: Vec<String> = timely(cmd("HKEYS").arg(&key).query_async(&mut self.store)).await?;
        let (missing, gone, state) = {
            let window = channel.window();
            let missing: Vec<_> = window
                .entries()
                .iter()
                .filter(|entry| !fields.contains(&record_field(entry.record.seq)))
                .map(|entry| (entry.record.clone(), entry.torrent.clone()))
                .collect();
            let oldest = window.oldest();
            let gone: Vec<String> = fields
                .iter()
                .filter(|field| field_record(field).is_some_and(|seq| Some(seq) < oldest))
                .cloned()
                .collect();
            (missing, gone, window.state().map(|state| state.encode()))
        };
        let mut commands = pipe();
        for (record, torrent) in missing {
            let Some(torrent) =
                torrent.or_else(|| self.shared.channels.torrent_from_disk(channel.id(), record.seq).ok()?)
            else {
                continue;
            };
            let body = Publication { record: record.encode(), torrent }.encode();
            self.keep(&mut commands, channel.id(), &record_field(record.seq), &body);
        }
        if let Some(state) = state.filter(|_| !fields.iter().any(|field| field == STATE_FIELD)) {
            self.keep(&mut commands, channel.id(), STATE_FIELD, &state);
        }
        for field in gone {
            commands.cmd("HDEL").arg(&key).arg(field).ignore();
        }
        if commands.is_empty() {
            return Ok(());
        }
        timely(commands.exec_async(&mut self.store)).await
    }

    /// Leaves samples of this tracker's nodes and peers, and takes in the others'.
    async fn exchange(&mut self) -> RedisResult<()> {
        for channel in self.shared.channels.all() {
            let sample = self.shared.sample(&channel);
            let key = sample_key(channel.id());
            let mut commands = pipe();
            commands
                .cmd("HSET")
                .arg(&key)
                .arg(self.fleet.id)
                .arg(&serde_json::to_vec(&sample).unwrap_or_default()[..])
                .ignore();
            commands.cmd("EXPIRE").arg(&key).arg(SAMPLE_TTL.as_secs()).ignore();
            commands.cmd("HGETALL").arg(&key);
            let (samples,): (HashMap<TrackerId, Vec<u8>>,) =
                timely(commands.query_async(&mut self.store)).await?;
            let samples = samples
                .into_iter()
                .filter(|(tracker, _)| *tracker != self.fleet.id)
                .take(MOST_TRACKERS)
                .filter_map(|(_, json)| Sample::decode(&Bytes::from(json)));
            self.shared.take_samples(&channel, samples);
        }
        Ok(())
    }
}

async fn timely<T>(work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))))
}
