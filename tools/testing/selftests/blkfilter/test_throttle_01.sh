#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Throttled bios, and throttled remainders of split ones, are seen once.

. "$(dirname "$0")"/test_common.sh

plan 9
load rust_blkfilter
load_test_filter
new_nullb max_sectors=8
new_io_cgroup blkfilter
cgroup=$CGROUP
echo "$(cat /sys/block/$DEV/dev) wbps=2097152 riops=200" > $cgroup/io.max || bail "io.max"

throttled() {	# command...
	inside $cgroup "$@"
}

attach $DEV rust_blkfilter || bail "cannot attach"
mark $DEV
start=$SECONDS
throttled dwrite $DEV 1M 6
throttled dread $DEV 64K 16
check "C3: throttled: it was slow" [ $((SECONDS - start)) -ge 2 ]
check "C3: throttled: writes are those of the disk" same $DEV write
check "C3: throttled: reads are those of the disk" same $DEV read
check "C3: throttled: not once for each of the pieces" [ "$(stat_of $DEV write bios)" -le 100 ]
detach $DEV

# Taken and resubmitted, too.
attach $DEV blkfilter_test
udevadm settle
echo defer > $TEST_DIR/mode
seen=$(get seen)
throttled dwrite $DEV 256K 4
check "C3: deferred and throttled: seen once" [ $(($(get seen) - seen)) -le 16 ]
check "C12: each was processed once" [ "$(get processed)" -le 16 -a "$(get processed)" -ge 4 ]
echo pass > $TEST_DIR/mode
detach $DEV

# I/O of the filter's own on behalf of what was held up, with more than a thousand of that.
new_nullb
echo "$(cat /sys/block/$DEV/dev) riops=1000" > $cgroup/io.max || bail "io.max"
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
all_through() {
	local before=$(filter_stat $DEV taken)

	throttled timeout $((60 * ${SLOW:-1})) fio --name=throttled --filename=/dev/$DEV --bs=4k \
		--direct=1 --ioengine=libaio --rw=read --iodepth=2048 --size=10m &&
		[ $(filter_stat $DEV taken) -ge $((before + 2560)) ]
}
for mode in copy defer inline; do
	echo $mode > $TEST_DIR/mode
	check "C12: throttled: $mode: more than a thousand are taken, and get through" all_through
done
echo pass > $TEST_DIR/mode
ktap_finished
