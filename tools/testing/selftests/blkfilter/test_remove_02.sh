#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Removal waits for nobody: not for an open descriptor, not for a bio that the
# filter holds, not for a detach that waits for one.

. "$(dirname "$0")"/test_common.sh

plan 7
load_test_filter
new_scsi_debug

attach $DEV blkfilter_test || bail "cannot attach"
exec 7< /dev/$DEV
echo hold > $TEST_DIR/mode
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
check "C18: the module can be unloaded" wait_for rmmod blkfilter_test
ktap_finished
