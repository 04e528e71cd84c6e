# SPDX-License-Identifier: GPL-2.0
#
# Sourced by the tests of backup.py.

load rust_blk_changetrack
DEVS+=("rmmod rust_blk_changetrack")
mkdir "$TMP"/{mnt,bk}
mnt=$TMP/mnt img=$TMP/bk/img

# track_partition <granularity>: sets disk to a new disk, PART and PART2 to its partitions; the
# first has changetrack and a file system that is mounted at $mnt.
track_partition() {
	new_nullb size=96 discard=1
	disk=$DEV
	partition $DEV
	mkfs.ext4 -q /dev/$PART && mount /dev/$PART "$mnt" || bail "no file system"
	DEVS+=("umount $mnt")
	attach $PART "changetrack granularity=$1" || bail "cannot attach"
	udevadm settle
}

# generation <device> <name>: what changetrack says.
generation() {
	awk -v name="$2" '$1 == name { print $2 }' /sys/kernel/debug/changetrack/"$1"/generation
}

# is_copy <device> <image>: the image is what is on the device.
is_copy() {
	[ -s "$2" ] && dd if=/dev/"$1" bs=1M iflag=direct status=none | cmp - "$2"
}

# backup <arguments>...: runs it.  Its status is in status, its output in $TMP/said.
backup() {
	timeout $((120 * ${SLOW:-1})) "$DIR"/backup.py "$@" > "$TMP/said" 2>&1
	status=$?
	sed 's/^/# /' "$TMP/said" >&3
	return $status
}
exec 3>&1

copied_all() {
	[[ $(grep -h copied "$TMP/said") =~ copied\ ([0-9]+)\ of\ ([0-9]+) ]] &&
		[ "${BASH_REMATCH[1]}" = "${BASH_REMATCH[2]}" ]
}
