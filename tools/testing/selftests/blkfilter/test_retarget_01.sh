#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sending bios to another device: through its filters, and not in circles.

. "$(dirname "$0")"/test_common.sh

plan 33
load rust_blkfilter
load_test_filter
new_nullb
a=$DEV
new_nullb
b=$DEV
head -c 65536 /dev/zero | tr '\0' A > "$TMP/A"
head -c 65536 /dev/zero | tr '\0' B > "$TMP/B"

echo /dev/$b > $TEST_DIR/kopen
attach $a blkfilter_test && attach $b rust_blkfilter || bail "cannot attach"
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

# To and fro, without end.
echo /dev/$a > $TEST_DIR/kopen2
attach $b blkfilter_test || bail "cannot attach"
udevadm settle
for mode in retarget retargetdefer; do
	seen=$(get seen)
	echo $mode > $TEST_DIR/mode
	check "C25: $mode: a bio that goes in circles fails" \
		fails_with "Input/output error" dwrite $a
	check "C25: $mode: after 8 hops" eq $(($(get seen) - seen)) 9
	echo pass > $TEST_DIR/mode
done
echo > $TEST_DIR/kopen
echo > $TEST_DIR/kopen2
detach $a
detach $b
check "C11: all were released" eq "$(get released)" "$(get attached)"
# To its own device, it goes below itself; on a partition, to the disk's filter.
new_nullb
partition $DEV
attach $DEV rust_blkfilter && attach $PART blkfilter_test || bail "cannot attach"
for mode in retarget retargetdefer; do
	echo /dev/$PART > $TEST_DIR/kopen
	mark $DEV
	seen=$(get seen)
	echo $mode > $TEST_DIR/mode
	dd if="$TMP/A" of=/dev/$PART bs=16K seek=2 count=1 oflag=direct conv=notrunc status=none
	echo pass > $TEST_DIR/mode
	check "C25: $mode: to its own partition: seen once" eq $(($(get seen) - seen)) 1
	check "C21: $mode: and by the disk's filter" eq "$(counted $DEV write)" 16384
	check "C20: $mode: it is where it belongs" cmp -n 16384 "$TMP/A" \
		<(dd if=/dev/$DEV bs=512 skip=$((2048 + 64)) count=32 iflag=direct status=none)
	dd if=/dev/zero of=/dev/$DEV bs=512 seek=$((2048 + 64)) count=32 oflag=direct \
		conv=notrunc status=none
	echo > $TEST_DIR/kopen
done
detach $PART
detach $DEV

# From a disk to the partition that the bio came through: that is another device.
attach $DEV blkfilter_test && attach $PART rust_blkfilter || bail "cannot attach"
echo /dev/$PART > $TEST_DIR/kopen
for mode in retarget retargetdefer; do
	mark $PART
	echo $mode > $TEST_DIR/mode
	check "C25: $mode: from a disk to its partition, in circles" \
		fails_with "Input/output error" dwrite $PART
	echo pass > $TEST_DIR/mode
	check "C21: $mode: whose filter sees it each time" eq "$(counted $PART write)" \
		$((9 * 4096))
done
echo > $TEST_DIR/kopen
detach $PART
detach $DEV
check "C25: the target can be removed" eval "echo 0 > $NULLB/$b/power"
check "C18: the module can be unloaded" wait_for rmmod blkfilter_test

# To a sector that is not there; a zone operation has no length that would not fit.
insmod "$DIR"/test_modules/blkfilter_test.ko flags=2 || bail "cannot load blkfilter_test"
new_nullb zoned=1 zone_size=4
attach $DEV blkfilter_test || bail "cannot attach"
echo /dev/$DEV > $TEST_DIR/kopen
check "C27: a zone can be reset" blkzone reset -c 1 /dev/$DEV
for mode in far fardefer; do
	echo $mode > $TEST_DIR/mode
	check "C25: $mode: a write that is sent beyond the end fails" \
		fails_with "Input/output error" dwrite $DEV
	blkzone reset -c 1 /dev/$DEV 2> "$TMP/reset" &
	check "C25: $mode: a zone operation too" \
		wait_for grep -q "Input/output error" "$TMP/reset"
	echo pass > $TEST_DIR/mode
done
check "C10: the filter saw them" [ $(get seen) -ge 5 ]
echo > $TEST_DIR/kopen
ktap_finished
