#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# blkdelay holds each bio for its time, however many there are.

. "$(dirname "$0")"/test_common.sh

plan 5
load rust_blkdelay
DEVS+=("rmmod rust_blkdelay")
new_nullb size=64 memory_backed=0
udev_off

# reads <name> <threads> <depth>: each thread reads that often at once, in the background.
reads() {
	fio --name="$1" --filename=/dev/$DEV --direct=1 --rw=randread --bs=4k --ioengine=libaio \
		--thread --numjobs=$2 --iodepth=$3 --iodepth_batch=$3 --size=$((4 * $3))k \
		--group_reporting --output-format=json > "$TMP/$1" 2>&1 &
}
# took <name> <min|max>: in milliseconds, the whole of it.
took() {
	python3 - "$TMP/$1" "$2" <<-'END'
		import json, sys
		text = open(sys.argv[1]).read()
		read = json.loads(text[text.index("{"):])["jobs"][0]["read"]
		print(read["lat_ns"][sys.argv[2]] // 1000000)
	END
}

ms=8000
attach $DEV "blkdelay ms=$ms" || bail "cannot attach"
# More than a thousand: each thread waits only after the bio that is one too many.
reads first 100 11
first=$!
check "more than a thousand are held" wait_for eval '[ $(filter_stat $DEV flight) -gt 1030 ]'
sleep 1.5
reads second 100 1
second=$!
wait $first $second
echo "# $(took first min) to $(took first max), $(took second min) to $(took second max)"
check "none is let go too early" [ "$(took first min)" -ge $ms ]
check "nor one that came later" [ "$(took second min)" -ge $ms ]
check "nor too late" [ "$(took second max)" -lt $((ms + 1500 * ${SLOW:-1})) ]
detach $DEV
attach $DEV "blkdelay ms=60000" || bail "cannot attach"
reads third 1 1
third=$!
wait_for eval '[ $(filter_stat $DEV flight) = 1 ]'
check "a detach lets go" eval 'soon 3 eval "echo none > /sys/block/$DEV/filter" && wait $third'
ktap_finished
