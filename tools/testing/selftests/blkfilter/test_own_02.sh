#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Detach while bios are deferred: those left are resubmitted, none is lost, none
# is processed afterwards, and the module can be unloaded at once.

. "$(dirname "$0")"/test_common.sh

plan 9
load_test_filter
new_nullb size=128

attach $DEV blkfilter_test || bail "cannot attach"
echo sleep > $TEST_DIR/mode
fio --name=deferred --filename=/dev/$DEV --rw=write --bs=4k --direct=1 --ioengine=libaio \
	--iodepth=64 --size=256k --verify=crc32c --verify_fatal=1 --do_verify=1 \
	> "$TMP/fio" 2>&1 &
fio=$!
wait_for eval '[ "$(get processed)" -ge 3 ]'
check "C13: detach with deferred bios" detach $DEV
count=$(get processed)
check "C18: right after it the module can be unloaded" rmmod blkfilter_test
check "C12: what was left was not processed" [ "$count" -lt 40 ]
check "C10: no bio was lost, and the data is right" fio_passes $fio

# Again and again under load, with every way of going on.
load_test_filter
seconds=10
[ -n "$SLOW" ] && seconds=30
fio --name=load --filename=/dev/$DEV --rw=randrw --bs=4k --direct=1 --ioengine=libaio \
	--iodepth=16 --numjobs=2 --offset_increment=64m --size=60m --verify=crc32c \
	--verify_fatal=1 --time_based --runtime=$((seconds + 4)) --group_reporting \
	> "$TMP/fio" 2>&1 &
fio=$!
sleep 1
n=0
end=$((SECONDS + seconds))
while [ $SECONDS -lt $end ]; do
	for mode in defer timer inline copy resubmit; do
		echo $mode > $TEST_DIR/mode
		attach $DEV blkfilter_test || break 2
		sleep 0.05
		detach $DEV && n=$((n + 1)) || break 2
	done
done
echo "# $n attachments, $(get processed) bios processed"
check "C13: it could be attached and detached under load" [ $n -ge 5 ]
check "C12: bios were processed" [ "$(get processed)" -gt 100 ]
check "C10: no I/O was lost and no data is wrong" fio_passes $fio
check "C9: no late call" eq "$(get late)" 0
check "C11: all were released" eq "$(get attached)" "$(get released)"
ktap_finished
