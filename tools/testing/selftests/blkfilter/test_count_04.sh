#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Exactly once, for a million bios (50,000 on a debug kernel): a disk that splits and
# merges, a disk that does neither, and dm-linear on the latter.  No tolerance.
#
# A bio that a submitter issues and that no filter takes is queued once: the
# tracepoint block_bio_queue, which comes right after the filters, leaves out the
# remainders of a split as they must.  So for each filter
#
#	seen = what the submitters issued = block_bio_queue
#
# What a request queue counts are requests, not bios.  A bio that is merged into a
# request that there is already makes none, each split makes two bios of one:
#
#	seen = I/Os + merges - block_split
#
# And what ends are requests there, bios on a device without requests:
#
#	seen = block_rq_complete + merges - block_split, or
#	seen = block_bio_complete - block_split

. "$(dirname "$0")"/test_common.sh

plan 25
load rust_blkfilter
load_test_filter
load dm_mod
insmod "$DIR"/test_modules/blkfilter_bench.ko || bail "cannot load blkfilter_bench"
DEVS+=("rmmod blkfilter_bench")
bench=/sys/kernel/debug/blkfilter_bench

total=1000000
[ -z "$SLOW" ] || total=50000
by_fio=$((total / 20))

# count <device>: the filter and the tracepoints, from now on.
declare -A SEEN IOS MERGES
count() {
	local f="dev == $(dev_t "$1")"

	SEEN[$1]=$(filter_stat "$1" seen)
	IOS[$1]=$(ios "$1")
	MERGES[$1]=$(merges "$1")
	count_events "$1_queue" block/block_bio_queue "$f"
	count_events "$1_bios" block/block_bio_complete "$f"
	count_events "$1_requests" block/block_rq_complete "$f"
	count_events "$1_split" block/block_split "$f"
}

ios() {	# device
	awk '{ print $1 + $5 }' "/sys/block/$1/stat"
}

merges() {	# device
	awk '{ print $2 + $6 }' "/sys/block/$1/stat"
}

# The last request may not have been counted when its submitter goes on.
idle() {
	local dev

	for dev in "$@"; do
		wait_for grep -qE '^ *0 +0$' "/sys/block/$dev/inflight"
	done
	sleep 0.3
}

seen() {	# device
	echo $(($(filter_stat "$1" seen) - ${SEEN[$1]}))
}

# Prints how many I/Os it did: of up to 1 MiB each, directly, so that each is a bio.
fio_ios() {	# device options...
	fio --name=count --filename=/dev/"$1" --direct=1 --output-format=json "${@:2}" \
		> "$TMP/fio" || return
	python3 -c 'import json, sys
jobs = json.load(sys.stdin)["jobs"]
assert not any(j["error"] for j in jobs)
print(sum(j[k]["total_ios"] for j in jobs for k in ("read", "write")))' < "$TMP/fio"
}

# equations <name> <device> <issued>
equations() {
	local seen split ios merges ended

	seen=$(seen "$2")
	split=$(events "$2_split")
	ios=$(($(ios "$2") - ${IOS[$2]}))
	merges=$(($(merges "$2") - ${MERGES[$2]}))
	echo "# $1: issued $3, seen $seen, queued $(events "$2_queue"), split $split," \
		"I/Os $ios, merges $merges, requests ended $(events "$2_requests")," \
		"bios ended $(events "$2_bios")"
	check "C3: $1: seen is what the submitters issued" eq "$seen" "$3"
	check "C3: $1: and what was queued" eq "$seen" "$(events "$2_queue")"
	check "C3: $1: and what the disk did" eq "$seen" $((ios + merges - split))
	ended=$(($(events "$2_requests") + merges + $(events "$2_bios")))
	check "C3: $1: and what ended" eq "$seen" $((ended - split))
}

# Splits and merges: pieces of 4 KiB.
new_nullb max_sectors=8 submit_queues=1
echo mq-deadline > /sys/block/$DEV/queue/scheduler || bail "no mq-deadline"
attach $DEV rust_blkfilter || bail "cannot attach"
quiet $DEV
udev_off
count $DEV
large=$(fio_ios $DEV --rw=randrw --bs=64k --ioengine=libaio --iodepth=8 --numjobs=2 \
	--io_size=$((by_fio / 8 * 4))k --size=32m) || bail "fio"
small=$(fio_ios $DEV --rw=rw --bs=1k --ioengine=libaio --iodepth=32 --iodepth_batch=16 \
	--iodepth_batch_complete_min=16 --io_size=$((by_fio / 2))k --size=32m) || bail "fio"
idle $DEV
equations "split and merged" $DEV $((large + small))
check "C3: split and merged: much was split" [ "$(events ${DEV}_split)" -ge "$large" ]
check "C3: split and merged: much was merged" \
	[ $(($(merges $DEV) - ${MERGES[$DEV]})) -ge $((small / 8)) ]
all=$(seen $DEV)
detach $DEV
udev_on

# Neither, and dm-linear on it.  The loop in the kernel reads one sector at a time.
new_nullb irqmode=0
low=$DEV
dmsetup create blkfilter_count --table "0 131072 linear /dev/$low 0" || bail "dmsetup"
DEVS+=("dmsetup remove --retry blkfilter_count")
udevadm settle
top=$(basename "$(readlink -f /dev/mapper/blkfilter_count)")
attach $low rust_blkfilter && attach $top blkfilter_test || bail "cannot attach"
quiet $low
udev_off
count $low
count $top
on_low=$(fio_ios $low --rw=randrw --bs=4k --ioengine=libaio --iodepth=4 --numjobs=4 \
	--io_size=$((by_fio / 8 * 4))k --size=32m) || bail "fio"
on_top=$(fio_ios $top --rw=randrw --bs=4k --ioengine=libaio --iodepth=4 --numjobs=4 \
	--io_size=$((by_fio / 8 * 4))k --size=32m) || bail "fio"
# Each of these is seen twice, at the top and below.
n=$(((total - all - on_low - 2 * on_top) / 2 + 1))
echo "/dev/$top $n" > $bench || bail "bench"
on_top=$((on_top + n))
idle $low $top
equations "dm-linear" $top $on_top
equations "below dm-linear" $low $((on_low + on_top))
check "C3: below dm-linear: nothing was split" eq "$(events ${low}_split)" 0
all=$((all + $(seen $low) + $(seen $top)))
check "C3: these were $total bios" [ $all -ge $total ]

# The same if each is taken and resubmitted.
for mode in defer inline resubmit; do
	echo $mode > $TEST_DIR/mode
	seen=$(seen $top)
	lower=$(seen $low)
	queued=$(events ${top}_queue)
	issued=$(fio_ios $top --rw=randrw --bs=4k --ioengine=libaio --iodepth=4 --numjobs=4 \
		--io_size=4m --size=32m) || bail "fio"
	idle $low $top
	check "C3: $mode: seen once on top" eq $(($(seen $top) - seen)) "$issued"
	check "C3: $mode: once below" eq $(($(seen $low) - lower)) "$issued"
	check "C3: $mode: and queued once" eq $(($(events ${top}_queue) - queued)) "$issued"
done
ktap_finished
