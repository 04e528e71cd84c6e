#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The filters that fail, corrupt and delay I/O.

. "$(dirname "$0")"/test_common.sh

plan 29
load rust_blkerror
DEVS+=("rmmod rust_blkerror")
load rust_blkdelay
DEVS+=("rmmod rust_blkdelay")
new_nullb discard=1

for bad in x op=x op=READ first=-1 "first=8 last=7" percent=101 do=x do=corrupt \
		"op=write do=corrupt" errno=999; do
	check "C29: blkerror: $bad is EINVAL" write_fails EINVAL $DEV "blkerror $bad"
done

on() {	# options
	attach $DEV "$*" || return
	udevadm settle
}

check "C29: blkerror: attach" on blkerror op=write first=16 last=23
check "C20: a write before is fine" dwrite $DEV 512 16
check "C20: one after too" dwrite $DEV 512 1 24
check "C32: one into the range fails" fails_with "Input/output error" dwrite $DEV 512 1 23
check "C32: one across too" fails_with "Input/output error" dwrite $DEV 16384 1 0
check "C22: a discard is no write" blkdiscard -f -o 8192 -l 4096 /dev/$DEV
detach $DEV

on blkerror op=write percent=10 errno=28
failed=0
for ((i = 0; i < 50; i++)); do
	fails_with "No space left on device" dwrite $DEV 4096 1 $i > /dev/null && ((failed++))
done
check "C32: each tenth of 50 writes fails, with its errno" eq $failed 5
detach $DEV

head -c 65536 /dev/zero | tr '\0' A > "$TMP/A"
dd if="$TMP/A" of=/dev/$DEV bs=64K oflag=direct status=none
on blkerror op=read do=corrupt
dd if=/dev/$DEV bs=64K count=1 iflag=direct of="$TMP/B" status=none
check "C26: one byte of a read is wrong" eq "$(cmp -l "$TMP/A" "$TMP/B" | awk '{ print $1, $3 }')" \
	"32769 276"
detach $DEV
on blkerror op=read do=corrupt first=64 last=71
dd if=/dev/$DEV bs=64K count=1 iflag=direct of="$TMP/B" status=none
check "C26: it is in the range" eq "$(cmp -l "$TMP/A" "$TMP/B" | awk '{ print $1, $3 }')" \
	"34817 276"
detach $DEV
dd if=/dev/$DEV bs=64K count=1 iflag=direct of="$TMP/B" status=none
check "C26: not on the disk" cmp "$TMP/A" "$TMP/B"

# Time that a command takes, in milliseconds.
ms() {
	local start
	start=$(date +%s%N)
	"$@" > /dev/null 2>&1
	echo $((($(date +%s%N) - start) / 1000000))
}
for bad in "" ms=x ms=70000 "ms=1 op=x"; do
	check "C29: blkdelay: '$bad' is EINVAL" write_fails EINVAL $DEV "blkdelay $bad"
done
on blkdelay op=write ms=500
check "C12: a write takes half a second" [ "$(ms dwrite $DEV)" -ge 500 ]
check "C12: eight at the same time take not much longer" [ "$(ms fio --name=x --filename=/dev/$DEV \
	--rw=write --bs=4k --size=32k --direct=1 --ioengine=io_uring --iodepth=8)" -lt 3500 ]
dwrite $DEV & writer=$!
sleep 0.1
check "C13: detach lets go what is held" detach $DEV
check "C10: it is fine" wait $writer
check "C18: the modules can be unloaded" rmmod rust_blkerror rust_blkdelay
ktap_finished
