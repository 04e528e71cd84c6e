#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Partitions: a filter on one sees its sectors, a filter on the disk sees all.

. "$(dirname "$0")"/test_common.sh

plan 12
load rust_blkfilter
load_test_filter
new_nullb
partition $DEV

attach $DEV rust_blkfilter || bail "cannot attach to $DEV"
attach $PART blkfilter_test || bail "cannot attach to $PART"
check "C29: the disk shows its filter" attached $DEV rust_blkfilter
check "C29: the partition shows its filter" attached $PART blkfilter_test
check "C29: the other partition shows none" attached $PART2 none

base=$(get seen)
dwrite $PART 4096 3
check "C21: the filter of the partition sees its bios" eq $(($(get seen) - base)) 3
check "C21: so does that of the disk" eq "$(stat_of $DEV write bios)" 3
dwrite $PART2 4096 2
check "C21: the disk's filter sees the other partition's" eq "$(stat_of $DEV write bios)" 5
check "C21: the partition's filter does not" eq $(($(get seen) - base)) 3

# A bio that the partition's filter took goes on to the disk's.
echo resubmit > $TEST_DIR/mode
dwrite $PART 4096 4
check "C21: resubmitted at the partition, seen at the disk" eq "$(stat_of $DEV write bios)" 9
check "C3: and once at the partition" eq $(($(get seen) - base)) 7

# A partition that is made while the disk is filtered.
echo pass > $TEST_DIR/mode
detach $PART
printf 'start=67584, size=8192\n' | sfdisk -q -a --no-reread /dev/$DEV > /dev/null 2>&1
partx -u /dev/$DEV
part3=${PART%1}3
wait_for [ -b /dev/$part3 ]
base=$(stat_of $DEV write bios)
dwrite $part3 4096 2
check "C2: a new partition of a filtered disk is filtered" \
	eq $(($(stat_of $DEV write bios) - base)) 2
detach $DEV
check "C7: the disk's filter is gone" [ ! -e $SAMPLE_DIR/$DEV ]

# Sectors are those of the partition: the sample counts, this needs one that
# knows where.  The test filter's resubmit put the data where it belongs.
dd if=/dev/zero bs=4096 count=1 status=none | tr '\0' 'Q' > "$TMP/q"
load_test_filter
attach $PART blkfilter_test
echo resubmit > $TEST_DIR/mode
dd if="$TMP/q" of=/dev/$PART bs=4096 seek=5 oflag=direct conv=notrunc status=none
check "C20: the write arrives at its sector of the disk" \
	cmp "$TMP/q" <(dd if=/dev/$DEV bs=512 skip=$((2048 + 40)) count=8 iflag=direct status=none)
ktap_finished
