#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Long chains of bios, each of them hooked, whose first one completes last: what is
# done for all of them then takes as much stack as for one.

. "$(dirname "$0")"/test_common.sh

plan 12
load dm_mod
insmod "$DIR"/test_modules/blkfilter_test.ko flags=16 || bail "cannot load blkfilter_test"
load_test_filter
udev_off

# chain <name> <bios> <command>...: which makes so many bios of the device DEV, the
# first of which is kept until the others are done.
chain() {
	local name=$1 bios=$2 pid n=0 last=-1 i
	shift 2

	attach $DEV blkfilter_test || bail "cannot attach to $DEV"
	echo 0 > $TEST_DIR/hooked
	echo first > $TEST_DIR/mode
	"$@" & pid=$!
	wait_for grep -qx 1 $TEST_DIR/held || bail "$name: none is kept"
	for ((i = 0; i < 300 && (n < bios || n > last); i++)); do
		last=$n
		sleep 1
		n=$(filter_stat $DEV flight)
	done
	wait_for inflight ${low:-$DEV} 0
	check "C33: $name: $bios bios wait for one" [ "$n" -ge $bios ]
	echo 1 > $TEST_DIR/release
	check "C33: $name: all of them end" wait_for [ ! -e /proc/$pid ]
	check "C26: $name: well" wait $pid
	check "C26: $name: and each was called for" [ "$(get hooked)" -ge $bios ]
	echo pass > $TEST_DIR/mode
	detach $DEV
}

# linear <mebibytes> <attribute>=<value>...: device mapper over a disk; DEV and low.
linear() {
	local size=$1
	shift
	new_nullb size=$size "$@" completion_nsec=20000
	low=$DEV
	dmsetup create --noudevsync blkfilter_chain \
		--table "0 $((size * 2048)) linear /dev/$low 0" || bail "dmsetup"
	DEVS+=("dmsetup remove --noudevsync --retry blkfilter_chain")
	DEV=dm-$(dmsetup info -c --noheadings -o minor blkfilter_chain)
	wait_for [ -b /dev/$DEV ]
}

unlinear() {
	dmsetup remove --noudevsync --retry blkfilter_chain
	unset 'DEVS[-1]'
}

# Completed by who submits the last one, and by a timer in hard interrupt.  A discard
# is one bio for 4 GiB, so there are no long chains of those.
for irqmode in 0 2; do
	linear 2200 memory_backed=0 irqmode=$irqmode
	chain "zeroes, irqmode=$irqmode" 2000 blkdiscard -z -f -l 2100MiB /dev/$DEV
	unlinear
done

low=
new_nullb size=2200 memory_backed=0 zoned=1 zone_size=1 irqmode=0
chain "zones" 2000 blkzone reset -c 2100 /dev/$DEV
ktap_finished
