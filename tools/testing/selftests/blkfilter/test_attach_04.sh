#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# An unknown name loads its module.

. "$(dirname "$0")"/test_common.sh

plan 4
rmmod rust_blkfilter 2> /dev/null
new_nullb

check "C29: the module is not loaded" not registered $DEV rust_blkfilter
check "C29: attaching loads it" attach $DEV rust_blkfilter
check "C29: and attaches it" attached $DEV rust_blkfilter
detach $DEV
check "C18: it can be unloaded" rmmod rust_blkfilter
ktap_finished
