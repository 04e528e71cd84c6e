#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Writes to zones that a filter takes stay in order, also while it is detached.

. "$(dirname "$0")"/test_common.sh

plan 40
insmod "$DIR"/test_modules/blkfilter_test.ko flags=16 || bail "cannot load blkfilter_test"
load_test_filter
new_nullb size=256 blocksize=4096 zoned=1 zone_size=64 zone_nr_conv=0 irqmode=2 \
	completion_nsec=20000
echo none > /sys/block/$DEV/queue/scheduler
udev_off

# run <seconds>: sequential writes, 32 at a time; any that comes too early is an error.
run() {
	blkzone reset /dev/$DEV || bail "blkzone"
	fio --name=zoned --filename=/dev/$DEV --zonemode=zbd --rw=write --bs=4k --direct=1 \
		--ioengine=libaio --iodepth=32 --size=256m --runtime=$(($1 * ${SLOW:-1})) \
		> "$TMP/fio" 2>&1 & fio=$!
	wait_for eval "[ \$(disk_sectors $DEV write) -gt $(($(disk_sectors $DEV write) + 200)) ]"
}

# well: of the writes that the filter has taken since then none failed, and there are some.
well() {
	local now=$(filter_stat $DEV taken)

	[ "${now:-0}" -gt "$taken" ] || echo "nothing was taken"
	fio_passes $fio && [ "${now:-0}" -gt "$taken" ]
}

run 2
check "C12: without a filter" fio_passes $fio
for mode in defer sleep resubmit timer; do
	attach $DEV blkfilter_test || bail "cannot attach"
	echo $mode > $TEST_DIR/mode
	taken=$(filter_stat $DEV taken)
	run 2
	check "C12: $mode: no write is out of order" well
	echo pass > $TEST_DIR/mode
	detach $DEV
done

for mode in sleep defer timer resubmit; do
	for round in 1 2 3 4; do
		attach $DEV blkfilter_test || bail "cannot attach"
		echo $mode > $TEST_DIR/mode
		run 4
		taken=$(filter_stat $DEV taken)
		check "C13: $mode, round $round: detached in time" \
			soon 5 eval "echo none > /sys/block/$DEV/filter && kill -0 $fio"
		check "C13: $mode, round $round: no write is out of order" \
			eval "fio_passes $fio && [ $taken -gt 0 ]"
	done
done

# What has to wait for a filter that leaves, and may not.
blkzone reset /dev/$DEV || bail "blkzone"
dd if=/dev/zero of=/dev/$DEV bs=4096 count=1 oflag=direct status=none
attach $DEV blkfilter_test || bail "cannot attach"
echo hold > $TEST_DIR/mode
dd if=/dev/zero of=/dev/$DEV bs=4096 count=1 seek=16384 oflag=direct status=none & writer=$!
wait_for eval '[ $(filter_stat $DEV flight) = 1 ]' || bail "nothing is held"
detach $DEV & detacher=$!
# The slot is emptied when the gate opens, so the attribute does not tell.
sleep 1
check "C24: at the gate: a write that may not wait gets EAGAIN" \
	eq "$(io $DEV write RWF_NOWAIT a)" EAGAIN
echo 1 > $TEST_DIR/release
check "C24: then it succeeds, as what was held" eq "$(io $DEV write RWF_NOWAIT a)$(
	wait $writer && echo well)" awell
check "C13: and the detach ends" wait $detacher
ktap_finished
