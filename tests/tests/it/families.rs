//! IPv6 and IPv4 out of the box: tracker, source and viewers with their default listeners, on hosts that have one family
//! of addresses or both. Each lab is a network namespace with nothing but a loopback device. Needs root (or a kernel that
//! gives everybody namespaces), `ip` and `nft`.

use std::{fs, path::Path, process::Command};

use minuet_tests::{bin, clip_of, path_str};

/// Runs in a namespace; ends when the viewer has all. `$1` to `$3` are the programs, `$4` the folder, `$5` the address that
/// the source knows the tracker by, `$6` the viewer's, `$7` what makes the host.
const LAB: &str = r#"
set -eu
tracker=$1 segmenter=$2 minuet=$3 dir=$4 source_url=$5 viewer_url=$6
ip link set lo up
eval "$7"
cd "$dir"
trap 'kill $pids 2>/dev/null; wait' EXIT
pids=
"$tracker" --data tracker 2>tracker.log & pids="$pids $!"
until grep -q listening tracker.log; do kill -0 $! || exit 3; sleep 0.05; done
"$segmenter" feed.ts --loop --segment 4s --tracker "$source_url" --data segmenter >link 2>segmenter.log & pids="$pids $!"
until [ -s link ]; do kill -0 $! || exit 4; sleep 0.05; done
key=$(sed 's/.*btpk:\([0-9a-f]*\).*/\1/' link)
# A relay and two ways to watch.
"$minuet" relay "$viewer_url/c/$key" 2>relay.log & pids="$pids $!"
"$minuet" watch "$viewer_url/c/$key" --stdout 2>live.log | head -c 1000000 >live.ts
"$minuet" watch "$viewer_url/c/$key" --mode minute --stdout 2>minute.log | head -c 1000000 >minute.ts
grep -m1 -o 'connect to .* by UDP' relay.log
"#;

fn lab(dir: &Path, source_url: &str, viewer_url: &str, host: &str) -> String {
    let _ = clip_of(20, dir);
    let done = Command::new("unshare")
        .args(["--net", "--map-root-user", "timeout", "100", "bash", "-c", LAB, "lab"])
        .args(["minuet-tracker", "minuet-segmenter", "minuet"].map(bin))
        .args([path_str(dir), source_url, viewer_url, host])
        .output()
        .expect("unshare runs");
    let log = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let logs = ["tracker.log", "segmenter.log", "relay.log", "live.log", "minute.log"].map(log);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{:?} {said} {logs:#?}", done.status);
    for media in ["live.ts", "minute.ts"] {
        let length = fs::metadata(dir.join(media)).expect("a file").len();
        assert_eq!(length, 1_000_000, "{media}: {logs:#?}");
    }
    String::from_utf8(done.stdout).expect("text")
}

#[test]
fn hosts_with_ipv6_alone() {
    let dir = tempfile::tempdir().unwrap();
    let url = "http://[fd00::7]:7070";
    // The loopback device keeps 127.0.0.1, as everywhere; but nobody is met there.
    let host = "ip link add host0 type veth peer name far0
        ip link set far0 up
        ip link set host0 up
        ip addr add fd00::7/64 dev host0 nodad
        nft -f - <<'RULES'
            table ip alone {
                chain out {
                    type filter hook output priority 0
                    meta l4proto udp drop
                    tcp dport 7070-7090 drop
                }
            }
RULES";
    lab(dir.path(), url, url, host);
}

#[test]
fn hosts_where_ipv6_is_switched_off() {
    let dir = tempfile::tempdir().unwrap();
    let url = "http://127.0.0.1:7070";
    let said = lab(dir.path(), url, url, "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6");
    assert!(said.contains("0.0.0.0:") && !said.contains("[::]"), "{said}");
}

#[test]
fn a_source_that_comes_by_ipv4_and_viewers_that_come_by_ipv6() {
    let dir = tempfile::tempdir().unwrap();
    let said = lab(dir.path(), "http://127.0.0.1:7070", "http://[::1]:7070", ":");
    assert!(said.contains("0.0.0.0:") && said.contains("[::]:"), "{said}");
}

#[test]
fn a_source_that_comes_by_ipv6_and_viewers_that_come_by_ipv4() {
    let dir = tempfile::tempdir().unwrap();
    lab(dir.path(), "http://[::1]:7070", "http://127.0.0.1:7070", ":");
}
