#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Images of backup.py: holes, block devices, what is the same image and what is not; disks that
# cannot be read; several of them at the same moment; huge ones.

. "$(dirname "$0")"/test_common.sh
. "$DIR"/test_backup.sh

plan 53
load rust_blkerror
load loop
DEVS+=("rmmod rust_blkerror")
track_partition 64K

# right <what> <full|part> [status]: a backup, and its image is the device.
right() {
	local full=copied_all want=${3:-0}

	[ "$2" = full ] || full="not copied_all"
	dd if=/dev/urandom of="$mnt/right" bs=4k count=1 conv=fsync status=none
	# Freezing and thawing changes the superblock: one freeze for both.
	fsfreeze -f "$mnt"
	backup --quiescent $PART "$img"
	check "$1: the exit status is $want" eq $status $want
	check "$1: it is a ${2/part/partial} one" $full
	check "$1: the image is the device" is_copy $PART "$img"
	fsfreeze -u "$mnt"
}

# Holes.
head -c 2M /dev/urandom > "$mnt/data"
right "the first" full
check "zeroes are holes" [ "$(du -k "$img" | cut -f1)" -lt 8192 ]
head -c 6M /dev/urandom > "$mnt/more" && sync -f "$mnt" && rm "$mnt/more" && fstrim "$mnt"
right "after fstrim" part
check "what was trimmed is holes" [ "$(du -k "$img" | cut -f1)" -lt 10240 ]

# The same image, and others.
ln "$img" "$img.yesterday"
right "another link to the image" part
rm "$img.yesterday"
touch "$img"
right "somebody else has written to it" full
cp -p "$img" "$img.old"
right "again" part
mv "$img.old" "$img"
right "an older one in its place" full
python3 - "$img.state" <<-'END'
	import json, sys
	with open(sys.argv[1], "r+") as file:
	    state = json.load(file)
	    # As after a reset to a snapshot with the memory: the same id, and numbers that follow.
	    state["ended"] ^= 1
	    file.seek(0)
	    json.dump(state, file)
END
right "another generation of the same number" full
truncate -s 100 "$img.state"
right "a part of a state" full

# A file system that is mounted from another device each time.
truncate -s 64M "$TMP/usb" && mkfs.ext4 -q "$TMP/usb" && mkdir "$TMP/usbmnt" || bail "no usb"
mount -o loop "$TMP/usb" "$TMP/usbmnt"
img=$TMP/usbmnt/img
right "on another file system" full
umount "$TMP/usbmnt"
udevadm settle
truncate -s 1M "$TMP/decoy"
used=$(losetup -f --show "$TMP/decoy")
DEVS+=("losetup -d $used" "umount $TMP/usbmnt")
mount -o loop "$TMP/usb" "$TMP/usbmnt"
right "mounted from another device" part

# A block device.
new_nullb size=20
ln -s /dev/$DEV "$TMP/bk/dev"
img=$TMP/bk/dev
right_device() {
	local full=copied_all

	[ "$2" = full ] || full="not copied_all"
	fsfreeze -f "$mnt"
	backup --quiescent $PART "$img"
	check "a block device: $1: the exit status is 0" eq $status 0
	check "a block device: $1: it is a ${2/part/partial} one" $full
	check "a block device: $1: the image is the device" eval \
		'dd if=/dev/$PART bs=1M iflag=direct status=none |
			cmp -n $((32768 * 512)) - /dev/$DEV'
	fsfreeze -u "$mnt"
}
right_device "the first" full
dd if=/dev/urandom of="$mnt/right" bs=4k count=1 conv=fsync status=none
right_device "the second" part
dwrite $DEV 4096 1 0
right_device "written to by somebody else" full

# A block that cannot be read: sector 4096 of the partition.
img=$TMP/bk/bad
head -c 4M /dev/urandom > "$mnt/data"
sync -f "$mnt"
attach $disk "blkerror op=read first=6144 last=6144" || bail "cannot attach"
udevadm settle
fsfreeze -f "$mnt"
backup --quiescent $PART "$img"
check "unreadable: the exit status is 3" eq $status 3
check "unreadable: it is named" grep -qF "$PART: sectors 4096 to 4103 cannot be read" "$TMP/said"
check "unreadable: what is before it, and behind it, is there" eval '
	dd if=/dev/$PART bs=1M count=2 iflag=direct status=none | cmp -n 2097152 - "$img" &&
	dd if=/dev/$PART bs=4k skip=513 iflag=direct status=none |
		cmp - <(tail -c +$((513 * 4096 + 1)) "$img")'
fsfreeze -u "$mnt"
backup -m "$mnt" $PART "$img"
check "unreadable: the next run tries it again" \
	eval '[ $status = 3 ] && ! copied_all && grep -q "4096 to 4103" "$TMP/said"'
detach $disk
right "readable again" part

# Several, at the same moment: the first has what the second has, or one more.
umount "$mnt"
detach $PART
mkdir "$TMP/mnt2"
DEVS+=("umount $TMP/mnt2")
mkfs.ext4 -q /dev/$PART && mount /dev/$PART "$mnt" && mkfs.ext4 -q /dev/$PART2 &&
	mount /dev/$PART2 "$TMP/mnt2" || bail "no file systems"
attach $PART changetrack && attach $PART2 changetrack || bail "cannot attach"
udevadm settle
python3 - "$mnt/n" "$TMP/mnt2/n" <<-'END' & writer=$!
	import os, sys
	files = [os.open(name, os.O_RDWR | os.O_CREAT) for name in sys.argv[1:]]
	for n in range(1, 10 ** 8):
	    for file in files:
	        os.pwrite(file, b"%010d" % n, 0)
	        os.fsync(file)
END
wait_for [ -s "$TMP/mnt2/n" ]
wrong=0
mkdir "$TMP/look"
number_in() {	# image
	mount -o loop "$1" "$TMP/look" && cat "$TMP/look/n"
	umount "$TMP/look"
}
for round in 1 2 3; do
	backup -m "$mnt" -m "$TMP/mnt2" $PART "$TMP/bk/one" $PART2 "$TMP/bk/two" || ((wrong++))
	for name in one two; do
		cp --sparse=always "$TMP/bk/$name" "$TMP/bk/$name.look"
		e2fsck -fy "$TMP/bk/$name.look" > "$TMP/fsck" 2>&1
		[ $? -le 1 ] || ((wrong++))
	done
	one=$(number_in "$TMP/bk/one.look") two=$(number_in "$TMP/bk/two.look")
	echo "# $one $two"
	[ $((10#$one - 10#$two)) = 0 -o $((10#$one - 10#$two)) = 1 ] || ((wrong++))
done
check "several disks are of the same moment" eq $wrong 0
kill $writer
wait $writer 2> /dev/null
check "each was incremental at last" not copied_all

# A huge one: the memory that the copy takes.  On a debug kernel a smaller one, as that has
# not enough memory for the bitmaps.
tib=128
[ -n "$SLOW" ] && tib=16
new_nullb size=$((tib << 20)) memory_backed=0
attach $DEV changetrack || bail "cannot attach to a huge disk"
udevadm settle
mkdir "$TMP/tmpfs" && mount -t tmpfs none "$TMP/tmpfs" || bail "no tmpfs"
DEVS+=("umount $TMP/tmpfs")
truncate -s ${tib}T "$TMP/tmpfs/img"
# As if there had been a backup.
echo switch > /sys/kernel/debug/changetrack/$DEV/generation
python3 - "$TMP/tmpfs/img" $(generation $DEV ended) <<-'END'
	import json, os, sys
	status = os.stat(sys.argv[1])
	with open(sys.argv[1] + ".state", "w") as file:
	    json.dump({"version": 2, "ended": int(sys.argv[2], 16), "shift": 16,
	               "size": status.st_size, "image": [status.st_size, status.st_mtime_ns],
	               "unread": []}, file)
END
for ((n = 0; n < 200; n++)); do
	echo $((n * n * 53000 / 128 * tib)) $((n % 9 + 1))
done | python3 -c '
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
data = mmap.mmap(-1, 10 << 16)
for line in sys.stdin:
    at, count = map(int, line.split())
    os.pwrite(fd, memoryview(data)[:count << 16], at << 16)
' /dev/$DEV || bail "cannot write"
python3 - "$DIR/backup.py" $DEV "$TMP/tmpfs/img" > "$TMP/said" 2>&1 <<-'END'
	import resource, subprocess, sys
	status = subprocess.run(sys.argv[1:]).returncode
	print("status", status)
	print("memory", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
END
sed 's/^/# /' "$TMP/said"
check "huge: the exit status is 0" grep -qx "status 0" "$TMP/said"
check "huge: it is a partial one" eval '[[ $(cat "$TMP/said") =~ copied\ ([0-9]+)\ of ]] &&
	[ ${BASH_REMATCH[1]} -ge 900 -a ${BASH_REMATCH[1]} -le 1100 ]'
check "huge: in 100 MiB of memory" \
	[ "$(awk '$1 == "memory" { print $2 }' "$TMP/said")" -lt 102400 ]
detach $DEV
ktap_finished
