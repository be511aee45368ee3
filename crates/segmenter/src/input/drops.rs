//! Datagrams that the system dropped because nobody took them in time: Linux counts them for each socket (proc(5),
//! `/proc/net/udp`).

use std::{fs::File, io::Read as _, net::UdpSocket};

/// More of the table is not looked at: a hundred thousand sockets.
const MAX_TABLE: u64 = 16 << 20;
/// Places in a line of it.
const INODE: usize = 9;
const DROPS: usize = 12;

/// How many datagrams the system has dropped at the socket; none where it does not tell.
pub fn dropped(socket: &UdpSocket) -> Option<u64> {
    let inode = rustix::fs::fstat(socket).ok()?.st_ino;
    let is_v6 = socket.local_addr().ok()?.is_ipv6();
    let table = if is_v6 { "/proc/net/udp6" } else { "/proc/net/udp" };
    let mut text = String::new();
    File::open(table).ok()?.take(MAX_TABLE).read_to_string(&mut text).ok()?;
    of(&text, inode)
}

fn of(table: &str, inode: u64) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_it = words.get(INODE)?.parse() == Ok(inode);
        is_it.then(|| words.get(DROPS)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_socket_is_found() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n \
             1234: 0100007F:1388 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 777 2 00000000f3d1 42\n \
             1235: 0100007F:1389 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 778 2 00000000f3d2 0\n";
        assert_eq!((of(table, 777), of(table, 778), of(table, 779)), (Some(42), Some(0), None));
        assert_eq!(of("", 1), None);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(4096).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..64 {
            sender.send_to(&[0; 1316], socket.local_addr().unwrap()).unwrap();
        }
        assert!(dropped(&socket).is_some_and(|count| count > 0), "{:?}", dropped(&socket));
    }
}
