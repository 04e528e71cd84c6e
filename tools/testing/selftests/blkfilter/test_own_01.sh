#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Taking a bio and letting it go on, from every context; data and flags arrive.

. "$(dirname "$0")"/test_common.sh

plan 31
load_test_filter
new_nullb discard=1
attach $DEV blkfilter_test || bail "cannot attach"

pattern() {	# byte, in a file of 64 KiB
	head -c 65536 /dev/zero | tr '\0' "$1" > "$TMP/$1"
}

arrives() {	# file
	timeout 60 dd if="$1" of=/dev/$DEV bs=16K oflag=direct conv=notrunc status=none ||
		return
	cmp "$1" <(dd if=/dev/$DEV bs=16K count=4 iflag=direct status=none)
}

i=0
for mode in resubmit inline timer defer sleep copy; do
	letter=$(printf "\\$(printf %o $((65 + i++)))")
	pattern "$letter"
	echo $mode > $TEST_DIR/mode
	before=$(get processed)
	check "C10: $mode: data arrives" arrives "$TMP/$letter"
	case $mode in
	defer|sleep|copy)
		check "C12: $mode: through ->process" [ $(($(get processed) - before)) -ge 8 ]
		;;
	*)
		check "C12: $mode: not through ->process" eq "$(get processed)" "$before"
		;;
	esac
done

echo defer > $TEST_DIR/mode
check "C22: a discard can be deferred" blkdiscard -f -o 1M -l 1M /dev/$DEV
check "C23: so can a flush" \
	dd if=/dev/zero of=/dev/$DEV bs=4096 count=1 conv=fsync,notrunc status=none
trace=/sys/kernel/tracing
check "C13: detach with deferral on" detach $DEV
new_nullb cache_size=4 fua=1
attach $DEV blkfilter_test || bail "cannot attach"
for mode in resubmit defer; do
	echo $mode > $TEST_DIR/mode
	echo > $trace/trace
	echo 1 > $trace/events/block/block_bio_queue/enable
	dd if=/dev/zero of=/dev/$DEV bs=4096 count=1 seek=7 oflag=direct,dsync status=none
	echo 0 > $trace/events/block/block_bio_queue/enable
	check "C23: $mode: the device gets the FUA write" grep -qE ' WFS 56 \+ 8 ' $trace/trace
	check "C23: $mode: once" eq "$(grep -cE ' WF?S 56 \+ 8 ' $trace/trace)" 1
done

seen=$(get seen)
read -r s t f < "$(dirname "$(attr $DEV)")/filter_stat"
check "C30: the core counts what the filter sees" [ "$s" -ge 2 -a "$s" -lt "$seen" ]
check "C30: and what it takes" [ "$t" -ge 2 -a "$t" -le "$s" ]
check "C30: and that nothing is in flight" eq "$f" 0

echo refuse > $TEST_DIR/mode
check "C10: ->process can end a bio" fails_with "Input/output error" dwrite $DEV
hold
dwrite $DEV & writer=$!
wait_for grep -qx 1 $TEST_DIR/held
check "C30: a held bio is in flight" \
	grep -qE '^[0-9]+ [0-9]+ 1$' "$(dirname "$(attr $DEV)")/filter_stat"
echo defer > $TEST_DIR/mode
echo 1 > $TEST_DIR/release
check "C10: it is finished later" wait $writer

# What user space sees of it.
echo 1 > $trace/events/bdev_filter/enable
dwrite $DEV 4096 1 9
echo 0 > $trace/events/bdev_filter/enable
for event in take defer resubmit; do
	check "C30: the trace has the $event" grep -qE \
		"bdev_filter_$event: $DEV blkfilter_test WS? 72 \+ 8 " $trace/trace
done
check "C9: no late call" eq "$(get late)" 0
echo > $trace/trace

# Nothing is left behind.
detach $DEV
check "C11: it was released" eq "$(get released)" "$(get attached)"
check "C18: the module can be unloaded" wait_for rmmod blkfilter_test
ktap_finished
