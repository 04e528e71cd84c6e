# SPDX-License-Identifier: GPL-2.0
#
# A machine that makes incremental backups of /dev/vdb loses its power in the middle
# of writing; what it makes of that afterwards. The host sets BOOT to 1, and then to 2.

fail() { echo "FAILED: $*"; exit 1; }
check() {	# what, command...
	local what=$1
	shift
	n=$((n + 1))
	if "$@" > /tmp/check 2>&1; then echo "ok $n $what"; else
		echo "not ok $n $what"
		sed 's/^/# /' /tmp/check
	fi
}
backup() { /mnt/share/blkfilter/backup.py -m $mnt vdb $out/image > /tmp/said && cat /tmp/said; }
copied_all() { [[ $(cat /tmp/said) =~ copied\ ([0-9]+)\ of\ ([0-9]+) && ${BASH_REMATCH[1]} = ${BASH_REMATCH[2]} ]]; }
field() { awk -v f="$1" '$1 == f { print $2 }' /sys/kernel/debug/changetrack/vdb/generation; }
same() { cmp <(dd if=/dev/vdb bs=1M iflag=direct status=none) $out/image; }
not() { ! "$@"; }

out=/mnt/share/out mnt=/mnt/disk n=0
mkdir -p $mnt
modprobe rust_blk_changetrack || fail "no rust_blk_changetrack"
[ $BOOT = 1 ] && { mkfs.ext4 -q /dev/vdb || fail "no file system"; }
mount /dev/vdb $mnt || fail "cannot mount"
echo "changetrack granularity=4096" > /sys/block/vdb/filter || fail "cannot attach"
udevadm settle

if [ $BOOT = 1 ]; then
	backup || fail "no backup"
	cp -r /usr/lib/udev $mnt/tree || fail "cannot write"
	backup || fail "no backup"
	copied_all && fail "it was not incremental"
	field id > $out/id
	(while dd if=/dev/urandom of=$mnt/big bs=64k count=64 conv=notrunc,fsync; do :; done) 2> /dev/null &
	sleep 2
	[ "$(field changing)" -gt 16 ] || fail "nothing was being written"
	echo 0 > /mnt/ctl/status
	echo b > /proc/sysrq-trigger
	sleep 60
fi

echo 1..5
check "power cut: what changed before it is not known: everything may have" \
	[ "$(field everything)" = 1 ]
check "power cut: the id is another one" [ "$(field id)" != "$(cat $out/id)" ]
check "power cut: the copy is not what the disk is" not same
# Freezing changes the superblock, so it is one freeze for both.
fsfreeze -f $mnt
/mnt/share/blkfilter/backup.py --quiescent vdb $out/image > /tmp/said
same > /tmp/differ 2>&1
identical=$?
fsfreeze -u $mnt
check "power cut: the next backup copies everything" copied_all
check "power cut: and is what the disk is" eval "cat /tmp/differ; [ $identical = 0 ]"
rm -f $out/image* $out/id
