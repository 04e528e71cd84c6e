#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Each way a device can go away while it has a filter.

. "$(dirname "$0")"/test_common.sh

plan 16
load_test_filter
dmesg -C

gone() {	# how many removal notices there must be by now
	wait_for grep -qx "$1" $TEST_DIR/removed && wait_for grep -qx "$1" $TEST_DIR/released
}

new_nullb
attach $DEV blkfilter_test || bail "cannot attach"
dwrite $DEV
check "C17: null_blk powers off with a filter attached" eval "echo 0 > $NULLB/$DEV/power"
check "C15: the filter is told once, and released" gone 1

new_scsi_debug
attach $DEV blkfilter_test || bail "cannot attach"
exec 7< /dev/$DEV
check "C17: a SCSI disk is deleted with a filter attached" \
	eval "echo 1 > /sys/block/$DEV/device/delete"
check "C15: the filter is told once, and released, though someone has it open" gone 2
exec 7<&-
# udev may have a look at the disk, or still have it open.
check "C17: its driver can be unloaded" wait_for rmmod scsi_debug

new_nullb
partition $DEV
attach $PART blkfilter_test || bail "cannot attach"
check "C17: a partition is deleted with a filter attached" partx -d --nr 1 /dev/$DEV
check "C15: the filter is told once, and released" gone 3
partx -a --nr 1 /dev/$DEV
wait_for [ -b /dev/$PART ]
check "C15: a partition made anew has none" attached $PART none

attach $PART blkfilter_test || bail "cannot attach"
check "C17: the table is read again with a filter attached" blockdev --rereadpt /dev/$DEV
check "C15: the filter is told once, and released" gone 4
wait_for [ -b /dev/$PART ]

attach $DEV blkfilter_test && attach $PART blkfilter_test || bail "cannot attach"
check "C17: disk and partition go together" eval "echo 0 > $NULLB/$DEV/power"
check "C15: both filters are told, and released" gone 6

check "C16: none was left for the eviction of its device" \
	not eval "dmesg | grep 'attached to an evicted'"
check "C13: it was not called a detach" eq "$(get detached)" 0
check "C9: no call after the notice" eq "$(get late)" 0
check "C18: the module can be unloaded" wait_for rmmod blkfilter_test
ktap_finished
