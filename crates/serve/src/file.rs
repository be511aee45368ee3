//! Files as answers: read in chunks, each when the reader has taken the one before.

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream::try_unfold};

/// The length of a chunk in bytes: what an answer holds in memory besides [`MAX_BUFFER`](crate::MAX_BUFFER).
pub const CHUNK: usize = 16 << 10;

/// `length` bytes of a file from `first` on. A file that ends before is an error, which breaks the answer off.
pub fn chunks(file: File, first: u64, length: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let end = first.saturating_add(length);
    try_unfold((Arc::new(file), first), move |(file, at)| async move {
        let len = usize::try_from(end.saturating_sub(at)).unwrap_or(CHUNK).min(CHUNK);
        if len == 0 {
            return Ok(None);
        }
        let chunk = chunk(&file, at, len).await?;
        Ok(Some((chunk, (file, at.saturating_add(len as u64)))))
    })
}

/// `length` bytes of a file from `at` on.
///
/// # Errors
/// The file ends before, or cannot be read.
pub async fn chunk(file: &Arc<File>, at: u64, length: usize) -> io::Result<Bytes> {
    let file = Arc::clone(file);
    let read = move || {
        let mut chunk = BytesMut::zeroed(length);
        file.read_exact_at(&mut chunk, at).map(|()| chunk.freeze())
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn a_part_comes_in_chunks_and_a_short_file_is_an_error() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let read = async |first, length| {
            chunks(file.try_clone().unwrap(), first, length).try_collect::<Vec<_>>().await
        };
        let part = read(5, 40_000).await.unwrap();
        assert!(part.iter().all(|chunk| chunk.len() <= CHUNK));
        assert_eq!(part.concat(), bytes[5..40_005]);
        assert!(read(0, 0).await.unwrap().is_empty());
        assert_eq!(read(99_000, 2000).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
