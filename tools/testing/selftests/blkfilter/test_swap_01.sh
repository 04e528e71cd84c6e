#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Swapping out through two filters that defer every bio, one on the other.

. "$(dirname "$0")"/test_common.sh

plan 5
load_test_filter
load dm_mod
new_nullb size=512
low=$DEV
dmsetup create blkfilter_swap --table "0 1048576 linear /dev/$low 0" || bail "dmsetup"
DEVS+=("dmsetup remove --retry blkfilter_swap")
udevadm settle
top=$(basename "$(readlink -f /dev/mapper/blkfilter_swap)")
mkswap -q /dev/$top > /dev/null || bail "mkswap"
attach $low blkfilter_test && attach $top blkfilter_test || bail "cannot attach"
udevadm settle
echo defer > $TEST_DIR/mode
swapon /dev/$top || bail "swapon"
DEVS+=("swapoff /dev/$top")

cgroup=/sys/fs/cgroup/blkfilter
echo +memory > /sys/fs/cgroup/cgroup.subtree_control || bail "no memory controller"
mkdir -p $cgroup || bail "no cgroup"
DEVS+=("rmdir $cgroup")
echo 48M > $cgroup/memory.max
check "C12: memory can be swapped out and in" timeout 120 bash -c "echo \$\$ > $cgroup/cgroup.procs
	stress-ng --quiet --vm 2 --vm-bytes 192M --vm-method incdec --vm-ops 2000 --verify"
swapped=$(awk '/^pswpout/ { print $2 }' /proc/vmstat)
check "C12: much of it was" [ "$swapped" -gt 5000 ]
check "C12: all of it through both filters" [ "$(get processed)" -gt 500 ]
echo "# $swapped pages swapped out, $(get processed) bios processed"
check "C13: detach while it is in use" eval "detach $top && detach $low"
check "C10: what is swapped out comes back" swapoff /dev/$top
unset 'DEVS[2]'
ktap_finished
