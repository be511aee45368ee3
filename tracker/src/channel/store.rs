//! Channel windows on disk, so that they survive a restart and a kill -9.
//!
//! [redb](https://docs.rs/redb): one file, copy-on-write B-trees, a commit is on disk when it returns and there is no
//! log to replay; pure Rust with a stable file format, so the tracker stays one static binary without a
//! database server. Swarms are not kept: they refill from announces within one interval.
//!
//! One thread writes. It takes all that is waiting (up to [`GROUP`]) into one commit, since a commit costs an
//! fsync whatever its size.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use minuet_proto::{ChannelId, SegmentSeq, SignedRecord, SignedState};
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::life::Life;
use super::window::Entry;

const RECORDS: TableDefinition<([u8; 32], u64), &[u8]> = TableDefinition::new("records");
const TORRENTS: TableDefinition<([u8; 32], u64), &[u8]> = TableDefinition::new("torrents");
const STATES: TableDefinition<[u8; 32], &[u8]> = TableDefinition::new("states");
const LIVES: TableDefinition<[u8; 32], &[u8]> = TableDefinition::new("lives");

/// Name of the file in the data folder.
const FILE: &str = "channels.redb";
/// Page cache. Windows are small and the newest torrents are kept outside.
const CACHE_BYTES: usize = 16 << 20;
/// Writes that may wait; who comes later waits for a place.
const QUEUE: usize = 256;
/// The most writes in one commit.
const GROUP: usize = 64;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder cannot be made or written.
    #[error(
        "cannot use the data folder {path}: {source}; choose another with --data or repair its permissions"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file cannot be opened.
    #[error("cannot use {path}: {source}; or choose another folder with --data")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("another minuet-tracker uses the data folder {0}; stop it or choose another with --data")]
    InUse(PathBuf),
    /// The file is not a store, or is damaged.
    #[error("cannot read {path}: {why}; move it away to start with no channels")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A write failed.
    #[error("cannot write to the data folder: {0}")]
    Write(String),
}

/// A change to what is kept.
#[derive(Debug)]
pub enum Change {
    /// A record was accepted.
    Put(Box<SignedRecord>, Bytes),
    /// The channel's state was replaced.
    SetState(Box<SignedState>),
    /// A record has left its window.
    Remove(ChannelId, SegmentSeq),
    /// The channel has lived.
    SetLife(ChannelId, Life),
    /// The whole channel is forgotten.
    Forget(ChannelId),
}

/// A channel as it was kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// The state, if one was published.
    pub state: Option<SignedState>,
    /// The records in ascending order.
    pub entries: Vec<Entry>,
    /// Whose it is and when it last lived; not known of channels that an earlier version kept.
    pub life: Option<Life>,
}

/// A part of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its bytes.
    pub bytes: Bytes,
    /// Bytes of the whole torrent.
    pub length: u64,
}

impl Part {
    /// So many bytes of `torrent` from `at` on, as far as there are any. Copied, so that it does not hold the whole.
    pub fn of(torrent: &[u8], at: usize, most: usize) -> Self {
        let rest = torrent.get(at..).unwrap_or_default();
        let bytes = Bytes::copy_from_slice(&rest[..rest.len().min(most)]);
        Self { bytes, length: torrent.len() as u64 }
    }
}

type Request = (Vec<Change>, oneshot::Sender<Result<(), StoreError>>);

/// The store and its writing thread.
#[derive(Debug)]
pub struct Store {
    database: Arc<Database>,
    queue: mpsc::Sender<Request>,
    writer: std::thread::JoinHandle<()>,
    ended: Option<oneshot::Receiver<()>>,
}

impl Store {
    /// Opens the store in `folder`, making both when missing.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let in_folder = |source| StoreError::Folder { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(in_folder)?;
        let path = folder.join(FILE);
        let file =
            minuet_files::open(File::options().read(true).write(true).create(true).truncate(false), &path);
        let file = file.map_err(|source| StoreError::File { path: path.clone(), source })?;
        let opened = FileBackend::new(file)
            .and_then(|file| Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(file));
        let unreadable = |why: String| StoreError::Unreadable { path: path.clone(), why };
        let database = opened.map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(folder.to_owned()),
            redb::DatabaseError::Storage(redb::StorageError::Io(source))
                if source.kind() != std::io::ErrorKind::InvalidData =>
            {
                in_folder(source)
            }
            other => unreadable(other.to_string()),
        })?;
        let tables = || -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            write.open_table(RECORDS)?;
            write.open_table(TORRENTS)?;
            write.open_table(STATES)?;
            write.open_table(LIVES)?;
            Ok(write.commit()?)
        };
        tables().map_err(|error| unreadable(error.to_string()))?;

        let database = Arc::new(database);
        let (queue, requests) = mpsc::channel(QUEUE);
        let (ends, ended) = oneshot::channel();
        let writer = {
            let database = Arc::clone(&database);
            std::thread::Builder::new()
                .name("store".into())
                .spawn(move || {
                    // Dropped when the thread ends, whichever way.
                    let _ends: oneshot::Sender<()> = ends;
                    write_loop(&database, requests);
                })
                .map_err(in_folder)?
        };
        Ok(Self { database, queue, writer, ended: Some(ended) })
    }

    /// All channels that are kept. A statement that does not verify is passed over with a warning.
    pub fn load(&self) -> Result<Vec<(ChannelId, Kept)>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let read = self.database.begin_read()?;
            let torrents = read.open_table(TORRENTS)?;
            let mut channels: std::collections::BTreeMap<ChannelId, Kept> = Default::default();
            for row in read.open_table(STATES)?.iter()? {
                let (key, value) = row?;
                let channel = ChannelId::new(key.value());
                match SignedState::decode(value.value(), channel) {
                    Ok(state) => channels.entry(channel).or_default().state = Some(state),
                    Err(error) => warn!(%channel, %error, "passing over a state in the data folder"),
                }
            }
            for row in read.open_table(RECORDS)?.iter()? {
                let (key, value) = row?;
                let (channel, seq) = (ChannelId::new(key.value().0), key.value().1);
                let torrent = torrents.get(key.value())?.map(|torrent| torrent.value().len());
                match (SignedRecord::decode(value.value(), channel), torrent) {
                    (Ok(record), Some(torrent)) if record.seq.0 == seq => {
                        channels.entry(channel).or_default().entries.push(Entry::new(record, torrent));
                    }
                    _ => warn!(%channel, seq, "passing over a damaged record in the data folder"),
                }
            }
            for row in read.open_table(LIVES)?.iter()? {
                let (key, value) = row?;
                if let Some(kept) = channels.get_mut(&ChannelId::new(key.value())) {
                    kept.life = Life::decode(value.value());
                }
            }
            Ok(channels.into_iter().collect())
        };
        read().map_err(|error| StoreError::Unreadable { path: FILE.into(), why: error.to_string() })
    }

    /// What `look` makes of the torrent of a segment. Reads the disk: not for an async task.
    pub fn torrent<T>(
        &self,
        channel: &ChannelId,
        seq: SegmentSeq,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(TORRENTS)?;
            Ok(table.get((*channel.as_bytes(), seq.0))?.map(|torrent| look(torrent.value())))
        };
        read().map_err(|error| StoreError::Unreadable { path: FILE.into(), why: error.to_string() })
    }

    /// Makes changes, all or none; they are on disk when this returns.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let (done, result) = oneshot::channel();
        let gone = || StoreError::Write("the writer has ended".into());
        self.queue.send((changes, done)).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    /// Resolves when the writing thread has ended; for the first who asks.
    pub fn ended(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let ended = self.ended.take();
        async move {
            if let Some(ended) = ended {
                // It is only ever dropped.
                let _ = ended.await;
            }
        }
    }

    /// Waits for the writes that are under way and closes the file.
    pub fn close(self) {
        drop(self.queue);
        if self.writer.join().is_err() {
            warn!("the store's writer had panicked");
        }
    }
}

fn write_loop(database: &Database, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = requests.try_recv()
        {
            group.push(next);
        }
        let result = write(database, group.iter().flat_map(|(changes, _)| changes));
        if let Err(error) = &result {
            warn!(%error, "a write to the data folder failed");
        }
        for (_, done) in group {
            // Who asked may have gone.
            let _ = done.send(result.as_ref().map(|_| ()).map_err(|e| StoreError::Write(e.to_string())));
        }
    }
}

fn write<'a>(database: &Database, changes: impl Iterator<Item = &'a Change>) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut records = write.open_table(RECORDS)?;
        let mut torrents = write.open_table(TORRENTS)?;
        let mut states = write.open_table(STATES)?;
        let mut lives = write.open_table(LIVES)?;
        for change in changes {
            match change {
                Change::Put(record, torrent) => {
                    let key = (*record.channel.as_bytes(), record.seq.0);
                    records.insert(key, &*record.encode())?;
                    torrents.insert(key, &**torrent)?;
                }
                Change::SetState(state) => {
                    states.insert(*state.channel.as_bytes(), &*state.encode())?;
                }
                Change::Remove(channel, seq) => {
                    let key = (*channel.as_bytes(), seq.0);
                    records.remove(key)?;
                    torrents.remove(key)?;
                }
                Change::SetLife(channel, life) => {
                    lives.insert(*channel.as_bytes(), &life.encode()[..])?;
                }
                Change::Forget(channel) => {
                    let all = (*channel.as_bytes(), 0)..=(*channel.as_bytes(), u64::MAX);
                    records.retain_in(all.clone(), |_, _| false)?;
                    torrents.retain_in(all, |_, _| false)?;
                    states.remove(*channel.as_bytes())?;
                    lives.remove(*channel.as_bytes())?;
                }
            }
        }
    }
    Ok(write.commit()?)
}
