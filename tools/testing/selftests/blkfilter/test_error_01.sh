#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Errors that a filter ends bios with arrive, at programs and through a file system.

. "$(dirname "$0")"/test_common.sh

plan 11
load rust_blkerror
DEVS+=("rmmod rust_blkerror")
new_nullb discard=1
udevadm settle

# failing <options>: from now on.
failing() {
	detach $DEV
	attach $DEV "blkerror $*"
}

dwrite $DEV
before=$(disk_sectors $DEV write)
failing op=write errno=5
check "C10: a write fails with EIO" fails_with "Input/output error" dwrite $DEV
failing op=write errno=28
check "C10: a write fails with ENOSPC" fails_with "No space left on device" dwrite $DEV
check "C10: reads go on" dread $DEV
failing op=discard errno=5
check "C10: a discard fails" fails_with "BLKDISCARD" blkdiscard -f /dev/$DEV
check "C1: nothing of it reached the disk" eq "$(disk_sectors $DEV write)" "$before"
detach $DEV
check "C32: what is no error is refused" write_fails EINVAL $DEV "blkerror errno=0"
check "C32: and what is no number" write_fails EINVAL $DEV "blkerror errno=five"
check "C10: writes work again" dwrite $DEV

# A file system on it sees the error, and is fine after it.
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 /dev/$DEV && mkdir "$TMP/mnt" &&
	mount /dev/$DEV "$TMP/mnt" || bail "cannot mount"
dd if=/dev/zero of="$TMP/mnt/file" bs=64K count=4 conv=fsync status=none
sync
fsfreeze -f "$TMP/mnt" && fsfreeze -u "$TMP/mnt"	# the journal is empty now
failing op=write errno=5
out=$(LC_ALL=C dd if=/dev/urandom of="$TMP/mnt/file" bs=4096 count=1 oflag=direct conv=notrunc 2>&1)
detach $DEV
check "C10: a program sees the error through the file system" \
	grep -qF "Input/output error" <<< "$out"
check "C10: and writes when it is over" \
	dd if=/dev/urandom of="$TMP/mnt/file" bs=4096 count=1 oflag=direct conv=notrunc status=none
umount "$TMP/mnt"
check "C10: the file system is clean" e2fsck -fn /dev/$DEV
ktap_finished
