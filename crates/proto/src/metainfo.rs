//! `.torrent` files (BEP 3) of single-file torrents, with announce URLs (BEP 12) and web seeds (BEP 19).
//!
//! The info dictionary is kept as the bytes it came in, so that its hash is the swarm's, whatever keys it has.

use bytes::Bytes;

use crate::{
    Error, InfoHash, PieceHash, PieceLength,
    bencode::{Dict, DictWriter, Value},
    record::MAX_SEGMENT_LENGTH,
};

/// The longest `.torrent` in bytes. Ten minutes of 30 pieces a second are 360 kB.
pub const MAX_METAINFO_LENGTH: usize = 2 << 20;
/// How many announce URLs and how many web seeds are read; further ones are passed over.
pub const MAX_URLS: usize = 32;
/// The longest file name in bytes, as file systems have it.
pub const MAX_NAME_LENGTH: usize = 255;

const WHAT: &str = "a .torrent";

/// The info dictionary of a single-file torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// File name: no path, not hidden.
    pub name: String,
    /// Length of the file in bytes, above 0.
    pub length: u64,
    /// Length of its pieces.
    pub piece_length: PieceLength,
    /// The pieces' hashes in order.
    pub pieces: Vec<PieceHash>,
}

/// A `.torrent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metainfo {
    info: Info,
    info_bytes: Bytes,
    /// Announce URLs, best first. Text as found: check before use.
    pub announce: Vec<String>,
    /// Web seed URLs (BEP 19). Text as found: check before use.
    pub web_seeds: Vec<String>,
}

impl Metainfo {
    /// Makes the torrent of a file whose pieces are already hashed.
    ///
    /// Errors if `info` is not one that [`Metainfo::parse`] would accept.
    pub fn new(info: Info, announce: Vec<String>, web_seeds: Vec<String>) -> Result<Self, Error> {
        info.check()?;
        let pieces = info.pieces.iter().flat_map(|p| *p.as_bytes()).collect::<Vec<u8>>();
        let info_bytes = DictWriter::new()
            .number("length", info.length)
            .bytes("name", &info.name)
            .number("piece length", info.piece_length.get())
            .bytes("pieces", pieces)
            .finish();
        Ok(Self { info, info_bytes, announce, web_seeds })
    }

    /// Parses a `.torrent` of at most [`MAX_METAINFO_LENGTH`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Error::check_length(WHAT, bytes.len(), MAX_METAINFO_LENGTH)?;
        let torrent = Dict::parse(WHAT, bytes)?;
        let found = torrent.dict("info")?;
        if found.get("files").is_some() {
            return Err(Error::malformed(WHAT, "it holds several files; a segment is one file"));
        }
        let pieces = found.bytes("pieces")?;
        if pieces.len() % PieceHash::LENGTH != 0 {
            return Err(Error::malformed(WHAT, "its pieces are not a multiple of 20 bytes"));
        }
        let info = Info {
            name: found.text("name")?.to_owned(),
            length: found.number("length")?,
            piece_length: found.number::<u32>("piece length")?.try_into()?,
            pieces: pieces
                .chunks_exact(PieceHash::LENGTH)
                .map(PieceHash::try_from)
                .collect::<Result<_, _>>()?,
        };
        info.check()?;
        let mut announce = Vec::new();
        urls(torrent.get("announce"), &mut announce);
        urls(torrent.get("announce-list"), &mut announce);
        let mut web_seeds = Vec::new();
        urls(torrent.get("url-list"), &mut web_seeds);
        Ok(Self { info, info_bytes: Bytes::copy_from_slice(found.raw()), announce, web_seeds })
    }

    /// The `.torrent` file's bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = DictWriter::new();
        if let Some(first) = self.announce.first() {
            out = out.bytes("announce", first);
        }
        if self.announce.len() > 1 {
            // A tier each (BEP 12): tried in order.
            let tiers: String = self.announce.iter().map(|url| format!("l{}:{url}e", url.len())).collect();
            out = out.raw("announce-list", format!("l{tiers}e").as_bytes());
        }
        out = out.raw("info", &self.info_bytes);
        if !self.web_seeds.is_empty() {
            out = out.list("url-list", &self.web_seeds);
        }
        out.finish()
    }

    /// What the info dictionary says.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The info dictionary's bytes.
    pub fn info_bytes(&self) -> &Bytes {
        &self.info_bytes
    }

    /// The torrent's name in swarms.
    pub fn info_hash(&self) -> InfoHash {
        InfoHash::of(&self.info_bytes)
    }
}

/// Collects the URLs of a string, a list of strings (BEP 19 allows both), or a list of lists (BEP 12).
fn urls(value: Option<&Value<'_>>, found: &mut Vec<String>) {
    match value {
        Some(Value::Bytes(url)) => {
            if let Some(url) = std::str::from_utf8(url).ok().filter(|url| !url.is_empty())
                && found.len() < MAX_URLS
                && !found.iter().any(|known| known == url)
            {
                found.push(url.to_owned());
            }
        }
        Some(Value::List(list)) => list.iter().for_each(|item| urls(Some(item), found)),
        _ => {}
    }
}

impl Info {
    fn check(&self) -> Result<(), Error> {
        let fail = |why: &str| Err(Error::malformed(WHAT, why));
        let name = &self.name;
        if name.is_empty()
            || name.len() > MAX_NAME_LENGTH
            || name.starts_with('.')
            || name.contains(['/', '\\'])
            || name.chars().any(char::is_control)
        {
            return fail("its name is not a plain file name");
        }
        if self.length == 0 || self.length > MAX_SEGMENT_LENGTH {
            return fail("its length is out of bounds");
        }
        if self.piece_length.pieces_in(self.length) != self.pieces.len() as u64 {
            return fail("it has more or fewer hashes than its length has pieces");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_info() -> impl Strategy<Value = Info> {
        (prop::collection::vec(any::<[u8; 20]>(), 1..20), 1..=16_384u64, "[a-z0-9]{1,20}\\.ts").prop_map(
            |(pieces, last, name)| Info {
                name,
                length: (pieces.len() as u64 - 1) * 16_384 + last,
                piece_length: PieceLength::MIN,
                pieces: pieces.into_iter().map(PieceHash::new).collect(),
            },
        )
    }

    proptest! {
        #[test]
        fn round_trips(info in any_info(), announce in prop::collection::btree_set("http://[a-z]{1,9}/announce", 0..4), seeds in prop::collection::btree_set("http://[a-z]{1,9}/", 0..3)) {
            let torrent = Metainfo::new(info, announce.into_iter().collect(), seeds.into_iter().collect()).unwrap();
            prop_assert_eq!(Metainfo::parse(&torrent.encode()), Ok(torrent));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Metainfo::parse(&bytes);
        }
    }

    #[test]
    fn the_hash_covers_keys_that_are_not_known_here() {
        let with_private = b"d4:infod6:lengthi1e4:name1:a12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa7:privatei1eee";
        let torrent = Metainfo::parse(with_private).unwrap();
        let info = &with_private[7..with_private.len() - 1];
        assert_eq!(torrent.info_hash(), InfoHash::of(info));
        assert_eq!(Metainfo::parse(&torrent.encode()).unwrap().info_hash(), torrent.info_hash());
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() {
        for name in ["..", ".", "a/b", "/a", "..\\a", ""] {
            let bytes = format!(
                "d4:infod6:lengthi1e4:name{}:{name}12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaaee",
                name.len()
            );
            assert!(Metainfo::parse(bytes.as_bytes()).is_err(), "{name}");
        }
    }

    #[test]
    fn one_web_seed_may_stand_alone() {
        let bytes = b"d4:infod6:lengthi1e4:name1:a12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae8:url-list9:http://a/e";
        assert_eq!(Metainfo::parse(bytes).unwrap().web_seeds, ["http://a/"]);
    }
}
