#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A filter that writes when it is detached, to a device that somebody wants to remove
# meanwhile: that is busy, or gone, as it is for who has it open.  What replaced the
# device is not written to.

. "$(dirname "$0")"/test_common.sh

plan 42
insmod "$DIR"/test_modules/blkfilter_test.ko flags=8 || bail "cannot load blkfilter_test"
load_test_filter
for module in dm_mod raid0; do load $module; done
pause=$((1500 * ${SLOW:-1}))

# saving <device> <milliseconds>: it is detached, and in ->detached, which writes then.
saving() {
	attach "$1" blkfilter_test || bail "cannot attach"
	[ -n "$UDEV_OFF" ] || udevadm settle
	echo 99 > $TEST_DIR/below_error
	echo "$2" > $TEST_DIR/save_ms
	echo save > $TEST_DIR/mode
	detach "$1" & detacher=$!
	wait_for attached "$1" none || bail "it is not being detached"
}

# Device mapper, and the write on its way.  Each I/O takes a second.
udev_off
new_nullb irqmode=2 completion_nsec=${SLOW:-1}000000000
low=$DEV
dmsetup create --noudevsync blkfilter_save --table "0 65536 linear /dev/$low 0" ||
	bail "dmsetup"
DEVS+=("dmsetup remove --noudevsync --retry blkfilter_save")
DEV=dm-$(dmsetup info -c --noheadings -o minor blkfilter_save)
wait_for inflight $low 0
saving $DEV 10
check "C5: dm: it writes" wait_for inflight $low 1
check "C17: dm: the device is busy meanwhile" \
	fails_with "Device or resource busy" dmsetup remove --noudevsync blkfilter_save
check "C13: dm: the detach ends" wait $detacher
check "C17: dm: then it can be removed, at once" dmsetup remove --noudevsync blkfilter_save
check "C5: dm: the write succeeded" eq "$(get below_error)" 0
check "C5: dm: it is on the disk" eq "$(first_byte $low)" 5a
udev_on

# MD: mdadm tries again for a while, or gives up.
new_nullb
low=$DEV
new_nullb
mdadm --build /dev/md127 --level=0 --raid-devices=2 /dev/$low /dev/$DEV > "$TMP/mdadm" 2>&1 ||
	bail "mdadm"
DEVS+=("mdadm --stop /dev/md127")
udevadm settle
saving md127 $pause
mdadm --stop /dev/md127 > "$TMP/mdadm" 2>&1 & stopper=$!
check "C13: md: the detach ends" wait $detacher
check "C5: md: the write succeeded" eq "$(get below_error)" 0
wait $stopper
echo pass > $TEST_DIR/mode
running() { grep -q '^md127 ' /proc/mdstat; }
! running || wait_for mdadm --stop /dev/md127
check "C17: md: it can be stopped" not running
check "C5: md: it is on the disk" eq "$(first_byte $low)" 5a

# blkpg <operation> <device> <number> <first sector> <sectors>: 1 adds, 2 deletes.
blkpg() {
	python3 - "$@" <<-'END'
		import ctypes, fcntl, sys

		class Partition(ctypes.Structure):
		    _fields_ = [("start", ctypes.c_longlong), ("length", ctypes.c_longlong),
		                ("pno", ctypes.c_int), ("names", ctypes.c_char * 128)]

		class Arg(ctypes.Structure):
		    _fields_ = [("op", ctypes.c_int), ("flags", ctypes.c_int),
		                ("datalen", ctypes.c_int), ("data", ctypes.c_void_p)]

		op, device, number, start, length = sys.argv[1:]
		part = Partition(int(start) * 512, int(length) * 512, int(number))
		arg = Arg(int(op), 0, ctypes.sizeof(part), ctypes.addressof(part))
		with open(device) as file:
		    fcntl.ioctl(file, 0x1269, arg)
	END
}

delpart() {	# device number
	blkpg 2 "$1" "$2" 0 0
}

addpart() {	# device number first sectors
	blkpg 1 "$@"
}

# A partition, which cannot go, and then one that is made in its place.
new_nullb
partition $DEV
saving $PART $pause
check "C17: partition: it is busy" fails_with "Device or resource busy" delpart /dev/$DEV 1
check "C17: partition: so is the table" \
	fails_with "Device or resource busy" blockdev --rereadpt /dev/$DEV
check "C13: partition: the detach ends" wait $detacher
check "C5: partition: the write succeeded" eq "$(get below_error)" 0
check "C20: partition: it is where it belongs" eq "$(first_byte $PART)" 5a
check "C17: partition: then it can be deleted" wait_for delpart /dev/$DEV 1
udev_off
head -c 4096 /dev/zero | tr '\0' '\252' > "$TMP/aa"
again() {
	addpart /dev/$DEV 1 2048 32768 && wait_for [ -b /dev/$PART ]
}
again || bail "addpart"
rounds=$((12 / ${SLOW:-1}))
wrong=0
echo save > $TEST_DIR/mode
echo 20 > $TEST_DIR/save_ms
for ((i = 0; i < rounds; i++)); do
	attach $PART blkfilter_test || bail "cannot attach"
	detach $PART 2> /dev/null & detacher=$!
	sleep 0.00$((i % 10))
	wait_for delpart /dev/$DEV 1 && again || bail "no new partition"
	dd if="$TMP/aa" of=/dev/$PART bs=4096 oflag=direct conv=notrunc status=none
	wait $detacher
	wait_for eval '[ $(get released) = $(get attached) ]'
	[ "$(first_byte $PART)" = aa ] || ((wrong++))
done
check "C5: partition: no write to one that took its place, $rounds times" eq $wrong 0
udev_on

# A loop device is unbound when the last one closes it.
new_loop
truncate -s 64M "$TMP/other.img"
saving $DEV $pause
check "C17: loop: losetup -d does not wait" soon 10 losetup -d /dev/$DEV
check "C17: loop: but the device is busy" \
	fails_with "Device or resource busy" losetup /dev/$DEV "$TMP/other.img"
check "C13: loop: the detach ends" wait $detacher
check "C5: loop: the write succeeded" eq "$(get below_error)" 0
check "C5: loop: it is in the file" eq "$(first_byte "$TMP/loop.img")" 5a
check "C17: loop: then it is free" wait_for losetup /dev/$DEV "$TMP/other.img"
check "C5: loop: the next file was not written to" eq "$(first_byte "$TMP/other.img")" 00
# The same for a filter that reads on behalf of a bio.
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
echo $pause > $TEST_DIR/copy_ms
processed=$(get processed)
echo copy > $TEST_DIR/mode
dread $DEV & reader=$!
wait_for eval '[ $(get processed) -gt $processed ]' || bail "nothing is processed"
check "C17: loop: losetup -d does not wait for a bio" soon 10 losetup -d /dev/$DEV
check "C5: loop: which is fine" wait $reader
check "C5: loop: so is what was read below" eq "$(get below_error)" 0
echo pass > $TEST_DIR/mode
detach $DEV

# Those that go whoever has them open.
new_nullb
saving $DEV $pause
check "C15: null_blk: it goes" soon 10 eval "echo 0 > $NULLB/$DEV/power"
check "C5: null_blk: the write has not been tried yet" eq "$(get below_error)" 99
check "C13: null_blk: the detach ends" wait $detacher
check "C5: null_blk: the write failed with ENODEV" eq "$(get below_error)" 19
echo pass > $TEST_DIR/mode
new_scsi_debug
saving $DEV $pause
check "C15: SCSI: it goes" soon 10 eval "echo 1 > /sys/block/$DEV/device/delete"
check "C13: SCSI: the detach ends" wait $detacher
check "C5: SCSI: the write failed with ENODEV" eq "$(get below_error)" 19
check "C17: SCSI: the driver can be unloaded" wait_for rmmod scsi_debug

# Another filter, which took its place, sees what it writes.
load rust_blkfilter
new_nullb
saving $DEV $pause
check "C5: the next filter can be attached before the last has written" \
	attach $DEV rust_blkfilter
check "C13: the detach ends" wait $detacher
check "C5: the next filter has seen the write" \
	eq "$(get below_error) $(stat_of $DEV write bios)" "0 1"
echo pass > $TEST_DIR/mode
detach $DEV

# A removal, and a device that is read-only.
new_nullb
attach $DEV blkfilter_test || bail "cannot attach"
udevadm settle
echo 99 > $TEST_DIR/below_error
echo 10 > $TEST_DIR/save_ms
echo save > $TEST_DIR/mode
echo 0 > $NULLB/$DEV/power
check "C5: after a removal the write fails with ENODEV" \
	wait_for grep -qx 19 $TEST_DIR/below_error
new_nullb
blockdev --setro /dev/$DEV
saving $DEV 10
wait $detacher
check "C34: on a device that is read-only it fails with EROFS" eq "$(get below_error)" 30
check "C9: no late call" eq "$(get late)" 0
check "C11: all were released" wait_for eval '[ $(get released) = $(get attached) ]'
ktap_finished
