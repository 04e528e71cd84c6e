#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Attach and detach on each sort of device, and what the attribute shows.

. "$(dirname "$0")"/test_common.sh

plan 24
load rust_blkfilter

for make in new_nullb new_brd new_loop new_scsi_debug; do
	$make
	sort=${make#new_}
	check "C29: $sort: nothing is attached at first" \
		grep -qxE '\[none\]( [a-z_]+)* rust_blkfilter( .*)?' "$(attr $DEV)"
	check "C6: $sort: attach" attach $DEV rust_blkfilter
	check "C29: $sort: the attached one is in brackets" \
		grep -qxE 'none( [a-z_]+)* \[rust_blkfilter\]( .*)?' "$(attr $DEV)"
	dwrite $DEV
	check "C1: $sort: the filter sees a write" eq "$(stat_of $DEV write bytes)" 4096
	check "C7: $sort: detach" detach $DEV
	check "C13: $sort: the filter is gone when detach returns" [ ! -e "$SAMPLE_DIR/$DEV" ]
done
ktap_finished
