#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The core freezes nothing, and a frozen queue is no barrier for the hook.  A frozen
# file system is: nothing reaches the filter.

. "$(dirname "$0")"/test_common.sh

plan 21
load rust_blkfilter
load_test_filter

# A file system that is frozen.
new_nullb
mke2fs -q -t ext4 /dev/$DEV && mkdir "$TMP/mnt" && mount /dev/$DEV "$TMP/mnt" ||
	bail "cannot mount"
attach $DEV rust_blkfilter || bail "cannot attach"
udevadm settle
dd if=/dev/urandom of="$TMP/mnt/before" bs=64k count=16 status=none
fsfreeze -f "$TMP/mnt" || bail "cannot freeze"
check "C19: freezing writes out what there was" [ "$(stat_of $DEV write bytes)" -ge 1048576 ]
quiet $DEV
seen=$(filter_stat $DEV seen)
written=$(stat_of $DEV write bytes)
dd if=/dev/urandom of="$TMP/mnt/after" bs=64k count=16 conv=fsync status=none & writer=$!
sync & syncer=$!
sleep 2
check "C19: a writer waits" kill -0 $writer
check "C19: nothing of it reaches the filter" eq "$(filter_stat $DEV seen)" "$seen"
check "C19: no byte" eq "$(stat_of $DEV write bytes)" "$written"
check "C19: detach while it is frozen" detach $DEV
check "C19: attach while it is frozen" attach $DEV blkfilter_test
quiet $DEV
seen=$(filter_stat $DEV seen)
sleep 1
check "C19: the new filter sees nothing either" eq "$(filter_stat $DEV seen)" "$seen"
echo defer > $TEST_DIR/mode
fsfreeze -u "$TMP/mnt"
check "C19: thawed, the writer gets on" wait $writer
check "C19: through the new filter" [ "$(filter_stat $DEV taken)" -ge 2 ]
wait $syncer
md5=$(md5sum < "$TMP/mnt/after")
echo 3 > /proc/sys/vm/drop_caches
check "C19: the data is there" eq "$(md5sum < "$TMP/mnt/after")" "$md5"
umount "$TMP/mnt"
check "C19: the file system is clean" e2fsck -fn /dev/$DEV
detach $DEV

# A queue is frozen and thawed while the filter has a bio: it is above all that.
new_nullb
attach $DEV blkfilter_test || bail "cannot attach"
hold
dwrite $DEV & writer=$!
wait_for grep -qx 1 $TEST_DIR/held || bail "nothing is held"
check "C19: a queue freeze does not wait for what a filter owns" \
	timeout 20 bash -c "echo mq-deadline > /sys/block/$DEV/queue/scheduler"
check "C19: nor another" timeout 20 bash -c "echo 16 > /sys/block/$DEV/queue/nr_requests"
check "C19: the filter has it still" eq "$(get held) $(filter_stat $DEV flight)" "1 1"
echo resubmit > $TEST_DIR/mode
echo 1 > $TEST_DIR/release
check "C19: and it gets through afterwards" wait $writer
detach $DEV
echo pass > $TEST_DIR/mode

# Attach and detach do not freeze it: each would wait for a read that takes a second.
udev_off
new_nullb size=1 irqmode=2 completion_nsec=1000000000
slow=$DEV
wait_for grep -qE '^ *0 +0$' /sys/block/$slow/inflight
dread $slow 4096 9 & reader=$!
wait_for grep -qE '^ *1 +0$' /sys/block/$slow/inflight
reads() { awk '{ print $1 }' /sys/block/$slow/stat; }
before=$(reads)
n=0
for i in {1..4}; do
	attach $slow blkfilter_test && detach $slow && n=$((n + 1))
done
reads=$(($(reads) - before))
echo "# $n rounds during $reads reads"
check "C19: four rounds do not wait for eight slow reads" [ $reads -lt 8 -a $n = 4 ]
check "C19: which go on meanwhile" kill -0 $reader
check "C19: and all end" wait $reader
echo 0 > $NULLB/$slow/power
udev_on

# I/O goes on.
new_nullb size=128
keep_key
udev_off
fio --name=load --filename=/dev/$DEV --rw=randrw --bs=4k --direct=1 --ioengine=libaio \
	--iodepth=4 --numjobs=4 --offset_increment=32m --size=30m --verify=crc32c \
	--verify_fatal=1 --rate_iops=80,80 --time_based --runtime=200 --group_reporting \
	> "$TMP/fio" 2>&1 & fio=$!
ios() {
	local fields

	read -ra fields < /sys/block/$DEV/stat
	echo $((fields[0] + fields[4]))
}
before=$(ios)
while [ "$(ios)" -lt $((before + 100)) ]; do
	kill -0 $fio || bail "fio"
	sleep 0.1
done
stuck=0
start=$SECONDS
rounds=50
[ -z "$SLOW" ] || rounds=15
n=0
for ((i = 0; i < rounds; i++)); do
	before=$(ios)
	attach $DEV blkfilter_test && detach $DEV || break
	n=$((n + 1))
	[ "$(ios)" -gt "$before" ] || stuck=$((stuck + 1))
done
echo "# $n rounds took $((SECONDS - start)) s"
# It ends with 128 then.
kill -INT $fio
wait $fio
status=$?
check "C19: no I/O failed meanwhile" eval "eq $status 128 && grep 'err= 0' '$TMP/fio'"
check "C19: it went on during each" eq "$n $stuck" "$rounds 0"
check "C11: all were released" eq "$(get attached)" "$(get released)"
ktap_finished
