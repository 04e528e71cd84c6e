#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Hooks of completions: once a bio, with its status and its data, and detach waits
# for them.

. "$(dirname "$0")"/test_common.sh

plan 20
load_test_filter
new_nullb discard=1
head -c 262144 /dev/zero | tr '\0' A > "$TMP/A"

attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
for mode in hook hookdefer; do
	echo $mode > $TEST_DIR/mode
	echo 0 > $TEST_DIR/hooked
	check "C26: $mode: a write" dd if="$TMP/A" of=/dev/$DEV bs=64K oflag=direct status=none
	check "C26: $mode: called once for each bio" eq "$(get hooked)" 4
	dread $DEV 64K
	check "C26: $mode: it has all the data of a read" eq "$(get hook_bytes)" 65536
	check "C26: $mode: the right data" eq "$(get hook_first)" $((0x41414141))
done
check "C26: a discard" blkdiscard -f -o 1M -l 1M /dev/$DEV
echo fail > $TEST_DIR/mode
check "C26: it may change the status of a write" \
	fails_with "Input/output error" dwrite $DEV 4096 1 100
check "C26: and of a read" fails_with "Input/output error" dread $DEV
echo pass > $TEST_DIR/mode
detach $DEV
check "C26: nothing is armed any more" eq "$(get released)" 1

# Split into pieces of 4 KiB: one completion.
new_nullb max_sectors=8
dd if="$TMP/A" of=/dev/$DEV bs=256K oflag=direct status=none
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
echo hook > $TEST_DIR/mode
echo 0 > $TEST_DIR/hooked
check "C26: split: a read" cmp "$TMP/A" <(dd if=/dev/$DEV bs=256K count=1 iflag=direct status=none)
check "C26: split: completes once" eq "$(get hooked)" 1
check "C26: split: with all of the data" eq "$(get hook_bytes)" 262144
detach $DEV

# Bios that are chained, as those that zero a range are.  The way to get that wrong
# is a BUG() of the block layer, and a process that waits forever.
ends() {
	local pid

	"$@" & pid=$!
	wait_for eval "! kill -0 $pid" 2> /dev/null && wait $pid
}
new_nullb irqmode=0
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
check "C26: chained bios" ends blkdiscard -z -f -l 16M /dev/$DEV
detach $DEV

# A slow disk: detach waits for what is armed, and then the module can go.
new_nullb irqmode=2 completion_nsec=700000000
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
echo 0 > $TEST_DIR/hooked
dwrite $DEV & writer=$!
wait_for grep -qE '^[0-9]+ [0-9]+ 1$' /sys/block/$DEV/filter_stat
check "C13: detach" detach $DEV
check "C11: waited for what was armed" eq "$(get hooked)" 1
check "C18: the module can be unloaded" rmmod blkfilter_test
check "C10: the write is fine" wait $writer
ktap_finished
