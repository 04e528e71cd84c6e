#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Polled I/O: nobody polls for a bio that a filter has.

. "$(dirname "$0")"/test_common.sh

plan 18
load_test_filter
new_polled
partition $DEV

check "C10: the queue can be polled" eq "$(cat /sys/block/$DEV/queue/io_poll)" 1
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle

for mode in pass resubmit inline timer defer sleep nowait; do
	echo $mode > $TEST_DIR/mode
	before=$(get polled)
	case $mode in sleep) set -- --size=64k ;; *) set -- ;; esac
	check "C10: $mode: polled writes and reads end, with the right data" \
		polled $DEV --rw=randwrite "$@"
	check "C10: $mode: they were polled for" [ $(($(get polled) - before)) -ge 32 ]
done

# That of the partition takes a polled bio; the disk's, below it, sees that it is not
# polled for any more.
attach $PART blkfilter_test || bail "cannot attach"
quiet $DEV
echo defer > $TEST_DIR/mode
seen=$(get seen)
before=$(get polled)
polled $PART --rw=write --size=256k --verify=0 > "$TMP/fio" 2>&1
check "C10: after it was taken nobody polls for it" \
	eq "$(($(get seen) - seen)) $(($(get polled) - before))" "128 64"
detach $PART

keep_key
echo pass > $TEST_DIR/mode
attach_while_polled defer resubmit
check "C10: the I/O is fine" fio_passes $fio
check "C6: attached and detached while polled for" eval "((rounds > 1 && !failed))"
ktap_finished
