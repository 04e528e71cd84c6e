#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""An incremental backup of a disk in use, with the block device filter changetrack.

Usage: backup.py DISK IMAGE [MOUNT]

DISK is what the filter is attached to, such as vda1, IMAGE where its copy is kept.
The first run copies everything, each later one only what has changed since, if the
filter can vouch for that. With MOUNT the file system mounted there is frozen
meanwhile, without it nobody else must be writing.

The state of the last backup is kept beside the image: a copy is of use only together
with the id and the generation of the bitmap that goes on from it.
"""

import fcntl
import json
import mmap
import os
import struct
import sys

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878


def read_bitmap(path):
    """Header and bits of the generation that the last switch ended."""
    with open(path, "rb") as file:
        data = file.read()
    magic, version, shift, blocks, ident, generation, everything = \
        struct.unpack_from("<8sIIQQQQ", data)
    if magic != b"BLKTRACK" or version != 1:
        sys.exit(f"{path} is not a bitmap")
    changed = [n for n in range(blocks) if data[64 + n // 8] >> n % 8 & 1]
    return shift, blocks, (ident, generation), bool(everything), changed


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


def backup(disk, image):
    tracker = f"/sys/kernel/debug/changetrack/{disk}"
    with open(f"{tracker}/generation", "w", encoding="ascii") as file:
        file.write("switch")
    shift, blocks, (ident, generation), everything, changed = read_bitmap(f"{tracker}/bitmap")

    # What is marked from now on is what changes after this copy.
    try:
        with open(image + ".state", encoding="ascii") as file:
            last = json.load(file)
    except FileNotFoundError:
        last = None
    if everything or last != {"id": ident, "generation": generation - 1}:
        changed = range(blocks)

    # Direct: the page cache of the device may be older than what a file system wrote.
    source = os.open(f"/dev/{disk}", os.O_RDONLY | os.O_DIRECT)
    target = os.open(image, os.O_RDWR | os.O_CREAT)
    memory = memoryview(mmap.mmap(-1, 1 << 20))
    for first, count in runs(changed, (1 << 20) >> shift):
        size = os.preadv(source, [memory[:count << shift]], first << shift)
        if os.pwrite(target, memory[:size], first << shift) != size:
            sys.exit("short write")
    os.fsync(target)
    os.close(source)
    os.close(target)
    with open(image + ".state", "w", encoding="ascii") as file:
        json.dump({"id": ident, "generation": generation}, file)
    print(f"copied {len(changed)} of {blocks} blocks")


def main():
    disk, image, *mount = sys.argv[1:]
    if not mount:
        return backup(disk, image)
    root = os.open(mount[0], os.O_RDONLY)
    fcntl.ioctl(root, FIFREEZE, 0)
    try:
        return backup(disk, image)
    finally:
        fcntl.ioctl(root, FITHAW, 0)


if __name__ == "__main__":
    main()
