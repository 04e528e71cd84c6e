# SPDX-License-Identifier: GPL-2.0
#
# The demo, inside the guest. Each line that starts with "ok" is a step that the
# host wants to see.

fail() { echo "  [FAILED] $*"; exit 1; }
say() { echo; printf '%s\n' "$@"; }
show() { echo "    $*"; }
ok() { echo "  [ok] $*"; }

disk=vdb
filter=/sys/block/$disk/filter
debug=/sys/kernel/debug/rust_blkfilter/$disk
mnt=/mnt/disk

filter_sectors() {	# kind...: sectors that the filter counted
	awk -v kinds=" $* " 'index(kinds, " " $1 " ") { n += $3 } END { print n / 512 }' $debug/stats
}
both() {	# what the filter and the block layer have counted so far
	fr=$(filter_sectors read) fw=$(filter_sectors write write_zeroes) fd=$(filter_sectors discard)
	r=$(disk_sectors 3) w=$(disk_sectors 7) d=$(disk_sectors 14)
}
quiet() {	# freeze the file system, and wait until the last read is through, too
	local last= now=
	fsfreeze -f $mnt || fail "cannot freeze"
	until [ -n "$last" ] && [ "$last" = "$now" ] && grep -qE '^ *0 +0$' /sys/block/$disk/inflight; do
		last=$now
		sleep 0.2
		now=$(cat /sys/block/$disk/stat)
	done
}
disk_sectors() {	# field of the block layer's own statistics
	awk -v f="$1" '{ print $f }' /sys/block/$disk/stat
}

say "This is Linux $(uname -r), built a moment ago, with block device filters:"
[ -e $filter ] || fail "no $filter"
show "/sys/block/$disk/filter says: $(cat $filter)"
ok "the kernel knows filters, and $disk has none"

say "$disk has an ext4 file system. It is mounted, and kept busy: the kernel's whole" \
	"Documentation/ is being copied onto it, and fio writes, reads and verifies."
mkdir -p $mnt /mnt/doc
mount -t ext4 -o errors=continue /dev/$disk $mnt || fail "cannot mount $disk"
mount -o ro /dev/vdc /mnt/doc || fail "cannot mount the documentation"
truncate -s 32M $mnt/fio.data
fio --name=busy --filename=$mnt/fio.data --size=32M --rw=randrw --bs=4k --direct=1 \
	--ioengine=libaio --iodepth=4 --verify=crc32c --verify_fatal=1 --time_based \
	--runtime=10 --output=/tmp/fio.out > /dev/null 2>&1 &
fio=$!
cp -r /mnt/doc $mnt/tree > /tmp/cp.out 2>&1 &
copy=$!
sleep 1
kill -0 $fio $copy || fail "nothing is busy: $(cat /tmp/fio.out /tmp/cp.out)"
ok "the file system is mounted and busy"

say "Now the filter, written in safe Rust, goes between the file system and the disk." \
	"For a moment the file system is frozen, so that both sides start counting at the same bio."
quiet
echo rust_blkfilter > $filter || fail "cannot attach"
udevadm settle	# it is told, and has a look at the disk
both
fr0=$fr fw0=$fw fd0=$fd r0=$r w0=$w d0=$d
fsfreeze -u $mnt
show "echo rust_blkfilter > $filter"
show "$filter says: $(cat $filter)"
grep -qF '[rust_blkfilter]' $filter || fail "it is not attached"
lsmod | grep -q '^rust_blkfilter ' || fail "it is no module"
ok "attached to a live disk; its module was loaded for that"

wait $copy || fail "the copy failed: $(cat /tmp/cp.out)"
rm -rf $mnt/tree/devicetree
sync
fstrim $mnt
say "$(find $mnt/tree -type f | wc -l) files are there by now. What went by:"
while read -r line; do show "$line"; done < $debug/stats
[ "$(filter_sectors write)" -gt 10000 ] || fail "the filter saw next to nothing"
ok "the filter counts every bio"

if rmmod rust_blkfilter 2> /dev/null; then fail "the module could be unloaded while attached"; fi
ok "its module cannot be unloaded while it is attached"

say "Does it miss anything? Freeze again, and compare with the block layer's own statistics," \
	"in sectors of 512 bytes since it was attached:"
quiet
both
fsfreeze -u $mnt
fr=$((fr - fr0)) fw=$((fw - fw0)) fd=$((fd - fd0)) r=$((r - r0)) w=$((w - w0)) d=$((d - d0))
show "          filter   block layer"
show "$(printf '%-8s %8d   %8d' read $fr $r)"
show "$(printf '%-8s %8d   %8d' write $fw $w)"
show "$(printf '%-8s %8d   %8d' discard $fd $d)"
[ "$fr $fw $fd" = "$r $w $d" ] || fail "they differ"
[ $r -gt 0 ] && [ $w -gt 0 ] && [ $d -gt 0 ] || fail "nothing was counted"
ok "not one sector differs"

wait $fio || fail "fio: $(cat /tmp/fio.out)"
ok "fio verified all of its data"

say "Another filter can say no. Writes end with the error of our choice, here \"no space left on device\":"
sync
dd if=/dev/zero of=$mnt/precious bs=4k count=1 conv=fsync status=none
fsfreeze -f $mnt && fsfreeze -u $mnt	# the journal is empty now
echo none > $filter && echo "blkerror op=write errno=28" > $filter || fail "cannot attach blkerror"
answer=$(LC_ALL=C dd if=/dev/urandom of=$mnt/precious bs=4k count=1 oflag=direct conv=notrunc 2>&1)
echo none > $filter || fail "cannot detach"
show "dd says: $(grep -m 1 error <<< "$answer" || head -n 1 <<< "$answer")"
grep -qF "No space left on device" <<< "$answer" || fail "the program did not see the error"
cmp -n 4096 $mnt/precious /dev/zero || fail "the write was not refused after all"
ok "a program saw the error, and the data is as it was"

dd if=/dev/urandom of=$mnt/precious bs=4k count=1 oflag=direct conv=notrunc status=none ||
	fail "writes do not work any more"
ok "and writes work again"

say "Detach while fio is at it once more:"
echo rust_blkfilter > $filter || fail "cannot attach"
fio --name=busy --filename=$mnt/fio.data --size=32M --rw=randrw --bs=4k --direct=1 \
	--ioengine=libaio --iodepth=4 --verify=crc32c --verify_fatal=1 --time_based \
	--runtime=4 --output=/tmp/fio.out > /dev/null 2>&1 &
fio=$!
sleep 1
echo none > $filter || fail "cannot detach"
kill -0 $fio || fail "fio is not running: $(cat /tmp/fio.out)"
show "$filter says: $(cat $filter)"
rmmod rust_blkfilter || fail "the module cannot be unloaded"
wait $fio || fail "fio: $(cat /tmp/fio.out)"
ok "detached under load, the module unloaded, and fio noticed nothing"

say "Incremental backups of it, mounted as it is, with a filter that remembers which blocks" \
	"change. The file system is frozen only to compare each copy with the disk:"
copy() {	# what it is
	fsfreeze -f $mnt
	python3 /tmp/backup.py --quiescent $disk /tmp/backup > /tmp/said || fail "backup"
	cmp <(dd if=/dev/$disk bs=1M iflag=direct status=none) /tmp/backup ||
		fail "the copy is not what the disk is"
	fsfreeze -u $mnt
	show "$1: $(cat /tmp/said) of 64 KiB: identical"
}
modprobe rust_blk_changetrack && echo changetrack > $filter || fail "cannot attach changetrack"
udevadm settle
copy "the first"
dd if=/dev/urandom of=$mnt/precious bs=64k count=20 oflag=direct status=none
cp -r /mnt/doc/block $mnt/block
sync
copy "after some files were written"
[[ $(cat /tmp/said) =~ copied\ ([0-9]+)\ of\ ([0-9]+) ]] &&
	[ ${BASH_REMATCH[1]} -ge 20 -a ${BASH_REMATCH[1]} -lt $((BASH_REMATCH[2] / 4)) ] ||
	fail "that was no incremental backup"
echo none > $filter && rmmod rust_blk_changetrack || fail "cannot detach"
ok "an incremental backup copied what had changed, and is identical to the disk"

umount $mnt || fail "cannot unmount"
e2fsck -fn /dev/$disk > /tmp/e2fsck.out 2>&1 || fail "e2fsck: $(cat /tmp/e2fsck.out)"
show "e2fsck -fn: $(tail -n 1 /tmp/e2fsck.out)"
ok "the file system is clean"
