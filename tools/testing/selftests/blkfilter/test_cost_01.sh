#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A filter that only looks at bios costs no thread.

. "$(dirname "$0")"/test_common.sh

plan 7
insmod "$DIR"/test_modules/blkfilter_twins_c.ko || bail "cannot load blkfilter_twins_c"
DEVS+=("rmmod blkfilter_twins_c")
load rust_blkfilter
new_nullb

# threads <filter> <number>: an attached one has so many.
threads() {
	attach $DEV "$1" || return
	dwrite $DEV
	eq "$(workers)" "$2"
	local ret=$?
	detach $DEV
	return $ret
}

check "C12: there are none to begin with" eq "$(workers)" 0
check "C12: one that passes has none" threads c_pass 0
check "C12: one that counts has none" threads c_count 0
check "C12: one that hooks has none" threads c_hook 0
check "C12: one that defers has two" threads c_defer 2
check "C12: which are gone with it" eq "$(workers)" 0
check "C12: rust_blkfilter has none" threads rust_blkfilter 0
ktap_finished
