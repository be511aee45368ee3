#!/usr/bin/env python3
"""Writes a container image from a folder, without a daemon: an OCI image layout that `docker load` takes as well.

Usage: image.py --root DIR --name NAME:TAG --config FILE --epoch SECONDS --out FILE.tar

The same folder gives the same bytes: entries are sorted, belong to root, and have the time of --epoch. FILE is the image's
`config` object (JSON).
"""
import argparse
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import time


def entry(name, epoch, mode, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.mtime, info.mode, info.type = epoch, mode, kind
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def layer(root, epoch):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder, folders, files in os.walk(root):
            folders.sort()
            relative = os.path.relpath(folder, root)
            if relative != ".":
                mode = stat.S_IMODE(os.stat(folder).st_mode)
                tar.addfile(entry(relative, epoch, mode, tarfile.DIRTYPE))
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in sorted(files + links):
                path = os.path.join(folder, name)
                inside = os.path.normpath(os.path.join(relative, name))
                if os.path.islink(path):
                    link = entry(inside, epoch, 0o777, tarfile.SYMTYPE)
                    link.linkname = os.readlink(path)
                    tar.addfile(link)
                    continue
                info = entry(inside, epoch, stat.S_IMODE(os.stat(path).st_mode))
                info.size = os.path.getsize(path)
                with open(path, "rb") as file:
                    tar.addfile(info, file)
    return out.getvalue()


def main():
    parser = argparse.ArgumentParser()
    for option in ["root", "name", "config", "out"]:
        parser.add_argument("--" + option, required=True)
    parser.add_argument("--arch", default="amd64")
    parser.add_argument("--epoch", type=int, required=True)
    options = parser.parse_args()

    blobs = {}

    def add(data, kind):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": kind, "digest": "sha256:" + digest, "size": len(data)}

    def as_json(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    plain = layer(options.root, options.epoch)
    packed = add(gzip.compress(plain, 9, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
    with open(options.config, encoding="utf-8") as file:
        run = json.load(file)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(options.epoch))
    config = add(
        as_json({
            "architecture": options.arch,
            "os": "linux",
            "created": created,
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(plain).hexdigest()]},
            "history": [{"created": created, "created_by": "scripts/package"}],
        }),
        "application/vnd.oci.image.config.v1+json",
    )
    manifest = add(
        as_json({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [packed],
        }),
        "application/vnd.oci.image.manifest.v1+json",
    )
    manifest["annotations"] = {
        "io.containerd.image.name": "localhost/" + options.name,
        "org.opencontainers.image.ref.name": options.name.rsplit(":", 1)[1],
    }
    path = lambda descriptor: "blobs/sha256/" + descriptor["digest"].split(":")[1]
    files = {
        "oci-layout": as_json({"imageLayoutVersion": "1.0.0"}),
        "index.json": as_json({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]}),
        "manifest.json": as_json([{"Config": path(config), "RepoTags": [options.name], "Layers": [path(packed)]}]),
        **{"blobs/sha256/" + digest: data for digest, data in blobs.items()},
    }
    with tarfile.open(options.out, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ["blobs", "blobs/sha256"]:
            tar.addfile(entry(name, options.epoch, 0o755, tarfile.DIRTYPE))
        for name in sorted(files):
            info = entry(name, options.epoch, 0o644)
            info.size = len(files[name])
            tar.addfile(info, io.BytesIO(files[name]))
    print(f"{options.out}: {packed['size']} bytes compressed")


main()
