"""Fetches a torrent with libtorrent, or checks what is there, and seeds it.

Usage: libtorrent_client.py TORRENT FOLDER INTERFACE. Writes the line `seeding` when everything is in its file and the tracker
has been told; runs until it is killed."""

import sys

import libtorrent

torrent, folder, interface = sys.argv[1:]
session = libtorrent.session(
    {
        "listen_interfaces": interface,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "allow_multiple_connections_per_ip": True,
        "alert_mask": libtorrent.alert.category_t.tracker_notification
        | libtorrent.alert.category_t.storage_notification
        | libtorrent.alert.category_t.error_notification,
    }
)
params = libtorrent.add_torrent_params()
params.ti = libtorrent.torrent_info(torrent)
params.save_path = folder
handle = session.add_torrent(params)
told, flushing, said = False, False, False
while True:
    session.wait_for_alert(100)
    for alert in session.pop_alerts():
        told = told or isinstance(alert, libtorrent.tracker_reply_alert)
        print(alert, file=sys.stderr)
        # A piece that was checked may still be on its way to the file.
        if isinstance(alert, libtorrent.cache_flushed_alert) and flushing and not said:
            said = True
            print("seeding", flush=True)
    if told and not flushing and handle.status().is_seeding:
        flushing = True
        handle.flush_cache()
