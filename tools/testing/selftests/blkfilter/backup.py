#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""An incremental backup of disks in use, with the block device filter changetrack.

DISK is what the filter is attached to, such as vda1, and IMAGE a file or block device
where its copy is kept. The first run copies everything, each later one only what has
changed since, if the filter can vouch for that. The file systems of all MOUNTs are frozen
meanwhile, so the images of several DISKs are of the same moment. Without a MOUNT nobody
may be writing.

IMAGE is updated in place, and of no use while that goes on: keep another copy. IMAGE.state
says of which switch of the bitmaps IMAGE is the copy. That file is empty while IMAGE is
being written to, so a run that fails is followed by a full one. So is a restart, if IMAGE
is a block device. Whoever changes such an IMAGE but by writing to the device, such as by
merging a snapshot, has to remove IMAGE.state.

How it works: one process freezes, thaws, and waits in between; another one copies; a third
one guards the first. However the second ends, the first thaws. If the first is killed,
stopped, or stuck, the third thaws; nobody does if all are killed at once. While a file system
is frozen nothing is opened or looked up by path, nothing is printed, and memory is bounded:
each of these may wait for the frozen file system. Whatever waits all the same, for too long,
is thawed. When the copy is complete the filter must have seen no write meanwhile, whoever was
frozen or said to be quiet.

Exit status: 0 if all went well; 1 if it failed, the next run is then a full one if anything
was copied; 2 if it was refused, with nothing changed; 3 if some of a disk could not be read,
which the next run tries again.
"""

import argparse
import ctypes
import errno
import fcntl
import json
import mmap
import os
import re
import select
import signal
import stat
import struct
import sys
import time

# The directory of a module may be frozen when that is imported.
sys.dont_write_bytecode = True

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
PUNCH_HOLE, KEEP_SIZE = 2, 1
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
CHUNK = 1 << 20
# What of a disk is read again if a chunk of it can't be read, and what holes are made of.
PIECE = 4096
ZEROES = bytes(CHUNK)
# As much of a bitmap is read at a time.
BITS = 65536
ONES = b"\xff" * BITS
NOT_ZERO = re.compile(rb"[^\0]")
# As many places of a disk that can't be read are remembered.
MOST_UNREAD = 1000
# A disk may be written to this often while its file systems are frozen: MD writes its
# superblock, ext4 discards what was freed.
ROUNDS = 4
HEADER = struct.Struct("<8sIIQQQQQQ")
CHANGETRACK = "/sys/kernel/debug/changetrack"
# They can be frozen, and it can be told which devices they have.
SUPPORTED = {"ext2", "ext3", "ext4", "xfs", "btrfs", "nilfs2"}
# Errors of what is read, and not of how.
UNREADABLE = {errno.EIO, errno.ENODATA, errno.EREMOTEIO, errno.EILSEQ, errno.ETIMEDOUT,
              errno.ETIME, errno.EBADE, errno.ENOLINK}
# What has been written is on its way this often, so that the last fsync() takes no time.
SYNC = 16 << 20

libc = ctypes.CDLL(None, use_errno=True)
fallocate = getattr(libc, "fallocate64", libc.fallocate)
fallocate.argtypes = ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
libc.prctl.argtypes = ctypes.c_int, *[ctypes.c_ulong] * 4


class Refused(Exception):
    """It can't be done right. Nothing has been changed."""


class Failed(Exception):
    """It was begun and did not end well."""


# What lies on what, from sysfs and the table of mounts. A device is named by its number,
# such as "254:1".


def number(dev):
    return f"{os.major(dev)}:{os.minor(dev)}"


def read_line(*path):
    try:
        with open(os.path.join(*path), encoding="utf-8", errors="surrogateescape") as file:
            return file.readline().rstrip("\n")
    except OSError:
        return ""


def names(*path):
    try:
        return os.listdir(os.path.join(*path))
    except OSError:
        return []


def directory(dev):
    return os.path.realpath(f"/sys/dev/block/{dev}")


def name_of(dev):
    return os.path.basename(directory(dev)).replace("!", "/")


def of_name(name):
    return read_line("/sys/class/block", name, "dev")


def is_partition(dev):
    return os.path.exists(f"{directory(dev)}/partition")


def whole(dev):
    return read_line(os.path.dirname(directory(dev)), "dev") if is_partition(dev) else dev


def numbers(*path):
    """The devices that a directory of sysfs has links to."""
    return [dev for dev in map(of_name, names(*path)) if dev]


def holders(dev):
    return numbers(directory(dev), "holders")


def above(dev):
    """A device and all that lies on it: partitions, what device mapper or MD made of them."""
    found, todo = [], [dev]
    while todo:
        dev = todo.pop()
        if dev in found:
            continue
        found.append(dev)
        path = directory(dev)
        todo += [of_name(part) or dev for part in names(path)
                 if os.path.exists(f"{path}/{part}/partition")]
        todo += holders(dev)
        todo += [of_name(name) or dev for name in names("/sys/block") if name.startswith("loop") and
                 number_at(read_line("/sys/block", name, "loop/backing_file")) == dev]
    return found


def number_at(path):
    """The device that a path leads to, if it does."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return number(status.st_rdev) if stat.S_ISBLK(status.st_mode) else ""


class Mount:
    """A line of mountinfo."""

    def __init__(self, line):
        fields = line.split(" ")
        rest = fields[fields.index("-") + 1:]
        self.ident, self.dev = int(fields[0]), fields[2]
        self.path = self.unescape(fields[4])
        self.type, self.source, self.options = rest[0], self.unescape(rest[1]), rest[2].split(",")

    @staticmethod
    def unescape(text):
        return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)

    def option(self, name):
        return [self.unescape(option.split("=", 1)[1]) for option in self.options
                if option.startswith(name + "=")]

    def devices(self):
        """All block devices that the file system has."""
        if self.type == "btrfs":
            for path in names("/sys/fs/btrfs"):
                devices = names("/sys/fs/btrfs", path, "devices")
                if os.path.basename(os.path.realpath(self.source)) in devices:
                    return [of_name(name) for name in devices]
        if self.dev.startswith("0:"):
            paths = [path for path in self.source.split(":") if path.startswith("/dev/")]
            found = []
        else:
            paths, found = self.option("logdev") + self.option("rtdev"), [self.dev]
        for path in paths:
            if number_at(path):
                found.append(number_at(path))
        return found

    def has_journal_elsewhere(self):
        if any(not number_at(path) for path in self.option("logdev") + self.option("rtdev")):
            return True
        if self.type not in ("ext3", "ext4"):
            return False
        name = os.path.basename(directory(self.dev))
        return (read_line("/sys/fs/ext4", name, "journal_task").isdigit() and
                not any(entry.rpartition("-")[0] == name for entry in names("/proc/fs/jbd2")))


def mounts():
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape",
              newline="\n") as file:
        return [Mount(line.rstrip("\n")) for line in file]


def mount_of(fd):
    """The mount that a file was opened by."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        ident = next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
    return next((mount for mount in mounts() if mount.ident == ident), None)


def below(dev, found=None):
    """A device, and all that it lies on, through the file systems with loop devices' files."""
    found = [] if found is None else found
    if dev in found:
        return found
    found.append(dev)
    path = directory(dev)
    for slave in numbers(path, "slaves"):
        below(slave, found)
    if is_partition(dev):
        below(whole(dev), found)
    file = read_line(path, "loop/backing_file")
    if file:
        below_file(file, found)
    return found


def below_file(path, found=None):
    """The file system that has a file, and all that it lies on, which may be another one."""
    found = [] if found is None else found
    try:
        fd = os.open(path, os.O_PATH)
    except OSError as error:
        raise Refused(f"it can't be told what {path} lies on") from error
    mount = mount_of(fd)
    os.close(fd)
    if not mount or mount.dev in found:
        return found
    devices = mount.devices()
    if mount.dev not in devices:
        found.append(mount.dev)
    for dev in devices:
        below(dev, found)
    under = mount.option("upperdir")
    if mount.type.startswith("fuse") or mount.type == "ecryptfs":
        under += [mount.source] * mount.source.startswith("/")
    for path in under:
        below_file(path, found)
    return found


def is_on(dev, disks):
    """Whether all that a device consists of is on some disks."""
    if dev in disks:
        return True
    path = directory(dev)
    if is_partition(dev):
        return is_on(whole(dev), disks)
    slaves = numbers(path, "slaves")
    if os.path.exists(f"{path}/bcache") and read_line(path, "bcache/state") != "no cache":
        return False
    # Each has it all, if it is up to date.
    if read_line(path, "md/level") == "raid1" and \
            read_line(path, "md/sync_action") in ("idle", "frozen", "check"):
        return any(is_on(dev, disks) for dev in slaves if has_all(path, dev))
    return bool(slaves) and all(is_on(dev, disks) for dev in slaves)


def has_all(path, dev):
    """Whether a member of a RAID 1 has all that was written to that."""
    member = f"{path}/md/dev-{os.path.basename(directory(dev))}"
    state = read_line(member, "state").split(",")
    return ("in_sync" in state and "write_mostly" not in state and
            not read_line(member, "bad_blocks") and
            not read_line(member, "unacknowledged_bad_blocks"))


def swaps():
    try:
        with open("/proc/swaps", encoding="utf-8", errors="surrogateescape") as file:
            paths = [Mount.unescape(line.split()[0]) for line in file.readlines()[1:]]
    except OSError:
        return []
    return [path for path in paths if os.path.exists(path)]


def open_files(wanted):
    """Files that other processes have open for writing: the path, if it is `wanted`."""
    for pid in names("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        for fd in names("/proc", pid, "fd"):
            try:
                path = os.readlink(f"/proc/{pid}/fd/{fd}")
                if not wanted(path, f"/proc/{pid}/fd/{fd}"):
                    continue
            except OSError:
                continue
            with_flags = ""
            try:
                with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as file:
                    with_flags = next((line for line in file if line.startswith("flags:")), "")
            except OSError:
                continue
            if with_flags and int(with_flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                yield path, read_line("/proc", pid, "comm")


# What is to be backed up, and where.


class FileSystem:
    """A file system that will be frozen."""

    def __init__(self, path):
        try:
            self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}") from error
        self.mount = mount_of(self.root)
        if not self.mount or self.mount.path != os.path.realpath(path):
            raise Refused(f"{path} is not a mount point")
        if self.mount.type not in SUPPORTED:
            raise Refused(f"{path} is {self.mount.type}: either it can't be frozen, or it can't be "
                          "told which devices it has")
        self.path, self.dev = path, self.mount.dev

    def devices(self):
        return {self.dev, *self.mount.devices()}

    def check(self, disks, others):
        devices = self.mount.devices()
        if not devices:
            raise Refused(f"{self.path} is not on a block device")
        for dev in devices:
            if not is_on(dev, disks):
                raise Refused(f"{self.path} is on {name_of(dev)}, which is not on "
                              f"{' or '.join(name_of(disk) for disk in disks)}")
            for other in others:
                # What is frozen last is written back by way of what is frozen already.
                if other is not self and other.devices() & set(below(dev)):
                    raise Refused(f"{self.path} lies on {other.path}, which would be frozen")
        if self.mount.has_journal_elsewhere():
            raise Refused(f"{self.path} has its journal on another device")


def check_writers(disk, frozen):
    """Who could write to a disk meanwhile: nobody but file systems that are frozen."""
    devices = above(disk)
    covered = {dev for filesystem in frozen for dev in filesystem.mount.devices()}
    if is_partition(disk):
        # What is made of the whole disk may reach into the partition.
        devices.append(whole(disk))
        for dev in holders(whole(disk)):
            devices += [other for other in above(dev) if other not in devices]
    busy = set()
    for mount in mounts():
        for dev in set(mount.devices()) & set(devices):
            busy.add(dev)
            if dev not in covered and "ro" not in mount.options:
                raise Refused(f"{mount.path} is mounted from {name_of(dev)}, and not to be frozen: "
                              "name it as well if it can be frozen, or mount it read-only")
    for path in swaps():
        if number_at(path) in devices or not number_at(path) and \
                any(filesystem.dev in below_file(path) for filesystem in frozen):
            raise Refused(f"{path} is in use for swap: swapoff, or track what has no swap on it")
    for dev in devices:
        if dev in busy or dev == whole(disk) != disk or holders(dev) or len(above(dev)) > 1:
            continue
        # Mounted elsewhere, or a part of something that is not told.
        try:
            os.close(os.open(f"/dev/{name_of(dev)}", os.O_RDONLY | os.O_EXCL))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise Refused(f"{name_of(dev)} is in use, and not by what is to be frozen") \
                    from error

    def is_there(path, link):
        if not path.startswith("/dev/"):
            return False
        status = os.stat(link)
        return stat.S_ISBLK(status.st_mode) and number(status.st_rdev) in devices

    refuse_open(is_there)


def refuse_open(wanted):
    """Others look at devices and files for a moment: who has it open after some time counts."""
    for last in False, False, True:
        found = next(iter(open_files(wanted)), None)
        if not found:
            return
        if last:
            raise Refused(f"{found[0]} is open for writing, by {found[1]}")
        time.sleep(0.5)


class Target:
    """An image, and the file with its state."""

    def __init__(self, path):
        self.path = path
        self.real, self.real_state = os.path.realpath(path), os.path.realpath(path + ".state")
        self.fd = self.state_fd = None
        self.created = []
        self.is_device = os.path.exists(self.real) and stat.S_ISBLK(os.stat(self.real).st_mode)

    def check(self, disk, frozen):
        """Nothing is created before all has been checked."""
        for path in self.real, self.real_state:
            if os.path.isdir(path):
                raise Refused(f"{path} is a directory")
            if not os.path.exists(path):
                path = os.path.dirname(path)
                if not os.path.isdir(path):
                    raise Refused(f"{path} is not a directory")
            status = os.stat(path)
            if path == self.real and self.is_device:
                lies_on = below(number(status.st_rdev))
            elif stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                lies_on = below_file(path)
            else:
                raise Refused(f"{path} is not a file")
            for filesystem in frozen:
                if filesystem.devices() & set(lies_on):
                    raise Refused(f"{self.path} lies on {filesystem.path}, which would be frozen")
            if set(above(disk)) & set(lies_on):
                raise Refused(f"{self.path} lies on {name_of(disk)}")
        if os.path.exists(self.real):
            self.check_use(os.stat(self.real))

    def check_use(self, status):
        for name in names("/sys/class/block"):
            file = read_line("/sys/class/block", name, "loop/backing_file")
            try:
                if file and os.path.samestat(os.stat(file), status):
                    raise Refused(f"{self.path} is in use by {name}")
            except OSError:
                pass
        if self.real in swaps():
            raise Refused(f"{self.path} is in use for swap")
        refuse_open(lambda path, _: path == self.real)

    def create(self, path):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            self.created.append(path)
        except FileExistsError:
            fd = os.open(path, os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(fd), os.stat(path)):
            raise Refused(f"{self.path} is in use")
        return fd

    def open(self, size):
        """Opens both, and takes them."""
        try:
            # For a device O_EXCL means that nobody else claims it.
            self.fd = os.open(self.real, os.O_RDWR | os.O_EXCL) if self.is_device else \
                self.create(self.real)
            if self.is_device and os.lseek(self.fd, 0, os.SEEK_END) < size:
                raise Refused(f"{self.path} is smaller than the disk")
            self.state_fd = self.create(self.real_state)
            for path in self.created:
                parent = os.open(os.path.dirname(path), os.O_RDONLY)
                os.fsync(parent)
                os.close(parent)
        except OSError as error:
            busy = error.errno in (errno.EBUSY, errno.EAGAIN)
            raise Refused(f"{self.path} is in use" if busy else
                          f"{error.filename or self.path}: {error.strerror}") from error

    def undo_open(self):
        for path in self.created:
            os.unlink(path)

    def identity(self):
        """Changes if somebody else writes to the image, or another one is in its place.

        Where it is mounted, and how many names it has, does not matter. A block device says
        how much was written to it; None if not.
        """
        status = os.fstat(self.fd)
        return [status.st_size, status.st_mtime_ns] if not self.is_device else self.written()

    def prepare_identity(self):
        """Nothing can be looked up later."""
        self.counters = []
        if not self.is_device:
            return
        dev = number(os.fstat(self.fd).st_rdev)
        disk = directory(whole(dev))
        # The file of a loop device may be replaced.
        if read_line(disk, "queue/iostats") != "1" or os.path.exists(f"{disk}/loop"):
            return
        self.of_disk = [read_line("/proc/sys/kernel/random/boot_id"), read_line(disk, "diskseq")]
        # What is written by way of another partition does not count.
        paths = [(1, disk)]
        if is_partition(dev):
            paths += [(-1, f"{disk}/{part}") for part in names(disk)
                      if os.path.exists(f"{disk}/{part}/partition")]
            paths.append((1, directory(dev)))
        self.counters = [(sign, os.open(f"{path}/stat", os.O_RDONLY)) for sign, path in paths]

    def written(self):
        if not self.counters:
            return None
        total = 0
        for sign, fd in self.counters:
            fields = os.pread(fd, 4096, 0).split()
            # Sectors that were written, and that were discarded.
            total += sign * (int(fields[6]) + int(fields[13]))
        return [*self.of_disk, total]

    def read_state(self):
        try:
            state = json.loads(os.pread(self.state_fd, CHUNK, 0))
            fields = "ended", "shift", "size", "image", "unread"
            is_whole = state["version"] == 2 and all(name in state for name in fields)
            return state if is_whole else None
        except (ValueError, KeyError, TypeError):
            return None

    def clear_state(self):
        os.ftruncate(self.state_fd, 0)
        os.fsync(self.state_fd)

    def write_state(self, state):
        data = json.dumps(state).encode()
        # A part of it is not JSON.
        if os.pwrite(self.state_fd, data, 0) != len(data):
            raise Failed(f"{self.real_state}: short write")
        os.fsync(self.state_fd)

    def write(self, view, at):
        while view:
            done = os.pwrite(self.fd, view, at)
            view, at = view[done:], at + done

    def write_zeroes(self, count, at):
        if fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, at, count):
            self.write(memoryview(ZEROES)[:count], at)


class Disk:
    """A disk with changetrack on it."""

    def __init__(self, name):
        path = os.path.join("/dev", name)
        if not os.path.exists(path) or not stat.S_ISBLK(os.stat(path).st_mode):
            raise Refused(f"{path} is not a block device")
        self.dev = number(os.stat(path).st_rdev)
        self.name = name_of(self.dev)
        tracker = f"{CHANGETRACK}/{os.path.basename(directory(self.dev))}"
        if not os.path.exists(tracker):
            raise Refused(f"changetrack is not on {self.name}")
        try:
            # Direct: the page cache of the device may be older than what a file system wrote.
            self.source = os.open(path, os.O_RDONLY | os.O_DIRECT)
            self.generation = os.open(f"{tracker}/generation", os.O_RDWR)
            self.bitmap = os.open(f"{tracker}/bitmap", os.O_RDONLY)
        except OSError as error:
            raise Refused(f"{error.filename}: {error.strerror}") from error
        self.size = os.lseek(self.source, 0, os.SEEK_END)
        block = read_line(directory(whole(self.dev)), "queue/logical_block_size")
        self.piece = max(PIECE, int(block or 0))
        self.read_header()

    def read_header(self):
        magic, version, *fields = HEADER.unpack(os.pread(self.bitmap, HEADER.size, 0))
        if magic != b"BLKTRACK" or version != 2:
            raise Refused(f"the bitmap of {self.name} is of another version")
        return fields

    def switch(self):
        # What was written by way of the device's own cache has to be on it.
        os.fsync(self.source)
        os.write(self.generation, b"switch")

    def changing(self):
        """How many blocks have been written to since the switch."""
        for line in os.pread(self.generation, 4096, 0).split(b"\n"):
            if line.startswith(b"changing "):
                return int(line.split()[1])
        raise Failed(f"{self.name}: changetrack does not say what is changing")

    def marked(self, blocks, most, also):
        """Blocks that are marked, and some others, as first and count."""
        for first in range(0, blocks, 8 * BITS):
            count = min(8 * BITS, blocks - first)
            bits = os.pread(self.bitmap, BITS, HEADER.size + first // 8)
            if len(bits) < (count + 63) // 64 * 8:
                raise Failed(f"the bitmap of {self.name} is too short")
            for start, more in also:
                if start < first + count and start + more > first:
                    bits = bytearray(bits)
                    for n in range(max(start, first), min(start + more, first + count)):
                        bits[n - first >> 3] |= 1 << (n - first & 7)
            if bits == ONES:
                yield from everything(first, count, most)
                continue
            yield from runs((first + n for match in NOT_ZERO.finditer(bits)
                             for n in range(match.start() * 8, min(match.end() * 8, count))
                             if bits[n >> 3] >> (n & 7) & 1), most)


def merge(found):
    """Runs of numbers, in order, each number once."""
    merged = []
    for first, count in sorted(found):
        if merged and first <= sum(merged[-1]):
            merged[-1][1] = max(sum(merged[-1]), first + count) - merged[-1][0]
        else:
            merged.append([first, count])
    return merged


def everything(first, count, most):
    for at in range(first, first + count, most):
        yield at, min(most, first + count - at)


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


def switch_all(copies):
    for copy in copies:
        copy.go_on()
        copy.disk.switch()
    # What is marked by now, and not of a file system, may not have reached the disk. And MD
    # writes its superblock some time after the last write.
    time.sleep(0.3)


def copy_all(copies):
    """While all is frozen. At its end no disk has been written to since it was copied."""
    switch_all(copies)
    for copy in copies:
        copy.begin()
    for _ in range(ROUNDS):
        again = [copy for copy in copies if copy.has_changed()]
        if not again:
            return [copy.end() for copy in copies]
        switch_all(again)
        for copy in again:
            copy.copy_again()
    raise Failed(f"{again[0].disk.name} is being written to")


class Copy:
    """Of one disk to its image."""

    def __init__(self, disk, target, buffer, progress):
        self.disk, self.target = disk, target
        self.buffer, self.progress = buffer, progress
        self.unread = []
        self.read = self.done = self.written = 0
        self.has_holes = False

    def begin(self):
        """Copies what has changed since the last backup, or everything."""
        disk, target = self.disk, self.target
        self.header = header = disk.read_header()
        self.shift, self.blocks, began = header[0], header[1], header[5]
        if os.lseek(disk.source, 0, os.SEEK_END) != disk.size or \
                self.blocks != (disk.size + (1 << self.shift) - 1) >> self.shift:
            raise Failed(f"{disk.name} has been resized meanwhile")
        state, identity = target.read_state(), target.identity()
        known = (not header[4] and state and identity and state["ended"] == began and
                 state["shift"] == self.shift and state["size"] == disk.size and
                 state["image"] == identity)
        target.clear_state()
        if not target.is_device:
            self.has_holes = not os.fstat(target.fd).st_size
            os.ftruncate(target.fd, disk.size)
        self.most = max(CHUNK >> self.shift, 1)
        if known:
            self.copy_blocks(disk.marked(self.blocks, self.most, state["unread"]))
            return
        self.copy_blocks(everything(0, self.blocks, self.most))
        if self.unread and not self.read:
            raise Failed(f"nothing of {disk.name} can be read")

    def copy_blocks(self, places):
        for first, count in places:
            self.copy(first << self.shift, count << self.shift)
            self.done += count
        self.has_holes = False
        self.check_header()

    def check_header(self):
        header = self.disk.read_header()
        if header[5:] != self.header[5:]:
            raise Failed(f"somebody else has switched the bitmap of {self.disk.name} meanwhile")
        if header != self.header:
            raise Failed(f"{self.disk.name} has been resized, or is another disk now")

    def has_changed(self):
        changing = self.disk.changing()
        self.check_header()
        return changing != 0

    def copy_again(self):
        """What was written to meanwhile, by somebody whom freezing does not stop."""
        ended = self.header[6]
        self.header = self.disk.read_header()
        if self.header[4] or self.header[5] != ended:
            raise Failed(f"{self.disk.name} has changed meanwhile in a way that can't be told")
        self.copy_blocks(self.disk.marked(self.blocks, self.most, []))

    def end(self):
        self.go_on()
        os.fsync(self.target.fd)
        self.go_on()
        unread = merge(self.unread)
        of_blocks = merge([at >> self.shift,
                           ((at + count - 1) >> self.shift) - (at >> self.shift) + 1]
                          for at, count in unread)
        return {"copied": min(self.done, self.blocks), "blocks": self.blocks, "unread": unread,
                "state": {"version": 2, "ended": self.header[6], "shift": self.shift,
                          "size": self.disk.size, "image": self.target.identity(),
                          "unread": of_blocks}}

    def go_on(self):
        self.progress[0] = (self.progress[0] + 1) % 256

    def copy(self, at, count):
        count = min(count, self.disk.size - at)
        try:
            self.copy_some(at, count)
        except OSError as error:
            self.check_error(error)
            piece = self.disk.piece
            for some in range(at, at + count, piece):
                self.copy_piece(some, min(piece, at + count - some))

    def copy_piece(self, at, count):
        try:
            self.copy_some(at, count)
        except OSError as error:
            self.check_error(error)
            self.unread = merge([*self.unread, [at, count]])
            if len(self.unread) > MOST_UNREAD:
                raise Failed(f"too much of {self.disk.name} could not be read") from error

    def check_error(self, error):
        # The name is there if it is not the disk.
        if error.filename or error.errno not in UNREADABLE:
            raise error

    def copy_some(self, at, count):
        self.go_on()
        if os.preadv(self.disk.source, [self.buffer[:count]], at) != count:
            raise Failed(f"{self.disk.name}: short read")
        self.read += count
        try:
            self.write(self.buffer[:count], at)
            self.written += count
            if self.written >= SYNC:
                os.fdatasync(self.target.fd)
                self.written = 0
        except OSError as error:
            error.filename = self.target.path
            raise

    def write(self, view, at):
        """Zeroes become holes."""
        data = bytes(view)
        zero = [data[n:n + PIECE] == ZEROES[:min(PIECE, len(data) - n)]
                for n in range(0, len(data), PIECE)]
        first = 0
        while first < len(zero):
            last = first
            while last < len(zero) and zero[last] == zero[first]:
                last += 1
            start, end = first * PIECE, min(last * PIECE, len(data))
            if not zero[first]:
                self.target.write(view[start:end], at + start)
            elif not self.has_holes:
                self.target.write_zeroes(end - start, at + start)
            first = last


# The three processes.


class Freeze:
    """What is to be frozen. Shared by the processes that may have to thaw."""

    def __init__(self, filesystems):
        self.filesystems = filesystems
        # Each that is frozen, or is about to be.
        self.begun = mmap.mmap(-1, mmap.PAGESIZE)
        # Readable when the process has ended that is to thaw.
        self.holder = os.pidfd_open(os.getpid())

    def freeze(self, beat):
        """Returns why not, if so."""
        for n, filesystem in enumerate(self.filesystems):
            beat()
            self.begun[n] = 1
            try:
                fcntl.ioctl(filesystem.root, FIFREEZE, 0)
            except OSError as error:
                self.begun[n] = 0
                busy = error.errno == errno.EBUSY
                return f"cannot freeze {filesystem.path}: " + \
                    ("somebody else has frozen it" if busy else error.strerror)
        return ""

    def thaw(self):
        """Thaws all, the last one first. Returns what was wrong with that."""
        why = ""
        for n, filesystem in reversed(list(enumerate(self.filesystems))):
            if not self.begun[n]:
                why = why or "the guard has thawed"
                continue
            try:
                fcntl.ioctl(filesystem.root, FITHAW, 0)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    # The guard tries it again.
                    why = f"cannot thaw {filesystem.path}: {error.strerror}"
                    continue
                why = why or "somebody else has thawed meanwhile"
            self.begun[n] = 0
        return why

    def try_to_thaw(self, n):
        """In place of the one that should. Returns whether there is anything left to do.

        What is being frozen can't be thawed before it is.
        """
        gone = select.select([self.holder], [], [], 0)[0]
        try:
            fcntl.ioctl(self.filesystems[n].root, FITHAW, 0)
        except OSError:
            if self.begun[n] and not gone:
                return True
        self.begun[n] = 0
        return False

    def guard_thaws(self):
        """In place of the one that should. Each in a process if possible: any may have to wait."""
        left = []
        for n in range(len(self.filesystems)):
            if not self.begun[n]:
                continue
            try:
                child = os.fork()
            except OSError:
                left.append(n)
                continue
            if not child:
                while self.try_to_thaw(n):
                    time.sleep(0.1)
                os._exit(0)
        while left:
            left = [n for n in left if self.try_to_thaw(n)]
            time.sleep(0.1)


def fork(oom_score_adj, work):
    """A process of its own, which never returns."""
    child = os.fork()
    if child:
        return child
    try:
        # Not that of a terminal, or of who kills all of a job.
        os.setsid()
        set_oom_score_adj(oom_score_adj)
        work()
    finally:
        os._exit(1)


def set_oom_score_adj(value):
    """Who goes first when memory is short. A container may not say so."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(value)
    except OSError:
        pass


class Backup:
    """The process that freezes and thaws."""

    def __init__(self, pairs, filesystems, options):
        self.pairs, self.freeze = pairs, Freeze(filesystems)
        self.stalled_after, self.max_frozen = options.stalled_after, options.max_frozen
        # What nohup and scripts have ignored stays so.
        self.ending = {number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP,
                                             signal.SIGQUIT)
                       if signal.getsignal(number) != signal.SIG_IGN}
        # For the two processes, not on the heap: aligned, and shared.
        self.buffer = memoryview(mmap.mmap(-1, CHUNK))
        self.progress = mmap.mmap(-1, mmap.PAGESIZE)
        self.why = ""
        self.said = b""

    def guard(self, alive):
        """The process that thaws if the one that should does not."""
        poll = select.poll()
        poll.register(alive, select.POLLIN)
        timeout = None
        # Before the first byte nothing is frozen.
        while poll.poll(timeout):
            said = os.read(alive, 4096)
            if said.endswith(b"t"):
                os._exit(0)
            if not said:
                break
            timeout = (min(self.stalled_after, self.max_frozen or self.stalled_after) + 5) * 1000
        self.freeze.guard_thaws()
        os._exit(1)

    def copy(self, start, result):
        """The process that copies, once something comes out of a pipe."""
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # A dump of its memory would go to what is frozen.
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        # What is printed by mistake goes there as well.
        os.dup2(result, 1)
        os.dup2(result, 2)
        if not os.read(start, 1):
            return
        try:
            said = {"done": copy_all([Copy(*pair, self.buffer, self.progress)
                                      for pair in self.pairs])}
        except (Failed, Refused) as error:
            said = {"failed": str(error)}
        except OSError as error:
            said = {"failed": f"{error.filename or 'copying'}: {error.strerror}"}
        except Exception as error:  # pylint: disable=broad-exception-caught
            # Not with a traceback: that looks for source files.
            said = {"failed": f"{type(error).__name__}: {error}"}
        data = json.dumps(said).encode()
        while data:
            data = data[os.write(result, data):]
        os._exit(0)

    def run(self):
        """Returns what the copy said."""
        refused = False
        wait_start, start = os.pipe()
        result, give_result = os.pipe()
        alive, stay_alive = os.pipe()
        os.set_blocking(stay_alive, False)
        poll = select.poll()
        poll.register(result, select.POLLIN)
        # Nothing but SIGKILL ends this process from here on.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        # If it was ignored, those that end could not be waited for.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

        def guard():
            for fd in wait_start, start, result, give_result, stay_alive:
                os.close(fd)
            self.guard(alive)

        def copy():
            for fd in start, result, alive, stay_alive:
                os.close(fd)
            self.copy(wait_start, give_result)

        processes = [fork("-1000", guard), fork("1000", copy)]
        for fd in wait_start, give_result, alive:
            os.close(fd)
        score = read_line("/proc/self/oom_score_adj")
        set_oom_score_adj("-1000")
        # As much as possible while others can still write.
        for filesystem in self.freeze.filesystems * 2:
            if not self.ended_by_signal():
                libc.syncfs(filesystem.root)

        def beat():
            os.write(stay_alive, b".")

        began, frozen, finished = time.monotonic(), False, False
        try:
            if not self.ended_by_signal():
                frozen = True
                self.why = self.freeze.freeze(beat)
                refused = bool(self.why)
            if not self.ended_by_signal():
                self.wait(start, poll, result, beat, began)
            finished = not self.why
        except (BrokenPipeError, BlockingIOError):
            self.why = "the guard has thawed, or died"
        finally:
            if not finished:
                self.kill(processes[1])
            # Whatever the others wait for, and whatever they died of.
            thawed = self.freeze.thaw() if frozen else ""
        try:
            # Else the guard tries it as well.
            if not thawed.startswith("cannot"):
                os.write(stay_alive, b"t")
        except OSError:
            pass
        os.close(stay_alive)
        os.close(start)
        # The others may wait for something that never comes.
        for number in self.ending:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.ending)
        ended = [os.waitpid(process, 0)[1] for process in processes]
        set_oom_score_adj(score)
        if thawed.startswith("cannot"):
            raise Failed(thawed)
        if self.why:
            raise (Refused if refused else Failed)(self.why)
        if os.WIFSIGNALED(ended[1]):
            raise Failed(f"the copy was ended by signal {os.WTERMSIG(ended[1])}")
        if thawed or ended[0]:
            raise Failed(thawed or "the guard has thawed, or died")
        try:
            said = json.loads(self.said)
        except ValueError as error:
            raise Failed(self.said.decode(errors="replace") or "the copy ended") from error
        if "failed" in said:
            raise Failed(said["failed"])
        return said["done"]

    @staticmethod
    def kill(process):
        try:
            os.kill(process, signal.SIGKILL)
        except OSError:
            pass

    def ended_by_signal(self):
        info = signal.sigtimedwait(self.ending, 0)
        if info:
            self.why = f"ended by {signal.Signals(info.si_signo).name}"
        return bool(self.why)

    def wait(self, start, poll, result, beat, began):
        """Until the copy has said how it went, or has died, or waits for too long."""
        last, since = -1, time.monotonic()
        try:
            os.write(start, b"x")
        except BrokenPipeError:
            # It has died meanwhile, which is seen next.
            pass
        while not self.ended_by_signal():
            beat()
            if poll.poll(200):
                data = os.read(result, 65536)
                if not data:
                    return
                self.said += data
                last = -1
            now = time.monotonic()
            if self.progress[0] != last:
                last, since = self.progress[0], now
            elif now - since > self.stalled_after:
                self.why = f"no progress for {self.stalled_after} seconds"
                return
            if self.max_frozen and now - began > self.max_frozen:
                self.why = f"it took longer than {self.max_frozen} seconds"
                return


def seconds(text):
    number = int(text)
    if not 1 <= number <= 86400:
        raise ValueError
    return number


def arguments():
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n", maxsplit=1)[0],
        epilog="See the head of this file for what it does, and its exit status.")
    parser.add_argument("-m", "--mount", action="append", default=[], metavar="MOUNT",
                        help="mount point of a file system on DISK, to be frozen; for several "
                        "file systems several times")
    parser.add_argument("--quiescent", action="store_true",
                        help="nobody writes to any DISK, though that cannot be seen: do not look "
                        "for mounted file systems and other users")
    parser.add_argument("--stalled-after", type=seconds, default=60, metavar="SECONDS",
                        help="give up, and thaw, if nothing goes on for so long (60)")
    parser.add_argument("--max-frozen", type=seconds, default=0, metavar="SECONDS",
                        help="give up, and thaw, after so long")
    parser.add_argument("pair", nargs="+", metavar="DISK IMAGE",
                        help="a disk with changetrack attached, such as vda1, and a file or block "
                        "device for its copy; for several disks several of both")
    options = parser.parse_args()
    if len(options.pair) % 2:
        parser.error("each DISK needs an IMAGE")
    if options.quiescent and options.mount:
        parser.error("--quiescent is for those who have frozen MOUNT themselves")
    return options


def prepare(options):
    """All that can be wrong is found here; what has to be open is."""
    filesystems = [FileSystem(path) for path in options.mount]
    disks = [Disk(name.removeprefix("/dev/")) for name in options.pair[::2]]
    targets = [Target(path) for path in options.pair[1::2]]
    if len({disk.dev for disk in disks}) < len(disks):
        raise Refused("a DISK is named twice")
    paths = [path for target in targets for path in (target.real, target.real_state)]
    existing = map(os.stat, filter(os.path.exists, paths))
    files = [(status.st_dev, status.st_ino) for status in existing]
    if len(set(paths)) < len(paths) or len(set(files)) < len(files):
        raise Refused("an IMAGE, or its state, is named twice")
    if len({filesystem.dev for filesystem in filesystems}) < len(filesystems):
        raise Refused("a file system is named twice")
    for filesystem in filesystems:
        filesystem.check([disk.dev for disk in disks], filesystems)
    for disk, target in zip(disks, targets):
        if not options.quiescent:
            check_writers(disk.dev, filesystems)
        for other in disks:
            target.check(other.dev, filesystems)
    try:
        for disk, target in zip(disks, targets):
            target.open(disk.size)
            target.prepare_identity()
    except BaseException:
        undo(targets)
        raise
    return list(zip(disks, targets)), filesystems


def undo(targets):
    for target in targets:
        target.undo_open()


def complain(*text):
    print("backup.py:", *text, file=sys.stderr)


def main():
    # Those of the standard streams are not for other files, should they be closed.
    while os.open("/dev/null", os.O_RDWR) < 3:
        pass
    options = arguments()
    try:
        pairs, filesystems = prepare(options)
    except Refused as error:
        complain(error)
        return 2
    except (OSError, ValueError, struct.error, RecursionError, KeyboardInterrupt) as error:
        complain(f"refused: {type(error).__name__} {error}")
        return 2
    try:
        results = Backup(pairs, filesystems, options).run()
        for (_, target), result in zip(pairs, results):
            target.write_state(result["state"])
    except Refused as error:
        undo([target for _, target in pairs])
        complain(error)
        return 2
    except (Failed, OSError) as error:
        complain(error)
        return 1
    ret = 0
    for (disk, _), result in zip(pairs, results):
        for at, count in result["unread"]:
            complain(f"{disk.name}: sectors {at // 512} to {(at + count) // 512 - 1} "
                     "cannot be read")
            ret = 3
        print(f"{disk.name}: copied {result['copied']} of {result['blocks']} blocks")
    return ret


if __name__ == "__main__":
    sys.exit(main())
