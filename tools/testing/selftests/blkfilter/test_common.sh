# SPDX-License-Identifier: GPL-2.0
#
# Sourced by every test of this directory.
#
# A test sources this file, calls plan N, makes a device, and calls check N
# times: "check <what is promised> <command>...".  What it made is gone when it
# ends.  A tool or module that is missing fails the test: CONFIG_* in ./config
# are required, and a skip is for what a machine cannot have.

DIR="$(dirname "$(readlink -f "$0")")"
. "$DIR"/../kselftest/ktap_helpers.sh

SAMPLE_DIR=/sys/kernel/debug/rust_blkfilter
TEST_DIR=/sys/kernel/debug/blkfilter_test
NULLB=/sys/kernel/config/nullb
TMP=$(mktemp -d)
DEVS=()
UDEV_OFF=
# A debug kernel is several times slower; empty if it is not.
SLOW=
[ -e /sys/kernel/debug/kmemleak ] && SLOW=3

# Removes what the test made, newest first, whatever state that is in.
cleanup() {
	local i dev

	[ -e $TEST_DIR/mode ] && { echo pass > $TEST_DIR/mode; echo 1 > $TEST_DIR/release; }
	[ -n "$UDEV_OFF" ] && udev_on
	mountpoint -q "$TMP/mnt" && umount "$TMP/mnt"
	for ((i = ${#DEVS[@]} - 1; i >= 0; i--)); do
		${DEVS[i]} > /dev/null 2>&1
	done
	for dev in /sys/block/*/filter /sys/block/*/*/filter; do
		[ -e "$dev" ] && ! grep -qF '[none]' "$dev" && echo none > "$dev"
	done
	rmmod rust_blkfilter blkfilter_test null_blk brd loop scsi_debug 2> /dev/null
	rm -rf "$TMP"
}
trap cleanup EXIT

[ "$(id -u)" = 0 ] || { ktap_skip_all "must be root"; exit "$KSFT_SKIP"; }
[ -e /sys/kernel/debug/clear_warn_once ] && echo 1 > /sys/kernel/debug/clear_warn_once

plan() {
	ktap_print_header
	ktap_set_plan "$1"
	echo "blkfilter selftest: ${0##*/}" > /dev/kmsg
}

bail() {
	ktap_exit_fail_msg "$*"
}

# check <description> <command>...: one line of the plan.  Not in a subshell:
# the command may be wait.
check() {
	local what=$1
	shift

	if "$@" > "$TMP/check" 2>&1; then
		ktap_test_pass "$what"
	else
		ktap_test_fail "$what"
		{ echo "failed: $*"; cat "$TMP/check"; } | sed 's/^/# /'
	fi
}

# expect <text> <command>...: the command makes the kernel warn, once, with text
# in the first lines of its report.  Its status is in EXPECT_STATUS.
expect() {
	echo "blkfilter-expect: begin $1" > /dev/kmsg
	# Until it is printed: a warning tears the line that is being printed.
	sleep 0.1
	"${@:2}"
	EXPECT_STATUS=$?
	sleep 0.1
	echo "blkfilter-expect: end" > /dev/kmsg
}

load() {
	modprobe "$@" || bail "cannot load $*"
}

load_test_filter() {
	lsmod | grep -q '^blkfilter_test ' ||
		insmod "$DIR"/test_modules/blkfilter_test.ko ||
		bail "cannot load blkfilter_test"
	echo pass > $TEST_DIR/mode
}

# Each of these sets DEV to the name of a new disk (without /dev).

new_nullb() {	# [attribute=value]...
	local name=nullb$((NULLB_NR++)) a

	lsmod | grep -q '^null_blk ' || load null_blk nr_devices=0
	mkdir $NULLB/$name || bail "cannot make a null_blk device"
	DEVS+=("rmdir $NULLB/$name")
	for a in size=64 memory_backed=1 blocksize=512 "$@"; do
		echo "${a#*=}" > $NULLB/$name/"${a%%=*}" || bail "null_blk: $a"
	done
	echo 1 > $NULLB/$name/power || bail "cannot power on a null_blk device"
	DEV=$name
	wait_for [ -b /dev/$DEV ]
}
NULLB_NR=0

# A disk that can be polled.  null_blk allocates a page when the page is written to
# for the first time, which null_blk may not do while it is polled: write to all.
new_polled() {
	new_nullb size=40 queue_mode=2 submit_queues=1 poll_queues=1
	dd if=/dev/zero of=/dev/$DEV bs=1M count=40 oflag=direct status=none
}

new_scsi_debug() {	# [parameter=value]...
	load scsi_debug dev_size_mb=64 delay=0 "$@"
	DEVS+=("rmmod scsi_debug")
	udevadm settle
	DEV=$(basename /sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/block/*)
	[ -b "/dev/$DEV" ] || bail "no scsi_debug disk"
}

new_brd() {
	load brd rd_nr=1 rd_size=65536 max_part=4
	DEVS+=("rmmod brd")
	DEV=ram0
	wait_for [ -b /dev/ram0 ]
}

new_loop() {
	truncate -s 64M "$TMP/loop.img"
	load loop
	DEV=$(basename "$(losetup -f --show "$TMP/loop.img")")
	[ -b "/dev/$DEV" ] || bail "cannot make a loop device"
	DEVS+=("losetup -d /dev/$DEV")
}

# Two partitions, 16 MiB each, from sector 2048.
partition() {	# disk
	printf 'label: dos\nstart=2048, size=32768\nstart=34816, size=32768\n' |
		sfdisk -q --wipe never /dev/"$1" > /dev/null || bail "cannot partition $1"
	udevadm settle
	case $1 in
	*[0-9]) PART=${1}p1 PART2=${1}p2 ;;
	*) PART=${1}1 PART2=${1}2 ;;
	esac
	wait_for [ -b /dev/"$PART" ]
	wait_for [ -b /dev/"$PART2" ]
}

# polled <device> <fio options>...: polled I/O, with the data compared.
polled() {
	local dev=$1
	shift
	timeout 60 fio --name=poll --filename=/dev/"$dev" --ioengine=io_uring --hipri \
		--direct=1 --bs=4k --iodepth=4 --size=1m --verify=crc32c --verify_fatal=1 "$@"
}

# attach_while_polled <mode> <mode>: attach and detach, with these modes of the test
# filter, while $DEV is polled.  Sets fio, rounds, and failed.
attach_while_polled() {
	rounds=0 failed=0
	polled $DEV --rw=randrw --size=16m --time_based --runtime=4 > "$TMP/fio" 2>&1 & fio=$!
	while [ -e /proc/$fio ]; do
		detach $DEV
		echo $1 > $TEST_DIR/mode
		attach $DEV blkfilter_test || ((failed++))
		((rounds++))
		sleep 0.2
		echo $2 > $TEST_DIR/mode
		sleep 0.2
	done
}

# fio_passes <process>: it ends well; its output is in $TMP/fio.
fio_passes() {
	wait "$1" && return
	cat "$TMP/fio"
	return 1
}

wait_for() {	# command...
	local i

	for ((i = 0; i < 200; i++)); do
		"$@" > /dev/null 2>&1 && return 0
		sleep 0.05
	done
	echo "never true: $*"
	return 1
}

# A filter on another disk until the end of the test, so that attaching and
# detaching under load does not patch jump labels each time: QEMU with several
# threads sometimes runs into an int3 of the patching that is gone already, with
# any static key.
keep_key() {
	local dev=$DEV

	load rust_blkfilter
	new_nullb
	attach $DEV rust_blkfilter || bail "cannot attach to $DEV"
	DEV=$dev
}

attr() {	# device: path of its attribute
	local path
	path=$(readlink -f /sys/class/block/"$1")
	echo "$path/filter"
}

# The first byte of a device or file, in hexadecimal; that of a device not from the cache.
first_byte() {	# device, or file
	local from="$1" flag=

	[ -e "$from" ] || { from=/dev/$1; flag=iflag=direct; }
	dd if="$from" bs=4096 count=1 $flag status=none | od -An -tx1 -N1 | tr -d ' '
}

# io <device> <read|write> <flag> [byte]: 4 KiB at 4096, not through the page cache.
# Prints the errno it fails with, or the first byte.
io() {
	python3 - "$@" <<-'END'
		import errno, mmap, os, sys
		dev, what, flag = sys.argv[1:4]
		fd = os.open("/dev/" + dev, os.O_RDWR | os.O_DIRECT)
		flags = getattr(os, flag) if flag else 0
		buf = mmap.mmap(-1, 4096)
		try:
		    if what == "read":
		        n = os.preadv(fd, [buf], 4096, flags)
		    else:
		        buf[:] = sys.argv[4].encode() * 4096
		        n = os.pwritev(fd, [buf], 4096, flags)
		    print(chr(buf[0]) if n == 4096 else n)
		except OSError as e:
		    print(errno.errorcode[e.errno])
	END
}

# new_io_cgroup <name>: sets CGROUP to a control group with the I/O controllers.
new_io_cgroup() {
	CGROUP=/sys/fs/cgroup/$1
	echo +io > /sys/fs/cgroup/cgroup.subtree_control || bail "no io controller"
	mkdir -p "$CGROUP" || bail "no cgroup"
	DEVS+=("rmdir $CGROUP")
}

inside() {	# group command...
	(echo $BASHPID > "$1"/cgroup.procs && "${@:2}")
}

# inflight <device> <number>: so many requests are on their way there.
inflight() {
	awk -v n="$2" '{ exit $1 + $2 != n }' "/sys/class/block/$1/inflight"
}

# soon <seconds> <command>...: it ends by then, and well.
soon() {
	timeout $(($1 * ${SLOW:-1})) bash -c '"$@"' _ "${@:2}"
}

# Helpers that are called often start no process, because starting one takes longer in
# an emulated machine than the operation under test.
attach() {	# device filter
	echo "$2" > /sys/class/block/"$1"/filter
}

detach() {	# device
	echo none > /sys/class/block/"$1"/filter
}

# How many workqueues filters have.
workers() {
	cat /proc/[0-9]*/comm 2> /dev/null | grep -c '^kworker/R-blkf'
}

# The test filter keeps what comes from now on.  That is not for udev, which has
# a look at a device when it gets a filter.
hold() {
	udevadm settle
	echo hold > $TEST_DIR/mode
}

attached() {	# device filter
	local line

	read -r line < /sys/class/block/"$1"/filter && [[ $line == *"[$2]"* ]]
}

registered() {	# device filter
	grep -qwF "$2" "$(attr "$1")"
}

# write_fails <errno name> <device> <text>: the write does, in just that way.
write_fails() {
	local msg

	case $1 in
	EPERM) msg="Operation not permitted" ;;
	ENOENT) msg="No such file or directory" ;;
	EBUSY) msg="Device or resource busy" ;;
	ENODEV) msg="No such device" ;;
	EINVAL) msg="Invalid argument" ;;
	EFBIG) msg="File too large" ;;
	EOPNOTSUPP) msg="Operation not supported" ;;
	EALREADY) msg="Operation already in progress" ;;
	ENOMEM) msg="Cannot allocate memory" ;;
	ELOOP) msg="Too many levels of symbolic links" ;;
	EDOM) msg="Numerical argument out of domain" ;;
	esac
	fails_with "write error: $msg" bash -c 'printf %s "$2" > "$1"' _ "$(attr "$2")" "$3"
}

# stat <device> <kind> <bios|bytes>, from the sample.
stat_of() {
	local field=2

	[ "$3" = bytes ] && field=3
	awk -v k="$2" -v f=$field '$1 == k { print $f; found = 1 } END { exit !found }' \
		"$SAMPLE_DIR/$1/stats"
}

get() {	# name, from the test filter
	local line

	# Options have no newline at their end.
	{ IFS= read -r line < $TEST_DIR/"$1" || [ -n "$line" ]; } && echo "$line"
}

eq() {	# a b
	[ "$1" = "$2" ] || { echo "$1 is not $2"; return 1; }
}

# The kernel's own count: disk_sectors <device> <read|write|discard>.
disk_sectors() {
	local field=2 fields

	case $2 in write) field=6 ;; discard) field=13 ;; esac
	read -ra fields < "/sys/class/block/$1/stat"
	echo "${fields[field]}"
}

# quiet <device>: wait until nothing goes on there any more.  udev has a look at
# a device that gets a filter, MD writes its superblock a little later.
quiet() {
	local last= now= inflight=

	udevadm settle
	until [ -n "$last" ] && [ "$last" = "$now" ] && [[ $inflight =~ ^0\ +0$ ]]; do
		last=$now
		sleep 0.3
		read -r now < "/sys/class/block/$1/stat"
		read -r inflight < "/sys/class/block/$1/inflight"
	done
}

# udev leaves all devices alone until udev_on.  The daemon is stopped in its tracks:
# it reads the partition table of a disk that was closed after writing by itself.
udev_off() {
	udevadm settle
	UDEV_OFF=$(pgrep -o -x systemd-udevd) && kill -STOP "$UDEV_OFF" || bail "no udevd"
}

udev_on() {
	kill -CONT "$UDEV_OFF"
	UDEV_OFF=
	udevadm settle
}

# The core's own counts: filter_stat <device> <seen|taken|flight>.
filter_stat() {
	local seen taken flight

	read -r seen taken flight < /sys/class/block/"$1"/filter_stat
	echo "${!2}"
}

# count_events <name> <group>/<event> [filter]: from now on, each one, in a trace
# buffer of its own, which counts also what it does not keep.
count_events() {
	local dir=/sys/kernel/tracing/instances/blkfilter_$1

	mkdir "$dir" || bail "cannot trace"
	DEVS+=("rmdir $dir")
	echo 64 > "$dir/buffer_size_kb"
	[ -z "$3" ] || echo "$3" > "$dir/events/$2/filter" || bail "cannot filter $2"
	echo 1 > "$dir/events/$2/enable" || bail "cannot trace $2"
}

# events <name>: how many there were.
events() {
	cat "/sys/kernel/tracing/instances/blkfilter_$1"/per_cpu/cpu*/stats |
		awk '/^(entries|overrun|commit overrun|dropped events|read events):/ { n += $NF }
		     END { print n + 0 }'
}

# As the block tracepoints have it: dev_t <device>.
dev_t() {
	local dev

	dev=$(cat "/sys/class/block/$1/dev")
	echo $((${dev%:*} << 20 | ${dev#*:}))
}

# mark <device>: remember what the filter and the disk have counted so far.
declare -A MARKS
mark() {
	local kind

	quiet "$1"
	MARKS[$1 stats]=$(cat "$SAMPLE_DIR/$1/stats")
	for kind in read write discard; do
		MARKS[$1 $kind]=$(disk_sectors "$1" $kind)
	done
}

# counted <device> <kinds of the sample>: bytes since mark
counted() {
	{ echo "${MARKS[$1 stats]}"; echo now; cat "$SAMPLE_DIR/$1/stats"; } |
		awk -v kinds=" ${*:2} " '
		$1 == "now" { now = 1 }
		index(kinds, " " $1 " ") { n += now ? $3 : -$3 }
		END { print n + 0 }'
}

# same <device> <read|write|discard>: the filter counted what the disk did.
same() {
	local kinds=$2

	[ "$2" = write ] && kinds="write write_zeroes"
	quiet "$1"
	# shellcheck disable=SC2086 # several kinds
	eq $(($(counted "$1" $kinds) / 512)) $(($(disk_sectors "$1" "$2") - ${MARKS[$1 $2]}))
}

dwrite() {	# device [bytes [count [seek]]]
	dd if=/dev/urandom of=/dev/"$1" bs="${2:-4096}" count="${3:-1}" seek="${4:-0}" \
		oflag=direct conv=notrunc status=none
}

dread() {	# device [bytes [count]]
	dd if=/dev/"$1" of=/dev/null bs="${2:-4096}" count="${3:-1}" iflag=direct status=none
}

fails_with() {	# message command...
	local msg=$1 out
	shift

	out=$(LC_ALL=C "$@" 2>&1) && { echo "succeeded"; return 1; }
	grep -qF "$msg" <<< "$out" || { echo "$out"; return 1; }
}

not() {
	! "$@"
}
