# SPDX-License-Identifier: GPL-2.0
#
# Sourced by test_matrix_*.sh: what is the same on each sort of device.

head -c 65536 /dev/urandom > "$TMP/one"
head -c 65536 /dev/urandom > "$TMP/two"

put() {	# file, in bios of 8 KiB
	timeout 60 dd if="$1" of=/dev/$DEV bs=8k oflag=direct conv=notrunc status=none
}

holds() {	# file
	cmp "$1" <(timeout 60 dd if=/dev/$DEV bs=8k count=8 iflag=direct status=none)
}

# counts <seen> <taken> <command>...: by so many.
counts() {
	local seen taken

	seen=$(filter_stat $DEV seen)
	taken=$(filter_stat $DEV taken)
	"${@:3}" || return
	eq "$(($(filter_stat $DEV seen) - seen)) $(($(filter_stat $DEV taken) - taken))" "$1 $2"
}

# Writes and reads back, 1 MiB on, until there is no $TMP/go.
cat > "$TMP/io.py" <<'END'
import mmap, os, random, sys
dev, go = sys.argv[1:]
fd = os.open(dev, os.O_RDWR | os.O_DIRECT)
buf = mmap.mmap(-1, 4096)
n = 0
while os.path.exists(go) or n < 100:
    at = (1 << 20) + 4096 * random.randrange(1024)
    data = os.urandom(16) * 256
    buf[:] = data
    assert os.pwritev(fd, [buf], at) == 4096
    buf[:] = bytes(4096)
    assert os.preadv(fd, [buf], at) == 4096
    assert buf[:] == data, at
    n += 1
END

try() {	# name, for the device DEV
	local io file=one

	udev_off
	attach $DEV blkfilter_test || bail "$1: cannot attach"
	check "C3: $1: each write is seen once" counts 8 0 put "$TMP/one"
	check "C3: $1: and each read" counts 8 0 holds "$TMP/one"
	for mode in resubmit defer; do
		[ $file = one ] && file=two || file=one
		echo $mode > $TEST_DIR/mode
		check "C10: $1: $mode: a write" counts 8 8 put "$TMP/$file"
		check "C10: $1: $mode: the data is right" counts 8 8 holds "$TMP/$file"
	done
	echo end > $TEST_DIR/mode
	check "C10: $1: ended with an error" \
		counts 1 1 fails_with "Input/output error" put "$TMP/two"
	echo defer > $TEST_DIR/mode
	touch "$TMP/go"
	timeout 60 python3 "$TMP/io.py" /dev/$DEV "$TMP/go" & io=$!
	wait_for eval '[ $(filter_stat $DEV taken) -gt 100 ]'
	for i in {1..4}; do
		detach $DEV && attach $DEV blkfilter_test || break
	done
	detach $DEV
	rm "$TMP/go"
	check "C13: $1: detached again and again while there is I/O" wait $io
	echo pass > $TEST_DIR/mode
	check "C10: $1: the data is right at the end" holds "$TMP/$file"
	udev_on
}

try_partition() {	# name
	partition $DEV
	DEV=$PART2
	try "$1 partition"
}

both() {	# name
	try "$1"
	try_partition "$1"
}
