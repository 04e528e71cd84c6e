#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# How long attach and detach of an idle filter take, in grace periods of the same run.

. "$(dirname "$0")"/test_common.sh

plan 4
load_test_filter
insmod "$DIR"/test_modules/blkfilter_bench.ko || bail "cannot load blkfilter_bench"
DEVS+=("rmmod blkfilter_bench")
bench=/sys/kernel/debug/blkfilter_bench
new_nullb
udev_off

# Twenty grace periods, and between them twenty attachments.
cat > "$TMP/latency.py" <<'END'
import sys, time
attr, bench = sys.argv[1:]
def write(path, text):
    start = time.monotonic_ns()
    with open(path, "w") as f:
        f.write(text)
    return time.monotonic_ns() - start
attach, detach, grace = [], [], []
for i in range(20):
    attach.append(write(attr, "blkfilter_test"))
    time.sleep(0.02)
    detach.append(write(attr, "none"))
    write(bench, "rcu 1")
    with open(bench) as f:
        grace.append(int(f.read().split()[0]))
for what in attach, detach, grace:
    print(sorted(what)[10], max(what))
END
python3 "$TMP/latency.py" "$(attr $DEV)" $bench > "$TMP/latency" || bail "cannot measure"
udev_on
{ read -r attach _; read -r detach worst; read -r grace worst_grace; } < "$TMP/latency"
echo "# attach $((attach / 1000)) us, detach $((detach / 1000)) us, at worst" \
	"$((worst / 1000)) us; a grace period $((grace / 1000)) us, at worst" \
	"$((worst_grace / 1000)) us"
check "C13: there were grace periods to compare with" [ "$grace" -gt 1000 ]
check "C13: detach of an idle filter takes at most four of them" [ "$detach" -le $((grace * 4)) ]
check "C6: attach does not need that many" [ "$attach" -le $((grace * 4)) ]
check "C11: all were released" eq "$(get released) $(get attached)" "20 20"
ktap_finished
