# SPDX-License-Identifier: GPL-2.0
#
# What a bio costs, inside the guest. Each line that starts with "row" is one of
# the table: name, median, mean.

fail() { echo "FAILED: $*"; exit 1; }

modules=/mnt/share/blkfilter/test_modules
bench=/sys/kernel/debug/blkfilter_bench
nullb=/sys/kernel/config/nullb
count=20000

insmod $modules/blkfilter_bench.ko || fail "no blkfilter_bench"
insmod $modules/blkfilter_test.ko || fail "no blkfilter_test"
modprobe rust_blkfilter || fail "no rust_blkfilter"
modprobe null_blk nr_devices=0 || fail "no null_blk"
modprobe dm_mod || fail "no dm_mod"
for dev in nullb0 nullb1; do
	mkdir $nullb/$dev
	for a in size=64 irqmode=0 queue_mode=2 submit_queues=1; do
		echo ${a#*=} > $nullb/$dev/${a%%=*} || fail "null_blk: $a"
	done
	echo 1 > $nullb/$dev/power || fail "cannot power on $dev"
done
udevadm settle

row() {	# name device
	echo "$2 $count" > $bench || fail "$1"
	echo "row $1: $(cat $bench)"
}
attach() {	# device filter
	echo "$2" > /sys/block/$1/filter || fail "cannot attach $2"
	udevadm settle
}
detach() {
	echo none > /sys/block/$1/filter || fail "cannot detach"
	udevadm settle
}

echo "loop 1000" > $bench || fail "calibration"
echo "row calibration, 1000 iterations of 2 instructions: $(cat $bench)"
row "nothing attached anywhere" /dev/nullb0
attach nullb1 blkfilter_test
row "a filter on another disk" /dev/nullb0
detach nullb1
attach nullb0 blkfilter_test
row "test filter in C, passes" /dev/nullb0
echo inline > /sys/kernel/debug/blkfilter_test/mode
row "test filter in C, takes and resubmits" /dev/nullb0
echo pass > /sys/kernel/debug/blkfilter_test/mode
detach nullb0
attach nullb0 rust_blkfilter
row "sample filter in Rust, counts" /dev/nullb0
detach nullb0
dmsetup create bench --table "0 131072 linear /dev/nullb0 0" || fail "dm-linear"
udevadm settle
row "dm-linear" /dev/mapper/bench
dmsetup remove --retry bench
row "nothing attached anywhere, again" /dev/nullb0
