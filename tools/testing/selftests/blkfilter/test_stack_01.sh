#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Filters on the disks below MD, LVM and device mapper: they see, sector for sector
# and operation for operation, what these disks count.

. "$(dirname "$0")"/test_common.sh

plan 46
load rust_blkfilter
load_test_filter
for module in raid0 raid1 linear dm_mod; do load $module; done
new_nullb discard=1
a=$DEV
new_nullb discard=1
b=$DEV

md() {	# level
	mdadm --create /dev/md/blkfilter --level="$1" --raid-devices=2 --metadata=1.2 --run \
		--assume-clean --bitmap=none /dev/$a /dev/$b > "$TMP/mdadm" 2>&1 ||
		{ cat "$TMP/mdadm"; bail "mdadm"; }
	udevadm settle
	TOP=$(basename "$(readlink -f /dev/md/blkfilter)")
}

unmd() {
	mdadm --stop /dev/$TOP > /dev/null 2>&1
	mdadm --zero-superblock /dev/$a /dev/$b
}

dm_striped() {
	dmsetup create blkfilter_stack \
		--table "0 131072 striped 2 128 /dev/$a 0 /dev/$b 0" || bail "dmsetup"
	udevadm settle
	TOP=$(basename "$(readlink -f /dev/mapper/blkfilter_stack)")
}

undm() {
	dmsetup remove --retry blkfilter_stack
}

# LVM does not know null_blk by itself.
lvm() {
	LVM_SUPPRESS_FD_WARNINGS=1 command lvm "$@" --config 'devices { types = ["nullb", 16] }'
}

lvm_up() {
	{ lvm pvcreate -ffy /dev/$a /dev/$b && lvm vgcreate blkfilter_vg /dev/$a /dev/$b &&
		lvm lvcreate -y -i 2 -L 80M -n lv blkfilter_vg; } > "$TMP/lvm" 2>&1 ||
		{ cat "$TMP/lvm"; bail "lvm"; }
	udevadm settle
	TOP=$(basename "$(readlink -f /dev/blkfilter_vg/lv)")
}

lvm_down() {
	lvm vgremove -ff blkfilter_vg > /dev/null 2>&1
	lvm pvremove -ff /dev/$a /dev/$b > /dev/null 2>&1
}

stack() {	# name, how to make it, how to remove it
	local name=$1 i disk seen

	$2
	DEVS+=("$3")
	attach $a rust_blkfilter && attach $b rust_blkfilter && attach $TOP blkfilter_test ||
		bail "cannot attach"
	mark $a
	mark $b
	seen=$(get seen)
	dwrite $TOP 1M 8
	dread $TOP 256K 32
	blkdiscard -f -o 8M -l 16M /dev/$TOP
	dd if=/dev/zero of=/dev/$TOP bs=4k count=64 seek=8192 conv=fsync,notrunc status=none
	check "C1: $name: the filter on top sees bios" [ $(($(get seen) - seen)) -ge 24 ]
	for disk in $a $b; do
		for i in read write discard; do
			check "C4: $name: ${disk/nullb/disk }: $i" same $disk $i
		done
	done
	[ "$(counted $a write)" -gt 100000 -o "$(counted $b write)" -gt 100000 ] ||
		bail "$name: nothing was written"
	check "C17: $name: it is stopped with a filter on it" $3
	detach $a
	detach $b
	unset 'DEVS[-1]'
}

stack raid0 "md 0" unmd
stack raid1 "md 1" unmd
stack linear "md linear" unmd
stack dm-striped dm_striped undm
stack lvm lvm_up lvm_down
check "C15: the filters on top were told" wait_for grep -qx 5 $TEST_DIR/removed
check "C11: and released" eq "$(get released)" "$(get attached)"

# Device mapper splits a bio; each of the 32 parts takes 200 ms below it.  The module
# of the filter is loaded before, as that alone can take seconds.
modprobe rust_blkfilter || bail "modprobe"
dmsetup create blkfilter_stack --table "0 131072 striped 1 16 /dev/$a 0" || bail "dmsetup"
DEVS+=(undm)
udevadm settle
TOP=$(basename "$(readlink -f /dev/mapper/blkfilter_stack)")
attach $a blkfilter_test || bail "cannot attach"
echo slow > $TEST_DIR/mode
seen=$(filter_stat $a seen)
dwrite $TOP 262144 & writer=$!
wait_for eval '[ $(filter_stat $a seen) -gt $seen ]' || bail "nothing is seen"
attach $TOP rust_blkfilter
check "C3: a filter is attached while a bio is being split" kill -0 $writer
wait $writer
echo pass > $TEST_DIR/mode
MARKS[$TOP stats]=
check "C3: it does not see the rest of it" eq "$(counted $TOP write)" 0
dwrite $TOP
check "C1: but the next bio" eq "$(counted $TOP write)" 4096
detach $TOP
undm
unset 'DEVS[-1]'
detach $a
check "C18: the module can be unloaded" wait_for rmmod blkfilter_test
ktap_finished
