#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Polled I/O with hooked completions: the submitter polls, and the hook is called.

. "$(dirname "$0")"/test_common.sh

plan 7
load_test_filter
new_polled
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle

for mode in hook hookdefer; do
	echo $mode > $TEST_DIR/mode
	before=$(get polled)
	check "C26: $mode: polled writes and reads end, with the right data" \
		polled $DEV --rw=randwrite
	check "C26: $mode: they were polled for" [ $(($(get polled) - before)) -ge 32 ]
done
check "C26: the hooks ran" [ "$(get hooked)" -ge 1024 ]

keep_key
echo pass > $TEST_DIR/mode
attach_while_polled hook hookdefer
check "C26: the I/O is fine" fio_passes $fio
check "C26: attached and detached while polled for" eval "((rounds > 1 && !failed))"
ktap_finished
