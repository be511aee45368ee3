//! A real lab of three hosts: what is configured is what packets meet. Needs root, /dev/net/tun, ip and nft;
//! without them each test says so and passes.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::{
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

use minuet_netlab::{
    lab::{Lab, figures::Figures, namespace::Namespace, program},
    plan::{Defaults, Plan, coordinates::RttRange, nat::NatMix, setting::Change},
    probe::{self, Echo},
};

const NETLAB: &str = env!("CARGO_BIN_EXE_minuet-netlab");
/// IP and UDP headers.
const HEADERS: u64 = 28;

/// A lab of three hosts 60 ms apart, or `None`, with the reason printed, where none can be built.
fn lab(settings: &[&str]) -> Option<Lab> {
    if !possible() {
        return None;
    }
    let rtt: RttRange = "60".parse().unwrap();
    let changes: Vec<Change> = settings.iter().map(|text| text.parse().unwrap()).collect();
    let defaults = Defaults { hosts: 3, seed: 1, rtt, nat: NatMix::default(), tick: Duration::ZERO };
    Some(Lab::build(Plan::new(&defaults, &changes).unwrap()).unwrap())
}

fn possible() -> bool {
    program::check().inspect_err(|error| eprintln!("skipped: {error}")).is_ok()
}

fn socket(lab: &Lab, host: usize) -> UdpSocket {
    probe::bind(&lab.namespace(host), std::net::Ipv4Addr::UNSPECIFIED).unwrap()
}

fn echo(lab: &Lab, host: usize) -> Echo {
    Echo::start(&lab.namespace(host), lab.plan().hosts[host].address).unwrap()
}

/// A new peer on another host, which this socket has sent to, and where the peer saw that come from.
fn seen_from(lab: &Lab, socket: &UdpSocket, host: usize) -> (UdpSocket, SocketAddr) {
    let peer = self::socket(lab, host);
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let port = peer.local_addr().unwrap().port();
    socket.send_to(b"who", (lab.plan().hosts[host].address, port)).unwrap();
    let from = peer.recv_from(&mut [0; 8]).unwrap().1;
    (peer, from)
}

/// Whether what `stranger` sends to the outside of `socket`'s NAT comes through. What `known` sends, which does,
/// follows it, so that there is nothing to wait for. Packets of two hosts may change places; one that is sent when the
/// first has come is a whole way behind.
fn gets_in(stranger: &UdpSocket, known: &UdpSocket, outside: SocketAddr, socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stranger.send_to(b"stranger", outside).unwrap();
    let came = || {
        known.send_to(b"known", outside).unwrap();
        let mut packet = [0; 16];
        let length = socket.recv(&mut packet).unwrap();
        &packet[..length] == b"stranger"
    };
    came() || came()
}

#[test]
fn round_trips_are_as_configured() {
    let Some(lab) = lab(&["h01:h03 rtt=20ms"]) else { return };
    for (host, rtt_ms) in [(1, 60), (2, 20)] {
        let echo = echo(&lab, host);
        let rtts = probe::ping(&socket(&lab, 0), echo.address(), 20).unwrap();
        assert_eq!(rtts.len(), 20, "nothing is lost");
        let least = *rtts.iter().min().unwrap();
        let expected = Duration::from_millis(rtt_ms);
        assert!(least >= expected, "{least:?} of {expected:?}");
        // The best of 20, so that a busy machine does not matter.
        assert!(least < expected + Duration::from_millis(15), "{least:?} of {expected:?}");
    }
}

#[test]
fn nothing_goes_faster_than_the_line() {
    let Some(lab) = lab(&["h01 up=4Mbit queue=50ms", "h03 down=2Mbit queue=50ms"]) else { return };
    let sinks = [socket(&lab, 1), socket(&lab, 2)];
    for (host, bytes_per_s) in [(1, 500_000.0), (2, 250_000.0)] {
        let to =
            SocketAddr::from((lab.plan().hosts[host].address, sinks[host - 1].local_addr().unwrap().port()));
        let before = lab.figures();
        let sent = probe::flood(&socket(&lab, 0), to, 1000, Duration::from_secs(1));
        let after = lab.figures();
        let line = |figures: &Figures| if host == 1 { figures.hosts[0].up } else { figures.hosts[2].down };
        let bytes = (line(&after).bytes - line(&before).bytes) as f64;
        let seconds = (after.at_ns - before.at_ns) as f64 / 1e9;
        // The queue is what was admitted but is not sent yet; a packet is being sent.
        let room = 0.05 * bytes_per_s + 2.0 * 1028.0;
        assert!(bytes <= bytes_per_s * seconds + room, "{bytes} bytes in {seconds} s");
        assert!(bytes >= bytes_per_s * 0.2, "{bytes} bytes in {seconds} s: hardly anything came through");
        assert!(
            line(&after).dropped > line(&before).dropped,
            "{sent} packets of {} bytes fit",
            1000 + HEADERS
        );
    }
}

#[test]
fn loss_and_cuts_come_and_go_while_it_runs() {
    let Some(lab) = lab(&["all rtt=2ms"]) else { return };
    let (echo, socket) = (echo(&lab, 1), socket(&lab, 0));
    let change = |text: &str| lab.change(&text.parse().unwrap()).unwrap();
    change("h01:h02 loss=100%");
    assert!(probe::ping(&socket, echo.address(), 1).unwrap().is_empty());
    assert_eq!(lab.figures().hosts[0].lost, 1);
    change("h01:h02 loss=50%");
    probe::flood(&self::socket(&lab, 0), echo.address(), 100, Duration::from_millis(50));
    let figures = lab.figures();
    let share = figures.hosts[0].lost as f64 / figures.hosts[0].up.packets as f64;
    assert!((0.4..0.6).contains(&share), "{share}");
    change("all loss=0");
    change("h02 cut=on");
    assert!(probe::ping(&socket, echo.address(), 1).unwrap().is_empty());
    assert!(lab.figures().network.cut > 0);
    change("h02 cut=off");
    assert_eq!(probe::ping(&socket, echo.address(), 3).unwrap().len(), 3);
}

#[test]
fn nats_let_in_whom_they_should() {
    let cases = [
        // NAT, an unasked address gets in, another port of a known address gets in, one port for all peers
        ("full-cone", true, true, true),
        ("address-restricted", false, true, true),
        ("port-restricted", false, false, true),
        ("symmetric", false, false, false),
    ];
    for (nat, other_address, other_port, one_port) in cases {
        let Some(lab) = lab(&["all rtt=10ms", &format!("h01 nat={nat}")]) else { return };
        let inside = socket(&lab, 0);
        let (known, outside) = seen_from(&lab, &inside, 1);
        assert_eq!(outside.ip(), lab.plan().hosts[0].address, "{nat}");
        let stranger = socket(&lab, 2);
        assert_eq!(gets_in(&stranger, &known, outside, &inside), other_address, "{nat}");
        let inside = socket(&lab, 0);
        let (known, outside) = seen_from(&lab, &inside, 1);
        assert_eq!(gets_in(&socket(&lab, 1), &known, outside, &inside), other_port, "{nat}");
        let (_, second) = seen_from(&lab, &inside, 2);
        assert_eq!(outside == second, one_port, "{nat}: {outside}, {second}");
    }
}

#[test]
fn holes_can_be_punched_between_cones() {
    let Some(lab) = lab(&["all rtt=10ms", "h01-h02 nat=port-restricted"]) else { return };
    let (a, b) = (socket(&lab, 0), socket(&lab, 1));
    let (outside_a, outside_b) = (seen_from(&lab, &a, 2).1, seen_from(&lab, &b, 2).1);
    // The first comes before b has sent anything, and is dropped; it must not spoil b's own mapping.
    a.send_to(b"first", outside_b).unwrap();
    // All paths are equally long: when h03 has this, the first has reached b's router.
    seen_from(&lab, &a, 2);
    b.send_to(b"second", outside_a).unwrap();
    a.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(a.recv_from(&mut [0; 8]).unwrap().1, outside_b);
    a.send_to(b"third", outside_b).unwrap();
    b.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(b.recv_from(&mut [0; 8]).unwrap().1, outside_a);
}

/// The namespaces of the lab that printed its id.
fn namespaces(id: &str) -> Vec<Namespace> {
    Namespace::with_prefix(&format!("netlab-{id}-"))
}

#[test]
fn a_script_can_use_the_lab_and_its_failure_is_ours() {
    if !possible() {
        return;
    }
    let script = r#"
        echo "$NETLAB_ID"
        "$NETLAB" exec h02 ip -4 -o addr show dev net0
        "$NETLAB" set all loss=3% && "$NETLAB" show | head -c 6
        "$NETLAB" set h04 loss=3%
        # Left behind on purpose: on a host without a mark, and beside the lab in a session of its own.
        "$NETLAB" exec h01 env -i "$(command -v sleep)" 1000 >/dev/null 2>&1 &
        echo; echo $!
        setsid sleep 1000 >/dev/null 2>&1 &
        echo $!
        exit 7
    "#;
    let output = Command::new(NETLAB).args(["run", "--", "sh", "-c", script]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(7), "{stdout}{stderr}");
    let mut lines = stdout.lines();
    assert_eq!(namespaces(lines.next().unwrap()), []);
    assert!(lines.next().unwrap().contains("198.18.0.2/15"), "{stdout}");
    assert_eq!(lines.next(), Some("{\"id\":"), "{stdout}");
    let left: Vec<&str> = lines.collect();
    assert_eq!(left.len(), 2, "{stdout}");
    for pid in left {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // One that has ended may still wait for init to look at it.
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
    assert_eq!(stderr, "netlab: there is no host h04 in this lab of 3: they are named h01 to h03\n");
}

/// Starts a lab whose script prints its id and then waits for ever.
fn waiting_lab() -> (std::process::Child, String) {
    let mut child = Command::new(NETLAB)
        .args(["run", "--nat", "symmetric", "--", "sh", "-c", "echo $NETLAB_ID; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut id).unwrap();
    (child, id.trim().to_owned())
}

#[test]
fn a_terminated_lab_leaves_nothing() {
    if !possible() {
        return;
    }
    let (mut child, id) = waiting_lab();
    assert_eq!(namespaces(&id).len(), 6, "three hosts and their routers");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(namespaces(&id), []);
    // Its script is gone too: nobody holds the pipe open.
    child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_killed_lab_is_swept_up_by_the_next() {
    if !possible() {
        return;
    }
    let (mut child, id) = waiting_lab();
    let (mut other, other_id) = waiting_lab();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(namespaces(&id).len(), 6);
    assert!(Command::new(NETLAB).args(["run", "--", "true"]).status().unwrap().success());
    assert_eq!(namespaces(&id), []);
    assert_eq!(namespaces(&other_id).len(), 6, "one that runs is left alone");
    child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
    let pid = rustix::process::Pid::from_child(&other);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(other.wait().unwrap().code(), Some(128 + 2));
    assert_eq!(namespaces(&other_id), []);
}
