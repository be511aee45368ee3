//! Trackers behind proxies, as they are deployed: one that sends everybody to https, and one that has the tracker below a path.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use base64::Engine as _;
use minuet_tests::{Process, Segmenter, Tracker, bin, clip_of, free_port, path_str};

/// Serves each connection by `serve` on a thread of its own.
fn front(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    addr
}

/// Passes bytes on in both directions until both ends have closed.
fn join(client: TcpStream, server: TcpStream) {
    let pass = |mut from: TcpStream, mut to: TcpStream| {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
    let there = thread::spawn(move || pass(from, to));
    pass(server, client);
    let _ = there.join();
}

/// A request's head up to its empty line, and what was read of its body with it.
fn head(stream: &TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some((head, reader.buffer().to_vec()))
}

/// A certificate for `localhost` and its key, in `dir`.
fn certificate(dir: &Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a name");
    let write = |name: &str, label: &str, der: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let path = dir.join(name);
        fs::write(&path, format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n"))
            .expect("a file");
        path_str(&path).to_owned()
    };
    (
        write("cert.pem", "CERTIFICATE", made.cert.der()),
        write("key.pem", "PRIVATE KEY", &made.signing_key.serialize_der()),
    )
}

fn program(name: &str, certificate: &str) -> Command {
    let mut command = Command::new(bin(name));
    command.env("SSL_CERT_FILE", certificate);
    command
}

/// The link has http, the proxy answers it with 301 and serves https: what is posted arrives all the same.
#[test]
fn a_proxy_that_sends_everybody_to_https() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (cert, key) = certificate(dir);
    let port = free_port();
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let _tracker = Tracker::start_with(port, &dir.join("tracker"), &tls);
    let posts = Arc::new(AtomicUsize::new(0));
    let sent_on = Arc::clone(&posts);
    // Both on one port, since no test can have 80 and 443.
    let proxy = front(move |mut client| {
        let mut first = [0];
        if client.peek(&mut first).is_ok_and(|len| len == 1) && first[0] == 0x16 {
            return TcpStream::connect(("127.0.0.1", port)).map_or((), |server| join(client, server));
        }
        let Some((head, begun)) = head(&client) else { return };
        sent_on.fetch_add(usize::from(head.starts_with("POST")), Ordering::Relaxed);
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
        });
        let rest = length.unwrap_or(0).saturating_sub(begun.len() as u64);
        let _ = std::io::copy(&mut (&client).take(rest), &mut std::io::sink());
        let path = head.split(' ').nth(1).unwrap_or("/");
        let here = client.local_addr().map_or(0, |addr| addr.port());
        let _ = write!(
            client,
            "HTTP/1.1 301 Moved Permanently\r\nLocation: https://localhost:{here}{path}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
    });
    let url = format!("http://localhost:{}", proxy.port());
    let feed = clip_of(12, dir);
    let mut command = program("minuet-segmenter", &cert);
    let mut segmenter =
        Segmenter::start_by(&mut command, path_str(&feed), "5s", &url, &dir.join("segmenter"), &["--loop"]);
    let mut watch = program("minuet", &cert);
    watch.args(["watch", "--stdout", &segmenter.link]);
    let mut viewer = Process::spawn("minuet", &mut watch, Stdio::null());
    viewer.wait_for("playing");
    assert!(posts.load(Ordering::Relaxed) > 0, "nothing was posted to http");
    let log = segmenter.process.log();
    assert!(!log.iter().any(|line| line.contains("WARN")), "{log:?}");
}

/// What the tracker at `url` tells who joins.
fn joined(port: u16, link: &str) -> String {
    let link: minuet_proto::ChannelLink = link.parse().expect("a channel link");
    let body = format!("{{\"node\":\"{}\"}}", "ab".repeat(32));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the proxy");
    write!(
        stream,
        "POST /minuet/c/{}/join HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        link.channel,
        body.len()
    )
    .expect("the proxy reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// A proxy with the tracker below `/minuet/` and nothing besides; `header` is what it adds.
fn below_a_path(tracker: u16, header: &'static str) -> u16 {
    let proxy = front(move |mut client| {
        let Some((head, begun)) = head(&client) else { return };
        let Some((method, rest)) = head.split_once(" /minuet/") else {
            let _ =
                client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return;
        };
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", tracker)) else { return };
        let (line, headers) = rest.split_once("\r\n").expect("a whole head");
        let close = if head.to_ascii_lowercase().contains("upgrade:") { "" } else { "Connection: close\r\n" };
        let asked = format!("{method} /{line}\r\n{close}{header}{headers}");
        if server.write_all(asked.as_bytes()).and_then(|()| server.write_all(&begun)).is_ok() {
            join(client, server);
        }
    });
    proxy.port()
}

#[test]
fn a_tracker_below_a_path_of_a_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let feed = clip_of(12, dir.path());
    let plays = |name: &str, header: &'static str, more: &[&str], complains: bool, relay: Option<&str>| {
        let (port, dir) = (free_port(), dir.path().join(name));
        let more = [&["--trusted-proxy", "127.0.0.1"], more].concat();
        let _tracker = Tracker::start_with(port, &dir.join("tracker"), &more);
        let proxy = below_a_path(port, header);
        let url = format!("http://127.0.0.1:{proxy}/minuet/");
        let mut segmenter = Segmenter::start(&feed, &url, &dir.join("segmenter"), &["--loop"]);
        let mut viewer = Process::start("minuet", &["watch", "--stdout", &segmenter.link], Stdio::null());
        viewer.wait_for("playing");
        let answer = joined(proxy, &segmenter.link);
        match relay {
            Some(relay) => assert!(answer.contains(&format!("\"relay\":\"{relay}\"")), "{answer}"),
            None => assert_eq!(answer.contains("\"relay\":\""), complains, "{answer}"),
        }
        if complains {
            let said = segmenter.process.wait_for("there is no relay server at");
            assert!(said.contains("--public-url") && said.contains("--relay-url"), "{said}");
        }
        let log = segmenter.process.log();
        let about = log.iter().filter(|line| line.contains("relay server")).count();
        assert_eq!(about, usize::from(complains), "{log:?}");
    };
    // Neither the proxy nor an option tells the tracker of the path.
    plays("silent", "", &[], true, None);
    plays("told", "X-Forwarded-Prefix: /minuet\r\n", &[], false, None);
    plays("option", "", &["--public-url", "http://127.0.0.1/minuet/"], false, None);
    plays("own", "", &["--relay-url", "http://127.0.0.1:9/"], false, Some("http://127.0.0.1:9/"));
}
