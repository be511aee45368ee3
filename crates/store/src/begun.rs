//! The number of the segment that was begun last, in one short line that is overwritten in place: a full disk has room
//! for it once it is there. A number whose pieces may have been seen live is never given to another segment, also when
//! the segment was never sealed.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use minuet_proto::{ChannelId, SegmentSeq};

use crate::Error;

/// A line is short; what is longer is not ours.
const MAX_LINE: u64 = 128;

/// The file `begun` in a data folder.
#[derive(Debug)]
pub(crate) struct Begun {
    file: File,
    path: PathBuf,
    channel: ChannelId,
    /// What it said when it was opened.
    pub(crate) found: Option<SegmentSeq>,
}

impl Begun {
    pub(crate) fn open(dir: &Path, channel: ChannelId) -> Result<Self, Error> {
        let path = dir.join("begun");
        let mut file =
            minuet_files::open(File::options().create(true).truncate(false).read(true).write(true), &path)
                .map_err(Error::of(&path))?;
        let mut line = Vec::new();
        file.by_ref().take(MAX_LINE).read_to_end(&mut line).map_err(Error::of(&path))?;
        let found = parse(&line, channel);
        Ok(Self { file, path, channel, found })
    }

    pub(crate) fn note(&self, seq: SegmentSeq) -> Result<(), Error> {
        // Always of one length, so that nothing of the line before is left.
        let line = format!("{} {:020}\n", self.channel, seq.0);
        self.file.write_all_at(line.as_bytes(), 0).map_err(Error::of(&self.path))
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::of(&self.path))
    }
}

/// What a line says about `channel`. One of another channel, or half of one, says nothing.
fn parse(line: &[u8], channel: ChannelId) -> Option<SegmentSeq> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (of, seq) = line.split_once(' ')?;
    (of == channel.to_string()).then(|| seq.parse().ok().map(SegmentSeq)).flatten()
}

#[cfg(test)]
mod tests {
    use minuet_proto::ChannelKey;

    use super::*;

    #[test]
    fn the_last_number_is_found_again_by_its_channel_only() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (mine, other) =
            (ChannelKey::from_seed(&[1; 32]).channel(), ChannelKey::from_seed(&[2; 32]).channel());
        let open = |channel| Begun::open(dir.path(), channel).map_err(std::io::Error::other);
        let begun = open(mine)?;
        assert_eq!(begun.found, None);
        for seq in [u64::MAX, 7] {
            begun.note(SegmentSeq(seq)).map_err(std::io::Error::other)?;
            assert_eq!(open(mine)?.found, Some(SegmentSeq(seq)));
        }
        assert_eq!(open(other)?.found, None);
        std::fs::write(dir.path().join("begun"), b"\xff 7")?;
        assert_eq!(open(mine)?.found, None);
        Ok(())
    }
}
