#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The sample refuses writes with the error it is told.

. "$(dirname "$0")"/test_common.sh

plan 13
load rust_blkfilter
new_nullb discard=1
attach $DEV rust_blkfilter || bail "cannot attach"
fail=$SAMPLE_DIR/$DEV/fail_writes

dwrite $DEV
before=$(disk_sectors $DEV write)
echo 5 > $fail
check "C10: a write fails with EIO" fails_with "Input/output error" dwrite $DEV
echo 28 > $fail
check "C10: a write fails with ENOSPC" fails_with "No space left on device" dwrite $DEV
check "C32: a discard fails too" fails_with "BLKDISCARD" blkdiscard -f /dev/$DEV
check "C1: nothing of it reached the disk" eq "$(disk_sectors $DEV write)" "$before"
check "C10: reads go on" dread $DEV
check "C32: a number that is no error is refused" \
	fails_with "Invalid argument" bash -c "echo 4000 > $fail"
check "C32: so is what is no number" fails_with "Invalid argument" bash -c "echo five > $fail"
check "C32: and a long text" fails_with "Invalid argument" bash -c "echo 000000000000005 > $fail"
check "C32: nothing changed" eq "$(cat $fail)" 28
echo 0 > $fail
check "C10: writes work again" dwrite $DEV

# A file system on it sees the error, and is fine after it.
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 /dev/$DEV && mkdir "$TMP/mnt" &&
	mount /dev/$DEV "$TMP/mnt" || bail "cannot mount"
dd if=/dev/zero of="$TMP/mnt/file" bs=64K count=4 conv=fsync status=none
sync
echo 5 > $fail
out=$(LC_ALL=C dd if=/dev/urandom of="$TMP/mnt/file" bs=4096 count=1 oflag=direct conv=notrunc 2>&1)
echo 0 > $fail
check "C10: a program sees the error through the file system" \
	grep -qF "Input/output error" <<< "$out"
check "C10: and writes when it is over" \
	dd if=/dev/urandom of="$TMP/mnt/file" bs=4096 count=1 oflag=direct conv=notrunc status=none
umount "$TMP/mnt"
detach $DEV
check "C10: the file system is clean" e2fsck -fn /dev/$DEV
ktap_finished
