#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sending bios to another device, through its filters, and to another place: only where
# they can go, and not in circles.

. "$(dirname "$0")"/test_common.sh

plan 60
load rust_blkfilter
load_test_filter
load dm_mod
new_nullb
a=$DEV
new_nullb
b=$DEV
head -c 65536 /dev/zero | tr '\0' A > "$TMP/A"
head -c 65536 /dev/zero | tr '\0' B > "$TMP/B"

target() {	# device, its target [rotarget]
	echo /dev/"$2" > $TEST_DIR/kopen && attach "$1" "blkfilter_test ${3:-target}" &&
		echo > $TEST_DIR/kopen && udevadm settle
}

no_target() {	# errno name, device, its target
	local ret

	echo /dev/"$3" > $TEST_DIR/kopen
	write_fails "$1" "$2" "blkfilter_test target"
	ret=$?
	echo > $TEST_DIR/kopen
	return $ret
}

target $a $b && attach $b rust_blkfilter || bail "cannot attach"
for mode in retarget retargetdefer; do
	udevadm settle
	mark $b
	before=$(disk_sectors $a write)
	echo $mode > $TEST_DIR/mode
	check "C25: $mode: a write" \
		dd if="$TMP/A" of=/dev/$a bs=16K seek=4 oflag=direct conv=notrunc status=none
	check "C25: $mode: a read brings it back" \
		cmp "$TMP/A" <(dd if=/dev/$a bs=16K skip=4 count=4 iflag=direct status=none)
	echo pass > $TEST_DIR/mode
	check "C25: $mode: it is on the other disk" \
		cmp "$TMP/A" <(dd if=/dev/$b bs=16K skip=4 count=4 iflag=direct status=none)
	check "C25: $mode: and not on this one" eq "$(disk_sectors $a write)" "$before"
	check "C25: $mode: whose filter has seen it" eq "$(counted $b write)" 65536
	dd if="$TMP/B" of=/dev/$b bs=16K seek=4 oflag=direct conv=notrunc status=none
done
detach $b

# In circles: straight, through device mapper, and through a partition.
check "C25: circle: a target whose filter points back is ELOOP" no_target ELOOP $b $a
check "C25: circle: nothing is attached" attached $b none
detach $a
check "C25: circle: the other way round it is fine then" target $b $a
detach $b
check "C25: circle: the device itself is ELOOP" no_target ELOOP $a $a
# Device mapper wants memory to be aligned better than null_blk does.
new_brd
linear() {	# name, device
	dmsetup create "$1" --table "0 65536 linear /dev/$2 0" || bail "dmsetup"
	DEVS+=("dmsetup remove --retry $1")
	udevadm settle
	DEV=$(basename "$(readlink -f /dev/mapper/"$1")")
}
linear blkfilter_circle ram0
top=$DEV
linear blkfilter_other $b
check "C25: circle: device mapper on the device is ELOOP" no_target ELOOP ram0 $top
check "C25: circle: from there to the device it is fine" target $top ram0
echo retarget > $TEST_DIR/mode
check "C25: circle: and works" dwrite $top
echo pass > $TEST_DIR/mode
detach $top
target $DEV $top || bail "cannot attach"
check "C25: circle: three around are ELOOP" no_target ELOOP ram0 $DEV
detach $DEV
dmsetup remove --retry blkfilter_other
dmsetup remove --retry blkfilter_circle
check "C34: a target that wants memory aligned better is EOPNOTSUPP" \
	no_target EOPNOTSUPP $a ram0
new_nullb
partition $DEV
check "C25: circle: from a disk to its partition is ELOOP" no_target ELOOP $DEV $PART

# From a partition to its disk, whose filter sees it.
attach $DEV rust_blkfilter && target $PART $DEV || bail "cannot attach"
for mode in retarget retargetdefer; do
	mark $DEV
	echo $mode > $TEST_DIR/mode
	dd if="$TMP/A" of=/dev/$PART bs=16K seek=2 count=1 oflag=direct conv=notrunc status=none
	echo pass > $TEST_DIR/mode
	check "C21: $mode: from a partition to the disk: its filter sees it" \
		eq "$(counted $DEV write)" 16384
	check "C20: $mode: in sectors of the disk" cmp -n 16384 "$TMP/A" \
		<(dd if=/dev/$DEV bs=512 skip=64 count=32 iflag=direct status=none)
	dd if="$TMP/B" of=/dev/$DEV bs=512 seek=64 count=32 oflag=direct conv=notrunc status=none
done
detach $PART

# To another place of its own device.
attach $PART blkfilter_test || bail "cannot attach"
udevadm settle
echo 96 > $TEST_DIR/shift
for mode in remap remapdefer; do
	mark $DEV
	seen=$(get seen)
	echo $mode > $TEST_DIR/mode
	dd if="$TMP/A" of=/dev/$PART bs=16K seek=2 count=1 oflag=direct conv=notrunc status=none
	echo pass > $TEST_DIR/mode
	check "C25: $mode: seen once" eq $(($(get seen) - seen)) 1
	check "C21: $mode: and by the disk's filter" eq "$(counted $DEV write)" 16384
	check "C20: $mode: it is where it belongs" cmp -n 16384 "$TMP/A" \
		<(dd if=/dev/$DEV bs=512 skip=$((2048 + 64 + 96)) count=32 iflag=direct status=none)
	dd if="$TMP/B" of=/dev/$DEV bs=512 seek=$((2048 + 64 + 96)) count=32 oflag=direct \
		conv=notrunc status=none
done
detach $DEV
echo 32768 > $TEST_DIR/shift
for mode in remap remapdefer; do
	echo $mode > $TEST_DIR/mode
	check "C25: $mode: not beyond the end of the partition" \
		fails_with "Input/output error" dwrite $PART
	echo pass > $TEST_DIR/mode
done
detach $PART
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
echo remap > $TEST_DIR/mode
check "C25: remap: nor out of it, for the disk's filter" \
	fails_with "Input/output error" dwrite $PART
echo 8 > $TEST_DIR/shift
dd if="$TMP/A" of=/dev/$DEV bs=4096 count=1 seek=2 oflag=direct conv=notrunc status=none
echo pass > $TEST_DIR/mode
check "C25: remap: the disk's own bios can go anywhere" cmp -n 4096 "$TMP/A" \
	<(dd if=/dev/$DEV bs=4096 skip=3 count=1 iflag=direct status=none)
detach $DEV

# What a target must take.
new_nullb cache_size=4
cached=$DEV
new_nullb cache_size=4
cached2=$DEV
new_nullb blocksize=4096
large=$DEV
new_nullb zoned=1 zone_size=4
zoned=$DEV
check "C23: a target with a write cache is EOPNOTSUPP" no_target EOPNOTSUPP $a $cached
check "C34: one with larger blocks too" no_target EOPNOTSUPP $a $large
check "C27: and a zoned one" no_target EOPNOTSUPP $a $zoned
check "C11: none was attached" eq "$(get released)" "$(get attached)"
check "C23: without a cache it is fine" target $cached $a
detach $cached
check "C34: and with smaller blocks" target $large $a
detach $large

flushes() {
	awk '{ print $16 }' /sys/block/$1/stat
}
target $cached $cached2 || bail "cannot attach"
for mode in retarget retargetdefer; do
	quiet $cached2
	before=$(flushes $cached2)
	echo $mode > $TEST_DIR/mode
	dd if=/dev/zero of=/dev/$cached bs=4096 count=10 oflag=direct,dsync status=none
	echo pass > $TEST_DIR/mode
	check "C23: $mode: the target is flushed each time" \
		[ $(($(flushes $cached2) - before)) -ge 10 ]
done
echo "write through" > /sys/block/$cached/queue/write_cache
detach $cached
check "C23: if the device is said to have none a cache is EOPNOTSUPP" \
	no_target EOPNOTSUPP $cached $cached2

# Open for reading only.
target $a $b rotarget || bail "cannot attach"
quiet $b
before=$(disk_sectors $b write)
for mode in retarget retargetdefer; do
	echo $mode > $TEST_DIR/mode
	check "C25: $mode: read-only: a write fails" fails_with "Input/output error" dwrite $a
	check "C25: $mode: read-only: nothing is written" \
		eq "$(disk_sectors $b write)" "$before"
	check "C25: $mode: read-only: a read is fine" \
		cmp "$TMP/B" <(dd if=/dev/$a bs=16K skip=4 count=4 iflag=direct status=none)
	echo pass > $TEST_DIR/mode
done
detach $a

# To a sector that is not there.
target $a $b || bail "cannot attach"
for mode in far fardefer; do
	echo $mode > $TEST_DIR/mode
	check "C34: $mode: a write that is sent beyond the end fails" \
		fails_with "Input/output error" dwrite $a
	check "C34: $mode: a read too" fails_with "Input/output error" dread $a
	echo pass > $TEST_DIR/mode
done

# A target that goes, and a device that goes with its filter not released yet.
echo retarget > $TEST_DIR/mode
check "C25: the target can be removed" soon 10 eval "echo 0 > $NULLB/$b/power"
check "C25: then a write fails" not dwrite $a
echo pass > $TEST_DIR/mode
check "C13: the filter can be detached" detach $a
new_nullb
target $DEV $a || bail "cannot attach"
echo $((3000 * ${SLOW:-1})) > $TEST_DIR/save_ms
echo save > $TEST_DIR/mode
echo 0 > $NULLB/$DEV/power && rmdir $NULLB/$DEV || bail "cannot remove $DEV"
new_nullb
udev_off
check "C15: a target is made after a device went with its filter" \
	eval "echo /dev/$a > $TEST_DIR/kopen && attach $DEV 'blkfilter_test target'"
check "C15: whose filter was not released yet" \
	[ $(($(get attached) - $(get released))) = 2 ]
udev_on
echo > $TEST_DIR/kopen
echo pass > $TEST_DIR/mode
detach $DEV
check "C11: all were released" wait_for eval '[ $(get released) = $(get attached) ]'
check "C18: the module can be unloaded" wait_for rmmod blkfilter_test
ktap_finished
