#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The same on each sort of disk and its partitions: each bio is seen
# once, can be taken, deferred, refused; the filter can go while there is I/O; the
# data is right.

. "$(dirname "$0")"/test_common.sh
. "$(dirname "$0")"/test_matrix.sh

plan 73
load_test_filter
keep_key

new_nullb
both null_blk
new_brd
both brd
truncate -s 64M "$TMP/loop.img"
load loop
DEV=$(basename "$(losetup -f -P --show "$TMP/loop.img")")
DEVS+=("losetup -d /dev/$DEV")
both loop
new_scsi_debug
both scsi_debug
check "C11: all were released" eq "$(get released)" "$(get attached)"
ktap_finished
