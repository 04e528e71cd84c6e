#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Removal waits for nobody: not for an open descriptor, not for a bio that the
# filter holds, not for a detach that waits for one.

. "$(dirname "$0")"/test_common.sh

plan 9
load_test_filter
new_scsi_debug

attach $DEV blkfilter_test || bail "cannot attach"
exec 7< /dev/$DEV
hold
dwrite $DEV & writer=$!
wait_for grep -qx 1 $TEST_DIR/held || bail "nothing is held"
detach $DEV & detacher=$!
wait_for attached $DEV none
sleep 0.2

check "C15: removal does not wait for a detach that waits" \
	timeout 20 bash -c "echo 1 > /sys/block/$DEV/device/delete"
check "C15: the disk is gone from sysfs" wait_for [ ! -e /sys/block/$DEV ]
check "C13: the detach still waits" kill -0 $detacher
check "C13: detached, not removed: one notice" eq "$(get detached)$(get removed)" 10
echo end > $TEST_DIR/mode
echo 1 > $TEST_DIR/release
check "C13: it returns once the bio is finished" wait $detacher
check "C10: the writer got the error" not wait $writer
exec 7<&-

# Nothing can be attached to what goes, or is gone, while someone has it open.
load_test_filter
echo pass > $TEST_DIR/mode
wait_for rmmod scsi_debug
new_scsi_debug
echo /dev/$DEV > $TEST_DIR/kopen
echo 1 > /sys/block/$DEV/device/delete
wait_for [ ! -e /sys/block/$DEV ]
check "C14: a removed device cannot get a filter" \
	fails_with "No such device" bash -c "echo 1 > $TEST_DIR/kattach"
echo > $TEST_DIR/kopen
check "C14: what was built for it is released" eq "$(get released)" "$(get attached)"
check "C18: the module can be unloaded" wait_for rmmod blkfilter_test
ktap_finished
