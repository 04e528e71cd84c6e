#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Attaching that fails again and again, early and late, leaves nothing.

. "$(dirname "$0")"/test_common.sh

plan 10
load_test_filter
new_nullb
dev=$DEV
new_nullb cache_size=4
cached=$DEV
rounds=$((40 / ${SLOW:-1}))

# each <errno name> <text>: so it fails each time.
each() {
	local i

	for ((i = 0; i < rounds; i++)); do
		write_fails "$1" $dev "$2" || return
	done
}
check "C14: there are no workers to begin with" eq "$(workers)" 0
check "C29: refused by ->attach, $rounds times" each EDOM "blkfilter_test bad"
echo /dev/$dev > $TEST_DIR/kopen
check "C25: with a target that is the device itself" each ELOOP "blkfilter_test target"
echo /dev/$cached > $TEST_DIR/kopen
check "C25: with a target that does not suit it" each EOPNOTSUPP "blkfilter_test target"
echo > $TEST_DIR/kopen
check "C14: nothing is attached" attached $dev none
check "C11: nothing was" eq "$(get attached) $(get released)" "0 0"
check "C11: no worker is left" wait_for eval '[ $(workers) = 0 ]'
check "C17: the disk goes on" dwrite $dev
check "C25: the other can be removed" eval "echo 0 > $NULLB/$cached/power"
check "C18: the module can be unloaded" rmmod blkfilter_test
ktap_finished
