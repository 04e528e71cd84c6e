# SPDX-License-Identifier: GPL-2.0
#
# What a bio costs, inside the guest. The host sets PART, to one of the parts below,
# and ONLY. A line that starts with "row" is one of the table: name, median, mean. One
# that starts with "time" is one of times: name, median, 99th percentile. One that starts
# with "bytes" is one of memory. The host reads the names of all rows from this file: a
# name is the last thing in quotes on its line.

fail() { echo "FAILED: $*"; exit 1; }

modules=/mnt/share/blkfilter/test_modules
bench=/sys/kernel/debug/blkfilter_bench
nullb=/sys/kernel/config/nullb
count=20000

null_blk() {	# name, more attributes
	local a

	mkdir $nullb/$1
	for a in size=64 irqmode=0 queue_mode=2 submit_queues=1 "${@:2}"; do
		echo ${a#*=} > $nullb/$1/${a%%=*} || fail "null_blk: $a"
	done
	echo 1 > $nullb/$1/power || fail "cannot power on $1"
	udevadm settle
}
wanted() {	# name
	case $1 in *"nothing attached anywhere" | *"$ONLY"*) ;; *) return 1 ;; esac
}
row() {	# name device [how]
	wanted "$1" || return 0
	echo "$2 $count $3" > $bench || fail "$1"
	echo "row $1: $(cut -d' ' -f1,2 $bench)"
}
attach() {	# device filter
	echo "$2" > /sys/block/$1/filter || fail "cannot attach $2"
	udevadm settle
}
detach() {
	echo none > /sys/block/$1/filter || fail "cannot detach"
	udevadm settle
}
# From here on udev stays out of the way.
without_udev() {
	udevadm settle
	kill -STOP $(pgrep -o -x systemd-udevd)
	attach() { echo "$2" > /sys/block/$1/filter || fail "cannot attach $2"; }
}
with() {	# filter name [how]
	wanted "$2" || return 0
	attach nullb0 "$1"
	row "$2" /dev/nullb0 "$3"
	detach nullb0
}
# A second opinion: fio's mean, so user space and the ticks of the timer are in it.
fio_row() {	# name [filter]
	local mean

	wanted "$1" || return 0
	[ -z "$2" ] || attach nullb0 "$2"
	mean=$(fio --name=row --filename=/dev/nullb0 --rw=read --bs=512 --direct=1 \
		--ioengine=psync --number_ios=$count --output-format=json |
		python3 -c 'import json, sys
job = json.load(sys.stdin)["jobs"][0]
print(round(job["read"]["clat_ns"]["mean"]))')
	[ -n "$mean" ] || fail "$1"
	echo "row $1: $mean $mean"
	[ -z "$2" ] || detach nullb0
}
dm() {	# name, which is dm-TARGET, and the target's parameters
	wanted "$1" || return 0
	dmsetup create bench --table "0 131072 ${1#dm-} ${*:2}" || fail "$1"
	udevadm settle
	row "$1" /dev/mapper/bench
	dmsetup remove --retry bench
}
takes() {	# name, what to write, to take times
	echo "$2" > $bench || fail "$1"
	echo "time $1: $(cut -d' ' -f1,3 $bench)"
}

insmod $modules/blkfilter_bench.ko || fail "no blkfilter_bench"
modprobe null_blk nr_devices=0 || fail "no null_blk"
echo "loop 1000" > $bench || fail "calibration"
echo "calibration 1000 iterations of 2 instructions: $(cut -d' ' -f1,2 $bench)"
if [ $PART = without ]; then
	[ ! -e /sys/block/vda/filter ] || fail "this kernel has filters"
	null_blk nullb0
	null_blk nullb1
	row "CONFIG_BLK_FILTER=n" /dev/nullb0
	row "4 KiB write: CONFIG_BLK_FILTER=n" /dev/nullb0 write
	exit
fi

insmod $modules/blkfilter_twins_c.ko || fail "no blkfilter_twins_c"
insmod $modules/blkfilter_twins_rust.ko || fail "no blkfilter_twins_rust"
if [ $PART = cpus ]; then
	null_blk nullb0 submit_queues=4
	for cpus in 1 2 4; do
		row "$cpus of 4 CPUs: nothing attached anywhere" /dev/nullb0 cpus=$cpus
		with c_pass "$cpus of 4 CPUs: C: passes" cpus=$cpus
		with rust_pass "$cpus of 4 CPUs: Rust: passes" cpus=$cpus
	done
	[ -z "$ONLY" ] || exit 0
	# One CPU alone has its grace periods for next to nothing, so here.
	without_udev
	takes "grace period" "rcu 50"
	takes "attach" "/dev/nullb0 50 attach"
	takes "detach" "/dev/nullb0 50 detach"
	fio --name=load --filename=/dev/nullb0 --rw=randread --bs=4k --direct=1 \
		--ioengine=io_uring --iodepth=4 --time_based --runtime=3600 \
		--eta=never --output=/dev/null & fio=$!
	sleep 1
	takes "grace period, under load" "rcu 50"
	takes "attach, under load" "/dev/nullb0 50 attach"
	takes "detach, under load" "/dev/nullb0 50 detach"
	kill $fio || fail "there was no load"
	wait $fio
	exit 0
fi

for m in rust_blkfilter rust_blk_changetrack rust_blkdelay; do
	modprobe $m || fail "no $m"
done
for m in dm_mod dm_flakey dm_delay dm_era; do modprobe $m || fail "no $m"; done
null_blk nullb0
null_blk nullb1
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
dm "dm-linear" /dev/nullb0 0
dm "dm-flakey" /dev/nullb0 0 60 0
dm "dm-delay" /dev/nullb0 0 0
row "nothing attached anywhere, again" /dev/nullb0
fio_row "fio, mean: nothing attached anywhere"
fio_row "fio, mean: C: passes" c_pass
fio_row "fio, mean: Rust: passes" rust_pass
row "4 KiB write: nothing attached anywhere" /dev/nullb0 write
with "changetrack granularity=4096" "4 KiB write: changetrack, 4 KiB blocks" write
if wanted "4 KiB write: dm-era"; then
	# Its metadata needs a disk that remembers.
	null_blk nullb2 memory_backed=1
	dmsetup create bench --table "0 131072 era /dev/nullb2 /dev/nullb0 8" || fail "dm-era"
	udevadm settle
fi
row "4 KiB write: dm-era, 4 KiB blocks" /dev/mapper/bench write
[ -e /dev/mapper/bench ] && dmsetup remove --retry bench
without_udev
if [ -z "$ONLY" ]; then
	echo "/dev/nullb0 1 stack" > $bench || fail "stack"
	echo "bytes stack from submission to the filter: $(cut -d' ' -f1 $bench)"
fi

# Many devices.
case "C: passes, one device of 1 with a filter, of 64, of 1,024" in *"$ONLY"*) ;; *) exit 0 ;; esac
count=5000
modprobe brd rd_nr=1023 rd_size=64 || fail "no brd"
free() { sleep 0.5; awk '/^MemFree/ { print $2 }' /proc/meminfo; }
attach nullb0 c_pass
# What dm-era's end leaves to others takes a moment.
sleep 2
row "C: passes, one device of 1 with a filter" /dev/nullb0
for ((n = 0; n < 63; n++)); do attach ram$n c_pass; done
row "C: passes, one device of 64 with a filter" /dev/nullb0
# Nor what the names of files in sysfs take when they are looked up.
cat /sys/block/*/filter > /dev/null
before=$(free)
for ((n = 63; n < 1023; n++)); do attach ram$n c_pass; done
after=$(free)
row "C: passes, one device of 1,024 with a filter" /dev/nullb0
echo "bytes memory per filter: $(((before - after) * 1024 / 960))"
