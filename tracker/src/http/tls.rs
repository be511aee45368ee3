//! TLS for the tracker's HTTP, with the operator's certificate.
//!
//! A port takes HTTP and HTTPS alike: a TLS connection begins with a byte that begins no HTTP request. So BitTorrent clients
//! that know no TLS still find the tracker where it was.

use std::io;

use iroh_relay::server::streams::MaybeTlsStream;
use minuet_tls::{HANDSHAKE, Tls};
use tokio::net::TcpStream;

/// What is spoken over TLS.
pub const PROTOCOLS: &[&str] = &["http/1.1"];

/// Shakes hands with a client that speaks TLS; leaves one that does not as it is.
pub async fn accept(tls: &Tls, stream: TcpStream) -> io::Result<MaybeTlsStream> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 || first[0] != HANDSHAKE {
        return Ok(MaybeTlsStream::Plain(stream));
    }
    tls.acceptor().accept(stream).await.map(MaybeTlsStream::Tls)
}
