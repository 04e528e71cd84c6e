#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a filter in Rust can do wrong, and what then happens.

. "$(dirname "$0")"/test_common.sh

plan 19
load_rust_filter() {
	insmod "$DIR"/test_modules/blkfilter_rust.ko || bail "cannot load blkfilter_rust"
}
load_rust_filter
DEVS+=("rmmod blkfilter_rust")
new_nullb
udevadm settle

check "C29: without a mode it is not attached" write_fails EINVAL $DEV blkfilter_rust
check "C29: nor with an unknown one" write_fails EINVAL $DEV "blkfilter_rust mode=x"
check "C29: and no trace is left" attached $DEV none

# A bio that is dropped.
check "C10: attach" attach $DEV "blkfilter_rust mode=drop"
udevadm settle
check "C10: what is dropped fails" fails_with "Input/output error" dwrite $DEV
check "C10: it is in the log" eval "dmesg | grep -q \"$DEV: blkfilter_rust dropped a bio\""
detach $DEV
check "C10: afterwards writes are fine" dwrite $DEV

# Sleeping in the callback.
if [ -n "$SLOW" ]; then
	attached_and_read() {
		attach $DEV "blkfilter_rust mode=sleep"
		udevadm settle
		dread $DEV
	}
	expect "sleeping function called from invalid context" attached_and_read
	check "C9: sleeping in submit_bio is caught" eq $EXPECT_STATUS 0
	detach $DEV
else
	ktap_test_skip "C9: sleeping in submit_bio is caught"
fi

# Data that a program changes while it is being written, and a filter reads it.
cat > "$TMP/change.py" <<'END'
import mmap, os, sys, time
data = mmap.mmap(-1, 65536)
data[:] = b"\1" * 65536
child = os.fork()
if not child:
    while os.getppid() != 1:
        data[:] = b"\2" * 65536
        data[:] = b"\1" * 65536
    sys.exit()
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_DIRECT)
end = time.monotonic() + 3
n = 0
while n < 20 or time.monotonic() < end:
    os.pwrite(fd, data, n % 16 * 65536)
    n += 1
os.kill(child, 9)
END
check "C22: attach" attach $DEV "blkfilter_rust mode=read"
check "C22: data that changes meanwhile can be read" python3 "$TMP/change.py" /dev/$DEV
check "C22: all of it is read" fails_with "Input/output error" \
	dd if=/dev/zero of=/dev/$DEV bs=4096 count=1 oflag=direct conv=notrunc
detach $DEV

# Bios that are kept until detach, which comes while they are written.
attach $DEV "blkfilter_rust mode=keep"
for i in 1 2 3 4; do
	dwrite $DEV 4096 1 "$i" & writers[i]=$!
done
taken() { awk -v n="$1" '{ exit $3 != n }' /sys/block/$DEV/filter_stat; }
check "C10: four writes are kept" wait_for taken 4
check "C13: detach ends" detach $DEV
check "C18: the module can be unloaded" rmmod blkfilter_rust
for i in 1 2 3 4; do
	wait "${writers[i]}" || failed=1
done
check "C10: the writes are fine" [ -z "$failed" ]

# Deferring from 4 CPUs at full rate, and unloading at once.
keep_key
fio --name=load --filename=/dev/$DEV --rw=randrw --bs=4k --direct=1 --ioengine=io_uring \
	--iodepth=16 --numjobs=4 --time_based --runtime=3600 --group_reporting \
	--output="$TMP/fio" & fio=$!
rounds=0
# A round takes some seconds on the debug kernel.
[ -n "$SLOW" ] && wanted=8 || wanted=30
wanted=${BLKFILTER_ROUNDS:-$wanted}
for ((i = 0; i < wanted; i++)); do
	load_rust_filter
	attach $DEV "blkfilter_rust mode=defer" || break
	sleep 0.0$((i % 10))
	detach $DEV && rmmod blkfilter_rust || break
	((rounds++))
done
check "C18: detached under load and unloaded at once, each time" eq $rounds "$wanted"
check "C10: the load goes on" kill -TERM $fio
wait $fio
check "C10: it saw no error" eval "cat $TMP/fio; grep -q 'err= 0' $TMP/fio"
check "C12: and there was some" grep -q "read: IOPS=" "$TMP/fio"
ktap_finished
