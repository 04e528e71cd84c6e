#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The same on each sort of stacked device, and the root disk: each bio is seen
# once, can be taken, deferred, refused; the filter can go while there is I/O; the
# data is right.

. "$(dirname "$0")"/test_common.sh
. "$(dirname "$0")"/test_matrix.sh

plan 60
load_test_filter
keep_key
for module in raid0 raid1 dm_mod; do load $module; done

new_nullb
a=$DEV
new_nullb
b=$DEV
dm() {	# table
	dmsetup create blkfilter_matrix --table "$1" || bail "dmsetup"
	udevadm settle
	DEV=$(basename "$(readlink -f /dev/mapper/blkfilter_matrix)")
}
md() {	# level
	mdadm --create /dev/md/blkfilter --level="$1" --raid-devices=2 --metadata=1.2 --run \
		--assume-clean --bitmap=none /dev/$a /dev/$b > "$TMP/mdadm" 2>&1 ||
		{ cat "$TMP/mdadm"; bail "mdadm"; }
	udevadm settle
	DEV=$(basename "$(readlink -f /dev/md/blkfilter)")
}
dm "0 65536 linear /dev/$a 1024"
DEVS+=("dmsetup remove --retry blkfilter_matrix")
try dm-linear
dmsetup remove --retry blkfilter_matrix
dm "0 131072 striped 2 8 /dev/$a 0 /dev/$b 0"
try dm-striped
dmsetup remove --retry blkfilter_matrix
DEVS+=("mdadm --stop /dev/md/blkfilter")
for level in 0 1; do
	md $level
	both "raid$level"
	udevadm settle
	mdadm --stop /dev/md/blkfilter > "$TMP/mdadm" 2>&1 || bail "mdadm --stop"
	udevadm settle
	wipefs -qa /dev/$a /dev/$b
done

# The disk with the root file system, frozen for the time.
root=$(basename "$(findmnt -no SOURCE /)")
DEV=$root
udev_off
fsfreeze -f / || bail "cannot freeze"
attach $DEV blkfilter_test || bail "cannot attach to $root"
digest() {
	dd if=/dev/$DEV bs=8k count=64 iflag=direct status=none | md5sum
}
before=$(digest)
reads() {
	eq "$(digest)" "$before"
}
reads
check "C3: virtio-blk: each read is seen once" counts 64 0 reads
echo defer > $TEST_DIR/mode
check "C10: virtio-blk: deferred" counts 64 64 reads
echo resubmit > $TEST_DIR/mode
check "C10: virtio-blk: resubmitted" counts 64 64 reads
fsfreeze -u /
check "C10: virtio-blk: the file system goes on" \
	timeout 60 bash -c "head -c 1M /dev/urandom > /root/matrix && sync && rm /root/matrix"
check "C13: virtio-blk: detached" detach $DEV
udev_on
check "C11: all were released" eq "$(get released)" "$(get attached)"
ktap_finished
