//! What strangers may do to a broadcast, and what they may read.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use crate::common::{CLIP, Segmenter, contents, numbers};

/// More connections than the segmenter may have files open.
const CROWD: usize = 500;
const FILES: u32 = 400;

/// A connection from an address of the loopback network.
fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// The status of an answer to a request from elsewhere.
fn ask(to: SocketAddr, path: &str) -> String {
    let mut stream = connect([127, 1, 0, 1], to);
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_crowd_of_connections_costs_no_segment_and_shuts_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["-", "--segment", "1s", "--status", "127.0.0.1:0"];
    let mut segmenter = Segmenter::start_with_files(FILES, dir.path(), &arguments);
    segmenter.wait_for("this process may have only 400 files open");
    let status = segmenter.wait_for("status page: ");
    let status = status.split_once("http://").unwrap().1.split_once('/').unwrap().0.parse().unwrap();
    let (_, web) = segmenter.addresses();
    let web = web.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
    let channel = segmenter.link().channel;
    let half = CLIP.len() / 2;
    segmenter.feed(&CLIP[..half]);
    segmenter.wait_for("segment 1 sealed");

    // Some say nothing, and some ask for a segment and do not read it.
    let name = minuet_proto::record::segment_file_name(&channel, minuet_proto::SegmentSeq(0));
    let mut crowd = Vec::new();
    for to in [web, status] {
        for number in 0..CROWD {
            let mut stream = connect([127, 0, 0, 1], to);
            if number % 3 == 0 {
                // Refused perhaps: then it is gone.
                let _ = write!(stream, "GET /segments/{name} HTTP/1.1\r\nhost: x\r\n\r\n");
            }
            crowd.push(stream);
        }
    }
    segmenter.feed(&CLIP[half..]);
    segmenter.wait_for("segment 5 sealed");
    assert!(ask(web, &format!("/segments/{name}")).ends_with("200 OK"));
    assert!(ask(status, "/metrics").ends_with("200 OK"));
    segmenter.end_feed();
    segmenter.wait_for("the feed has ended");
    segmenter.terminate();
    let (ended, _, log) = segmenter.finish();
    assert!(ended.success(), "{log}");
    assert!(!log.contains("oo many open files"), "{log}");
    let records = contents(dir.path()).0;
    assert_eq!(numbers(&records), (0..records.len() as u64).collect::<Vec<_>>(), "none is missing");
    drop(crowd);
}

#[test]
fn secrets_of_inputs_are_in_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let input = format!("http://alice:hunter2@{nobody}/live.ts?token=sesame123");
    let mut segmenter = Segmenter::start(dir.path(), &[&input]);
    let line = segmenter.wait_for("trying again");
    assert!(line.contains("http://alice:***@") && line.contains("token=***"), "{line}");
    segmenter.terminate();
    let (_, _, log) = segmenter.finish();
    assert!(!log.contains("hunter2") && !log.contains("sesame123"), "{log}");

    // What ffmpeg says of it, and what is said of a mistake on the command line.
    let mut segmenter =
        Segmenter::start(dir.path(), &["srt://127.0.0.1:9?mode=caller&passphrase=verysecret123&timeout=1"]);
    segmenter.wait_for("trying again");
    segmenter.terminate();
    let (_, _, log) = segmenter.finish();
    assert!(log.contains("passphrase=***") && !log.contains("verysecret123"), "{log}");
    let usage = Command::new(env!("CARGO_BIN_EXE_minuet-segmenter"))
        .arg("udp://alice:hunter2@nowhere")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&usage.stderr);
    assert_eq!(usage.status.code(), Some(2), "{said}");
    assert!(said.contains("***") && !said.contains("hunter2"), "{said}");
}
