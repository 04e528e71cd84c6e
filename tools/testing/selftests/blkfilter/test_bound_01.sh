#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Who writes more than a filter lets go on is made to wait, as by a queue that is full.

. "$(dirname "$0")"/test_common.sh

plan 13
load_test_filter
new_nullb size=128
attach $DEV blkfilter_test || bail "cannot attach"
udev_off

# run <fio options>...: in the background; its output is in $TMP/fio.
run() {
	fio --name=bound --filename=/dev/$DEV --bs=4k --direct=1 --ioengine=libaio --rw=write \
		--size=32m --verify=crc32c --verify_fatal=1 "$@" > "$TMP/fio" 2>&1 &
	fio=$!
}

full() {
	[ "$(filter_stat $DEV flight)" -ge 1024 ]
}

# A filter that is slow, and a writer that is not.  Who waits for the filter counts, too.
echo sleep > $TEST_DIR/mode
run --iodepth=4096
check "C12: many bios are queued" wait_for full
sleep 2
flight=$(filter_stat $DEV flight)
echo "# $flight"
check "C12: not more than a thousand" [ "$flight" -le 1040 ]
echo pass > $TEST_DIR/mode
check "C12: then it goes on, and the data is right" fio_passes $fio

# What may not wait does not.
echo sleep > $TEST_DIR/mode
run --iodepth=4096
wait_for full || bail "few bios are queued"
sleep 1
timeout $((60 * ${SLOW:-1})) fio --name=nowait --filename=/dev/$DEV --bs=4k --direct=1 \
	--ioengine=libaio --rw=read --offset=96m --size=1m --iodepth=128 --nowait=1 \
	> "$TMP/nowait" 2>&1 & nowait=$!
check "C24: with REQ_NOWAIT nobody waits" \
	wait_for eval '[ $(filter_stat $DEV flight) -ge 1100 ]'
echo pass > $TEST_DIR/mode
check "C24: and they get through" wait $nowait
check "C10: as the others do" fio_passes $fio

# Four at a time.
echo sleep > $TEST_DIR/mode
run --iodepth=2048 --numjobs=4 --offset_increment=32m --group_reporting
check "C12: slow: it has many bios" wait_for full
flight=0
for i in {1..20}; do
	now=$(filter_stat $DEV flight)
	[ "$now" -le "$flight" ] || flight=$now
	sleep 0.1
done
echo "# $flight"
check "C12: slow: not more than a thousand" [ "$flight" -le 1040 ]

# The detach waits for those that wait, and these for it.
echo pass > $TEST_DIR/mode
check "C13: it can be detached" soon 20 eval "echo none > /sys/block/$DEV/filter"
check "C10: no write is lost, and the data is right" fio_passes $fio
check "C11: it was released" eq "$(get released)" "$(get attached)"

# A control group does not wait for what another has queued: there is one request at a
# time, for 10 ms, and each of many threads has queued one that is too many.
new_io_cgroup blkfilter_a
a=$CGROUP
new_io_cgroup blkfilter_b
b=$CGROUP
new_nullb size=128 memory_backed=0 irqmode=2 completion_nsec=10000000 hw_queue_depth=1 \
	submit_queues=1
attach $DEV blkfilter_test || bail "cannot attach"
echo inline > $TEST_DIR/mode
inside $a fio --name=bound --filename=/dev/$DEV --bs=4k --direct=1 --ioengine=libaio \
	--rw=randread --iodepth=24 --numjobs=64 --thread --size=96k --time_based \
	--runtime=15 > "$TMP/fio" 2>&1 & fio=$!
wait_for full || bail "few bios are queued"
# Let the threads have had their turn.
sleep 1
taken=$(filter_stat $DEV taken)
check "C12: another group gets through" soon 4 bash -c "echo \$\$ > $b/cgroup.procs &&
	dd if=/dev/$DEV of=/dev/null bs=4096 count=20 iflag=direct status=none"
check "C12: while there is a thousand of the first" \
	eval 'full && [ $(filter_stat $DEV taken) -ge $((taken + 20)) ]'
echo pass > $TEST_DIR/mode
wait $fio
detach $DEV
ktap_finished
