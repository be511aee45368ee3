//! The request by which a client asks for a WebSocket (RFC 6455, 4.2) in one of the relay protocol's versions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Response, StatusCode};
use iroh_relay::http::ProtocolVersion;
use sha1::{Digest as _, Sha1};

/// The one version of the WebSocket protocol.
const WEBSOCKET_VERSION: &str = "13";
/// What is hashed with the client's key (RFC 6455, 1.3).
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What the client asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// The newest version of the relay protocol that both speak.
    pub version: ProtocolVersion,
    /// Shows that its request was read.
    accept: String,
}

impl Asked {
    /// Reads the head of a request. The error is the answer, in a sentence.
    pub fn read(headers: &HeaderMap) -> Result<Self, String> {
        let field = |name: HeaderName| {
            let value = headers.get(&name).and_then(|value| value.to_str().ok());
            value.ok_or_else(|| {
                format!("the relay server takes WebSockets only; this request has no {name}\n")
            })
        };
        if !field(UPGRADE)?.eq_ignore_ascii_case("websocket")
            || field(SEC_WEBSOCKET_VERSION)? != WEBSOCKET_VERSION
        {
            return Err(format!("the relay server takes WebSockets of version {WEBSOCKET_VERSION} only\n"));
        }
        let asked = field(SEC_WEBSOCKET_PROTOCOL)?;
        let version = asked.split(',').filter_map(|name| ProtocolVersion::match_from_str(name.trim())).max();
        let version = version
            .ok_or_else(|| format!("the relay server speaks {} only\n", ProtocolVersion::all_joined()))?;
        let mut hash = Sha1::new_with_prefix(field(SEC_WEBSOCKET_KEY)?);
        hash.update(ACCEPT_SUFFIX);
        Ok(Self { version, accept: STANDARD.encode(hash.finalize()) })
    }

    /// The answer after which the connection is the client's WebSocket.
    pub fn answer(self) -> Response<Vec<u8>> {
        let mut response = Response::new(Vec::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, self.version.to_header_value());
        // Base64 is fit for a header.
        if let Ok(accept) = HeaderValue::try_from(self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(change: impl FnOnce(&mut HeaderMap)) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        headers
            .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("other, iroh-relay-v1, iroh-relay-v2"));
        change(&mut headers);
        headers
    }

    #[test]
    fn a_websocket_is_answered_as_rfc_6455_has_it() {
        let answer = Asked::read(&headers(|_| {})).unwrap().answer();
        assert_eq!(answer.status(), 101);
        // The example of RFC 6455, 1.3.
        assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()[SEC_WEBSOCKET_PROTOCOL], "iroh-relay-v2");
    }

    #[test]
    fn what_asks_for_something_else_is_told_what_there_is() {
        for name in [UPGRADE, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL] {
            let told = Asked::read(&headers(|headers| drop(headers.remove(&name)))).unwrap_err();
            assert!(told.contains(name.as_str()), "{told}");
        }
        for (name, other) in
            [(UPGRADE, "h2c"), (SEC_WEBSOCKET_VERSION, "12"), (SEC_WEBSOCKET_PROTOCOL, "chat")]
        {
            let other = HeaderValue::from_static(other);
            assert!(Asked::read(&headers(|headers| drop(headers.insert(name, other)))).is_err());
        }
    }
}
