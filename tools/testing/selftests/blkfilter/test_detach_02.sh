#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Detach waits for what the filter owns and for who is inside of it.

. "$(dirname "$0")"/test_common.sh

plan 13
load_test_filter
new_nullb

# Who is inside: the callback takes 200 ms.  Many writers, so that there is
# always one.
attach $DEV blkfilter_test || bail "cannot attach"
echo slow > $TEST_DIR/mode
for i in {0..3}; do dwrite $DEV 4096 3 $((i * 8)) & done
sleep 0.1
detach $DEV
check "C7: detach waits for a running callback" eq "$(get late)" 0
wait
check "C7: a callback did run meanwhile" [ "$(get seen)" -ge 4 ]

# What it owns.
attach $DEV blkfilter_test || bail "cannot attach"
hold
dwrite $DEV & writer=$!
check "C10: the filter holds a bio" wait_for grep -qx 1 $TEST_DIR/held
echo defer > $TEST_DIR/mode
check "C11: others come and go meanwhile" eval "dwrite $DEV 4096 3 8"
detach $DEV & detacher=$!
sleep 0.5
check "C13: detach waits for it" kill -0 $detacher
check "C13: though the slot is empty by now" attached $DEV none
echo pass > $TEST_DIR/mode
check "C6: so another can be attached" attach $DEV blkfilter_test
echo 1 > $TEST_DIR/release
check "C13: detach returns once the bio is finished" wait $detacher
check "C10: the writer got its success" wait $writer
detach $DEV

# A wait that is killed: the filter stays cut off, and pinned.
attach $DEV blkfilter_test
hold
dwrite $DEV & writer=$!
wait_for grep -qx 1 $TEST_DIR/held
detach $DEV & detacher=$!
sleep 0.5
kill -9 $detacher
wait $detacher 2> /dev/null
check "C13: a killed detach leaves the slot empty" attached $DEV none
check "C18: and the module in use" eval \
	"[ \$(cat /sys/module/blkfilter_test/refcnt) -gt 0 ] &&
	 fails_with 'in use' rmmod blkfilter_test"
echo pass > $TEST_DIR/mode
echo 1 > $TEST_DIR/release
wait $writer
check "C18: until the bio is finished" wait_for rmmod blkfilter_test
check "C11: the log is quiet about it" not eval "dmesg | grep -q 'blkfilter_test.*WARN'"
ktap_finished
