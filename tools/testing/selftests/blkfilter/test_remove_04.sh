#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Detach against each way of removing a device: one of them wins, each time, and
# nothing is left of the device.

. "$(dirname "$0")"/test_common.sh

plan 31
load_test_filter
for module in raid0 dm_mod; do load $module; done
rounds=10
[ -z "$SLOW" ] || rounds=5

# Block devices and queues that are made and freed.
count_events bdevs_made kmem/kmem_cache_alloc 'name == "bdev_cache"'
count_events bdevs_freed kmem/kmem_cache_free 'name == "bdev_cache"'
count_events queues_made kmem/kmem_cache_alloc 'name == "request_queue"'
count_events queues_freed kmem/kmem_cache_free 'name == "request_queue"'
bdevs() { echo $(($(events bdevs_made) - $(events bdevs_freed))); }
queues() { echo $(($(events queues_made) - $(events queues_freed))); }

notices() {
	echo $(($(get detached) + $(get removed)))
}

# race <name> <command>...: the command removes the device DEV, "again" brings it back.
# The first time nobody interferes, to see how long it takes; then a detach begins
# before it or while it is under way.
race() {
	local name=$1 base failed=0 i attr racer start delay=0
	shift

	base=$(notices)
	for ((i = 0; i < rounds; i++)); do
		attr=$(attr $DEV)
		wait_for [ -e "$attr" ] || bail "$name: no $DEV"
		attach $DEV blkfilter_test || bail "$name: cannot attach"
		[ -n "$UDEV_OFF" ] || udevadm settle
		if [ $i -gt 0 ]; then
			(sleep $(printf 0.%06d $((delay * (i - 1) / (rounds - 2))))
			 echo none > "$attr") 2> /dev/null &
			racer=$!
			sleep 0.03
		fi
		start=${EPOCHREALTIME/./}
		"$@" > "$TMP/race" 2>&1 || { failed=$((failed + 1)); sed 's/^/# /' "$TMP/race"; }
		if [ $i -gt 0 ]; then
			wait $racer
		else
			delay=$((${EPOCHREALTIME/./} - start + 30000))
			[ $delay -lt 999999 ] || delay=999999
			[ ! -e "$attr" ] || echo none > "$attr"
		fi
		wait_for eval '[ $(get released) = $(get attached) ]'
		again > "$TMP/race" 2>&1 ||
			{ sed 's/^/# /' "$TMP/race"; bail "$name: it did not come back"; }
	done
	check "C17: $name: it was removed each time" eq $failed 0
	check "C7: $name: one notice each time" eq $(($(notices) - base)) $rounds
	check "C11: $name: all were released" eq "$(get released)" "$(get attached)"
	echo "# $name: $delay us; so far $(get detached) detached, $(get removed) removed"
}

# With udev about, some of these would be busy now and then.
new_nullb
null=$DEV
partition $null
udev_off
again() { echo 1 > $NULLB/$null/power; }
race null_blk eval "echo 0 > $NULLB/$null/power"

partx -a /dev/$null 2> /dev/null
DEV=$PART
again() { partx -a --nr 1 /dev/$null; }
race "partx -d" partx -d --nr 1 /dev/$null
again() { true; }
race rereadpt blockdev --rereadpt /dev/$null
udev_on

new_scsi_debug
host=/sys/class/scsi_host/$(readlink -f /sys/block/$DEV/device | grep -o 'host[0-9]*' | head -n 1)
udev_off
again() {
	echo "- - -" > "$host"/scan
	wait_for eval "ls -d $host/device/target*/*/block/*" || return
	DEV=$(basename "$host"/device/target*/*/block/*)
}
race scsi_debug eval 'echo 1 > /sys/block/$DEV/device/delete'
udev_on

new_nullb
low=$DEV
new_nullb
low2=$DEV
again() {
	dmsetup create --noudevsync blkfilter_race --table "0 65536 linear /dev/$low 0" &&
		DEV=dm-$(dmsetup info -c --noheadings -o minor blkfilter_race)
}
again || bail "dmsetup"
DEVS+=("dmsetup remove --retry blkfilter_race")
udev_off
race dm dmsetup remove --noudevsync blkfilter_race
udev_on
dmsetup remove --retry blkfilter_race

again() {
	mdadm --build /dev/md127 --level=0 --raid-devices=2 /dev/$low /dev/$low2
}
stop_md() {
	wait_for mdadm --stop /dev/md127
}
again > /dev/null 2>&1 || bail "mdadm"
DEVS+=("mdadm --stop /dev/md127")
DEV=md127
race md stop_md
stop_md

# A loop device stays, with its filter: only the detach ends it.
new_loop
loop=$DEV
removed=$(get removed)
udev_off
again() { losetup /dev/$loop "$TMP/loop.img"; }
race loop losetup -d /dev/$loop
udev_on
check "C17: losetup -d removes no filter" eq "$(get removed)" "$removed"

check "C15: removal won sometimes" [ "$(get removed)" -gt 6 ]
check "C7: detach won sometimes" [ "$(get detached)" -gt $rounds ]
check "C9: no late call" eq "$(get late)" 0

# New disks, with a partition, and the filters go with them.
new_nullb
null=$DEV
partition $null
dwrite $null 4096 1 4000
echo 0 > $NULLB/$null/power
udev_off
cycle() {
	echo 1 > $NULLB/$null/power
	wait_for [ -b /dev/$null ]
	printf 'label: dos\nstart=2048, size=32768\n' |
		sfdisk -q --wipe never /dev/$null > /dev/null || return
	wait_for [ -b /dev/${null}p1 ]
	attach $null blkfilter_test && attach ${null}p1 blkfilter_test || return
	[ $(($1 % 2)) = 0 ] || detach $null || return
	echo 0 > $NULLB/$null/power
}
cycle 0
wait_for eval '[ $(get released) = $(get attached) ]'
sleep 1
bdevs=$(bdevs)
queues=$(queues)
made=$(events bdevs_made)
ok=0
for ((i = 1; i <= rounds; i++)); do
	cycle $i && ok=$((ok + 1))
done
udev_on
check "C17: disks came and went with filters" eq $ok $rounds
check "C11: their filters were released" wait_for eval '[ $(get released) = $(get attached) ]'
check "C15: their block devices were freed" wait_for eval "[ \$(bdevs) -le $bdevs ]"
check "C15: and their queues" wait_for eval "[ \$(queues) -le $queues ]"
check "C15: there was one for each disk and partition" \
	[ $(($(events bdevs_made) - made)) -ge $((rounds * 2)) ]
check "C18: the module can be unloaded" wait_for rmmod blkfilter_test
ktap_finished
