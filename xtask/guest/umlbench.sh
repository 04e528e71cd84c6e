#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a bio costs, as process 1 of user-mode Linux. The first argument is a directory
# with the modules; the file "out" there gets a line for each pair of runs: name, time
# with nothing attached, time with the filter, in nanoseconds per bio.

exec > "$1/out" 2>&1
# There is no SysRq in user mode: reboot(2).
finish() {
	echo "$*"
	sync
	perl -e 'syscall(169, 0xfee1dead, 672274793, 0x4321fedc, 0)'
}

export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t debugfs debugfs /sys/kernel/debug
mount -t devtmpfs dev /dev
for module in blkfilter_bench blkfilter_twins_c; do
	insmod "$1/$module.ko" || finish "FAILED: no $module"
done
bench=/sys/kernel/debug/blkfilter_bench
# The mean: the clock ticks too seldom for a median.
measure() { echo "/dev/nullb0 20000" > $bench || finish "FAILED: bench"; cut -d' ' -f2 $bench; }
measure > /dev/null
for ((n = 0; n < 15; n++)); do
	for filter in c_pass c_count rust_blkfilter c_hook; do
		without=$(measure)
		echo $filter > /sys/block/nullb0/filter || finish "FAILED: attach"
		with=$(measure)
		echo none > /sys/block/nullb0/filter || finish "FAILED: detach"
		echo "pair $filter: $without $with"
	done
done
finish done
