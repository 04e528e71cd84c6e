#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What other backup tools have had reported, in short: each image is the device at that time.

. "$(dirname "$0")"/test_common.sh
. "$DIR"/test_backup.sh

plan 42
for module in dm_mod loop; do load $module; done

# LVM does not know null_blk by itself.
lvm() {
	LVM_SUPPRESS_FD_WARNINGS=1 command lvm "$@" --config 'devices { types = ["nullb", 16] }' \
		> "$TMP/lvm" 2>&1 || { cat "$TMP/lvm"; return 1; }
	udevadm settle
}

track() {	# device [options]
	attach "$1" "changetrack ${2:-granularity=4K}" || bail "cannot attach to $1"
	udevadm settle
	rm -f "$img" "$img.state"
}

# now <device>: a backup, and the image is the device.
now() {
	backup --quiescent "$1" "$img" && is_copy "$1" "$img"
}
frozen() {	# device
	local ret

	fsfreeze -f "$mnt"
	now "$1"
	ret=$?
	fsfreeze -u "$mnt"
	return $ret
}
part() {	# command...: and it is not a full one.
	"$@" && not copied_all
}
full() {
	"$@" && copied_all
}

# A file system of blocks that are smaller than a page.
new_nullb size=64
mkfs.ext4 -q -b 1024 /dev/$DEV && mount /dev/$DEV "$mnt" || bail "ext4"
track $DEV
check "1 KiB blocks: the first" full frozen $DEV
for round in 1 2; do
	for ((n = 0; n < 30; n++)); do head -c $((n * 100)) /dev/urandom > "$mnt/$round.$n"; done
	rm -f "$mnt"/1.1*
	check "1 KiB blocks: round $round" part frozen $DEV
done
umount "$mnt"
detach $DEV

# Discards that follow the removal of files, and may come after the freeze.
new_nullb size=64 discard=1
mkfs.ext4 -q /dev/$DEV && mount -o discard /dev/$DEV "$mnt" || bail "ext4"
track $DEV
for ((n = 0; n < 12; n++)); do head -c 1M /dev/urandom > "$mnt/$n"; done
sync -f "$mnt"
check "discard: the first" full frozen $DEV
rm -f "$mnt"/*
check "discard: files removed, frozen at once" part frozen $DEV
check "discard: nothing is trimmed later" frozen $DEV
umount "$mnt"
detach $DEV

# Zeroes but for the last byte, and a device of an odd size; discards shorter than a block.
truncate -s $(((64 << 20) + 1536)) "$TMP/odd"
loop=$(losetup -f --show "$TMP/odd")
DEVS+=("losetup -d $loop")
DEV=${loop#/dev/}
for granularity in 4K 64K 1M; do
	track $DEV granularity=$granularity
	check "odd size, $granularity: the first" full now $DEV
	for at in 4095 65535 1048575 $(((64 << 20) + 1535)); do
		printf x | dd of=/dev/$DEV bs=1 seek=$at conv=notrunc status=none
	done
	check "odd size, $granularity: zeroes but for the last byte" part now $DEV
	blkdiscard -f -o 512 -l 512 /dev/$DEV && blkdiscard -f -o 4608 -l 1024 /dev/$DEV &&
		blkdiscard -f -o $((64 << 20)) -l 1536 /dev/$DEV &&
		blkdiscard -f -z -o 1047552 -l 1536 /dev/$DEV || bail "blkdiscard"
	check "odd size, $granularity: short discards" part now $DEV
	check "odd size, $granularity: the image has its size" \
		eq "$(stat -c %s "$img")" $(((64 << 20) + 1536))
	detach $DEV
done

# One block again and again.
for exact in 0 1; do
	track $DEV "granularity=4K exact=$exact"
	now $DEV || bail "no backup"
	wrong=0
	for ((n = 0; n < 10; n++)); do
		dwrite $DEV 4096 1 7
		part now $DEV || ((wrong++))
	done
	check "the same block in ten generations, exact=$exact" eq $wrong 0
	detach $DEV
done

# Shrunk and grown again.
track $DEV
now $DEV || bail "no backup"
for size in 40M 64M; do
	truncate -s $size "$TMP/odd"
	losetup -c $loop
	udevadm settle
	dwrite $DEV 4096 1 3
	check "of $size now: a full one" full now $DEV
	dwrite $DEV 4096 1 30
	check "of $size now: then a partial one" part now $DEV
done
detach $DEV

# What was written to the node of a partition, and is in the page cache of that.
new_nullb size=64
partition $DEV
track $DEV
now $DEV || bail "no backup"
exec 9<> /dev/$PART
head -c 4096 /dev/urandom >&9
check "in the page cache of a partition" now $DEV
exec 9>&-
sync
udevadm settle
check "and then on the disk" part now $DEV
detach $DEV

# Two images in turn.
track $DEV
one=$TMP/bk/img two=$TMP/bk/other wrong=0
for ((n = 0; n < 4; n++)); do
	for img in "$one" "$two"; do
		dwrite $DEV 4096 1 $((n + 50))
		now $DEV || ((wrong++))
	done
done
check "two images in turn" eq $wrong 0
img=$one
detach $DEV

# Four trackers, one of which comes and goes.
tracked=($PART $PART2)
whole=$DEV
new_nullb size=64
tracked+=($DEV)
for disk in "${tracked[@]}"; do
	attach $disk "changetrack granularity=4K" || bail "cannot attach"
done
udevadm settle
for disk in "${tracked[@]}"; do
	backup --quiescent $disk "$TMP/bk/$disk" || bail "no backup"
done
udev_off
fio --name=load --filename=/dev/${tracked[0]}:/dev/${tracked[1]}:/dev/${tracked[2]} \
	--rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=8 --size=12M \
	--io_size=2M --time_based --runtime=3 \
	--output="$TMP/fio" & fio=$!
for ((n = 0; n < 20; n++)); do
	attach $whole changetrack && detach $whole || bail "cannot attach"
done
wait $fio
udev_on
wrong=0
for disk in "${tracked[@]}"; do
	img=$TMP/bk/$disk
	now $disk || ((wrong++))
done
img=$one
check "trackers, and another one that comes and goes" eq $wrong 0
for disk in "${tracked[@]}"; do detach $disk; done

# LVM: the physical volume is tracked, with a snapshot on it; then the logical volume is.
new_nullb size=160
pv=$DEV
{ lvm pvcreate -ffy /dev/$pv && lvm vgcreate blkfilter_vg /dev/$pv &&
	lvm lvcreate -y -L 64M -n lv blkfilter_vg; } || bail "lvm"
DEVS+=("lvm vgremove -ff blkfilter_vg")
lv=$(basename "$(readlink -f /dev/blkfilter_vg/lv)")
mkfs.ext4 -q /dev/$lv && mount /dev/$lv "$mnt" || bail "ext4"
track $pv
check "LVM, the physical volume: the first" full frozen $pv
lvm lvcreate -y -s -L 32M -n snap blkfilter_vg/lv || bail "lvcreate -s"
cp -r /usr/lib/udev "$mnt/tree"
sync -f "$mnt"
check "LVM, the physical volume: a snapshot is made, and written to" part frozen $pv
lvm lvremove -f blkfilter_vg/snap || bail "lvremove"
check "LVM, the physical volume: the snapshot is removed" part frozen $pv
detach $pv
track $lv
check "LVM, the logical volume: the first" full frozen $lv
date > "$mnt/x"
check "LVM, the logical volume: the second" part frozen $lv
lvm lvcreate -y -s -L 32M -n snap blkfilter_vg/lv && lvm lvremove -f blkfilter_vg/snap ||
	bail "lvcreate -s"
check "LVM, the logical volume: with a snapshot in between everything may have changed" \
	full frozen $lv
lvm lvextend -L 96M blkfilter_vg/lv || bail "lvextend"
check "LVM, the logical volume: it grows" full frozen $lv
date > "$mnt/y"
check "LVM, the logical volume: then a partial one" part frozen $lv
umount "$mnt"
detach $lv

# A raw SCSI disk: after each writer udev has it looked at anew.
new_scsi_debug
track $DEV
now $DEV || bail "no backup"
dwrite $DEV 4096 1 9
udevadm settle
check "SCSI: the image is the device" now $DEV
detach $DEV

# The documented rules of udev.
new_nullb size=64
mkdir -p /run/udev/rules.d
DEVS+=("rm -f /run/udev/rules.d/99-blkfilter.rules")
dm_rule='ACTION=="add|change", SUBSYSTEM=="block", ENV{DM_NAME}=="data",
	ENV{BLK_FILTER_EVENT}!="?*", ATTR{size}!="0", ATTR{filter}="changetrack"'
{
	echo "ACTION==\"add\", SUBSYSTEM==\"block\", KERNEL==\"$DEV\", ATTR{filter}=\"changetrack\""
	echo $dm_rule
} > /run/udev/rules.d/99-blkfilter.rules
udevadm control --reload
udevadm monitor --kernel --subsystem-match=block > "$TMP/events" 2>&1 & monitor=$!
wait_for [ -s "$TMP/events" ]
udevadm trigger --action=add --settle /sys/block/$DEV
check "udev: it is attached when the disk appears" wait_for attached $DEV changetrack
echo 1 > /sys/block/$DEV/uevent 2> /dev/null
detach $DEV
sleep 2
check "udev: it stays detached" attached $DEV none
events=$(grep -c "/$DEV " "$TMP/events")
check "udev: there are events, and no storm of them" [ "$events" -ge 1 -a "$events" -lt 10 ]
kill $monitor
low=$DEV
dmsetup create data --table "0 65536 linear /dev/$low 0" || bail "dmsetup"
DEVS+=("dmsetup remove --retry data")
dm=dm-$(dmsetup info -c --noheadings -o minor data)
check "udev: device mapper: it is attached when there is a table" wait_for attached $dm changetrack
detach $dm
sleep 2
check "udev: device mapper: it stays detached" attached $dm none
rm -f /run/udev/rules.d/99-blkfilter.rules
udevadm control --reload
ktap_finished
