//! What the network gives, seen from a tracker: its answers, the clock, UDP, the NAT.

use std::time::{Duration, Instant, SystemTime};

use minuet_node::{
    Error, TrackerClient,
    contact::{Contacts, Http, Request, Teller},
    mesh::{Discovery, Look, look},
};
use minuet_proto::ChannelId;
use reqwest::{Response, header::DATE};
use tokio::{net::UdpSocket, time::timeout};

use super::{Finding, Grade};

/// How long a tracker may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// Between two tries by UDP, which may lose a packet.
const UDP_WAIT: Duration = Duration::from_secs(1);
const UDP_TRIES: u32 = 3;
/// The request of a connection id (BEP 15): protocol, action 0, and a transaction id that is filled in.
const CONNECT: [u8; 16] = [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 0, 0, 0, 0];
/// A clock that differs by more makes delays look wrong. The Date of HTTP has whole seconds.
const POOR_CLOCK_S: f64 = 3.0;
/// A clock that differs by more puts what is signed now into the past or the future.
const BAD_CLOCK_S: f64 = 60.0;

pub async fn examine(tracker: &TrackerClient, channel: ChannelId, is_wanted: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let started = (Instant::now(), SystemTime::now());
    let answer = timeout(ANSWER_TIMEOUT, ask(tracker)).await;
    let name = tracker.name();
    let took = started.0.elapsed();
    match answer {
        Ok(Ok(answer)) => {
            let ms = took.as_millis();
            findings.push(Finding::new(
                Grade::Good,
                "tracker",
                format!("{name} answers after {ms} ms"),
                "viewers find the channel and each other there",
            ));
            let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
            findings.push(clock(
                date.and_then(|date| httpdate::parse_http_date(date).ok()),
                started.1 + took / 2,
            ));
        }
        // Its first page may be elsewhere: whether it is a tracker shows below.
        Ok(Err(error @ Error::Moved { .. })) => findings.push(Finding::new(
            Grade::Poor,
            "tracker",
            format!("{name} {error}"),
            "name the address that answers, so that nobody on the way can send viewers elsewhere",
        )),
        failed => {
            let why = match failed {
                Ok(Err(error)) => error.to_string(),
                _ => format!("did not answer within {} s", ANSWER_TIMEOUT.as_secs()),
            };
            findings.push(Finding::new(
                Grade::Bad,
                "tracker",
                format!("{name} {why}"),
                "check the address, and whether a firewall lets this machine out; the other trackers of a link do for it",
            ));
            return findings;
        }
    }
    findings.push(udp(tracker).await);
    match look(tracker, channel).await {
        Ok(look) => {
            findings.push(nat(&look));
            findings.push(mesh(&look));
        }
        Err(error) if !is_wanted => findings.push(Finding::new(
            Grade::Known,
            "NAT",
            "not looked at",
            format!("trackers tell that to those who want a channel ({error}): run `minuet doctor LINK`"),
        )),
        Err(error) => findings.push(Finding::new(
            Grade::Bad,
            "channel",
            format!("{name} {error}"),
            "the broadcast is over, or was never published there: ask the broadcaster for a new link",
        )),
    }
    findings
}

/// Asks the tracker for its first page, by the rule for outgoing contacts: a redirect leads to no other host.
async fn ask(tracker: &TrackerClient) -> Result<Response, Error> {
    let http = Http::new(Contacts::of_process(), Teller::User, ANSWER_TIMEOUT)?;
    http.send(tracker.base().clone(), Request::default()).await
}

fn clock(theirs: Option<SystemTime>, ours: SystemTime) -> Finding {
    let about = "clock";
    let Some(theirs) = theirs else {
        return Finding::new(Grade::Known, about, "not compared", "the tracker does not say what time it is");
    };
    let behind = theirs
        .duration_since(ours)
        .map_or_else(|ahead| -ahead.duration().as_secs_f64(), |by| by.as_secs_f64());
    // The tracker's time is that of the second which has begun.
    let off = behind + 0.5;
    let word = if off < 0.0 { "ahead of" } else { "behind" };
    let found = format!("{:.0} s {word} the tracker's", off.abs());
    match off.abs() {
        off if off <= POOR_CLOCK_S => Finding::new(
            Grade::Good,
            about,
            "as the tracker's, to the second",
            "delays and times of day are right",
        ),
        off if off <= BAD_CLOCK_S => Finding::new(
            Grade::Poor,
            about,
            found,
            "delays are shown wrong: let the system set its clock (`timedatectl set-ntp true`)",
        ),
        _ => Finding::new(
            Grade::Bad,
            about,
            found,
            "one of both is wrong, and what is signed seems to come from another time: let the system set its clock (`timedatectl \
             set-ntp true`)",
        ),
    }
}

/// Whether packets go to the tracker by UDP and come back.
async fn udp(tracker: &TrackerClient) -> Finding {
    let about = "UDP";
    let port = tracker.base().port_or_known_default().unwrap_or(80);
    let host = tracker.base().host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let asked = format!("port {port} of the tracker");
    match ask_by_udp(&host, port).await {
        Ok(Some(took)) => Finding::new(
            Grade::Good,
            about,
            format!("{asked} answers after {} ms", took.as_millis()),
            "live media goes by UDP",
        ),
        Ok(None) => Finding::new(
            Grade::Poor,
            about,
            format!("{asked} does not answer"),
            "either the tracker has no UDP there (behind a proxy it often has not), or a firewall here keeps UDP in: then media comes \
             through the relay server, slower; let UDP out",
        ),
        Err(error) => Finding::new(
            Grade::Bad,
            about,
            format!("nothing can be sent to {asked}: {error}"),
            "a firewall here keeps UDP in, which live media needs: let it out",
        ),
    }
}

async fn ask_by_udp(host: &str, port: u16) -> std::io::Result<Option<Duration>> {
    let Some(to) = tokio::net::lookup_host((host, port)).await?.next() else { return Ok(None) };
    let contact = Contacts::of_process().try_open(to, Teller::User).map_err(std::io::Error::other)?;
    let any: std::net::IpAddr = match to.is_ipv6() {
        true => std::net::Ipv6Addr::UNSPECIFIED.into(),
        false => std::net::Ipv4Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    let id: [u8; 4] = rand::random();
    let mut request = CONNECT;
    request[12..].copy_from_slice(&id);
    for _ in 0..UDP_TRIES {
        let sent = Instant::now();
        socket.send(&request).await?;
        let mut answer = [0; 64];
        match timeout(UDP_WAIT, socket.recv(&mut answer)).await {
            Ok(Ok(16)) if answer[..4] == [0; 4] && answer[4..8] == id => {
                contact.succeeded();
                return Ok(Some(sent.elapsed()));
            }
            // Nobody listens there.
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(None),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
    Ok(None)
}

/// What stands between this machine and the tracker, as far as one tracker can tell.
fn nat(look: &Look) -> Finding {
    let about = "NAT";
    let observed = look.observed;
    match look.discovery {
        Discovery::Seen(port, seen) if seen.port() == port => Finding::new(
            Grade::Good,
            about,
            format!("there is one, whose address is {}; it keeps port numbers", seen.ip()),
            "others mostly reach this machine by hole punching; a forwarded UDP port and --listen make it certain",
        ),
        Discovery::Seen(port, seen) => Finding::new(
            Grade::Poor,
            about,
            format!("there is one, which makes port {port} to {seen}"),
            "if it gives each far end another port, others reach this machine through the relay server only: forward a UDP port to \
             it, and name that with --listen",
        ),
        _ if look.is_own => Finding::new(
            Grade::Good,
            about,
            format!("none: the tracker sees this machine's own address, {observed}"),
            "others reach it if no firewall keeps UDP out: open the port that --listen names",
        ),
        Discovery::NotOffered | Discovery::Elsewhere => Finding::new(
            Grade::Known,
            about,
            format!("there is one, or a proxy: the tracker sees {observed}"),
            "this tracker has no address discovery of its own, so no more is known",
        ),
        Discovery::Nothing => Finding::new(
            Grade::Poor,
            about,
            format!("there is one, whose address is {observed}; address discovery by UDP brought nothing"),
            "a firewall keeps UDP in, here or before the tracker: media comes through the relay server, slower; let UDP out",
        ),
    }
}

fn mesh(look: &Look) -> Finding {
    let about = "live mesh";
    match look.nodes {
        0 => Finding::new(
            Grade::Poor,
            about,
            "the tracker knows no node of the channel",
            "nobody passes it on at the moment, not even its source: wait for the broadcast to begin",
        ),
        1 => Finding::new(Grade::Good, about, "the tracker names one node", "media comes from there"),
        nodes => Finding::new(
            Grade::Good,
            about,
            format!("the tracker names {nodes} nodes"),
            "media comes from there, and from others that they know",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn clocks_are_compared_to_the_second() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let grade = |theirs| clock(Some(theirs), now).grade;
        assert_eq!(grade(now - Duration::from_millis(900)), Grade::Good);
        assert_eq!(grade(now + Duration::from_secs(10)), Grade::Poor);
        assert_eq!(grade(now - Duration::from_secs(3600)), Grade::Bad);
        assert!(clock(Some(now - Duration::from_secs(3600)), now).found.contains("ahead of"));
        assert_eq!(clock(None, now).grade, Grade::Known);
    }

    #[test]
    fn what_stands_between_is_told_as_far_as_it_is_known() {
        let seen: SocketAddr = "192.0.2.7:4000".parse().unwrap();
        let grade = |discovery, is_own| nat(&Look { observed: seen.ip(), is_own, discovery, nodes: 0 }).grade;
        assert_eq!(grade(Discovery::Seen(4000, seen), false), Grade::Good);
        assert_eq!(grade(Discovery::Seen(5000, seen), false), Grade::Poor);
        assert_eq!(grade(Discovery::Nothing, true), Grade::Good);
        assert_eq!(grade(Discovery::Nothing, false), Grade::Poor);
        assert_eq!(grade(Discovery::NotOffered, false), Grade::Known);
    }

    #[tokio::test]
    async fn a_tracker_answers_by_udp_or_does_not() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let (took, ()) = tokio::join!(ask_by_udp("127.0.0.1", port), async {
            let mut request = [0; 64];
            let (length, from) = socket.recv_from(&mut request).await.unwrap();
            assert_eq!((length, &request[..8]), (CONNECT.len(), &CONNECT[..8]));
            let mut answer = [0; 16];
            answer[4..8].copy_from_slice(&request[12..16]);
            socket.send_to(&answer, from).await.unwrap();
        });
        assert!(took.unwrap().is_some());
        drop(socket);
        assert_eq!(ask_by_udp("127.0.0.1", port).await.unwrap(), None);
    }

    /// A server on the way redirects to one that has nothing to do with it, as to a router's page.
    #[tokio::test]
    async fn nobody_else_is_asked_for_a_trackers_redirect() {
        let [tracker, victim] = [0, 0].map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
        victim.set_nonblocking(true).unwrap();
        let to = victim.local_addr().unwrap();
        let url = format!("http://{}", tracker.local_addr().unwrap());
        std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            while let Ok((mut stream, _)) = tracker.accept() {
                let _ = stream.read(&mut [0; 4096]);
                let head =
                    "HTTP/1.1 302 Found\r\nconnection: close\r\ncontent-length: 0\r\nlocation: http://";
                let _ = stream.write_all(format!("{head}{to}/cgi-bin/reboot\r\n\r\n").as_bytes());
            }
        });
        let tracker = TrackerClient::new(url.parse().unwrap()).unwrap();
        let channel = minuet_proto::ChannelKey::from_seed(&[1; 32]).channel();
        let findings = examine(&tracker, channel, false).await;
        assert!(findings[0].found.contains("sends requests on to"), "{}", findings[0].found);
        assert!(victim.accept().is_err(), "it was asked");
    }
}
