#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Removal against detach, attach and readers of the attribute: no warning, one
# notice, nothing left.

. "$(dirname "$0")"/test_common.sh

plan 5
load_test_filter
new_nullb
dev=$DEV
rounds=30
attr=/sys/block/$dev/filter

for ((i = 0; i < rounds; i++)); do
	echo 1 > $NULLB/$dev/power 2> /dev/null
	wait_for [ -e $attr ]
	attach $dev blkfilter_test || bail "cannot attach"
	(while [ -e $attr ]; do cat $attr; done > /dev/null 2>&1) &
	(echo none > $attr) 2> /dev/null &
	(for j in {1..5}; do echo blkfilter_test > $attr; done) 2> /dev/null &
	[ $((i % 2)) = 0 ] && sleep 0.0$((i % 10))
	echo 0 > $NULLB/$dev/power
	wait
done

check "C15: no filter is left" \
	wait_for eval "[ \$(cat $TEST_DIR/attached) = \$(cat $TEST_DIR/released) ]"
notices=$(($(get detached) + $(get removed)))
check "C7: each attached one got one notice" \
	[ $notices -ge $rounds -a $notices -le "$(get attached)" ]
echo "# attached $(get attached), detached $(get detached), removed $(get removed)"
check "C15: some were removed" [ "$(get removed)" -gt 0 ]
check "C9: no late call" eq "$(get late)" 0
check "C18: the module can be unloaded" wait_for rmmod blkfilter_test
ktap_finished
