//! What goes over the wire, counted by the network between the hosts and not by ourselves. Needs root; without it the test
//! says so and passes.

use std::process::{Command, Stdio};

use minuet_tests::{bin, clip_of, path_str};
use serde_json::Value;

/// Where who is: the tracker on h01, the source on h02, a viewer that uploads nothing on h03, one with a limit on h04, a
/// relay with a limit on h05, and one without any on h06.
const SCRIPT: &str = r#"
set -euo pipefail
on() { local host=$1; shift; "$NETLAB" exec "$host" -- "$@" & }
tracker=http://$NETLAB_ADDR_h01:7070
on h01 "$BIN/minuet-tracker" --listen "$NETLAB_ADDR_h01:7070" --data "$WORK/tracker" 2>"$WORK/tracker.log"
on h02 "$BIN/minuet-segmenter" "$WORK/feed.ts" --segment 5s --tracker "$tracker" --data "$WORK/source" --no-origin \
  --listen "$NETLAB_ADDR_h02:7080" --upload-limit 3Mbit >"$WORK/link" 2>"$WORK/source.log"
# Waits for the command to succeed; after a minute it shows what the programs said, and fails.
await() {
  local end=$((SECONDS + 60))
  until "$@" 2>/dev/null; do
    if ((SECONDS > end)); then
      echo "in vain: $*" >&2
      tail -n 30 "$WORK"/*.log >&2
      tail -n 2 "$WORK"/*.jsonl >&2
      return 1
    fi
    sleep 0.1
  done
}
await test -s "$WORK/link"
link=$(cat "$WORK/link")
watch() {
  local host=$1; shift
  on "$host" "$BIN/minuet" watch "$link" --stdout --stats "$WORK/$host.jsonl" "$@" >/dev/null 2>"$WORK/$host.log"
}
watch h03 --no-upload
watch h04 --upload-limit 600kbit
on h05 "$BIN/minuet" relay "$link" --upload-limit 800kbit --seed-minutes --stats "$WORK/h05.jsonl" 2>"$WORK/h05.log"
watch h06
for host in h03 h04 h06; do
  await grep -q '"segment":[0-9]' "$WORK/$host.jsonl"
done
"$NETLAB" show
sleep 15
"$NETLAB" show
"#;
/// Limits in bytes a second, by host.
const LIMITS: [(&str, f64); 3] = [("h02", 375_000.0), ("h04", 75_000.0), ("h05", 100_000.0)];
/// What may be sent at once after a silence: two pieces.
const BURST: f64 = 2.0 * 16.0 * 1024.0;

#[test]
fn limits_hold_on_the_wire_and_who_uploads_nothing_sends_no_media() {
    let netlab = bin("minuet-netlab");
    let possible = Command::new(&netlab).args(["run", "--hosts", "1", "--", "true"]).output().unwrap();
    if !possible.status.success() {
        eprintln!("skipped: {}", String::from_utf8_lossy(&possible.stderr));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    clip_of(60, dir.path());
    let done = Command::new(&netlab)
        .args(["run", "--hosts", "6", "--rtt", "20..60", "--up", "none", "--", "bash", "-c", SCRIPT])
        .env("WORK", path_str(dir.path()))
        .env("BIN", netlab.parent().unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let shown: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let [before, after] = shown.as_slice() else {
        panic!("{said} {}", String::from_utf8_lossy(&done.stderr));
    };
    let seconds = (after["at_ns"].as_f64().unwrap() - before["at_ns"].as_f64().unwrap()) / 1e9;
    let bytes = |figures: &Value, host: &str, way: &str| {
        let hosts = figures["hosts"].as_array().unwrap();
        hosts.iter().find(|known| known["name"] == host).unwrap()[way]["bytes"].as_f64().unwrap()
    };
    let carried = |host: &str, way: &str| bytes(after, host, way) - bytes(before, host, way);
    for (host, limit) in LIMITS {
        let (sent, most) = (carried(host, "up"), limit * seconds + BURST);
        assert!(sent <= most, "{host} sent {sent} bytes in {seconds} s, and may send {most}");
    }
    let (up, down) = (carried("h03", "up"), carried("h03", "down"));
    assert!(down > 1e6, "{down} bytes: nothing was watched");
    assert!(up < down / 5.0, "{up} bytes up and {down} down");
    // The limits mean something: others had to send what the one sends nothing of.
    assert!(carried("h06", "up") > up, "nobody passed anything on");
}
