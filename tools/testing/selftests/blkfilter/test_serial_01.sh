#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A filter that lets one bio go on at a time, and resubmits the next one when that has
# completed.

. "$(dirname "$0")"/test_common.sh

plan 17
load_test_filter

# run <fio options>...: in the background; its output is in $TMP/fio.
run() {
	timeout -s KILL $((60 * ${SLOW:-1})) fio --name=serial --filename=/dev/$DEV --direct=1 \
		--ioengine=libaio "$@" > "$TMP/fio" 2>&1 & fio=$!
}

# ends <seconds> <what>: fio does, by itself; its status is another matter.
ends() {
	local i

	for ((i = 0; i < $1 * 10 * ${SLOW:-1}; i++)); do
		[ -e /proc/$fio ] || return 0
		sleep 0.1
	done
	filter_stat $DEV flight
	return 1
}

# One tag, and who completes a bio is who submits the next.
new_nullb irqmode=0 hw_queue_depth=1 submit_queues=1
echo none > /sys/block/$DEV/queue/scheduler
attach $DEV blkfilter_test || bail "cannot attach"
udev_off
echo serial > $TEST_DIR/mode
run --rw=randread --bs=4k --iodepth=8 --iodepth_batch_submit=8 --iodepth_batch_complete_min=8 \
	--number_ios=4000
check "C10: one tag: all reads end" ends 50
check "C10: one tag: well" fio_passes $fio
check "C10: one tag: most were resubmitted by a completion" [ "$(get passed_on)" -gt 2000 ]
run --rw=randwrite --bs=4k --iodepth=64 --size=4m --verify=crc32c --verify_fatal=1
check "C10: one tag: writes end, with the right data" fio_passes $fio
check "C11: one tag: none is left" wait_for eval \
	'[ "$(get held) $(filter_stat $DEV flight)" = "0 0" ]'
udev_on
echo pass > $TEST_DIR/mode
detach $DEV

# All that wait fail at once: the device is nothing any more.
new_loop
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
echo serial > $TEST_DIR/mode
run --rw=randread --bs=512 --iodepth=2000 --size=64m --time_based \
	--runtime=$((15 * ${SLOW:-1})) --continue_on_error=all
check "C10: shrunk: bios wait for each other" \
	wait_for eval '[ $(filter_stat $DEV flight) -gt 1000 ]'
before=$(get passed_on)
truncate -s 4096 "$TMP/loop.img"
losetup -c /dev/$DEV || bail "losetup -c"
check "C33: shrunk: all of them end" ends 50
wait $fio
check "C33: shrunk: 1000 or more" [ $(($(get passed_on) - before)) -ge 1000 ]
check "C11: shrunk: none is left" wait_for eval \
	'[ "$(get held) $(filter_stat $DEV flight)" = "0 0" ]'
check "C10: shrunk: what is there can be read" dread $DEV
echo pass > $TEST_DIR/mode
detach $DEV

# waiting: bios wait, on a disk that takes a millisecond for each.
waiting() {
	new_nullb irqmode=2 completion_nsec=1000000 memory_backed=0
	attach $DEV blkfilter_test || bail "cannot attach"
	udevadm settle
	echo serial > $TEST_DIR/mode
	run --rw=randread --bs=4k --iodepth=1000 --time_based --runtime=$((15 * ${SLOW:-1})) \
		--continue_on_error=all
	wait_for eval '[ $(filter_stat $DEV flight) -gt 900 ]'
}
check "C10: detach: bios wait" waiting
check "C13: detach: it ends" soon 10 eval "echo none > /sys/block/$DEV/filter"
check "C10: detach: none is lost" eval "ends 40 && fio_passes $fio"
check "C10: removal: bios wait" waiting
check "C15: removal: it ends" soon 10 eval "echo 0 > $NULLB/$DEV/power"
ends 40
wait $fio
check "C10: removal: none is lost" wait_for grep -qx 0 $TEST_DIR/held
check "C11: all were released" wait_for grep -qx "$(get attached)" $TEST_DIR/released
ktap_finished
