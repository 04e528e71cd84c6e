#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A filter sees, operation for operation, what the disk counts: under a file
# system, and when every bio is split.

. "$(dirname "$0")"/test_common.sh

plan 10
load rust_blkfilter

all_same() {	# name device
	check "C3: $1: reads are those of the disk" same $2 read
	check "C3: $1: writes are those of the disk" same $2 write
	check "C3: $1: discards are those of the disk" same $2 discard
}

# ext4
new_nullb discard=1
mke2fs -q -t ext4 /dev/$DEV && mkdir "$TMP/mnt" && mount -o discard /dev/$DEV "$TMP/mnt" ||
	bail "cannot mount"
sync
fsfreeze -f "$TMP/mnt"
attach $DEV rust_blkfilter || bail "cannot attach"
mark $DEV
fsfreeze -u "$TMP/mnt"
for i in {1..50}; do
	dd if=/dev/urandom of="$TMP/mnt/$i" bs=64K count=1 status=none
done
sync
rm -f "$TMP"/mnt/[1-4]*
sync
echo 3 > /proc/sys/vm/drop_caches
cat "$TMP"/mnt/[5-9]* > /dev/null
fstrim "$TMP/mnt"
sync
fsfreeze -f "$TMP/mnt"
all_same ext4 $DEV
check "C3: ext4: there was something to count" \
	[ "$(counted $DEV write)" -gt 1000000 -a "$(counted $DEV read)" -gt 300000 \
	  -a "$(counted $DEV discard)" -gt 1000000 ]
fsfreeze -u "$TMP/mnt"
umount "$TMP/mnt"
detach $DEV

# Every bio is split into pieces of 4 KiB: the filter sees it once.
new_nullb max_sectors=8
attach $DEV rust_blkfilter || bail "cannot attach"
mark $DEV
dwrite $DEV 1M 16
dread $DEV 1M 16
all_same split $DEV
check "C3: split: bios of 1 MiB, not of 4 KiB" [ "$(stat_of $DEV write bios)" -le 64 ]
check "C3: split: no less than the 16 that were written" [ "$(stat_of $DEV write bios)" -ge 16 ]
check "C3: split: the disk got 4096 pieces" \
	[ "$(awk '{ print $5 + $6 }' /sys/block/$DEV/stat)" -ge 4096 ]
ktap_finished
