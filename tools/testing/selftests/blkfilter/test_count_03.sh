#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Stacked devices: a filter below dm-linear and one on it both see all the I/O,
# though the lower bios are submitted from inside ->submit_bio of the upper one.

. "$(dirname "$0")"/test_common.sh

plan 6
load rust_blkfilter
load_test_filter
load dm_mod
new_nullb
low=$DEV

dmsetup create blkfilter_lin --table "0 65536 linear /dev/$low 1024" || bail "dmsetup"
DEVS+=("dmsetup remove --retry blkfilter_lin")
udevadm settle
top=$(basename "$(readlink -f /dev/mapper/blkfilter_lin)")

attach $low rust_blkfilter || bail "cannot attach below"
attach $top blkfilter_test || bail "cannot attach above"
mark $low
base=$(get seen)
dwrite $top 64K 32
dread $top 64K 32

check "C1: the upper filter sees the bios" [ $(($(get seen) - base)) -ge 64 ]
check "C4: the lower filter sees the writes too" same $low write
check "C4: and the reads" same $low read
check "C1: 2 MiB were written" [ "$(counted $low write)" -ge $((2 << 20)) ]
check "C17: the upper device can be removed with its filter" dmsetup remove --retry blkfilter_lin
check "C15: and its filter hears of it" wait_for grep -qx 1 $TEST_DIR/removed
ktap_finished
