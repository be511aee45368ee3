"""Ten nodes of the DHT on loopback, by libtorrent. Prints where to enter; then, for each line on standard input, which is a key in
hexadecimal digits, the value of the key's item as JSON, or null. Ends with its input."""

import json
import sys
import time

import libtorrent as lt

SETTINGS = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": True,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "dht_bootstrap_nodes": "",
    # Many nodes of one address, which is not on the internet.
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_ignore_dark_internet": False,
    "dht_enforce_node_id": False,
    "dht_upload_rate_limit": 1_000_000,
    "dht_block_ratelimit": 1_000,
    "alert_mask": lt.alert.category_t.dht_notification,
}


def started():
    session = lt.session(dict(SETTINGS))
    while not session.listen_port():
        time.sleep(0.01)
    return session


def item(session, key):
    """The item of a key, as a reader of BEP 46 sees it."""
    session.pop_alerts()
    session.dht_get_mutable_item(key, b"")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        session.wait_for_alert(500)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.dht_mutable_item_alert) and alert.authoritative:
                value = alert.item
                return {name.decode(): part.hex() for name, part in value.items() if isinstance(part, bytes)}
    return None


def main():
    sessions = [started() for _ in range(10)]
    for one in sessions:
        for other in sessions:
            if one is not other:
                one.add_dht_node(("127.0.0.1", other.listen_port()))
    print(f"127.0.0.1:{sessions[0].listen_port()}", flush=True)
    for line in sys.stdin:
        print(json.dumps(item(sessions[-1], bytes.fromhex(line.strip()))), flush=True)


main()
