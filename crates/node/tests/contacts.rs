//! Whom this program contacts on others' word: real servers that count who comes.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its servers must fail")]

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use minuet_node::{
    Error, TrackerClient,
    contact::{Contacts, Http, Request, Teller},
    tracker::Begin,
};
use minuet_proto::{ChannelKey, channel_api::mesh::JoinRequest, channel_api::mesh::MeshNode, mesh::NodeId};
use reqwest::{StatusCode, Url};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Request lines, each with its body.
type Asked = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// An HTTP server that notes what it is asked, and answers each request as `answer` says, given its number.
#[derive(Clone)]
struct Server {
    addr: SocketAddr,
    asked: Asked,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(ip: &str, answer: impl Fn(usize) -> String + Send + Sync + Clone + 'static) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = Self { addr, asked: Arc::default(), connections: Arc::default() };
        let started = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                server.connections.fetch_add(1, Ordering::SeqCst);
                let (server, answer) = (server.clone(), answer.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some((line, body)) = request(&mut stream).await {
                        let number = {
                            let mut asked = server.asked.lock().unwrap();
                            asked.push((line, body));
                            asked.len()
                        };
                        if stream.write_all(answer(number).as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        started
    }

    fn url(&self, path: &str) -> Url {
        format!("http://{}{path}", self.addr).parse().unwrap()
    }

    fn asked(&self) -> Vec<(String, Vec<u8>)> {
        self.asked.lock().unwrap().clone()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// The request line without its version, and the body.
async fn request(stream: &mut BufReader<tokio::net::TcpStream>) -> Option<(String, Vec<u8>)> {
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        if first.is_empty() {
            first = line.trim_end_matches(" HTTP/1.1").to_owned();
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, body))
}

fn status(status: u16, header: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{header}\r\n")
}

fn channel() -> minuet_proto::ChannelId {
    ChannelKey::from_seed(&[4; 32]).channel()
}

/// A tracker, or anybody on the path of http, sends a viewer to a router and to an API.
#[tokio::test]
async fn a_tracker_redirects_nobody_to_another_host() {
    let victim = Server::start("127.0.0.1", |_| status(200, "")).await;
    let to = victim.url("/cgi-bin/reboot");
    for code in [301, 302, 303, 307, 308] {
        let location = format!("Location: {to}\r\n");
        let tracker = Server::start("127.0.0.1", move |_| status(code, &location)).await;
        let client = TrackerClient::new(tracker.url("/")).unwrap();
        let got = client.join(channel(), Begin::Newest).await.unwrap_err();
        let told = format!("sends requests on to {to} (it answers {code})");
        assert!(got.to_string().starts_with(&told), "{got}");
        let posted = client.publish_heads(channel(), []).await.unwrap_err();
        assert!(matches!(posted, Error::Moved { .. }), "{posted}");
        assert_eq!(tracker.asked().len(), 2);
    }
    assert_eq!(victim.connections(), 0);
}

/// A tracker that has moved is named as its users would write it.
#[tokio::test]
async fn a_tracker_that_has_moved_is_named_without_the_path_that_was_asked_for() {
    let path = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
    let server = Server::start("127.0.0.1", |_| status(200, "")).await;
    let client = TrackerClient::new(server.url("/minuet/")).unwrap();
    let _ = client.publish_heads(channel(), []).await;
    let asked = path(&server.asked()[0].0);
    let tail = asked.strip_prefix("/minuet/").unwrap().to_owned();
    for base in ["https://new.example/", "https://new.example/under/"] {
        let location = format!("Location: {base}{tail}\r\n");
        let server = Server::start("127.0.0.1", move |_| status(301, &location)).await;
        let client = TrackerClient::new(server.url("/minuet/")).unwrap();
        let error = client.publish_heads(channel(), []).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("sends requests on to {base} (")), "{error}");
    }
}

#[tokio::test]
async fn a_post_that_is_redirected_on_its_host_stays_a_post_with_its_body_or_is_an_error() {
    for code in [307, 308] {
        let elsewhere = "Location: /elsewhere\r\n";
        let server = Server::start("127.0.0.1", move |n| match n {
            1 => status(code, elsewhere),
            _ => status(200, ""),
        });
        let server = server.await;
        let http = Http::new(Contacts::new(), Teller::User, PATIENCE).unwrap();
        let answer = http.send(server.url("/here"), Request::post("body".into())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(
            server.asked(),
            [("POST /here".into(), b"body".to_vec()), ("POST /elsewhere".into(), b"body".to_vec())]
        );
    }
    for code in [301, 302, 303] {
        let server = Server::start("127.0.0.1", move |_| status(code, "Location: /elsewhere\r\n")).await;
        let http = Http::new(Contacts::new(), Teller::User, PATIENCE).unwrap();
        let error = http.send(server.url("/here"), Request::post("body".into())).await.unwrap_err();
        let told = format!("sends requests on to {} (it answers {code})", server.url("/elsewhere"));
        assert!(error.to_string().starts_with(&told), "{error}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn redirects_have_an_end() {
    let server = Server::start("127.0.0.1", |_| status(302, "Location: /again\r\n")).await;
    let http = Http::new(Contacts::new(), Teller::User, PATIENCE).unwrap();
    assert!(http.send(server.url("/"), Request::default()).await.is_err());
    assert_eq!(server.asked().len(), 4);
}

/// Whatever its form, an address that is nearer than who named it is not contacted.
#[tokio::test]
async fn nobody_on_the_internet_names_what_is_near() {
    let victim = Server::start("127.0.0.1", |_| status(200, "")).await;
    let port = victim.addr.port();
    for teller in [Teller::Unknown, Teller::At([198, 51, 100, 1].into()), Teller::At([192, 168, 1, 1].into())]
    {
        let http = Http::new(Contacts::new(), teller, PATIENCE).unwrap();
        for host in
            ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0"]
        {
            let url: Url = format!("http://{host}:{port}/api/v1/delete-all").parse().unwrap();
            assert!(http.send(url, Request::post("x".into())).await.is_err(), "{host}");
        }
    }
    assert_eq!(victim.connections(), 0);
    for metadata in
        ["http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "file:///etc/passwd"]
    {
        let http = Http::new(Contacts::new(), Teller::Unknown, PATIENCE).unwrap();
        let began = tokio::time::Instant::now();
        assert!(http.send(metadata.parse().unwrap(), Request::default()).await.is_err());
        assert!(began.elapsed() < PATIENCE, "it was tried");
    }
    // Somebody on this machine may.
    let http = Http::new(Contacts::new(), Teller::At(IpAddr::from([127, 0, 0, 1])), PATIENCE).unwrap();
    for host in ["127.0.0.1", "localhost"] {
        let url: Url = format!("http://{host}:{port}/").parse().unwrap();
        assert!(http.send(url, Request::default()).await.is_ok(), "{host}");
    }
}

/// A quick refusal is no success: a server that has nothing of ours is left alone, whatever the path and the connection.
#[tokio::test]
async fn a_victim_that_answers_404_is_asked_three_times() {
    let here = Teller::At([127, 0, 0, 1].into());
    for host in ["127.0.0.1", "localhost"] {
        let victim = Server::start("127.0.0.1", |_| status(404, "")).await;
        let contacts = Contacts::new();
        for n in 0..50 {
            // A publisher says again and again where its origin is.
            let http = Http::new(contacts.clone(), here, PATIENCE).unwrap();
            for _ in 0..4 {
                let url: Url = format!("http://{host}:{}/{n}", victim.addr.port()).parse().unwrap();
                let _ = http.send(url, Request::default()).await;
            }
        }
        assert!(victim.asked().len() <= 3, "{host}: {}", victim.asked().len());
    }
}

#[tokio::test]
async fn a_server_that_serves_is_asked_as_often_as_it_does() {
    let server = Server::start("127.0.0.1", |_| status(200, "")).await;
    let http = Http::new(Contacts::new(), Teller::At([127, 0, 0, 1].into()), PATIENCE).unwrap();
    for _ in 0..300 {
        http.send(server.url("/"), Request::default()).await.unwrap();
    }
}

/// What a tracker on the internet would name: the tracker here is asked through a name of its own, and is on loopback,
/// so it may name what is here; what cannot be contacted at all it may not name either.
#[tokio::test]
async fn a_tracker_names_nodes_that_can_be_contacted_from_where_it_is() {
    let node = |addr: &str| MeshNode { addrs: vec![addr.parse().unwrap()], ..MeshNode::new(NodeId([8; 32])) };
    let nodes = ["127.0.0.1:7", "192.168.1.1:7", "203.0.113.1:7", "224.0.0.1:7", "203.0.113.1:0"].map(node);
    let nodes = serde_json::to_value(nodes).unwrap();
    let join = serde_json::json!({
        "channel": channel().to_string(), "state": null, "records": [], "oldest": null, "newest": null,
        "peers": [], "nodes": nodes, "heads": [], "relay": null, "relay_quic_port": null, "relay_quic_cert": null,
        "observed": "127.0.0.1", "interval_s": 30
    })
    .to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{join}", join.len());
    let tracker = Server::start("127.0.0.1", move |_| answer.clone()).await;
    let client = TrackerClient::new(tracker.url("/")).unwrap();
    let request = JoinRequest::new(MeshNode::new(NodeId([7; 32])));
    let told = client.ask_mesh(channel(), &request).await.unwrap();
    let addrs: Vec<usize> = told.nodes.iter().map(|node| node.addrs.len()).collect();
    assert_eq!(addrs, [1, 1, 1, 0, 0]);
    assert_eq!(client.teller(), Teller::At([127, 0, 0, 1].into()));
}
