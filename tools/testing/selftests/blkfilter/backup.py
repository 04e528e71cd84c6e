#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""An incremental backup of a disk in use, with the block device filter changetrack.

Usage: backup.py DISK IMAGE [MOUNT]

DISK is what the filter is attached to, such as vda1, IMAGE where its copy is kept.
The first run copies everything, each later one only what has changed since, if the
filter can vouch for that. With MOUNT the file system mounted there is frozen
meanwhile, without it nobody else must be writing.

The state of the last backup is kept beside the image: a copy is of use only together
with the id and the generation of the bitmap that goes on from it. There is none while
the image is being written to, so that a run that fails is followed by a full one.
"""

import fcntl
import json
import mmap
import os
import signal
import struct
import sys

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
CHUNK = 1 << 20


def read_header(file):
    """Shift, blocks, id, generation, and whether everything may have changed."""
    file.seek(0)
    magic, version, *fields = struct.unpack_from("<8sIIQQQQ", file.read(64))
    if magic != b"BLKTRACK" or version != 1:
        sys.exit(f"{file.name} is not a bitmap")
    return fields


def read_bitmap(path):
    """Header and bits of the generation that the last switch ended."""
    with open(path, "rb", buffering=0) as file:
        header = read_header(file)
        bits = b"".join(iter(lambda: file.read(CHUNK), b""))
        # What took several reads may be of two generations.
        if read_header(file) != header:
            sys.exit("somebody else has switched meanwhile")
    return header, [n for n in range(header[1]) if bits[n // 8] >> n % 8 & 1]


def runs(blocks, most):
    """Blocks that follow each other, as first and count."""
    first = count = 0
    for block in blocks:
        if count and block == first + count and count < most:
            count += 1
            continue
        if count:
            yield first, count
        first, count = block, 1
    if count:
        yield first, count


def state_of(ident, generation, image):
    """What the next backup has to find. Nobody else may have changed the image."""
    stat = os.fstat(image)
    return {"id": ident, "generation": generation,
            "image": [stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns]}


def read_state(path):
    try:
        with open(path, encoding="ascii") as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):
        return None


def write_state(path, state):
    """All of it or nothing, also if the power fails."""
    with open(path + ".new", "w", encoding="ascii") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def backup(disk, image):
    tracker = f"/sys/kernel/debug/changetrack/{disk}"
    # Direct: the page cache of the device may be older than what a file system wrote.
    source = os.open(f"/dev/{disk}", os.O_RDONLY | os.O_DIRECT)
    # And what was written by way of it has to be on the device.
    os.fsync(source)
    size = os.lseek(source, 0, os.SEEK_END)

    with open(f"{tracker}/generation", "w", encoding="ascii") as file:
        file.write("switch")
    # What is marked from now on is what changes after this copy.
    header, changed = read_bitmap(f"{tracker}/bitmap")
    shift, blocks, ident, generation, everything = header
    if blocks != (size + (1 << shift) - 1) >> shift:
        sys.exit(f"{disk} has been resized meanwhile")

    target = os.open(image, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
    last = state_of(ident, generation - 1, target)
    if everything or last["image"][-2] != size or read_state(image + ".state") != last:
        changed = range(blocks)
        os.ftruncate(target, size)
    if os.path.exists(image + ".state"):
        os.unlink(image + ".state")

    memory = memoryview(mmap.mmap(-1, CHUNK))
    for first, count in runs(changed, CHUNK >> shift):
        length = min(count << shift, size - (first << shift))
        if os.preadv(source, [memory[:count << shift]], first << shift) != length:
            sys.exit("short read")
        if os.pwrite(target, memory[:length], first << shift) != length:
            sys.exit("short write")
    os.fsync(target)
    write_state(image + ".state", state_of(ident, generation, target))
    print(f"copied {len(changed)} of {blocks} blocks")


def main():
    disk, image, *mount = sys.argv[1:]
    if not mount:
        return backup(disk, image)
    if os.stat(os.path.dirname(os.path.abspath(image))).st_dev == os.stat(mount[0]).st_dev:
        sys.exit(f"{image} is in the file system that would be frozen")
    # Whatever ends this, it ends the freeze as well.
    for number in signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, lambda *_: sys.exit("ended by a signal"))
    root = os.open(mount[0], os.O_RDONLY)
    fcntl.ioctl(root, FIFREEZE, 0)
    try:
        return backup(disk, image)
    finally:
        fcntl.ioctl(root, FITHAW, 0)


if __name__ == "__main__":
    main()
