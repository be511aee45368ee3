//! Listening on both families of addresses.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that the system may keep waiting.
const BACKLOG: i32 = 1024;

/// Listens on `address`. `[::]` takes IPv4 as well; where the system has no IPv6 it is `0.0.0.0`.
///
/// # Errors
/// What the system says: the port is taken, the address is not this machine's. Must be called in a runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match bind(address) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && no_ipv6(&error) => {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restarted program gets its port back although connections of the one before linger.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether the system says that it has no IPv6: not built in, or switched off.
fn no_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let switched_off = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL, Errno::PROTONOSUPPORT];
    error.raw_os_error().is_some_and(|code| switched_off.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn any_address_is_that_of_both_families() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (_, from) = listener.accept().await.unwrap();
        assert_eq!(from.ip().to_canonical(), Ipv4Addr::LOCALHOST);
        assert!(listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).is_err(), "it is taken");
    }

    #[test]
    fn a_system_without_ipv6_is_recognised() {
        let error = |errno: rustix::io::Errno| io::Error::from(errno);
        assert!(no_ipv6(&error(rustix::io::Errno::AFNOSUPPORT)));
        assert!(!no_ipv6(&error(rustix::io::Errno::ADDRINUSE)));
    }
}
