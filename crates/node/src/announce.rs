//! Telling a tracker that this node has a minute (BEP 3), where the BitTorrent engine does not do it: a source
//! announces a minute after the tracker has its record, and not before, since until then the tracker refuses.

use std::{fmt::Write as _, time::Duration};

use minuet_proto::{InfoHash, PeerId, bencode::Dict};

use crate::{Error, TrackerClient};

/// The longest answer that is read. No peers are asked for.
const MAX_ANSWER: usize = 4096;
/// The shortest interval that a tracker may ask for.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);
/// The longest interval that a tracker may ask for: after that it is asked again anyway.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);

/// A node that has the whole of a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    /// The minute.
    pub info_hash: InfoHash,
    /// The node's id in this run.
    pub peer_id: PeerId,
    /// Where peers connect to, at the address that the request comes from.
    pub port: u16,
    /// Payload bytes sent of it so far.
    pub uploaded: u64,
    /// Not announced before in this run.
    pub started: bool,
}

impl TrackerClient {
    /// Announces a seed. Returns when to announce it again.
    pub async fn announce(&self, seed: &Seed) -> Result<Duration, Error> {
        let mut url = self.url("announce");
        url.set_query(Some(&seed.query()));
        let answer = self.get(url, MAX_ANSWER).await?;
        interval(&answer)
    }
}

impl Seed {
    fn query(&self) -> String {
        let mut query = String::new();
        for (key, value) in
            [("info_hash=", self.info_hash.as_bytes()), ("&peer_id=", self.peer_id.as_bytes())]
        {
            query.push_str(key);
            for byte in value {
                // Writing to a string cannot fail.
                let _ = write!(query, "%{byte:02X}");
            }
        }
        let _ = write!(
            query,
            "&port={}&uploaded={}&downloaded=0&left=0&compact=1&numwant=0",
            self.port, self.uploaded
        );
        if self.started {
            query.push_str("&event=started");
        }
        query
    }
}

fn interval(answer: &[u8]) -> Result<Duration, Error> {
    let answer = Dict::parse("an announce answer", answer)?;
    if let Ok(reason) = answer.text("failure reason") {
        return Err(Error::Refused { status: 200, said: reason.replace(char::is_control, "") });
    }
    let seconds: u32 = answer.number("interval")?;
    Ok(Duration::from_secs(seconds.into()).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_that_of_bep_3() {
        let seed = Seed {
            info_hash: InfoHash::new([0xab; 20]),
            peer_id: PeerId::new(*b"-MN0100-abcdefghijkl"),
            port: 7081,
            uploaded: 5,
            started: true,
        };
        let query = seed.query();
        assert!(query.starts_with(&format!("info_hash={}&peer_id=%2D%4D", "%AB".repeat(20))), "{query}");
        assert!(
            query.ends_with("&port=7081&uploaded=5&downloaded=0&left=0&compact=1&numwant=0&event=started")
        );
    }

    #[test]
    fn answers_are_not_believed_blindly() {
        assert_eq!(interval(b"d8:intervali120e5:peers0:e").ok(), Some(Duration::from_secs(120)));
        assert_eq!(interval(b"d8:intervali0ee").ok(), Some(SHORTEST_INTERVAL));
        assert_eq!(interval(b"d8:intervali4000000000ee").ok(), Some(LONGEST_INTERVAL));
        assert!(matches!(interval(b"d14:failure reason2:noe"), Err(Error::Refused { .. })));
        for garbage in [&b""[..], b"x", b"de", b"d8:intervali-1ee", b"<html>"] {
            assert!(interval(garbage).is_err());
        }
    }
}
