#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Controllers of I/O and filters that defer it: a group that is over its budget does not
# delay another, and what a filter does for a group is charged to that.

. "$(dirname "$0")"/test_common.sh

plan 16
load_test_filter
cgroup=/sys/fs/cgroup
new_io_cgroup blkfilter_a
a=$CGROUP
new_io_cgroup blkfilter_b
b=$CGROUP

# charged <group> <field>: of io.stat, for the device DEV.
charged() {
	awk -v dev="$(cat /sys/block/$DEV/dev)" -v field="$2" '
		$1 == dev {
			for (i = 2; i <= NF; i++) {
				split($i, pair, "=")
				if (pair[1] == field)
					n = pair[2]
			}
		}
		END { print n + 0 }' "$1"/io.stat
}

# skip <why> <check>...: each of these.
skip() {
	local what

	for what in "${@:2}"; do
		ktap_test_skip "$what: $1"
	done
}

# Own I/O, and what is resubmitted, from each sort of worker.
new_nullb
attach $DEV blkfilter_test || bail "cannot attach"
quiet $DEV
udev_off
for mode in defer resubmit inline copy; do
	before=$(charged $a rios)
	own=0
	[ $mode = copy ] && own=4
	echo $mode > $TEST_DIR/mode
	inside $a dread $DEV 4096 4
	echo pass > $TEST_DIR/mode
	check "C23: $mode: the group is charged" eq $(($(charged $a rios) - before)) $((4 + own))
done
udev_on
detach $DEV

# io_in <group> <name>: writes and reads, with the data compared.
io_in() {
	inside "$1" timeout $((120 * ${SLOW:-1})) \
		fio --name=cgroup --filename=/dev/$DEV --direct=1 \
		--rw=randrw --bs=4k --ioengine=libaio --iodepth=16 --size=4m --verify=crc32c \
		--verify_fatal=1 "${@:2}"
}

# A polite group, whose reads are few, beside one that reads all it can.
greedy="C12: iocost: the greedy group gets through" late="C12: iocost: no group waits for another"
if [ -e $cgroup/io.cost.qos ]; then
	new_nullb size=256 memory_backed=0 irqmode=2 completion_nsec=100000
	echo none > /sys/block/$DEV/queue/scheduler
	dev=$(cat /sys/block/$DEV/dev)
	echo "$dev ctrl=user model=linear rbps=1000000000 rseqiops=300 rrandiops=300" \
		"wbps=1000000000 wseqiops=300 wrandiops=300" > $cgroup/io.cost.model &&
		echo "$dev enable=1 ctrl=user rpct=0 rlat=0 wpct=0 wlat=0 min=100.00 max=100.00" \
			> $cgroup/io.cost.qos || bail "iocost"
	echo "default 100" > $a/io.weight
	echo "default 10000" > $b/io.weight
	cat > "$TMP/median.py" <<-'END'
		import json, sys
		text = sys.stdin.read()
		read = json.loads(text[text.index("{"):])["jobs"][0]["read"]
		print(read["clat_ns"]["percentile"]["50.000000"] // 1000)
	END
	polite() {	# sets median, in microseconds
		inside $a fio --name=greedy --filename=/dev/$DEV --direct=1 --rw=randread --bs=4k \
			--ioengine=libaio --iodepth=64 --time_based --runtime=$((8 * ${SLOW:-1})) \
			> "$TMP/fio" 2>&1 & fio=$!
		sleep $((2 * ${SLOW:-1}))
		median=$(inside $b fio --name=polite --filename=/dev/$DEV --direct=1 --rw=randread \
			--bs=4k --ioengine=psync --thinktime=50000 --time_based \
			--runtime=$((5 * ${SLOW:-1})) --output-format=json |
			python3 "$TMP/median.py")
		wait $fio
	}
	udev_off
	polite
	without=$median
	attach $DEV blkfilter_test || bail "cannot attach"
	echo defer > $TEST_DIR/mode
	before=$(filter_stat $DEV taken)
	polite
	status=$?
	echo "# median of the polite group: $without us, with a filter that defers $median us"
	check "$greedy" eval '[ $status = 0 -a $(filter_stat $DEV taken) -gt $((before + 100)) ]'
	check "$late" [ "$median" -lt $((3 * without)) ]
	echo pass > $TEST_DIR/mode
	detach $DEV
	echo "$dev enable=0" > $cgroup/io.cost.qos
	udev_on
else
	skip "no iocost" "$greedy" "$late"
fi

# The others: it gets through, and is charged.
new_nullb size=64
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
through() {	# name
	local mode before

	before=$(charged $a wios)
	for mode in defer inline; do
		echo $mode > $TEST_DIR/mode
		check "C12: $1: $mode: it gets through, and the data is right" io_in $a
	done
	echo pass > $TEST_DIR/mode
	check "C23: $1: the group is charged" [ $(($(charged $a wios) - before)) -ge 500 ]
}
not_through() {	# name
	skip "no $1" "C12: $1: defer" "C12: $1: inline" "C23: $1: the group is charged"
}

modprobe -q bfq
if grep -qw bfq /sys/block/$DEV/queue/scheduler; then
	echo bfq > /sys/block/$DEV/queue/scheduler || bail "bfq"
	through bfq
	echo none > /sys/block/$DEV/queue/scheduler
else
	not_through bfq
fi
if [ -e $a/io.latency ]; then
	echo "$(cat /sys/block/$DEV/dev) target=100" > $a/io.latency || bail "io.latency"
	through iolatency
	echo "$(cat /sys/block/$DEV/dev) target=0" > $a/io.latency
else
	not_through iolatency
fi
if [ -e /sys/block/$DEV/queue/wbt_lat_usec ] &&
	echo 500 > /sys/block/$DEV/queue/wbt_lat_usec 2> /dev/null; then
	through wbt
else
	not_through wbt
fi
detach $DEV
check "C11: all were released" eq "$(get released)" "$(get attached)"
ktap_finished
