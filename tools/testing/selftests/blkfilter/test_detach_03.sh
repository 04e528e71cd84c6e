#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A detach that takes long says so, and a filter may end what it took.

. "$(dirname "$0")"/test_common.sh

plan 4
load_test_filter
new_nullb

attach $DEV blkfilter_test || bail "cannot attach"
echo end > $TEST_DIR/mode
check "C10: a bio that was taken ends with an error" fails_with "Input/output error" dwrite $DEV

hold
dmesg -C
dwrite $DEV & writer=$!
wait_for grep -qx 1 $TEST_DIR/held
detach $DEV & detacher=$!
sleep 11
check "C13: after 10 s the log says which filter, device and how many bios" \
	eval "dmesg | grep -qF '$DEV: detach of blkfilter_test waits for 1 bios'"
echo pass > $TEST_DIR/mode
echo 1 > $TEST_DIR/release
check "C13: detach returns" wait $detacher
check "C10: the write succeeded" wait $writer
ktap_finished
