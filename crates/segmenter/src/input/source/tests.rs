use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

use super::*;

fn packets() -> Vec<u8> {
    [&[0x47, 0x1f, 0xff, 0x10][..], &[0xff; 184]].concat().repeat(200)
}

/// Whether what this server sends is paced, and whether its end is one for good.
fn judged(head: &str, body: Vec<u8>, realtime: Option<bool>) -> (bool, bool) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let input = Input::parse(&format!("http://{}/x", server.local_addr().unwrap())).unwrap();
    let head = head.to_owned();
    let serving = std::thread::spawn(move || {
        let (mut peer, _) = server.accept().unwrap();
        let _ = peer.read(&mut [0; 4096]).unwrap();
        peer.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let mut source = Source::open(&input, &InputOptions { realtime, ..InputOptions::default() }).unwrap();
    let mut buf = vec![0; super::super::READ_LEN];
    while matches!(source.pace, Pace::Undecided) {
        source.read(&mut buf, super::super::MAX_WAIT).unwrap();
    }
    serving.join().unwrap();
    (matches!(source.pace, Pace::Own(_)), !source.is_endless())
}

#[test]
fn what_has_a_length_is_paced_and_ends() {
    let body = packets();
    let finite = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let endless = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    assert_eq!(judged(&finite, body.clone(), None), (true, true));
    assert_eq!(judged(&finite, body.clone(), Some(false)), (false, true), "--no-realtime wins");
    assert_eq!(judged(endless, body.clone(), None), (false, false));
    assert_eq!(judged(endless, body.clone(), Some(true)), (true, false), "--realtime wins");
    // As tuners have it that know no end.
    let vast = "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n";
    assert_eq!(judged(vast, body, None), (false, false));
}

#[test]
fn files_are_paced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.ts");
    std::fs::write(&path, packets()).unwrap();
    let mut source = Source::open(&Input::File(path), &InputOptions::default()).unwrap();
    source.read(&mut vec![0; super::super::READ_LEN], super::super::MAX_WAIT).unwrap();
    assert!(matches!(source.pace, Pace::Own(_)) && !source.is_endless());
}
