#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A filter's own I/O goes below it, in sectors of its device, and not after the
# device went.

. "$(dirname "$0")"/test_common.sh

plan 18
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

attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
seen=$(get seen)
check "C5: it reads a sector" eval "echo 2058 > $TEST_DIR/below"
check "C5: the right one" eq "$(get below)" 2058
check "C5: without seeing it" eq "$(get seen)" "$seen"
check "C20: beyond the end is EINVAL" \
	fails_with "Invalid argument" bash -c "echo 131072 > $TEST_DIR/below"
check "C20: the last of all sectors is EINVAL" \
	fails_with "Invalid argument" bash -c "echo 18446744073709551615 > $TEST_DIR/below"
detach $DEV

attach $DEV rust_blkfilter && attach $PART blkfilter_test || bail "cannot attach"
udevadm settle
seen=$(get seen)
disk=$(stat_of $DEV read bios)
check "C20: on a partition it counts from its start" eval "echo 5 > $TEST_DIR/below"
check "C20: the right one" eq "$(get below)" 2053
check "C5: its own filter does not see it" eq "$(get seen)" "$seen"
check "C21: the disk's filter does" eq "$(stat_of $DEV read bios)" $((disk + 1))
check "C20: beyond the end of the partition is EINVAL" \
	fails_with "Invalid argument" bash -c "echo 32768 > $TEST_DIR/below"
check "C20: the last of all sectors is EINVAL there too" \
	fails_with "Invalid argument" bash -c "echo 18446744073709551615 > $TEST_DIR/below"
detach $DEV

# Each waits in ->process for I/O of its own, and that of the partition's filter
# comes by the disk's.
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
echo copy > $TEST_DIR/mode
dwrite $PART & writer=$!
check "C12: the filters of disk and partition do not wait for each other" \
	wait_for not kill -0 $writer
check "C10: the write is fine" wait $writer
echo pass > $TEST_DIR/mode
detach $DEV

hold
dwrite $PART & writer=$!
wait_for grep -qx 1 $TEST_DIR/held
detach $PART & detacher=$!
wait_for attached $PART none
check "C5: while a detach waits it still works" eval "echo 5 > $TEST_DIR/below"
echo pass > $TEST_DIR/mode
echo 1 > $TEST_DIR/release
check "C13: the detach ends" wait $detacher
check "C10: the write too" wait $writer

attach $DEV blkfilter_test
hold
dwrite $DEV & writer=$!
wait_for grep -qx 1 $TEST_DIR/held
echo 0 > $NULLB/$DEV/power & power=$!
wait_for grep -qx 1 $TEST_DIR/removed
check "C5: after removal it is ENODEV" \
	fails_with "No such device" bash -c "echo 0 > $TEST_DIR/below"
echo end > $TEST_DIR/mode
echo 1 > $TEST_DIR/release
wait $writer $power
check "C11: all were released" wait_for grep -qx "$(get attached)" $TEST_DIR/released
ktap_finished
