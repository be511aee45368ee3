//! Messages between nodes of the DHT (BEP 5, 32, 44), each one datagram.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use minuet_proto::{
    Error,
    bencode::{Dict, DictWriter, Value},
};

use crate::{Id, Item, id::ID_LEN, item::SIGNATURE_LEN};

/// The longest datagram that is read; nodes of the DHT send no longer ones.
pub const MAX_DATAGRAM: usize = 1500;
/// Most nodes of each family that are taken from one answer.
pub const MAX_NAMED: usize = 16;
/// The longest token that is given back to its node.
const MAX_TOKEN: usize = 64;
/// How this program says what it is: two letters and a version.
const VERSION: &[u8] = b"MN\x00\x01";
const WHAT: &str = "a message of the DHT";

/// What an answer is known by. Four bytes: some nodes take no others.
pub type Transaction = u32;

/// What this node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Asks for an item, and for nodes near to it.
    Get {
        /// Where the item lies.
        target: Id,
    },
    /// Gives an item.
    Put {
        /// What the node said when it was asked for the item.
        token: Bytes,
        /// The item.
        item: Item,
    },
}

impl Query {
    /// The datagram, from a node of this name.
    pub fn encode(&self, own: &Id, transaction: Transaction) -> Bytes {
        let (method, arguments) = match self {
            Self::Get { target } => {
                let arguments =
                    DictWriter::new().bytes("id", own.0).bytes("target", target.0).list("want", ["n4", "n6"]);
                ("get", arguments.finish())
            }
            Self::Put { token, item } => {
                let mut arguments = DictWriter::new().bytes("id", own.0).bytes("k", item.key().as_bytes());
                if !item.salt().is_empty() {
                    arguments = arguments.bytes("salt", item.salt());
                }
                let arguments = arguments
                    .number("seq", item.seq())
                    .bytes("sig", item.signature())
                    .bytes("token", token)
                    .raw("v", item.value());
                ("put", arguments.finish())
            }
        };
        // Read-only (BEP 43): nobody needs to remember this node, which answers nothing.
        DictWriter::new()
            .raw("a", &arguments)
            .bytes("q", method)
            .number("ro", 1)
            .bytes("t", transaction.to_be_bytes())
            .bytes("v", VERSION)
            .bytes("y", "q")
            .finish()
    }
}

/// A node that another one has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// Its name, as it was told.
    pub id: Id,
    /// Where it is.
    pub addr: SocketAddr,
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its name.
    pub id: Id,
    /// Nodes that are nearer.
    pub nodes: Vec<Named>,
    /// What it wants to see again from who gives it an item.
    pub token: Option<Bytes>,
    /// A value with its number and signature, unchecked.
    pub value: Option<(i64, Bytes, [u8; SIGNATURE_LEN])>,
}

/// What comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// An answer.
    Answer(Transaction, Box<Answer>),
    /// A refusal.
    Refusal(Transaction),
    /// Somebody asks something: this node answers nothing.
    Query,
}

impl Message {
    /// Parses a datagram.
    ///
    /// # Errors
    /// It is none of these.
    pub fn decode(datagram: &[u8]) -> Result<Self, Error> {
        Error::check_length(WHAT, datagram.len(), MAX_DATAGRAM)?;
        let dict = Dict::parse(WHAT, datagram)?;
        match dict.bytes("y")? {
            b"q" => Ok(Self::Query),
            b"e" => Ok(Self::Refusal(transaction(&dict)?)),
            b"r" => Ok(Self::Answer(transaction(&dict)?, Box::new(answer(dict.dict("r")?)?))),
            _ => Err(Error::malformed(WHAT, "it is neither question nor answer")),
        }
    }
}

fn transaction(dict: &Dict<'_>) -> Result<Transaction, Error> {
    let bytes = dict.bytes("t")?;
    <[u8; 4]>::try_from(bytes)
        .map(Transaction::from_be_bytes)
        .map_err(|_| Error::malformed(WHAT, "it answers nothing that was asked here"))
}

fn answer(dict: &Dict<'_>) -> Result<Answer, Error> {
    let id = id(dict.bytes("id")?).ok_or_else(|| Error::malformed(WHAT, "its name has no 20 bytes"))?;
    let list = |key| match dict.get(key) {
        Some(Value::Bytes(bytes)) => *bytes,
        _ => &[][..],
    };
    let mut nodes = named::<4>(list("nodes"), |ip| Ipv4Addr::from(ip).into());
    nodes.extend(named::<16>(list("nodes6"), |ip: [u8; 16]| Ipv6Addr::from(ip).into()));
    let token = match dict.get("token") {
        Some(Value::Bytes(token)) if token.len() <= MAX_TOKEN => Some(Bytes::copy_from_slice(token)),
        _ => None,
    };
    Ok(Answer { id, nodes, token, value: value(dict) })
}

/// Only dictionaries are values here: an item of BEP 46 is one.
fn value(dict: &Dict<'_>) -> Option<(i64, Bytes, [u8; SIGNATURE_LEN])> {
    let value = dict.dict("v").ok()?;
    let signature = dict.bytes("sig").ok()?.try_into().ok()?;
    Some((dict.number("seq").ok()?, Bytes::copy_from_slice(value.raw()), signature))
}

fn id(bytes: &[u8]) -> Option<Id> {
    bytes.try_into().ok().map(Id)
}

/// Nodes as they stand in a row: name, address, port.
fn named<const IP: usize>(row: &[u8], ip: impl Fn([u8; IP]) -> std::net::IpAddr) -> Vec<Named> {
    let entries = row.chunks_exact(ID_LEN.saturating_add(IP).saturating_add(2)).take(MAX_NAMED);
    let read = entries.filter_map(|entry| {
        let (name, rest) = entry.split_at_checked(ID_LEN)?;
        let (address, port) = rest.split_at_checked(IP)?;
        let addr = SocketAddr::new(ip(address.try_into().ok()?), u16::from_be_bytes(port.try_into().ok()?));
        Some(Named { id: id(name)?, addr })
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use minuet_proto::ChannelKey;
    use proptest::prelude::*;

    use super::*;

    fn response(inner: DictWriter) -> Bytes {
        DictWriter::new().raw("r", &inner.finish()).bytes("t", [0, 0, 1, 2]).bytes("y", "r").finish()
    }

    #[test]
    fn what_is_asked_is_what_the_specification_shows() {
        let (own, target) = (Id(*b"abcdefghij0123456789"), Id(*b"mnopqrstuvwxyz123456"));
        assert_eq!(
            Query::Get { target }.encode(&own, 0x6161_6161),
            &b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz1234564:wantl2:n42:n6ee1:q3:get2:roi1e1:t4:aaaa1:v4:MN\x00\x011:y1:qe"[..]
        );
        let key = ChannelKey::from_seed(&[1; 32]);
        let item = Item::sign(&key, Bytes::new(), 5, Bytes::from_static(b"d2:ihi1ee")).unwrap();
        let put = Query::Put { token: Bytes::from_static(b"tok"), item: item.clone() }.encode(&own, 1);
        let dict = Dict::parse(WHAT, &put).unwrap();
        let arguments = dict.dict("a").unwrap();
        assert_eq!(arguments.bytes("k").unwrap(), key.channel().as_bytes());
        assert_eq!(arguments.dict("v").unwrap().raw(), item.value());
        assert!(arguments.get("salt").is_none() && put.len() <= MAX_DATAGRAM);
    }

    #[test]
    fn answers_are_read_as_far_as_they_are_of_use() {
        let mut v4 = [7; 26];
        v4[20..].copy_from_slice(&[192, 0, 2, 1, 0x1a, 0xe1]);
        let mut v6 = [8; 38];
        v6[36..].copy_from_slice(&[0x1a, 0xe1]);
        let inner = DictWriter::new()
            .bytes("id", [9; 20])
            .bytes("nodes", [v4.as_slice(), &v4, b"rest"].concat())
            .bytes("nodes6", v6)
            .number("seq", 3)
            .bytes("sig", [1; 64])
            .bytes("token", "t")
            .raw("v", b"d1:xi1ee");
        let Message::Answer(0x0102, answer) = Message::decode(&response(inner)).unwrap() else {
            panic!("an answer")
        };
        assert_eq!(answer.nodes.len(), 3);
        assert_eq!(answer.nodes[0], Named { id: Id([7; 20]), addr: "192.0.2.1:6881".parse().unwrap() });
        assert_eq!(answer.value.unwrap().1, &b"d1:xi1ee"[..]);
        assert_eq!(answer.token.unwrap(), &b"t"[..]);
        let many =
            DictWriter::new().bytes("id", [9; 20]).bytes("nodes", [7; 26 * 40]).bytes("token", [0; 65]);
        let Message::Answer(_, answer) = Message::decode(&response(many)).unwrap() else {
            panic!("an answer")
        };
        assert_eq!((answer.nodes.len(), answer.token), (MAX_NAMED, None));
        assert!(Message::decode(&[b'x'; MAX_DATAGRAM + 1]).is_err());
        assert_eq!(Message::decode(b"d1:t4:aaaa1:y1:ee").unwrap(), Message::Refusal(0x6161_6161));
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&bytes);
            let inner = DictWriter::new().bytes("id", [9; 20]).bytes("nodes", &bytes).bytes("token", &bytes);
            let _ = Message::decode(&response(inner));
        }
    }
}
