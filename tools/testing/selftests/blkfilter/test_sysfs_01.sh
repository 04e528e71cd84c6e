#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Writing nonsense to the attribute: an errno and a line in the log each, and nothing
# else happens.  Reading it, whatever goes on.

. "$(dirname "$0")"/test_common.sh

plan 35
load rust_blkfilter
load_test_filter
new_nullb
attr=$(attr $DEV)

# The log takes ten lines in five seconds.
LINES_LEFT=0
spaced() {
	if [ $LINES_LEFT = 0 ]; then
		sleep 6
		LINES_LEFT=9
	fi
	LINES_LEFT=$((LINES_LEFT - 1))
}

state() {
	cat "$attr" "${attr}_stat" $TEST_DIR/attached $TEST_DIR/released
	lsmod | grep -E '^(rust_blkfilter|blkfilter_test) '
}

# Prints the errno that writing a file to the attribute fails with, in one write().
cat > "$TMP/write.py" <<'END'
import errno, os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
with open(sys.argv[2], "rb") as f:
    text = f.read()
try:
    print(os.write(fd, text))
except OSError as e:
    print(errno.errorcode[e.errno])
END

# refused <errno> <command that prints it>...: that, one line in the log, and nothing has
# changed.
refused() {
	local before logged

	spaced
	before=$(state)
	"${@:2}" > "$TMP/text"
	dmesg -C
	eq "$(python3 "$TMP/write.py" "$attr" "$TMP/text")" "$1" || return
	logged=$(dmesg | grep 'blk-filter: ')
	eq "${logged#*blk-filter: }" "$DEV: ${OP:-attach} failed: -$1" || return
	eq "$(state)" "$before"
}

check "C29: only white space is EINVAL" refused EINVAL printf ' \t \n'
check "C29: a NUL is EINVAL" refused EINVAL printf '\0'
check "C29: a NUL after a name is EINVAL" refused EINVAL printf 'rust_blkfilter\0'
check "C29: a NUL and more after a name is EINVAL" \
	refused EINVAL printf 'blkfilter_test\0none\n'
check "C29: a page of garbage is EINVAL" refused EINVAL head -c 4096 /dev/urandom
check "C29: a page of zeroes is EINVAL" refused EINVAL head -c 4096 /dev/zero
check "C29: a page of blanks is EINVAL" \
	refused EINVAL bash -c "head -c 4096 /dev/zero | tr '\0' ' '"
check "C29: more than a page is EINVAL" \
	refused EINVAL bash -c "head -c 8192 /dev/zero | tr '\0' x"
check "C29: a control character is EINVAL" refused EINVAL printf 'rust\1blkfilter'
check "C29: more than ASCII is EINVAL" refused EINVAL printf 'rust_blkfilt\303\251r'
check "C29: a bracket at the end is EINVAL" refused EINVAL printf 'rust_blkfilter]'
check "C29: a page of options for who takes none is EINVAL" \
	refused EINVAL bash -c "printf 'rust_blkfilter '; head -c 4000 /dev/zero | tr '\0' x"
check "C29: bad options fail as the filter says" refused EDOM printf 'blkfilter_test bad'
check "C29: an unknown name with options is ENOENT" refused ENOENT printf 'nothing a=b'
check "C29: upper case is another name" refused ENOENT printf 'RUST_BLKFILTER'
check "C29: NONE is not none" refused ENOENT printf 'NONE'
check "C29: a name for the shell is just a name" \
	refused ENOENT printf '$(reboot);../%%s-f'

attach $DEV "blkfilter_test $(head -c 60 /dev/zero | tr '\0' o)" || bail "cannot attach"
quiet $DEV
check "C29: attached: white space is EINVAL" refused EINVAL printf ' \n'
OP=detach check "C29: attached: a NUL is EINVAL" refused EINVAL printf 'none\0'
check "C29: attached: an unknown name is ENOENT" refused ENOENT printf 'nothing'
check "C29: attached: again is EALREADY" refused EALREADY printf 'blkfilter_test x'
check "C29: attached: another is EBUSY" refused EBUSY printf 'rust_blkfilter'

spaced
dmesg -C
check "C29: attached: options for none are EINVAL" write_fails EINVAL $DEV "none x"
check "C29: and the line says detach" \
	eq "$(dmesg | grep -o 'blk-filter: .*')" "blk-filter: $DEV: detach failed: -EINVAL"
check "C29: attached: nothing changed" attached $DEV blkfilter_test

# What does not reach us is not logged.
dmesg -C
check "C29: nothing at all is no error" python3 -c "
import os
assert os.write(os.open('$attr', os.O_WRONLY), b'') == 0"
check "C29: a read-only descriptor is EBADF" \
	fails_with "Bad file descriptor" python3 -c "
import os
os.write(os.open('$attr', os.O_RDONLY), b'none')"
check "C29: somebody else cannot open it to write" fails_with "Permission denied" \
	setpriv --reuid=65534 --clear-groups --bounding-set=-all --inh-caps=-all \
	bash -c "echo none > $attr"
check "C29: but read it" setpriv --reuid=65534 --clear-groups cat "$attr" "${attr}_stat"
check "C29: of these nothing is logged" not eval "dmesg | grep 'blk-filter: '"
check "C29: the filter goes on" eval "dwrite $DEV && attached $DEV blkfilter_test"

# A detach that is killed.
hold
dwrite $DEV & writer=$!
wait_for grep -qx 1 $TEST_DIR/held || bail "nothing is held"
spaced
dmesg -C
detach $DEV & detacher=$!
wait_for attached $DEV none
check "C29: reading does not wait for a detach that does" \
	timeout 5 cat "$attr" "${attr}_stat"
kill -9 $detacher
wait $detacher 2> /dev/null
check "C29: one that is killed is logged as EINTR" \
	wait_for eval "dmesg | grep -q 'blk-filter: $DEV: detach failed: -EINTR'"
echo pass > $TEST_DIR/mode
echo 1 > $TEST_DIR/release
wait $writer

# Readers, while filters and the disk come and go.
cat > "$TMP/read.py" <<'END'
import errno, os, re, sys
attr, stop = sys.argv[1:]
name = r"(blkfilter_test|rust_blkfilter)"
good = [re.compile(rf"(\[none\]|none)( {name}| \[{name}\])*\n").fullmatch,
        re.compile(r"\d+ \d+ \d+\n").fullmatch]
fds, n, gone = [None, None], 0, 0
while not os.path.exists(stop):
    for i, path in enumerate((attr, attr + "_stat")):
        try:
            if fds[i] is None or n % 16 == 0:
                if fds[i] is not None:
                    os.close(fds[i])
                fds[i] = None
                fds[i] = os.open(path, os.O_RDONLY)
            text = os.pread(fds[i], 4096, 0).decode()
            assert good[i](text), text
            assert i or text.count("[") == 1, text
        except OSError as e:
            assert e.errno in (errno.ENODEV, errno.ENOENT), e
            gone += 1
    n += 1
print(n, gone)
END
readers=()
for i in {1..3}; do
	nice -n 19 python3 "$TMP/read.py" "$attr" "$TMP/stop" > "$TMP/reader$i" 2>&1 & readers+=($!)
done
for i in {1..6}; do
	for filter in rust_blkfilter blkfilter_test; do
		detach $DEV && attach $DEV $filter || break 2
	done
	[ $((i % 2)) = 0 ] || continue
	echo 0 > $NULLB/$DEV/power
	echo 1 > $NULLB/$DEV/power
	wait_for [ -e "$attr" ]
done
touch "$TMP/stop"
ok=0
for i in {1..3}; do
	wait ${readers[i - 1]} && ok=$((ok + 1))
	sed 's/^/# /' "$TMP/reader$i"
done
check "C29: readers see what there is, or that the device went" eq $ok 3
check "C29: they saw much" \
	eval "awk '{ n += \$1; gone += \$2 } END { exit n < 300 || !gone }' $TMP/reader*"
ktap_finished
