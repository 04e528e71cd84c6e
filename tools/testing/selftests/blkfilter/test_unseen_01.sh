#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What no filter sees, as the documentation says.  Nor does it harm a filter.

. "$(dirname "$0")"/test_common.sh

plan 34
load_test_filter
load dm_mod

# unseen <device> <command>...: it does its work, and no filter sees any of it.
unseen() {
	local seen
	seen=$(filter_stat "$1" seen)

	"${@:2}" || return
	eq "$(filter_stat "$1" seen)" "$seen"
}

# Passthrough requests.  Read-only, or udev would have a look at the disk when it is
# closed.
new_scsi_debug
head -c 512 /dev/zero | tr '\0' 'S' > "$TMP/S"
udev_off
attach $DEV blkfilter_test || bail "cannot attach"
check "C28: passthrough: INQUIRY is not seen" \
	unseen $DEV sg_raw -R -r 96 /dev/$DEV 12 00 00 00 60 00
check "C28: passthrough: READ CAPACITY is not seen" unseen $DEV sg_readcap /dev/$DEV
check "C28: passthrough: WRITE(10) is not seen" \
	unseen $DEV sg_raw -R -s 512 -i "$TMP/S" /dev/$DEV 2a 00 00 00 00 08 00 00 01 00
check "C28: passthrough: READ(10) is not seen" \
	unseen $DEV sg_raw -R -r 512 -o "$TMP/back" /dev/$DEV 28 00 00 00 00 08 00 00 01 00
check "C28: passthrough: they did their work" cmp "$TMP/S" "$TMP/back"
echo refuse > $TEST_DIR/mode
check "C28: passthrough: a filter that refuses all does not hinder it" \
	unseen $DEV sg_raw -R -r 512 -o "$TMP/back" /dev/$DEV 28 00 00 00 00 08 00 00 01 00
check "C28: passthrough: but a bio" fails_with "Input/output error" dread $DEV 512
echo pass > $TEST_DIR/mode
seen=$(filter_stat $DEV seen)
check "C28: passthrough: what it wrote can be read" cmp "$TMP/S" \
	<(dd if=/dev/$DEV bs=512 skip=8 count=1 iflag=direct status=none)
check "C28: passthrough: and a bio is seen" eq "$(filter_stat $DEV seen)" $((seen + 1))
detach $DEV
udev_on

# Below the hook already.  Each I/O of this disk takes a second or more.
udev_off
new_nullb irqmode=2 completion_nsec=${SLOW:-1}000000000
slow=$DEV
in_flight() {
	awk -v n="$1" '{ exit $1 + $2 != n }' /sys/block/$slow/inflight
}
wait_for in_flight 0
dread $slow & reader=$!
check "C28: below: a read is in flight" wait_for in_flight 1
attach $slow blkfilter_test || bail "cannot attach"
check "C28: below: attach did not wait for it" kill -0 $reader
check "C28: below: it completes" wait $reader
check "C28: below: and was not seen" eq "$(filter_stat $slow seen)" 0
dread $slow & reader=$!
wait_for in_flight 1
check "C28: below: the next one is seen" eq "$(filter_stat $slow seen)" 1
check "C13: below: detach does not wait for what was passed" \
	eval "detach $slow && kill -0 $reader"
check "C28: below: that completes too" wait $reader

# The last filter went while a bio was on its way; its owner submits that again.
echo /dev/$slow > $TEST_DIR/kopen
wait_for in_flight 0
attach $slow blkfilter_test || bail "cannot attach"
echo ${SLOW:-1}000 > $TEST_DIR/twice & reader=$!
wait_for in_flight 1
check "C3: again: the first filter saw it" eq "$(filter_stat $slow seen)" 1
detach $slow
wait_for in_flight 0
attach $slow blkfilter_test || bail "cannot attach"
check "C3: again: it was submitted twice" wait $reader
check "C3: again: the second filter sees it" eq "$(filter_stat $slow seen)" 1
echo > $TEST_DIR/kopen
detach $slow
echo 0 > $NULLB/$slow/power
udev_on

# What fails the checks: sectors that the disk does not have any more.
new_loop
dmsetup create blkfilter_unseen --table "0 131072 linear /dev/$DEV 0" || bail "dmsetup"
DEVS+=("dmsetup remove --retry blkfilter_unseen")
udevadm settle
truncate -s 32M "$TMP/loop.img"
losetup -c /dev/$DEV
attach $DEV blkfilter_test || bail "cannot attach"
quiet $DEV
beyond() {
	fails_with "Input/output error" dd if=/dev/mapper/blkfilter_unseen of=/dev/null \
		bs=4096 skip=$(($1 * 256)) count=1 iflag=direct status=none
}
check "C28: checks: a read beyond the end is not seen" unseen $DEV beyond 40
seen=$(filter_stat $DEV seen)
dd if=/dev/mapper/blkfilter_unseen of=/dev/null bs=4096 count=1 iflag=direct status=none
check "C28: checks: one before it is" eq "$(filter_stat $DEV seen)" $((seen + 1))
detach $DEV

# Flushes.
new_nullb
attach $DEV blkfilter_test || bail "cannot attach"
quiet $DEV
check "C28: flush: without a cache fsync is not seen" unseen $DEV sync /dev/$DEV
detach $DEV
new_nullb cache_size=4
attach $DEV blkfilter_test || bail "cannot attach"
quiet $DEV
seen=$(filter_stat $DEV seen)
check "C22: flush: with one fsync succeeds" sync /dev/$DEV
check "C22: flush: and is seen" eq "$(filter_stat $DEV seen)" $((seen + 1))
echo "write through" > /sys/block/$DEV/queue/write_cache
check "C28: flush: not if the cache is said to be write through" unseen $DEV sync /dev/$DEV
echo "write back" > /sys/block/$DEV/queue/write_cache
echo end > $TEST_DIR/mode
check "C22: flush: a filter can make it fail" fails_with "Input/output error" sync /dev/$DEV
echo pass > $TEST_DIR/mode
detach $DEV

# Through the node of the whole disk.
new_nullb
partition $DEV
attach $PART blkfilter_test && quiet $DEV || bail "cannot attach"
check "C28: whole disk: the partition's filter does not see it" \
	unseen $PART dwrite $DEV 4096 1 256
check "C28: whole disk: it is the partition's sector" cmp -n 4096 \
	<(dd if=/dev/$DEV bs=4096 skip=256 count=1 iflag=direct status=none) \
	<(dd if=/dev/$PART bs=4096 count=1 iflag=direct status=none)
detach $PART

# Clones of requests, below a device mapper that works with requests.  Such a one must
# not be above a disk whose driver sleeps, as null_blk does that has memory.
new_nullb memory_backed=0
dmsetup create blkfilter_clones --table \
	"0 131072 multipath 0 0 1 1 round-robin 0 1 1 /dev/$DEV 1" || bail "multipath"
DEVS+=("dmsetup remove --retry blkfilter_clones")
udevadm settle
top=$(basename "$(readlink -f /dev/mapper/blkfilter_clones)")
attach $top blkfilter_test && attach $DEV blkfilter_test || bail "cannot attach"
quiet $DEV
udev_off
seen=$(filter_stat $top seen)
check "C28: clones of requests: not seen below" unseen $DEV dwrite $top
check "C28: clones of requests: the bio is, above" eq "$(filter_stat $top seen)" $((seen + 1))
udev_on
detach $top && detach $DEV

# Stores into a mapped file, if there is a disk that is memory.
dax="DAX: a store is not seen"
if [ -b /dev/pmem0 ]; then
	mkdir "$TMP/mnt"
	mkfs.ext4 -q -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 /dev/pmem0 &&
		mount -o dax=always,lazytime,commit=600 /dev/pmem0 "$TMP/mnt" || bail "DAX"
	head -c 65536 /dev/zero > "$TMP/mnt/file"
	sync "$TMP/mnt/file"
	attach pmem0 blkfilter_test || bail "cannot attach"
	quiet pmem0
	cat > "$TMP/store.py" <<-'END'
		import mmap, sys
		with open(sys.argv[1], "r+b") as f:
		    mmap.mmap(f.fileno(), 0)[4096:4112] = b"stored by a CPU!"
	END
	check "C28: $dax" unseen pmem0 python3 "$TMP/store.py" "$TMP/mnt/file"
	seen=$(filter_stat pmem0 seen)
	dd if=/dev/pmem0 of="$TMP/pmem" bs=1M iflag=direct status=none
	check "C28: DAX: it is on the disk" grep -q 'stored by a CPU!' "$TMP/pmem"
	check "C28: DAX: a read of that is seen" [ "$(filter_stat pmem0 seen)" -gt "$seen" ]
	rm "$TMP/pmem"
	detach pmem0
	umount "$TMP/mnt"
else
	for dax in "$dax" "DAX: it is on the disk" "DAX: a read of that is seen"; do
		ktap_test_skip "C28: $dax"
	done
fi
check "C11: all were released" eq "$(get attached)" "$(get released)"
ktap_finished
