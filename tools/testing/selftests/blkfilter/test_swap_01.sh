#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Swapping out through two filters that defer every bio, one on the other, on a
# machine that has little memory.

. "$(dirname "$0")"/test_common.sh

plan 9
load_test_filter
load dm_mod
new_nullb size=512
low=$DEV
# All of its memory now, not when there is none.
dd if=/dev/zero of=/dev/$low bs=1M count=512 oflag=direct status=none
dmsetup create blkfilter_swap --table "0 1048576 linear /dev/$low 0" || bail "dmsetup"
DEVS+=("dmsetup remove --retry blkfilter_swap")
udevadm settle
top=$(basename "$(readlink -f /dev/mapper/blkfilter_swap)")
mkswap -q /dev/$top > /dev/null || bail "mkswap"
attach $low blkfilter_test && attach $top blkfilter_test || bail "cannot attach"
udevadm settle
echo defer > $TEST_DIR/mode

# Memory that nobody touches until the end.
cat > "$TMP/idle.py" <<'END'
import hashlib, os, sys, time
data = os.urandom(32 << 20)
digest = hashlib.sha256(data).digest()
open(sys.argv[1], "w").close()
while not os.path.exists(sys.argv[2]):
    time.sleep(1)
sys.exit(hashlib.sha256(data).digest() != digest)
END
python3 "$TMP/idle.py" "$TMP/idle" "$TMP/compare" & idle=$!
DEVS+=("kill $idle")
wait_for [ -e "$TMP/idle" ] || bail "cannot fill memory"

# A small machine: all memory but so much, in MiB, is locked.
left=256
cat > "$TMP/lock.py" <<'END'
import ctypes, mmap, sys, time
left, locked = int(sys.argv[1]), sys.argv[2]
available = next(int(line.split()[1]) for line in open("/proc/meminfo")
                 if line.startswith("MemAvailable:")) >> 10
assert available > left, available
assert ctypes.CDLL(None).mlockall(2) == 0
memory = mmap.mmap(-1, (available - left) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
open("/proc/self/oom_score_adj", "w").write("-1000")
open(locked, "w").write(str(available - left))
time.sleep(3600)
END
python3 "$TMP/lock.py" $left "$TMP/locked" > /dev/null & locker=$!
DEVS+=("kill $locker")
wait_for [ -s "$TMP/locked" ] || bail "cannot lock memory"
echo "# $(cat "$TMP/locked") MiB are locked"
swapon /dev/$top || bail "swapon"
DEVS+=("swapoff /dev/$top")

# Writes memory, each page with a content of its own, and looks whether it is still there.
# Twice, so that pages are also changed that have been swapped out.
cat > "$TMP/work.py" <<'END'
import mmap, os, sys
size = int(sys.argv[1]) << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for _ in range(2):
    seed = os.urandom(8)
    def content(at):
        return (seed + at.to_bytes(8, "little")) * 256
    for at in range(0, size, 4096):
        memory[at:at + 4096] = content(at)
    for at in range(0, size, 4096):
        assert memory[at:at + 4096] == content(at), f"the page at {at} has changed"
END

# 1 GiB, or, where everything takes several times as long, 128 MiB.
goal=262144
size=448
[ -n "$SLOW" ] && { goal=32768; size=320; }
swapped() {
	awk -v before=${pages_before:-0} '/^pswpout/ { print $2 - before }' /proc/vmstat
}
swap() {
	local end=$((SECONDS + 600)) other

	while [ "$(swapped)" -lt $goal ]; do
		[ $SECONDS -lt $end ] || { echo "not in time"; return 1; }
		timeout 300 python3 "$TMP/work.py" $((size / 2)) & other=$!
		timeout 300 python3 "$TMP/work.py" $((size / 2)) || { wait $other; return 1; }
		wait $other || return
	done
}
pages_before=$(swapped)
sectors_before=$(disk_sectors $low write)
before=$(filter_stat $top taken)
start=$SECONDS
check "C12: memory can be swapped out and in" swap
# The filters may still have as much of it as fitted into memory.
wait_for eval 'eq "$(filter_stat $top flight) $(filter_stat $low flight)" "0 0"'
quiet $low
swapped=$(swapped)
echo "# $swapped pages swapped out in $((SECONDS - start)) s, $(get processed) bios processed"
check "C12: as much as it should be" [ "$swapped" -ge $goal ]
check "C12: the disk got all of it" \
	[ $(($(disk_sectors $low write) - sectors_before)) -ge $((swapped * 8)) ]
check "C12: through both filters" \
	[ $(($(filter_stat $top taken) - before)) -gt $((swapped / 512)) ]
check "C12: each bio was processed once" eq "$(get processed)" \
	$(($(filter_stat $top taken) + $(filter_stat $low taken)))
check "C12: memory that nobody touches as well" \
	[ "$(awk '/^VmSwap/ { print $2 }' /proc/$idle/status)" -ge 16384 ]
check "C13: detach while it is in use" eval "detach $top && detach $low"
check "C10: what is swapped out comes back" swapoff /dev/$top
unset 'DEVS[-1]'
touch "$TMP/compare"
check "C10: as it was" wait $idle
ktap_finished
