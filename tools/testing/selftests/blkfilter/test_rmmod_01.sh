#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A module with a filter attached cannot be unloaded; right after a detach it can.

. "$(dirname "$0")"/test_common.sh

plan 5
load rust_blkfilter
new_nullb

attach $DEV rust_blkfilter || bail "cannot attach"
check "C18: rmmod says that it is in use" fails_with "in use" rmmod rust_blkfilter
check "C18: and the filter goes on" eval "dwrite $DEV && eq \$(stat_of $DEV write bios) 1"
ok=0
for i in {1..20}; do
	detach $DEV && rmmod rust_blkfilter && ok=$((ok + 1))
	load rust_blkfilter
	attach $DEV rust_blkfilter
done
check "C18: right after a detach it can be unloaded, 20 times" eq $ok 20
detach $DEV
check "C18: and for good" rmmod rust_blkfilter
check "C29: the attribute does not list it" not registered $DEV rust_blkfilter
ktap_finished
