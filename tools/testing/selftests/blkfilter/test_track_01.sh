#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Changed-block tracking: what is marked, and when.

. "$(dirname "$0")"/test_common.sh

tracker=/sys/kernel/debug/changetrack
plan 60
load rust_blk_changetrack
DEVS+=("rmmod rust_blk_changetrack")
load_test_filter

field() {	# device field
	awk -v f="$2" '$1 == f { print $2 }' $tracker/"$1"/generation
}
switch() {	# device
	echo switch > $tracker/"$1"/generation
}
why() {	# device
	sed -n 's/^why //p' $tracker/"$1"/generation
}
# The blocks that the last switch found changed, in hexadecimal bytes.
bits() {	# device
	dd if=$tracker/"$1"/bitmap bs=64 skip=1 status=none | od -An -v -tx1 | tr -d ' \n'
}

# The interface.
new_nullb discard=1 size=32
check "C29: an unknown option is EINVAL" write_fails EINVAL $DEV "changetrack size=1"
for granularity in 0 2048 2M 65537 64KB K 4194304K; do
	check "C29: a granularity of $granularity is EINVAL" \
		write_fails EINVAL $DEV "changetrack granularity=$granularity"
done
check "C29: exact=x is EINVAL" write_fails EINVAL $DEV "changetrack exact=x"
check "C29: attach" attach $DEV "changetrack granularity=1M"
check "why: before the first switch" eq "$(why $DEV)" first
check "before a switch everything may have changed" eq "$(bits $DEV)" ffffffffffffffff
check "a request that is not one is EINVAL" \
	fails_with "Invalid argument" bash -c "echo sw > $tracker/$DEV/generation"
quiet $DEV
switch $DEV
check "after the first everything that it saw: nothing" eq "$(bits $DEV)" 0000000000000000
dwrite $DEV 4096 1 0
dwrite $DEV 1048576 1 3
dwrite $DEV 4096 2 $((9 * 256 - 1))
check "marks: nothing is seen before the switch" eq "$(bits $DEV)" 0000000000000000
switch $DEV
check "marks: writes are seen after it" eq "$(bits $DEV)" 0903000000000000
dread $DEV 1048576 4
blkdiscard -f -o $((16 << 20)) -l $((8 << 20)) /dev/$DEV
switch $DEV
check "marks: reads are not, discards are" eq "$(bits $DEV)" 0000ff0000000000
switch $DEV
check "marks: nothing is from the generation before that" eq "$(bits $DEV)" 0000000000000000
id=$(field $DEV id)
detach $DEV
attach $DEV "changetrack granularity=1048576"
check "another attachment has another id" not eq "$id" "$(field $DEV id)"
check "and can tell nothing" eq "$(field $DEV everything)" 1
detach $DEV

# Many blocks: 63 to 574.
attach $DEV "changetrack granularity=4K"
quiet $DEV
switch $DEV
blkdiscard -f -o $((63 * 4096)) -l $((512 * 4096)) /dev/$DEV
switch $DEV
expected=$(printf '0%.0s' {1..14})80$(printf 'f%.0s' {1..126})7f
check "marks: the first and the last of many, and all between" \
	eq "$(bits $DEV | head -c 144)" "$expected"
check "marks: and no other" eq "$(field $DEV changed)" 512
detach $DEV

# A write that is on its way, below the filter of a partition, at the switch.
new_nullb size=64
partition $DEV
attach $DEV blkfilter_test || bail "cannot attach"
let_go() {
	echo pass > $TEST_DIR/mode
	echo 1 > $TEST_DIR/release
	wait $writer
}
hold_write() {
	hold
	dwrite $PART 65536 1 5 & writer=$!
	wait_for grep -qx 1 $TEST_DIR/held || bail "nothing is held"
}
for exact in 0 1; do
	attach $PART "changetrack exact=$exact" || bail "cannot attach"
	quiet $DEV
	switch $PART
	hold_write
	switch $PART
	check "marks: exact=$exact: a write is marked before it reaches the disk" \
		eq "$(field $PART changed)" 1
	let_go
	switch $PART
	check "marks: exact=$exact: again when it is complete in another generation: $exact" \
		eq "$(field $PART changed)" $exact
	[ $exact = 1 ] || detach $PART
done
hold_write
detach $PART & detacher=$!
wait_for attached $PART none
check "cut: after a detach that waits nothing is known" eq "$(field $PART everything)" 1
switch $PART
check "cut: also after a switch" eq "$(field $PART everything)" 1
let_go
wait $detacher

# The device comes back under its name, and the filter of the old one is still there.
attach $PART "changetrack exact=1" || bail "cannot attach"
hold_write
echo 0 > $NULLB/$DEV/power
echo 1 > $NULLB/$DEV/power
wait_for [ -b /dev/$DEV ]
[ -b /dev/$PART ] || partition $DEV
check "C29: a name that is in use is EBUSY" write_fails EBUSY $PART changetrack
let_go
check "C29: when the old one is released it is not" wait_for attach $PART changetrack
detach $PART
new_nullb memory_backed=0 size=134217728
check "C29: a bitmap of more than 2 GiB is EFBIG" \
	write_fails EFBIG $DEV "changetrack granularity=4K"

# A device that gets another size.
new_loop
attach $DEV changetrack
quiet $DEV
switch $DEV
check "all is known" eq "$(field $DEV everything)" 0
check "why: for no reason" eq "$(why $DEV)" -
truncate -s 128M "$TMP/loop.img"
losetup -c /dev/$DEV
check "C20: after a resize nothing is" eq "$(field $DEV everything)" 1
switch $DEV
check "C20: also after a switch" eq "$(field $DEV everything)" 1
check "C20: there are as many blocks as now" eq "$(field $DEV blocks)" 2048
check "C20: all of them marked" eq "$(bits $DEV)" "$(printf 'f%.0s' {1..512})"
check "why: it was resized" eq "$(why $DEV)" resized
dwrite $DEV 65536 1 3
dwrite $DEV 65536 2 1500
switch $DEV
check "C20: the next switch knows what changed" eq "$(field $DEV everything)" 0
check "C20: also beyond the old end" eq "$(bits $DEV)" \
	"08$(printf '0%.0s' {1..372})30$(printf '0%.0s' {1..136})"
truncate -s 64M "$TMP/loop.img"
losetup -c /dev/$DEV
switch $DEV
check "C20: with the old size again nothing is" eq "$(field $DEV everything)" 1
switch $DEV
check "C20: until the next switch" eq "$(field $DEV everything)" 0
# The file may be another one.
losetup -c /dev/$DEV
switch $DEV
check "C20: so it is when the size is set to what it was" eq "$(field $DEV everything)" 1
switch $DEV
check "C20: until the next switch, too" eq "$(field $DEV everything)" 0
detach $DEV

# One that has no size yet, and grows then, and again and again.
loop=$(losetup -f)
DEV=${loop#/dev/}
attach $DEV "changetrack granularity=4K" || bail "cannot attach to $DEV"
truncate -s 1M "$TMP/loop.img"
losetup $loop "$TMP/loop.img"
DEVS+=("losetup -d $loop")
udevadm settle
switch $DEV
check "C20: attached without a size: nothing is known" eq "$(why $DEV)" resized
dwrite $DEV 4096 1 255
switch $DEV
check "C20: attached without a size: the next switch knows" \
	eq "$(why $DEV) $(field $DEV changed) $(field $DEV blocks)" "- 1 256"
wrong=0
for ((i = 1; i <= 20; i++)); do
	truncate -s $((1 << i))M "$TMP/loop.img"
	losetup -c $loop
	udevadm settle
	switch $DEV
	[ "$(why $DEV)" = resized ] || ((wrong++))
	dwrite $DEV 4096 1 $(((256 << i) - 1))
	switch $DEV
	[ "$(why $DEV) $(field $DEV changed)" = "- 1" ] || ((wrong++))
done
check "C20: it grows to a million times its size" eq $wrong 0
detach $DEV
losetup -d $loop
rm "$TMP/loop.img"

# Generations that follow each other, and cannot be taken for others.
new_nullb size=8
attach $DEV changetrack
udevadm settle
check "generation: it begins with the attachment" eq "$(field $DEV began)" "$(field $DEV ended)"
seen=$(field $DEV ended) wrong=0
for ((i = 0; i < 50; i++)); do
	last=$(field $DEV ended)
	switch $DEV
	[ "$(field $DEV began)" = "$last" ] || ((wrong++))
	seen+=$'\n'$(field $DEV ended)
done
check "generation: each begins where the last one ended" eq $wrong 0
check "generation: no number comes again" eq "$(sort -u <<< "$seen" | wc -l)" 51
check "generation: the bitmap has them, too" eq \
	"$(od -An -v -t x8 -j 48 -N 16 $tracker/$DEV/bitmap | tr -s ' ')" \
	" $(field $DEV began | cut -c3-) $(field $DEV ended | cut -c3-)"
detach $DEV

# A bitmap of almost 2 GiB is more than the machine has; nobody is killed for that.
huge="C29: no memory for the bitmaps of a huge disk is ENOMEM" kill="C29: nobody is killed for that"
if [ "$(awk '/^MemTotal/ { print $2 }' /proc/meminfo)" -lt $((2040 << 10)) ]; then
	new_nullb memory_backed=0 size=$((65400 << 10))
	kills=$(grep ^oom_kill /proc/vmstat)
	check "$huge" write_fails ENOMEM $DEV "changetrack granularity=4K"
	check "$kill" eq "$(grep ^oom_kill /proc/vmstat)" "$kills"
else
	ktap_test_skip "$huge: the machine has that much memory"
	ktap_test_skip "$kill: the machine has that much memory"
fi

# No bit is lost to switches: each block is written once, and is in some generation.
new_nullb size=64
attach $DEV "changetrack granularity=4096"
quiet $DEV
switch $DEV
fio --name=load --filename=/dev/$DEV --rw=randwrite --bs=4k --direct=1 \
	--ioengine=io_uring --iodepth=8 --numjobs=4 --size=16M --offset_increment=16M \
	--output="$TMP/fio" > /dev/null & fio=$!
: > "$TMP/all"
while kill -0 $fio 2> /dev/null; do
	switch $DEV
	bits $DEV >> "$TMP/all"
	echo >> "$TMP/all"
done
check "a load of 4 writers" fio_passes $fio
switch $DEV
bits $DEV >> "$TMP/all"
check "marks: every block is in some generation" python3 - "$TMP/all" <<'PY'
import sys
marked = 0
for line in open(sys.argv[1]):
    if line.strip():
        marked |= int.from_bytes(bytes.fromhex(line.strip()), "little")
missing = 16384 - marked.bit_count()
print(missing, "of 16384 are missing")
sys.exit(missing != 0)
PY
check "there were several" [ "$(grep -c . "$TMP/all")" -gt 3 ]
detach $DEV

# Who has a file open keeps the module, and nothing else.
new_nullb size=8
attach $DEV changetrack
exec 7< $tracker/$DEV/bitmap
check "C36: a filter can be detached whose file is open" detach $DEV
check "C36: its module cannot be unloaded" fails_with "is in use" rmmod rust_blk_changetrack
check "C36: and the file is dead" eq "$(head -c 1 <&7 2> /dev/null | wc -c)" 0
exec 7<&-
check "C18: the module can be unloaded" rmmod rust_blk_changetrack
ktap_finished
