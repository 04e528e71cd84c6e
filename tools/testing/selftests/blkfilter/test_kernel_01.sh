#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Attaching from inside the kernel, options, sizes, uevents, and misuse.

. "$(dirname "$0")"/test_common.sh

plan 57
load rust_blkfilter
load_test_filter
new_nullb

# Not kept open: a filter needs nobody who has its device open.
kattach() {
	echo "/dev/$1" > $TEST_DIR/kopen && echo 1 > $TEST_DIR/kattach &&
		echo > $TEST_DIR/kopen
}
kdetach() { echo 1 > $TEST_DIR/kdetach; }

check "C31: attach from inside the kernel" kattach $DEV
check "C29: the attribute shows it" attached $DEV blkfilter_test
check "C6: user space cannot attach a second" write_fails EBUSY $DEV rust_blkfilter
check "C18: it pins its module" fails_with "in use" rmmod blkfilter_test
check "C7: detach from inside the kernel" kdetach
check "C7: it is gone" attached $DEV none
kattach $DEV
check "C31: user space can detach it" detach $DEV
check "C7: then the kernel's detach does nothing" kdetach
attach $DEV rust_blkfilter
echo /dev/$DEV > $TEST_DIR/kopen
check "C6: the kernel cannot attach a second either" \
	fails_with "Device or resource busy" bash -c "echo 1 > $TEST_DIR/kattach"
detach $DEV
attach $DEV blkfilter_test
check "C6: nor the same kind" \
	fails_with "Operation already in progress" bash -c "echo 1 > $TEST_DIR/kattach"
echo > $TEST_DIR/kopen
detach $DEV
kattach $DEV
echo 0 > $NULLB/$DEV/power
check "C15: the device goes" wait_for grep -qx 1 $TEST_DIR/removed
check "C7: then the kernel's detach does nothing" kdetach
check "C11: all were released" eq "$(get released)" "$(get attached)"

new_nullb
check "C29: options reach the filter" attach $DEV "blkfilter_test size=4K  x"
check "C29: as they were written" eq "$(get options)" "size=4K  x"
detach $DEV
check "C29: it may refuse them" fails_with "Numerical argument" \
	bash -c "echo blkfilter_test bad > $(attr $DEV)"
check "C29: nothing is attached then" attached $DEV none
check "C29: options for none are EINVAL" write_fails EINVAL $DEV "none now"
rmmod rust_blkfilter
attach $DEV "blkfilter_test load" &
check "C29: attaching may load a module that registers" \
	wait_for attached $DEV blkfilter_test
check "C29: which is loaded" wait_for rmmod rust_blkfilter
detach $DEV

# A loop device that gets another file keeps its filter, and tells it the size.
new_loop
attach $DEV blkfilter_test
truncate -s 128M "$TMP/loop.img"
losetup -c /dev/$DEV
check "C20: the filter hears of a new size" eq "$(get size)" 262144
losetup -d /dev/$DEV
check "C20: and that there is nothing any more" wait_for grep -qx 0 $TEST_DIR/size
truncate -s 32M "$TMP/other.img"
losetup /dev/$DEV "$TMP/other.img"
check "C17: it is still attached to the next file" attached $DEV blkfilter_test
check "C20: and hears of its size" eq "$(get size)" 65536
seen=$(get seen)
dwrite $DEV
check "C17: and sees its bios" [ "$(get seen)" -gt "$seen" ]

# It shrinks while the filter has a bio.
hold
dwrite $DEV 4096 1 8000 & writer=$!
wait_for grep -qx 1 $TEST_DIR/held
truncate -s 16M "$TMP/other.img"
losetup -c /dev/$DEV
echo pass > $TEST_DIR/mode
echo 1 > $TEST_DIR/release
wait_for [ ! -e /proc/$writer ]
check "C20: a bio that is beyond the end now fails" not wait $writer
check "C20: and nothing is in flight" grep -qE ' 0$' /sys/block/$DEV/filter_stat
detach $DEV

# It grows while a filter is being attached.
attach $DEV "blkfilter_test slow" & attacher=$!
wait_for grep -qx slow $TEST_DIR/options || bail "it is not being attached"
truncate -s 48M "$TMP/other.img"
losetup -c /dev/$DEV
wait $attacher || bail "cannot attach"
check "C20: a size that was set during attach is told" eq "$(get size)" 98304
detach $DEV

# A partition shrinks while its filter has a bio.
new_nullb
partition $DEV
attach $PART blkfilter_test || bail "cannot attach"
hold
dwrite $PART 4096 1 4000 & writer=$!
wait_for grep -qx 1 $TEST_DIR/held
resizepart /dev/$DEV 1 16384 || bail "resizepart"
echo pass > $TEST_DIR/mode
echo 1 > $TEST_DIR/release
check "C20: so does one beyond the end of its partition" not wait $writer
detach $PART

# Uevents.
udevadm monitor --kernel --property --subsystem-match=block > "$TMP/events" & monitor=$!
sleep 1
attach $DEV rust_blkfilter
detach $DEV
udevadm settle
sleep 0.5
kill $monitor
wait $monitor 2> /dev/null
check "C30: a uevent tells which filter" grep -qx BLK_FILTER=rust_blkfilter "$TMP/events"
check "C30: that it was attached" grep -qx BLK_FILTER_EVENT=attach "$TMP/events"
check "C30: and detached" grep -qx BLK_FILTER_EVENT=detach "$TMP/events"

# Misuse from the kernel: a warning, and nothing else.
attach $DEV blkfilter_test
expect "at bdev_filter_detach+" eval "echo never > $TEST_DIR/misuse"
check "C7: detaching what was never attached warns" eq "$EXPECT_STATUS" 0
expect "at bdev_filter_unregister+" eval "echo unregister > $TEST_DIR/misuse"
check "C31: so does unregistering what is not registered" eq "$EXPECT_STATUS" 0
echo 1 > /sys/kernel/debug/clear_warn_once
expect "at bdev_filter_unregister+" eval "echo other > $TEST_DIR/misuse"
check "C31: so does unregistering another filter of the name" eq "$EXPECT_STATUS" 0
check "C31: which stays registered" registered $DEV blkfilter_test
check "C31: the filter goes on" dwrite $DEV
check "C7: and can be detached" detach $DEV

# A filter that detaches itself, from each of its methods that sees a bio.
for mode in detach detachdefer detachend; do
	kattach $DEV || bail "cannot attach"
	udevadm settle
	echo 1 > /sys/kernel/debug/clear_warn_once
	echo $mode > $TEST_DIR/mode
	expect "at bdev_filter_detach+" dread $DEV
	check "C13: $mode: it warns, and the bio is fine" eq "$EXPECT_STATUS" 0
	check "C13: $mode: the filter goes without waiting" wait_for attached $DEV none
	check "C11: $mode: and is released" wait_for eval '[ $(get released) = $(get attached) ]'
	echo pass > $TEST_DIR/mode
done

# Modules that come, or do not, and that forget to unregister.
rmmod blkfilter_test
module=$DIR/test_modules/blkfilter_test.ko
insmod "$module" fail_init=1 2> "$TMP/insmod" & insmod=$!
wait_for registered $DEV blkfilter_test || bail "nothing is registered"
check "C18: a filter whose module's init has not ended is ENOENT" \
	write_fails ENOENT $DEV blkfilter_test
check "C18: its init fails" eval "! wait $insmod && grep -q 'No such device' $TMP/insmod"
check "C18: it is not registered any more" not registered $DEV blkfilter_test
check "C18: one fails that has attached it" \
	fails_with "No such device" insmod "$module" fail_init=1 attach_to=/dev/$DEV
check "C18: it is detached" attached $DEV none
check "C18: and the device goes on" dwrite $DEV
insmod "$module" forget=1 && attach $DEV blkfilter_test && detach $DEV ||
	bail "cannot attach"
check "C18: a module that leaves its filter registered can be unloaded" rmmod blkfilter_test
check "C18: its name is gone" not registered $DEV blkfilter_test
check "C18: the kernel says so" \
	eval "dmesg | tail | grep 'blk-filter: blkfilter_test was not unregistered'"
load_test_filter
check "C18: it can be loaded again, and attached" attach $DEV blkfilter_test
detach $DEV
ktap_finished
