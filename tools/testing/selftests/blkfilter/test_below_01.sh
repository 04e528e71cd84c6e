#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A filter's own I/O goes below it, on behalf of a bio that it has, in sectors of its
# device, as drivers want it, and not after the device went.

. "$(dirname "$0")"/test_common.sh

plan 26
load rust_blkfilter
load_test_filter
new_nullb
partition $DEV

# Each sector holds its number, little endian.
numbers() {	# sector...
	local s
	for s in "$@"; do
		printf "\\x$(printf %02x $((s & 255)))\\x$(printf %02x $((s >> 8)))\\0\\0" |
			dd of=/dev/$DEV bs=512 seek=$s iflag=fullblock conv=notrunc,sync status=none
	done
	sync
}
numbers 5 2053 2058
blockdev --flushbufs /dev/$DEV

# below <device> <sector>: its filter reads that on behalf of a read of the device.
below() {
	local ret

	echo "$2" > $TEST_DIR/below_sector
	echo copy > $TEST_DIR/mode
	dread "$1" 512
	ret=$?
	echo pass > $TEST_DIR/mode
	return $ret
}

below_fails() {	# device sector errno
	echo 0 > $TEST_DIR/below_error
	fails_with "Input/output error" below "$1" "$2" && eq "$(get below_error)" "$3"
}

attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
seen=$(get seen)
check "C5: it reads a sector" below $DEV 2058
check "C5: the right one" eq "$(get below)" 2058
check "C5: without seeing it" eq $(($(get seen) - seen)) 1
check "C20: beyond the end is EINVAL" below_fails $DEV 131072 22
check "C20: the last of all sectors is EINVAL" below_fails $DEV 18446744073709551615 22
echo 100 > $TEST_DIR/below_bytes
check "C34: part of a block is EINVAL" below_fails $DEV 5 22
echo 0 > $TEST_DIR/below_bytes
check "C34: nothing is EINVAL" below_fails $DEV 5 22
echo 512 > $TEST_DIR/below_bytes
echo 3 > $TEST_DIR/below_offset
check "C34: memory that is not aligned is EINVAL" below_fails $DEV 5 22
echo 0 > $TEST_DIR/below_offset
check "C5: after all that it works" below $DEV 5
check "C5: as it did" eq "$(get below)" 5
detach $DEV

attach $DEV rust_blkfilter && attach $PART blkfilter_test || bail "cannot attach"
udevadm settle
seen=$(get seen)
disk=$(stat_of $DEV read bios)
check "C20: on a partition it counts from its start" below $PART 5
check "C20: the right one" eq "$(get below)" 2053
check "C5: its own filter does not see it" eq $(($(get seen) - seen)) 1
check "C21: the disk's filter does" eq "$(stat_of $DEV read bios)" $((disk + 2))
check "C20: beyond the end of the partition is EINVAL" below_fails $PART 32768 22
check "C20: the last of all sectors is EINVAL there too" \
	below_fails $PART 18446744073709551615 22
detach $DEV

# Each waits in ->process for I/O of its own, and that of the partition's filter
# comes by the disk's.
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
echo 0 > $TEST_DIR/below_sector
echo copy > $TEST_DIR/mode
dwrite $PART & writer=$!
check "C12: the filters of disk and partition do not wait for each other" \
	wait_for not kill -0 $writer
check "C10: the write is fine" wait $writer
echo pass > $TEST_DIR/mode
detach $DEV

# begun <device>: a write is with ->process, which is about to read below.
begun() {
	local processed

	udevadm settle
	echo 99 > $TEST_DIR/below_error
	processed=$(get processed)
	echo copy > $TEST_DIR/mode
	dwrite "$1" & writer=$!
	wait_for eval "[ \$(get processed) -gt $processed ]" || bail "nothing is processed"
}
echo $((1500 * ${SLOW:-1})) > $TEST_DIR/copy_ms
begun $PART
detach $PART & detacher=$!
wait_for attached $PART none
check "C5: while a detach waits it has not read yet" eq "$(get below_error)" 99
check "C13: the detach ends" wait $detacher
check "C5: it could read" eq "$(get below_error)" 0
check "C10: the write is fine too" wait $writer

attach $DEV blkfilter_test || bail "cannot attach"
begun $DEV
check "C15: the device goes meanwhile" soon 10 eval "echo 0 > $NULLB/$DEV/power"
check "C5: after removal it is ENODEV" wait_for grep -qx 19 $TEST_DIR/below_error
check "C10: the write fails" not wait $writer
check "C11: all were released" wait_for grep -qx "$(get attached)" $TEST_DIR/released
ktap_finished
