#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What backup.py cannot do right it refuses before it freezes anything, and changes nothing.

. "$(dirname "$0")"/test_common.sh
. "$DIR"/test_backup.sh

plan 79
for module in dm_mod loop; do load $module; done
mkdir "$TMP"/{other,up,merged}

# refused <what> <text of the message> <arguments>...: two lines of the plan.
refused() {
	local before=$(ls -l --time-style=full-iso "$TMP/bk") text=$2 status out

	out=$(timeout 30 "$DIR"/backup.py "${@:3}" 2>&1)
	status=$?
	check "$1: refused" eval '[ $status = 2 ] && grep -qF -- "$text" <<< "$out" &&
		[ $(wc -l <<< "$out") = 1 ] || { echo "$status: $out"; false; }'
	check "$1: nothing has changed" eval \
		'[ $(generation $TRACKED generation) = $switches ] && writable &&
		eq "$(ls -l --time-style=full-iso "$TMP/bk")" "$before"'
}

new_nullb size=96 discard=1
other=$DEV
mkfs.ext4 -q /dev/$other && mount /dev/$other "$TMP/other" || bail "no other file system"
DEVS+=("umount $TMP/other")
new_nullb size=96 discard=1
partition $DEV
disk=$DEV
TRACKED=$disk
switches=0
for part in $PART $PART2; do mkfs.ext4 -q /dev/$part || bail "mkfs"; done
attach $disk "changetrack granularity=4K" || bail "cannot attach"
udevadm settle
writable() { touch "$TMP/other/x" "$mnt/x"; }

# Mount points.
refused "no mount point" "is not a mount point" -m "$mnt" $disk "$img"
refused "a directory of a file system" "is not a mount point" \
	-m "$TMP/other/lost+found" $disk "$img"
refused "no directory" "No such file or directory" -m "$TMP/none" $disk "$img"
refused "a file system elsewhere" "which is not on $disk" -m "$TMP/other" $disk "$img"
mount /dev/$PART "$mnt" || bail "mount"
DEVS+=("umount $mnt")
refused "the same file system twice" "named twice" -m "$mnt" -m "$mnt" $disk "$img"
mkdir "$TMP/second"
mount -t tmpfs none "$TMP/second"
refused "a file system that cannot be frozen" "is tmpfs" -m "$TMP/second" $disk "$img"
umount "$TMP/second"

# Who else writes.
refused "no MOUNT" "mounted from $PART, and not to be frozen" $disk "$img"
mount /dev/$PART2 "$TMP/second"
refused "a second file system" "mounted from $PART2, and not to be frozen" -m "$mnt" $disk "$img"
mount -o remount,ro "$TMP/second"
check "a second one that is read-only: not refused" \
	"$DIR"/backup.py -m "$mnt" $disk "$TMP/bk/ro"
switches=$(generation $disk generation)
umount "$TMP/second"
dmsetup create --noudevsync blkfilter_over --table "0 32768 linear /dev/$PART2 0" || bail "dmsetup"
over=dm-$(dmsetup info -c --noheadings -o minor blkfilter_over)
wait_for [ -b /dev/$over ]
mount /dev/$over "$TMP/second"
refused "one on a mapping" "mounted from $over, and not to be frozen" -m "$mnt" $disk "$img"
umount "$TMP/second"
exec 9<> /dev/$over
refused "a mapping that is open" "is open for writing" -m "$mnt" $disk "$img"
exec 9>&-
udevadm settle
dmsetup remove --noudevsync --retry blkfilter_over
mkswap -q /dev/$PART2 > /dev/null && swapon /dev/$PART2 || bail "swap"
refused "swap" "in use for swap" -m "$mnt" $disk "$img"
swapoff /dev/$PART2
dd if=/dev/zero of="$mnt/swap" bs=1M count=1 status=none && chmod 600 "$mnt/swap" &&
	mkswap -q "$mnt/swap" > /dev/null && swapon "$mnt/swap" || bail "swap file"
refused "swap to a file of it" "in use for swap" -m "$mnt" $disk "$img"
swapoff "$mnt/swap"
loop=$(losetup -f --show /dev/$PART2)
mkfs.ext4 -q $loop && mount $loop "$TMP/second"
refused "a loop device on a part of it" "mounted from $(basename $loop)" -m "$mnt" $disk "$img"
umount "$TMP/second"
losetup -d $loop
exec 9<> /dev/$disk
refused "a writer to the node of the disk" "is open for writing" -m "$mnt" $disk "$img"
exec 9>&-
udevadm settle
# As a container has one, or a file system of several devices.
python3 - /dev/$PART2 <<-'END' & holder=$!
	import os, sys, time
	fd = os.open(sys.argv[1], os.O_RDONLY | os.O_EXCL)
	time.sleep(1000)
END
wait_for eval '! blockdev --rereadpt /dev/$PART2 && ls -l /proc/$holder/fd | grep -q $PART2'
refused "someone who claims a part of it" "$PART2 is in use" -m "$mnt" $disk "$img"
kill $holder
wait $holder 2> /dev/null
umount "$mnt"

# What is mapped from the whole disk, with the filter on a partition of that.
detach $disk
attach $PART "changetrack granularity=4K" || bail "cannot attach"
TRACKED=$PART switches=0
udevadm settle
dmsetup create --noudevsync blkfilter_over --table "0 32768 linear /dev/$disk 2048" ||
	bail "dmsetup"
wait_for [ -b /dev/$over ]
mount /dev/$over "$mnt"
refused "a mapping of the disk, not of the partition" "$over, and not to be frozen" $PART "$img"
refused "a mount of that" "which is not on $PART" -m "$mnt" $PART "$img"
umount "$mnt"
dmsetup remove --noudevsync --retry blkfilter_over
# A file system on two disks, and one with its journal elsewhere.
dmsetup create --noudevsync blkfilter_over --table "0 32768 linear /dev/$PART 0
	32768 32768 linear /dev/$PART2 0" || bail "dmsetup"
wait_for [ -b /dev/$over ]
mkfs.ext4 -q /dev/$over && mount /dev/$over "$mnt"
refused "a file system that is also elsewhere" "on $over, which is not on $PART" \
	-m "$mnt" $PART "$img"
umount "$mnt"
dmsetup remove --noudevsync --retry blkfilter_over
mke2fs -q -O journal_dev /dev/$PART2 && mkfs.ext4 -q -J device=/dev/$PART2 /dev/$PART &&
	mount /dev/$PART "$mnt" || bail "no external journal"
refused "a journal elsewhere" "has its journal on another device" -m "$mnt" $PART "$img"
umount "$mnt"
mkfs.ext4 -q /dev/$PART && mount /dev/$PART "$mnt" || bail "mkfs"

# Where the image is.
refused "the image is there" "lies on" -m "$mnt" $PART "$mnt/img"
ln -s "$mnt/img" "$TMP/bk/link"
refused "a link leads there" "lies on" -m "$mnt" $PART "$TMP/bk/link"
rm "$TMP/bk/link"
ln -s "$mnt/state" "$img.state"
refused "a link from its state leads there" "lies on" -m "$mnt" $PART "$img"
rm "$img.state"
truncate -s 10M "$mnt/store" && mkfs.ext4 -q "$mnt/store" &&
	mount -o loop "$mnt/store" "$TMP/second" || bail "loop"
refused "a loop device leads there" "lies on" -m "$mnt" $PART "$TMP/second/img"
loop=$(basename "$(findmnt -n -o SOURCE "$TMP/second")")
attach $loop changetrack && udevadm settle
refused "one file system lies on another" "lies on $mnt" -m "$mnt" -m "$TMP/second" $PART "$img" \
	$loop "$TMP/bk/loop"
detach $loop
umount "$TMP/second"
mkdir "$mnt"/{upper,work}
mount -t overlay -o "lowerdir=$TMP/up,upperdir=$mnt/upper,workdir=$mnt/work" overlay \
	"$TMP/merged" || bail "no overlayfs"
refused "an overlay leads there" "lies on" -m "$mnt" $PART "$TMP/merged/img"
umount "$TMP/merged"
refused "the image is the disk" "lies on" -m "$mnt" $PART /dev/$PART
refused "a directory" "is a directory" -m "$mnt" $PART "$TMP/bk"
refused "no directory for it" "is not a directory" -m "$mnt" $PART "$TMP/none/img"
mkfifo "$TMP/bk/fifo"
refused "not a file" "is not a file" -m "$mnt" $PART "$TMP/bk/fifo"
rm "$TMP/bk/fifo"

# Who uses the image.
truncate -s 20M "$img" && mkfs.ext4 -q "$img" && mount -o loop "$img" "$TMP/second"
refused "the image is mounted" "in use by loop" -m "$mnt" $PART "$img"
umount "$TMP/second"
udevadm settle
exec 9<> "$img"
refused "the image is open" "is open for writing" -m "$mnt" $PART "$img"
exec 9>&-
(exec 9< "$img"; flock -x 9; exec sleep 1000) & holder=$!
wait_for not flock -n -x "$img" true
refused "another backup to it" "is in use" -m "$mnt" $PART "$img"
kill $holder
wait $holder 2> /dev/null
refused "a block device that is mounted" "is in use" -m "$mnt" $PART /dev/$other
new_nullb size=8
refused "a block device that is too small" "smaller than the disk" -m "$mnt" $PART /dev/$DEV

# And the disk.
refused "no such disk" "is not a block device" -m "$mnt" nosuchdisk "$img"
refused "no filter" "changetrack is not on $disk" -m "$mnt" $disk "$img"
fsfreeze -f "$mnt"
refuse_frozen() {
	writable() { true; }
	refused "frozen already" "somebody else has frozen it" -m "$mnt" $PART "$img"
}
refuse_frozen
fsfreeze -u "$mnt"
attach $other changetrack && udevadm settle
refused "an image that is the state of another" "named twice" \
	-m "$mnt" $PART "$img" $other "$img.state"
detach $other
check "usage: a time that is none" \
	eval '"$DIR"/backup.py --stalled-after 0 $PART "$img" 2> /dev/null; [ $? = 2 ]'
check "usage: a DISK without an IMAGE" eval '"$DIR"/backup.py $PART 2> /dev/null; [ $? = 2 ]'
ktap_finished
