#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Attaching when an allocation fails, each of them in turn.  Needs
# CONFIG_FAILSLAB, so it is skipped on kernels that are not for debugging.

. "$(dirname "$0")"/test_common.sh

FILTERS="blkfilter_test rust_blkfilter changetrack"
plan 6
if [ ! -e /proc/self/fail-nth ]; then
	for filter in $FILTERS; do
		ktap_test_skip "C29: $filter: without memory it is ENOMEM, and nothing is attached"
		ktap_test_skip "C18: $filter: its module can be unloaded"
	done
	ktap_finished
fi
failslab=/sys/kernel/debug/failslab
echo N > $failslab/ignore-gfp-wait
echo 0 > $failslab/verbose

# For n = 1, 2, ... the nth allocation fails, until there are no more.
cat > "$TMP/attach.py" <<'END'
import errno, os, sys
attr, name = sys.argv[1:]
failed = survived = 0
def attached():
    return "[none]" not in open(attr).read()
for n in range(1, 500):
    fail = os.open("/proc/thread-self/fail-nth", os.O_RDWR)
    fd = os.open(attr, os.O_WRONLY)
    error = 0
    os.write(fail, b"%d" % n)
    try:
        os.write(fd, name.encode())
    except OSError as e:
        error = e.errno
    left = int(os.pread(fail, 16, 0))
    if left:
        os.write(fail, b"0")
    os.close(fail)
    assert error in (0, errno.ENOMEM), (n, os.strerror(error))
    assert attached() == (error == 0), (n, "attached", attached(), error)
    if not error:
        os.write(fd, b"none")
    os.close(fd)
    if left:
        break
    failed += error != 0
    survived += error == 0
print("#", failed, "times ENOMEM,", survived, "times attached all the same")
assert left and not error and failed > 5
END
without_memory() {	# filter
	python3 "$TMP/attach.py" "$(attr $DEV)" "$1" > "$TMP/said" 2>&1
	local ret=$?

	cat "$TMP/said" >&3
	return $ret
}
exec 3>&1
load_test_filter
load rust_blkfilter
load rust_blk_changetrack
new_nullb
udevadm settle
for filter in $FILTERS; do
	check "C29: $filter: without memory it is ENOMEM, and nothing is attached" \
		without_memory $filter
	case $filter in changetrack) module=rust_blk_changetrack ;; *) module=$filter ;; esac
	check "C18: $filter: its module can be unloaded" rmmod $module
done
ktap_finished
