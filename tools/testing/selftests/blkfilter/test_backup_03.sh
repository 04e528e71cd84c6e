#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Whatever ends backup.py, or happens to what it needs, the freeze ends, the exit status
# says so, and the next run makes a right image.

. "$(dirname "$0")"/test_common.sh
. "$DIR"/test_backup.sh

plan 72
load rust_blkdelay
load dm_mod
DEVS+=("rmmod rust_blkdelay")
track_partition 4K

# The disk slow, so that there is time.  slow <options>, quick.
slow() {
	attach $disk "blkdelay $*" || bail "cannot attach blkdelay"
	udevadm settle
}
quick() {
	detach $disk
}

# find_child: sets child, the one that copies, and guard.
find_child() {
	local pid

	wait_for eval '[ $(pgrep -P $parent | wc -l) = 2 ]'
	sleep 0.1
	for pid in $(pgrep -P $parent); do
		case $(cat /proc/$pid/oom_score_adj) in
		1000) child=$pid ;;
		*) guard=$pid ;;
		esac
	done
}

# start <arguments>...: in the background; sets parent, child and guard.
start() {
	"$DIR"/backup.py -m "$mnt" $PART "$img" "$@" > "$TMP/said" 2>&1 & parent=$!
	find_child
}
# It copies when it has switched, which is after freezing.
copying() {
	local switches=$(generation $PART generation)

	# All of it, which takes some seconds.
	rm -f "$img.state"
	start "$@"
	wait_for eval "[ \$(generation $PART generation) -gt $switches ]"
}

# thawed [seconds]: a write does not wait for longer, and nothing is frozen afterwards.  Not
# even SIGKILL ends what waits for a file system that is frozen.
thawed() {
	local writer i

	touch "$mnt/x" & writer=$!
	for ((i = 0; i < ${1:-10} * 10; i++)); do
		[ -e /proc/$writer ] || return 0
		sleep 0.1
	done
	echo "it is frozen"
	fsfreeze -u "$mnt"
	return 1
}

# Each write to a slow disk takes its time.
ended() {
	wait_for not kill -0 $parent || wait_for not kill -0 $parent || wait_for not kill -0 $parent
}

# over <what> <status> <text>: it has ended, and what it leaves is in order.
over() {
	local status said want=$2 text=$3

	check "$1: it ends" ended
	wait $parent
	status=$?
	[ -n "$(attached $disk blkdelay && echo x)" ] && quick
	check "$1: the file system is not frozen" thawed
	said=$(cat "$TMP/said")
	check "$1: the exit status is $2" eval '[ $status = $want ] && [[ $said == *"$text"* ]] ||
		{ echo "$status: $said"; false; }'
	fsfreeze -u "$mnt" 2> /dev/null
	wait_for not kill -0 $child
	next "$1"
}
next() {
	sync -f "$mnt"
	dd if=/dev/urandom of="$mnt/new" bs=64k count=1 conv=fsync status=none
	# Freezing and thawing changes the superblock.
	fsfreeze -f "$mnt"
	check "$1: the next image is right" eval \
		'backup --quiescent $PART "$img" && is_copy $PART "$img"'
	fsfreeze -u "$mnt"
}

backup -m "$mnt" $PART "$img" || bail "no backup"

# While it freezes: what is dirty is being written back.
for sig in TERM INT; do
	dd if=/dev/urandom of="$mnt/dirty" bs=1M count=8 status=none conv=notrunc
	slow op=write ms=1500
	# In the foreground for SIGINT, which is ignored in the background.
	python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execv(sys.argv[1], sys.argv[1:])' "$DIR"/backup.py -m "$mnt" $PART "$img" \
		> "$TMP/said" 2>&1 & parent=$!
	find_child
	wait_for grep -q "^State:.D" /proc/$parent/status
	kill -$sig $parent
	over "SIG$sig while it freezes" 1 "ended by SIG$sig"
done

# While it copies: signals to either process.
for sig in TERM HUP KILL; do
	number=$(kill -l $sig)
	slow op=read ms=500
	copying
	kill -$sig $child
	over "SIG$sig to the one that copies" 1 "the copy was ended by signal $number"
done
for sig in TERM HUP; do
	slow op=read ms=500
	copying
	kill -$sig $parent
	over "SIG$sig to the one that holds the freeze" 1 "ended by SIG$sig"
done
slow op=read ms=500
copying
kill -KILL $parent
over "SIGKILL to the one that holds the freeze" 137 ""
slow op=read ms=500
copying --stalled-after 2
kill -STOP $parent
check "the one that holds the freeze is stopped: thawed all the same" thawed 15
kill -CONT $parent
over "the one that holds the freeze is stopped" 1 "the guard has thawed"
slow op=read ms=500
copying
kill -KILL $guard
over "SIGKILL to the one that guards" 1 "the guard has thawed, or died"

# Memory.
mkdir -p /sys/fs/cgroup/blkfilter && echo +memory > /sys/fs/cgroup/cgroup.subtree_control ||
	bail "no memory controller"
DEVS+=("rmdir /sys/fs/cgroup/blkfilter")
slow op=read ms=500
copying
for pid in $parent $child; do echo $pid > /sys/fs/cgroup/blkfilter/cgroup.procs; done
echo 64K > /sys/fs/cgroup/blkfilter/memory.max
check "no memory: the one that copies is killed" \
	wait_for grep -q '^oom_kill [1-9]' /sys/fs/cgroup/blkfilter/memory.events
echo max > /sys/fs/cgroup/blkfilter/memory.max
over "no memory" 1 "the copy was ended by signal 9"

# Stopped, and a target that never answers.
slow op=read ms=500
copying --stalled-after 3
kill -STOP $child
over "stopped" 1 "no progress for 3 seconds"
new_nullb size=64
dmsetup create --noudevsync blkfilter_target --table "0 131072 linear /dev/$DEV 0" || bail "dmsetup"
DEVS+=("dmsetup remove --noudevsync --retry blkfilter_target")
target=/dev/dm-$(dmsetup info -c --noheadings -o minor blkfilter_target)
wait_for [ -b $target ]
mkfs.ext4 -q $target && mkdir "$TMP/target" && mount $target "$TMP/target" || bail "no target"
DEVS+=("umount $TMP/target")
img=$TMP/target/img
slow op=read ms=500
copying --stalled-after 3
dmsetup suspend --nolockfs --noudevsync blkfilter_target
check "a target that does not answer: thawed all the same" thawed
dmsetup resume --noudevsync blkfilter_target
over "a target that does not answer" 1 "no progress for 3 seconds"

# A target that is full.
head -c 45M /dev/zero > "$TMP/target/full"
sync -f "$TMP/target"
rm -f "$img"
head -c 17M /dev/urandom > "$mnt/much" 2> /dev/null
rm -f "$mnt/much"; head -c 7M /dev/urandom > "$mnt/much"; sync -f "$mnt"
start
check "a full target: the exit status is 1" eval 'wait $parent; [ $? = 1 ]'
check "a full target: it says so" grep -qF "No space left on device" "$TMP/said"
check "a full target: the file system is not frozen" thawed
rm -f "$TMP/target/full"
next "a full target"
img=$TMP/bk/img
rm -f "$mnt/much"

# Output that goes to what is frozen, unbuffered.
PYTHONUNBUFFERED=1 timeout 60 "$DIR"/backup.py -m "$mnt" $PART "$img" > "$mnt/log" 2>&1
check "output to the frozen file system" grep -q copied "$mnt/log"

# Another agent thaws.
slow op=read ms=500
copying
fsfreeze -u "$mnt"
touch "$mnt/y"
over "thawed by somebody else" 1 "somebody else has thawed"

# Somebody else switches.
slow op=read ms=500
copying
# Before it has looked at the bitmap it does not matter: that is another generation then.
sleep 0.8
echo switch > /sys/kernel/debug/changetrack/$PART/generation
over "switched by somebody else" 1 "somebody else has switched"

# Writers that are not frozen.
check "writers: none, there is an image" "$DIR"/backup.py --quiescent $PART "$img"
(while dd if=/dev/urandom of="$mnt/z" bs=4k count=1 oflag=direct status=none; do
	:
done) & writer=$!
backup --quiescent $PART "$img"
check "writers: somebody writes after all" \
	eval '[ $status = 1 ] && grep -qE "is being written to|resized" "$TMP/said"'
kill $writer
wait $writer 2> /dev/null

# The disk dies.
slow op=read ms=500
copying
echo 0 > $NULLB/$disk/power
check "the disk dies: it ends" wait_for not kill -0 $parent
check "the disk dies: the exit status is not 0" not wait $parent
ktap_finished
