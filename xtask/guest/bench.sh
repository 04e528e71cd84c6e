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
insmod $modules/blkfilter_twins_c.ko || fail "no blkfilter_twins_c"
insmod $modules/blkfilter_twins_rust.ko || fail "no blkfilter_twins_rust"
for m in rust_blkfilter rust_blk_changetrack rust_blkdelay; do
	modprobe $m || fail "no $m"
done
modprobe null_blk nr_devices=0 || fail "no null_blk"
for m in dm_mod dm_flakey dm_delay dm_era; do modprobe $m || fail "no $m"; done
for dev in nullb0 nullb1; do
	mkdir $nullb/$dev
	for a in size=64 irqmode=0 queue_mode=2 submit_queues=1; do
		echo ${a#*=} > $nullb/$dev/${a%%=*} || fail "null_blk: $a"
	done
	echo 1 > $nullb/$dev/power || fail "cannot power on $dev"
done
udevadm settle

wanted() {	# name
	case $1 in *"nothing attached anywhere" | *"$ONLY"*) ;; *) return 1 ;; esac
}
row() {	# name device [write]
	wanted "$1" || return 0
	echo "$2 $count $3" > $bench || fail "$1"
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

with() {	# filter name [write]
	wanted "$2" || return 0
	attach nullb0 "$1"
	row "$2" /dev/nullb0 "$3"
	detach nullb0
}
dm() {	# target and its parameters
	wanted "dm-$1" || return 0
	dmsetup create bench --table "0 131072 $*" || fail "dm $1"
	udevadm settle
	row "dm-$1" /dev/mapper/bench
	dmsetup remove --retry bench
}

echo "loop 1000" > $bench || fail "calibration"
echo "row calibration, 1000 iterations of 2 instructions: $(cat $bench)"
row "nothing attached anywhere" /dev/nullb0
attach nullb1 c_pass
row "a filter on another disk" /dev/nullb0
detach nullb1
with c_pass "C: passes"
with rust_pass "Rust: passes"
with c_count "C: counts by operation"
with rust_count "Rust: counts by operation"
with c_hook "C: hooks the completion"
with rust_hook "Rust: hooks the completion"
with c_defer "C: defers and resubmits"
with rust_defer "Rust: defers and resubmits"
with rust_blkfilter "rust_blkfilter"
with "blkdelay ms=0" "blkdelay, 0 ms"
dm linear /dev/nullb0 0
dm flakey /dev/nullb0 0 60 0
dm delay /dev/nullb0 0 0
row "nothing attached anywhere, again" /dev/nullb0
row "4 KiB write: nothing attached anywhere" /dev/nullb0 write
with "changetrack granularity=4096" "4 KiB write: changetrack, 4 KiB blocks" write
if wanted "4 KiB write: dm-era"; then
	# Its metadata needs a disk that remembers.
	mkdir $nullb/nullb2 && echo 1 > $nullb/nullb2/memory_backed && echo 64 > $nullb/nullb2/size &&
		echo 1 > $nullb/nullb2/power || fail "no nullb2"
	dmsetup create bench --table "0 131072 era /dev/nullb2 /dev/nullb0 8" || fail "dm-era"
	udevadm settle
fi
row "4 KiB write: dm-era, 4 KiB blocks" /dev/mapper/bench write
