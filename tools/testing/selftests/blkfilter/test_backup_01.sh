#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Incremental backups with changetrack of file systems in use, on disks,
# partitions, LVM and MD, with what people do to them: each copy is what the device
# was at that time, and no block that changed is unmarked.

. "$(dirname "$0")"/test_common.sh

plan 105
tracker=/sys/kernel/debug/changetrack
load rust_blk_changetrack
DEVS+=("rmmod rust_blk_changetrack")
for module in raid0 raid1 dm_mod; do load $module; done
mkdir "$TMP/mnt"
mnt=$TMP/mnt

# LVM does not know null_blk by itself.
lvm() {
	LVM_SUPPRESS_FD_WARNINGS=1 command lvm "$@" --config 'devices { types = ["nullb", 16] }'
}

lv() {	# device for the physical volume
	{ lvm pvcreate -ffy /dev/"$1" && lvm vgcreate blkfilter_vg /dev/"$1" &&
		lvm lvcreate -y -l 100%FREE -n lv blkfilter_vg; } > "$TMP/lvm" 2>&1 ||
		{ cat "$TMP/lvm"; bail "lvm"; }
	udevadm settle
	DEV=$(basename "$(readlink -f /dev/blkfilter_vg/lv)")
}

unlv() {
	lvm vgremove -ff blkfilter_vg > /dev/null 2>&1
}

md() {	# level device...
	mdadm --create /dev/md/blkfilter --level="$1" --raid-devices=$(($# - 1)) \
		--metadata=1.2 --run --assume-clean --bitmap=none "${@:2}" \
		> "$TMP/mdadm" 2>&1 || { cat "$TMP/mdadm"; bail "mdadm"; }
	udevadm settle
	DEV=$(basename "$(readlink -f /dev/md/blkfilter)")
}

unmd() {
	mdadm --stop /dev/md/blkfilter > /dev/null 2>&1
}

# One partition of almost all of the disk, and a small one.
two_partitions() {	# size of the disk in MiB
	printf 'label: dos\nstart=2048, size=%d\nsize=32768\n' $((($1 - 20) * 2048)) |
		sfdisk -q --wipe never /dev/$DEV > /dev/null || bail "cannot partition"
	udevadm settle
	PART=${DEV}p1 PART2=${DEV}p2
	wait_for [ -b /dev/$PART2 ]
}

# setup <layout> <size>: TOP is what is written to, TRACKED what the filter is on.
setup() {
	new_nullb size="$2" discard=1
	case $1 in
	disk)	TOP=$DEV TRACKED=$DEV ;;
	partition)
		two_partitions "$2"
		TOP=$PART TRACKED=$PART ;;
	disk-of-partition)
		two_partitions "$2"
		TOP=$PART TRACKED=$DEV ;;
	lv)	lv $DEV
		TOP=$DEV TRACKED=$DEV ;;
	partition-below-lv)
		two_partitions "$2"
		TRACKED=$PART
		lv $PART
		TOP=$DEV ;;
	raid1)	local first=$DEV
		new_nullb size="$2" discard=1
		md 1 /dev/$first /dev/$DEV
		TOP=$DEV TRACKED=$DEV ;;
	partition-below-raid1)
		two_partitions "$2"
		TRACKED=$PART
		new_nullb size="$2" discard=1
		two_partitions "$2"
		md 1 /dev/$TRACKED /dev/$PART
		TOP=$DEV ;;
	raid0)	local first=$DEV
		new_nullb size="$2" discard=1
		md 0 /dev/$first /dev/$DEV
		TOP=$DEV TRACKED=$DEV ;;
	esac
}

teardown() {	# layout
	case $1 in
	*lv) unlv ;;
	*raid*) unmd ;;
	esac
	for name in "$NULLB"/nullb*; do
		echo 0 > "$name/power"
		rmdir "$name"
	done
}

# What is done to a mounted file system, or to a device.
workload() {	# name
	local i

	case $1 in
	tree)	cp -r /usr/lib/udev "$mnt/tree" && sync -f "$mnt" && rm "$mnt"/tree/rules.d/6* ;;
	fio)	fio --name=load --directory="$mnt" --rw=randwrite --bs=4k --direct=1 \
			--ioengine=io_uring --iodepth=8 --numjobs=2 --size=4M \
			--output="$TMP/fio" ;;
	trim)	rm -rf "$mnt"/tree "$mnt"/load* && fstrim "$mnt" ;;
	punch)	dd if=/dev/urandom of="$mnt/big" bs=1M count=8 oflag=direct status=none &&
			fallocate --punch-hole -o 1M -l 3M "$mnt/big" &&
			fallocate --zero-range -o 5M -l 1M "$mnt/big" ;;
	sqlite)	python3 - "$mnt/db" <<-'END'
		import sqlite3, sys
		db = sqlite3.connect(sys.argv[1])
		db.execute("create table if not exists t (id integer primary key, v blob)")
		for n in range(20):
		    with db:
		        db.execute("insert into t (v) values (randomblob(3000))")
		with db:
		    db.execute("delete from t where id % 3 = 0")
		END
		;;
	git)	(cd "$mnt" && git init -q repo && cd repo && cp -r /usr/lib/udev . &&
			git add . && git -c user.name=t -c user.email=t@localhost \
				commit -q -m one && git gc -q) ;;
	mmap)	python3 - "$mnt/mapped" <<-'END'
		import mmap, os, random, sys
		with open(sys.argv[1], "w+b") as f:
		    f.truncate(4 << 20)
		    m = mmap.mmap(f.fileno(), 0)
		    for n in range(200):
		        at = random.randrange(1024) * 4096
		        m[at:at + 100] = os.urandom(100)
		END
		;;
	swap)	mkswap -q /dev/$PART2 > /dev/null && swapon /dev/$PART2 &&
			mkdir -p $cgroup && echo 24M > $cgroup/memory.max &&
			bash -c "echo \$\$ > $cgroup/cgroup.procs; exec stress-ng --quiet \
				--vm 1 --vm-bytes 36M --vm-ops 300 --verify" &&
			swapoff /dev/$PART2 && sync /dev/$PART2 && rmdir $cgroup ;;
	raw)	for i in 1 2 3; do
			dwrite $TOP 512 $((RANDOM % 50 + 1)) $((RANDOM % 1000))
			dwrite $TOP 65536 3 $((RANDOM % 100))
		done ;;
	rawfio)	fio --name=load --filename=/dev/$TOP --rw=randwrite --bsrange=512-64k --direct=1 \
			--ioengine=io_uring --iodepth=8 --io_size=4M --size=24M \
			--output="$TMP/fio" ;;
	discard) blkdiscard -f -o 1M -l 2M /dev/$TOP && blkdiscard -z -f -o 9M -l 1M /dev/$TOP &&
			dwrite $TOP 4096 1 300 ;;
	esac
}
cgroup=/sys/fs/cgroup/blkfilter
echo "+memory" > /sys/fs/cgroup/cgroup.subtree_control || bail "no memory controller"

# How many blocks changed between two images, how many of them are marked; for the
# bitmap's granularity, and for coarser ones by folding it.
cat > "$TMP/compare.py" <<'END'
import struct, sys
old, new, bitmap = (open(name, "rb").read() for name in sys.argv[1:])
shift, blocks = struct.unpack_from("<IQ", bitmap, 12)
marked = {n for i, byte in enumerate(bitmap[64:]) if byte
          for n in range(8 * i, min(8 * i + 8, blocks)) if byte >> n % 8 & 1}
def differs(n, shift):
    part = slice(n << shift, n + 1 << shift)
    return old[part] != new[part]
# Most of the device has not changed, and a large part is compared as fast as a block.
large = max(20, shift)
changed = {n for l in range((blocks << shift) + (1 << large) - 1 >> large) if differs(l, large)
           for n in range(l << large - shift, min(l + 1 << large - shift, blocks))
           if differs(n, shift)}
said = []
for coarser in range(21 - shift):
    m, c = ({n >> coarser for n in blocks} for blocks in (marked, changed))
    said.append(f"{1 << shift + coarser >> 10}K {len(m)}/{len(c)}")
    assert c <= m, f"{len(c - m)} blocks changed and are not marked"
print("# marked/changed: " + ", ".join(said))
assert changed
END

# A backup, and whether the image is what the disk is at this time.
copy() {
	local ret

	[ $kind = raw ] || fsfreeze -f "$mnt"
	# MD writes its superblock a little later, whether frozen or not.
	[ $TRACKED = $TOP ] || quiet $TRACKED
	"$DIR"/backup.py --quiescent $TRACKED "$TMP/img" > "$TMP/said" &&
		dd if=/dev/$TRACKED of="$TMP/dev" bs=1M iflag=direct conv=sparse status=none &&
		cmp "$TMP/dev" "$TMP/img"
	ret=$?
	[ $kind = raw ] || fsfreeze -u "$mnt"
	cat "$TMP/said"
	return $ret
}
copied_all() {
	[[ $(cat "$TMP/said") =~ copied\ ([0-9]+)\ of\ ([0-9]+) ]] &&
		[ "${BASH_REMATCH[1]}" = "${BASH_REMATCH[2]}" ]
}
# What the filter marked is what changed, and perhaps more.
compare() {
	python3 "$TMP/compare.py" "$TMP/old" "$TMP/dev" $tracker/$TRACKED/bitmap > "$TMP/ratio"
	local ret=$?

	cat "$TMP/ratio" >&3
	return $ret
}
exec 3>&1

backups() {	# file system, layout, granularity, workloads
	kind=$1
	local name="$1 on $2" size=64 work

	[ $kind = xfs ] && size=112
	setup "$2" $size
	case $kind in
	ext4) mkfs.ext4 -q /dev/$TOP && mount /dev/$TOP "$mnt" ;;
	# XFS of less than 300 MB is for tests only, and this is how mkfs.xfs knows one.
	xfs) TEST_DIR=$mnt TEST_DEV=/dev/$TOP QA_CHECK_FS=1 mkfs.xfs -q -f /dev/$TOP &&
		mount /dev/$TOP "$mnt" ;;
	esac || bail "$name: no file system"
	attach $TRACKED "changetrack granularity=$3" || bail "$name: cannot attach"
	udevadm settle
	check "$name: the first copy is the device" copy
	check "$name: it is a full one" copied_all
	for work in "${@:4}"; do
		cp --sparse=always "$TMP/img" "$TMP/old"
		workload "$work" > "$TMP/work" 2>&1 || { cat "$TMP/work"; bail "$name: $work"; }
		check "$name: $work: the copy is the device" copy
		check "$name: $work: it is not a full one" not copied_all
		echo "# $name: $work: $(cat "$TMP/said")"
		check "$name: $work: each block that changed is marked" compare
	done
	[ $kind = raw ] || umount "$mnt"
	detach $TRACKED
	rm -f "$TMP/img" "$TMP/img.state" "$TMP/old" "$TMP/dev"
	teardown "$2"
}

backups ext4 partition 4096 tree fio
backups ext4 disk-of-partition 4096 swap sqlite
backups ext4 lv 4096 git mmap
backups ext4 raid1 4096 punch trim
backups xfs disk 4096 tree sqlite
backups xfs partition-below-lv 4096 fio punch
backups xfs partition-below-raid1 4096 git mmap
backups raw partition 4096 raw rawfio
backups raw lv 4096 raw discard
backups raw raid0 4096 rawfio discard

# Coarser ones, a round each.
for granularity in 8192 16384 32768 65536 131072 262144 524288 1048576; do
	backups_of_one() {
		kind=raw
		setup disk 32
		attach $TRACKED "changetrack granularity=$granularity" &&
			udevadm settle && copy && copied_all || return
		cp "$TMP/img" "$TMP/old"
		workload raw && copy && not copied_all && compare
	}
	check "granularity $granularity: the copy is the device" backups_of_one
	detach $TRACKED
	rm -f "$TMP/img" "$TMP/img.state" "$TMP/old" "$TMP/dev"
	teardown disk
done

# Attached anew, to the same disk with the same content: nothing is known.
kind=raw
setup disk 64
attach $TRACKED changetrack && udevadm settle && copy > /dev/null || bail "cannot attach"
workload raw
check "attached: a copy is not a full one" eval "copy && not copied_all"
detach $TRACKED
attach $TRACKED changetrack
check "attached anew: the copy is the device" copy
check "attached anew: it is a full one" copied_all
detach $TRACKED
teardown disk

# The state of the last backup is there, and the image is not the one that it is for.
new_loop
TOP=$DEV TRACKED=$DEV
attach $DEV changetrack && udevadm settle && copy > /dev/null || bail "cannot attach"
rm "$TMP/img"
check "without its image: the copy is the device" copy
check "without its image: it is a full one" copied_all
cp --sparse=always "$TMP/img" "$TMP/old"
dwrite $DEV 65536 1 3
mv "$TMP/old" "$TMP/img"
check "with another image: the copy is the device" copy
check "with another image: it is a full one" copied_all
cp --sparse=always "$TMP/img" "$TMP/old"
dwrite $DEV 65536 1 7
copy > /dev/null
cp --sparse=always "$TMP/old" "$TMP/img"
check "with an older one in its place: the copy is the device" copy
check "with an older one in its place: it is a full one" copied_all
rm "$TMP/old"
truncate -s 96M "$TMP/loop.img"
losetup -c /dev/$DEV
dwrite $DEV 65536 1 1200
check "the device grew: the copy is the device" copy
check "the device grew: it is a full one" copied_all
detach $DEV
rm -f "$TMP/img" "$TMP/img.state" "$TMP/dev"

# Attached and detached under load.
new_nullb size=128
keep_key
fio --name=load --filename=/dev/$DEV --rw=randrw --bs=4k --direct=1 --ioengine=io_uring \
	--iodepth=8 --numjobs=4 --time_based --runtime=3600 --group_reporting \
	--output="$TMP/fio" & fio=$!
wanted=100
[ -n "$SLOW" ] && wanted=20
[ -n "$BLKFILTER_ROUNDS" ] && wanted=500
for ((n = 0; n < wanted; n++)); do
	attach $DEV changetrack && echo switch > $tracker/$DEV/generation && detach $DEV || break
done
check "attached, switched and detached under load" eq $n $wanted
kill -TERM $fio
wait $fio
check "the load saw no error" eval "cat $TMP/fio; grep -q 'err= 0' $TMP/fio"

# Two readers.
attach $DEV "changetrack granularity=4096"
udevadm settle
echo switch > $tracker/$DEV/generation
dwrite $DEV 4096 500 1000
echo switch > $tracker/$DEV/generation
cat $tracker/$DEV/bitmap > "$TMP/one" & reader=$!
dd if=$tracker/$DEV/bitmap of="$TMP/two" bs=1 status=none
wait $reader
check "two readers, of any size, see the same" cmp "$TMP/one" "$TMP/two"

# One who has it open when the device goes.
exec 7< $tracker/$DEV/bitmap
head -c 100 <&7 > /dev/null
check "a device goes while its bitmap is open" eval "echo 0 > $NULLB/$DEV/power"
check "its directory goes" wait_for [ ! -e $tracker/$DEV ]
check "the rest of it can't be read" eq "$(head -c 1 <&7 2> /dev/null | wc -c)" 0
exec 7<&-
ktap_finished
