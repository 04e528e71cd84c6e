#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Detach and attach again and again under load, on four CPUs; the data is right.

. "$(dirname "$0")"/test_common.sh

plan 4
load rust_blkfilter
load_test_filter
new_nullb size=128 submit_queues=2

seconds=8
[ -n "$SLOW" ] && seconds=30
fio --name=load --filename=/dev/$DEV --rw=randrw --bs=4k --direct=1 --ioengine=libaio \
	--iodepth=8 --numjobs=2 --offset_increment=64m --size=60m --verify=crc32c \
	--verify_fatal=1 --time_based --runtime=$((seconds + 4)) --group_reporting \
	> "$TMP/fio" 2>&1 &
fio=$!
sleep 1
n=0
end=$((SECONDS + seconds))
while [ $SECONDS -lt $end ]; do
	attach $DEV rust_blkfilter && detach $DEV && n=$((n + 1))
	echo resubmit > $TEST_DIR/mode
	attach $DEV blkfilter_test && detach $DEV && n=$((n + 1))
done
echo "# $n attachments"
check "C7: it could be attached and detached under load" [ $n -ge 10 ]
check "C10: no I/O was lost and no data is wrong" fio_passes $fio
check "C9: no call after the detach" eq "$(get late)" 0
check "C11: all were released" eq "$(get attached)" "$(get released)"
ktap_finished
