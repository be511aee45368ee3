//! The head of a request that is answered here; of any other it is only said that it is none.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use minuet_proto::ChannelId;

/// The most header fields that are read; browsers send about 15.
const MAX_FIELDS: usize = 32;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// `/announce`
    Announce,
    /// `/scrape`
    Scrape,
    /// `/c/<channel>/events`
    Events(ChannelId),
}

/// A request's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    /// What is asked for.
    pub ask: Ask,
    /// What follows the `?`.
    pub query: &'a str,
    /// Whether the client wants no other answer on this connection.
    pub close: bool,
    /// The header `Last-Event-ID`.
    pub last_event_id: Option<&'a [u8]>,
    /// `Forwarded` and `X-Forwarded-For`, when they are asked for.
    pub forwarded: HeaderMap,
    /// Bytes of the head, the empty line included.
    pub length: usize,
}

/// Why there is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Not {
    /// There is more to come.
    Whole,
    /// It is for others to answer.
    Ours,
}

impl<'a> Head<'a> {
    /// Reads the head that `bytes` begin with, if it is there as a whole and one of those that are answered here: GET,
    /// HTTP/1.1, without a body and without a wish for another protocol.
    pub fn parse(bytes: &'a [u8], by_proxy: bool) -> Result<Self, Not> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => {
                Self::accept(&request, length, by_proxy).ok_or(Not::Ours)
            }
            // As soon as it can be told.
            Ok(httparse::Status::Partial) if request.method.is_none_or(|method| method == "GET") => {
                Err(Not::Whole)
            }
            _ => Err(Not::Ours),
        }
    }

    fn accept(request: &httparse::Request<'_, 'a>, length: usize, by_proxy: bool) -> Option<Self> {
        if (request.method, request.version) != (Some("GET"), Some(1)) {
            return None;
        }
        let target = request.path?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let ask = match path {
            "/announce" => Ask::Announce,
            "/scrape" => Ask::Scrape,
            _ => Ask::Events(path.strip_prefix("/c/")?.strip_suffix("/events")?.parse().ok()?),
        };
        let (mut close, mut last_event_id, mut forwarded) = (false, None, HeaderMap::new());
        for field in request.headers.iter() {
            let is = |name| field.name.eq_ignore_ascii_case(name);
            if is("connection") {
                close = match field.value {
                    value if value.eq_ignore_ascii_case(b"close") => true,
                    value if value.eq_ignore_ascii_case(b"keep-alive") => false,
                    _ => return None,
                };
            } else if is("content-length") || is("transfer-encoding") || is("upgrade") || is("expect") {
                return None;
            } else if is("last-event-id") {
                last_event_id = Some(field.value);
            } else if by_proxy && (is("forwarded") || is("x-forwarded-for")) {
                let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
                forwarded.append(name, HeaderValue::from_bytes(field.value).ok()?);
            }
        }
        Some(Self { ask, query, close, last_event_id, forwarded, length })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHANNEL: &str = "1111111111111111111111111111111111111111111111111111111111111111";

    fn head(text: &str) -> Result<Head<'_>, Not> {
        Head::parse(text.as_bytes(), false)
    }

    #[test]
    fn what_is_asked_most_is_recognised() {
        let text = "GET /announce?a=b HTTP/1.1\r\nHost: t.example\r\n\r\nGET /next";
        let announce = head(text).unwrap();
        assert_eq!((announce.ask, announce.query, announce.close), (Ask::Announce, "a=b", false));
        assert_eq!(&text[announce.length..], "GET /next");
        let scrape = head("GET /scrape HTTP/1.1\r\nconnection: Close\r\n\r\n").unwrap();
        assert_eq!((scrape.ask, scrape.query, scrape.close), (Ask::Scrape, "", true));
        let text = format!("GET /c/{CHANNEL}/events?from=3 HTTP/1.1\r\nLAST-EVENT-ID: 7\r\n\r\n");
        let events = head(&text).unwrap();
        assert_eq!(events.ask, Ask::Events(CHANNEL.parse().unwrap()));
        assert_eq!((events.query, events.last_event_id), ("from=3", Some(&b"7"[..])));
    }

    #[test]
    fn all_else_is_left_to_others() {
        for text in [
            "GET /announce HTTP/1.0\r\n\r\n",
            "HEAD /announce HTTP/1.1\r\n\r\n",
            "POST /announce HTTP/1.1\r\n\r\n",
            "GET /announced HTTP/1.1\r\n\r\n",
            "GET http://t.example/announce HTTP/1.1\r\n\r\n",
            "GET /c/12/events HTTP/1.1\r\n\r\n",
            "GET /announce HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
            "GET /announce HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET /announce HTTP/1.1\r\nexpect: 100-continue\r\n\r\n",
            "GET /announce HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            "\x16\x03\x01\x02\0\x01\0",
        ] {
            assert_eq!(head(text), Err(Not::Ours), "{text:?}");
        }
    }

    #[test]
    fn a_head_that_is_cut_off_is_waited_for_unless_it_is_for_others() {
        let whole = "GET /announce?a=b HTTP/1.1\r\nhost: t.example\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(head(&whole[..length]), Err(Not::Whole), "{length}");
        }
        assert_eq!(head("POST /c/12/join HTTP/1.1\r\nhost: t.ex"), Err(Not::Ours));
    }

    #[test]
    fn what_a_proxy_says_is_read_only_when_asked_for() {
        let text = b"GET /announce HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\nforwarded: for=x\r\n\r\n";
        assert!(Head::parse(text, false).unwrap().forwarded.is_empty());
        let forwarded = Head::parse(text, true).unwrap().forwarded;
        assert_eq!(
            (&forwarded["x-forwarded-for"], &forwarded["forwarded"]),
            (&"192.0.2.1".parse().unwrap(), &"for=x".parse().unwrap())
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), tail in "[ -~\r\n]{0,200}") {
            let _ = Head::parse(&bytes, true);
            let text = format!("GET /announce{tail}\r\n\r\n");
            if let Ok(head) = Head::parse(text.as_bytes(), true) {
                prop_assert!(head.length <= text.len());
            }
        }
    }
}
