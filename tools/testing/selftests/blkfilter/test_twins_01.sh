#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The same filters in C and in Rust do the same.

. "$(dirname "$0")"/test_common.sh

plan 10
insmod "$DIR"/test_modules/blkfilter_twins_c.ko || bail "cannot load blkfilter_twins_c"
DEVS+=("rmmod blkfilter_twins_c")
insmod "$DIR"/test_modules/blkfilter_twins_rust.ko || bail "cannot load blkfilter_twins_rust"
DEVS+=("rmmod blkfilter_twins_rust")
new_nullb discard=1

# What a filter counted in a fixed piece of work, that it saw all of, and took.
work() {	# language filter
	local stats=/sys/kernel/debug/blkfilter_twins_$1/stats before

	attach $DEV "$1_$2" || return
	quiet $DEV
	before=$(cat $stats /sys/block/$DEV/filter_stat)
	dwrite $DEV 4096 20 && dwrite $DEV 65536 8 && dread $DEV 512 30 &&
		blkdiscard -f -o 1M -l 2M /dev/$DEV || return
	quiet $DEV
	{ echo "$before"; cat $stats /sys/block/$DEV/filter_stat; } |
		awk '{ key = $1 ~ /^[0-9]/ ? "filter_stat" : $1; n = key == "filter_stat" ? 0 : 1
			for (i = 1; i <= 3; i++) { v = $(i + n)
				if (key in seen) print key, i, v - old[key, i]
				else old[key, i] = v }
			seen[key] = 1 }'
	detach $DEV
}

same_work() {	# filter
	work rust "$1" > "$TMP/rust" || return
	cat "$TMP/c" "$TMP/rust"
	cmp "$TMP/c" "$TMP/rust" && grep -qx "filter_stat 1 59" "$TMP/c"
}

for filter in pass count defer hook; do
	check "C9: c_$filter" eval "work c $filter > $TMP/c"
	check "C9: rust_$filter: the same" same_work $filter
done
check "C18: the module in C can be unloaded" rmmod blkfilter_twins_c
check "C18: that in Rust too" rmmod blkfilter_twins_rust
ktap_finished
