#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A device goes while a filter keeps a bio that somebody waits for who holds open_mutex:
# the filter is told before, and lets go.

. "$(dirname "$0")"/test_common.sh

plan 16
load_test_filter
echo 1 > $TEST_DIR/let_go

# going <name> <who waits> <removal>: both are commands.
going() {
	local name=$1 waiter removed

	removed=$(get removed)
	attach $DEV blkfilter_test || bail "cannot attach"
	udev_off
	echo hold > $TEST_DIR/mode
	eval "$2" > "$TMP/waiter" 2>&1 & waiter=$!
	wait_for grep -qvx 0 $TEST_DIR/held || bail "$name: nothing is held"
	check "C15: $name: it goes" soon 10 eval "$3"
	check "C15: $name: nobody waits any more" wait_for [ ! -e /proc/$waiter ]
	wait $waiter
	check "C15: $name: the filter was told once, and released" wait_for eval \
		"[ \$(get removed) = $((removed + 1)) ] && [ \$(get released) = \$(get attached) ]"
	echo pass > $TEST_DIR/mode
	udev_on
}

new_nullb
going "null_blk, table" "blockdev --rereadpt /dev/$DEV" "echo 0 > $NULLB/$DEV/power"

# The last one that closes it writes back, and flushes.
new_nullb cache_size=4
going "null_blk, close" "dd if=/dev/zero of=/dev/$DEV bs=4k count=4 conv=notrunc" \
	"echo 0 > $NULLB/$DEV/power"

new_scsi_debug
going "SCSI, table" "blockdev --rereadpt /dev/$DEV" "echo 1 > /sys/block/$DEV/device/delete"
check "C17: its driver can be unloaded" wait_for rmmod scsi_debug

new_scsi_debug
going "SCSI, host" "blockdev --rereadpt /dev/$DEV" \
	"echo -1 > /sys/bus/pseudo/drivers/scsi_debug/add_host"

check "C12: what was kept went on" eq "$(get held)" 0
check "C9: no late call" eq "$(get late)" 0
check "C18: the module can be unloaded" wait_for rmmod blkfilter_test
ktap_finished
