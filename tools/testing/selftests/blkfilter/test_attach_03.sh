#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Eight tasks attach at the same moment: one wins, the others hear why not.

. "$(dirname "$0")"/test_common.sh

plan 4
load rust_blkfilter
load_test_filter
new_nullb

rounds=20
for ((round = 0; round < rounds; round++)); do
	for i in {1..8}; do
		filter=rust_blkfilter
		((i % 2)) && filter=blkfilter_test
		LC_ALL=C bash -c "echo $filter > $(attr $DEV)" >> "$TMP/out" 2>&1 &&
			echo won >> "$TMP/out" &
	done
	wait
	detach $DEV || bail "cannot detach"
done

check "C6: exactly one wins each time" eq "$(grep -c '^won$' "$TMP/out")" $rounds
check "C6: the same kind loses with EALREADY" \
	eq "$(grep -c 'Operation already in progress' "$TMP/out")" $((rounds * 3))
check "C6: the other kind loses with EBUSY" \
	eq "$(grep -c 'Device or resource busy' "$TMP/out")" $((rounds * 4))
check "C13: all that were built were released" eq "$(get attached)" "$(get released)"
ktap_finished
