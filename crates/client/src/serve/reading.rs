//! Media on its way to a player: copied from the shelf a chunk at a time, when the player has taken the one before.
//!
//! An answer holds no more of a segment than a chunk, however slowly it is read. A segment that leaves the shelf's memory
//! meanwhile is read on from its file.

use std::{fs::File, io, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, stream::try_unfold};
use minuet_serve::file::{self, CHUNK};

use super::shelf::{Place, Read, Shelf};

/// `count` bytes of what is at `place`, from `first` on.
pub fn chunks(
    shelf: Arc<Shelf>,
    place: Place,
    first: u64,
    count: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let end = first.saturating_add(count);
    try_unfold((shelf, first, None), move |(shelf, at, file)| async move {
        let most = usize::try_from(end.saturating_sub(at)).unwrap_or(CHUNK).min(CHUNK);
        if most == 0 {
            return Ok(None);
        }
        let (chunk, file) = match file {
            Some(file) => (file::chunk(&file, at, most).await?, Some(file)),
            None => match shelf.read(place, at, most) {
                Read::Bytes(bytes) => (bytes, None),
                Read::File(path) => {
                    let opened = tokio::task::spawn_blocking(move || File::open(path)).await;
                    let file = Arc::new(opened.map_err(io::Error::other)??);
                    (file::chunk(&file, at, most).await?, Some(file))
                }
                Read::None => return Err(io::ErrorKind::NotFound.into()),
            },
        };
        let next = at.saturating_add(chunk.len() as u64);
        Ok(Some((chunk, (shelf, next, file))))
    })
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures_util::{StreamExt as _, TryStreamExt as _};
    use minuet_remux::{Event, Pace, Transport};

    use super::*;
    use crate::serve::shelf::{Found, Row};

    const LENGTH: usize = 100_000;

    /// A segment's bytes, counted as long as they are in memory.
    struct Counted(Vec<u8>, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn media(number: u64) -> Vec<u8> {
        (0..LENGTH).map(|at| (at as u64 * 31 + number) as u8).collect()
    }

    /// Puts segments on the shelf, two seconds each.
    async fn put(shelf: &Shelf, numbers: std::ops::Range<u64>, in_memory: &Arc<AtomicUsize>) {
        for number in numbers {
            in_memory.fetch_add(1, Ordering::SeqCst);
            let bytes = Bytes::from_owner(Counted(media(number), Arc::clone(in_memory)));
            let duration = Duration::from_secs(2);
            let segment =
                Transport { number, start_ms: number * 2000, discontinuity: false, duration, bytes };
            shelf.take(vec![Event::Transport(segment)]).await;
        }
    }

    #[tokio::test]
    async fn who_reads_slowly_holds_nothing_and_gets_all() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Arc::new(Shelf::new(dir.path().to_owned(), Duration::from_secs(3600), 1));
        let in_memory = Arc::new(AtomicUsize::new(0));
        let pace = Pace { segment_s: 2, part: Duration::from_millis(500), has_pictures: true };
        shelf.take(vec![Event::Ready(pace)]).await;
        let mut readers = Vec::new();
        for number in 1..40 {
            put(&shelf, number..number + 1, &in_memory).await;
            let Found::Here(length) = shelf.segment(Row::Feed, number) else { panic!("it is here") };
            let place = Place { row: Row::Feed, number, part: None };
            let mut reader = Box::pin(chunks(Arc::clone(&shelf), place, 10, length - 10));
            let first = reader.next().await.unwrap().unwrap();
            assert_eq!(first, media(number)[10..10 + first.len()]);
            readers.push((number, reader, first));
        }
        assert!(in_memory.load(Ordering::SeqCst) < 8, "{in_memory:?} segments are in memory");
        for (number, reader, first) in readers {
            let rest: Vec<Bytes> = reader.try_collect().await.unwrap();
            assert!(rest.iter().all(|chunk| chunk.len() <= CHUNK));
            assert!([&first[..], &rest.concat()].concat() == media(number)[10..], "segment {number}");
        }
    }

    #[tokio::test]
    async fn what_has_left_the_shelf_breaks_off() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Arc::new(Shelf::new(dir.path().to_owned(), Duration::from_secs(3600), 1));
        let place = Place { row: Row::Feed, number: 7, part: None };
        let mut reader = Box::pin(chunks(shelf, place, 0, 10));
        assert_eq!(reader.next().await.unwrap().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
