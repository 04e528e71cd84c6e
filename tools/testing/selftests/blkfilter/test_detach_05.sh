#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A detach, or a removal, does not wait for a filter that sleeps for long.

. "$(dirname "$0")"/test_common.sh

plan 8
load_test_filter
load rust_blkdelay
DEVS+=("rmmod rust_blkdelay")
new_nullb

writers() {
	local i

	writers=()
	udevadm settle
	for i in 1 2 3; do
		dwrite $DEV 4096 1 $i & writers+=($!)
	done
	wait_for eval "[ \$(filter_stat $DEV flight) -ge 3 ]"
}

all_end() {
	local i

	for i in "${writers[@]}"; do
		wait_for [ ! -e /proc/$i ] && wait $i || return
	done
}

attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
echo doze > $TEST_DIR/mode
check "C13: a filter sleeps" writers
check "C13: it can be detached" soon 5 eval "echo none > /sys/block/$DEV/filter"
check "C10: the writes are fine" all_end

attach $DEV "blkdelay op=write ms=40000" || bail "cannot attach"
check "C13: blkdelay: it has writes" writers
check "C13: blkdelay: it can be detached" soon 5 eval "echo none > /sys/block/$DEV/filter"
check "C10: blkdelay: the writes are fine" all_end

echo pass > $TEST_DIR/mode
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
echo doze > $TEST_DIR/mode
writers || bail "nothing is in flight"
check "C15: a device that has one can be removed" soon 5 eval "echo 0 > $NULLB/$DEV/power"
all_end > /dev/null
check "C11: it is released" wait_for eval '[ $(get released) = $(get attached) ]'
ktap_finished
