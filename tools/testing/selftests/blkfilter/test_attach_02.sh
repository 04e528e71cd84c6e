#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What can't be attached: each error of the table in the documentation.

. "$(dirname "$0")"/test_common.sh

plan 18
load rust_blkfilter
load_test_filter
new_nullb

logged() {	# text: in the kernel log since the last look
	dmesg -c | grep -qF "$1"
}
fill=$(printf 'x%.0s' {1..4000})

dmesg -C
check "C29: an unknown name is ENOENT" write_fails ENOENT $DEV no_such_filter
check "C29: and it is logged" logged "blk-filter: $DEV: attach failed: -ENOENT"
check "C29: an empty name is EINVAL" write_fails EINVAL $DEV "
"
check "C29: 4000 characters are EINVAL" write_fails EINVAL $DEV "$fill"
check "C29: 32 characters are EINVAL" write_fails EINVAL $DEV "${fill:0:32}"
check "C29: 31 characters are a name" write_fails ENOENT $DEV "${fill:0:31}"
check "C29: a bracket is EINVAL" write_fails EINVAL $DEV '[none]'
check "C29: options are EINVAL" write_fails EINVAL $DEV 'rust_blkfilter a=b'
check "C29: nothing changed" attached $DEV none
check "C29: none with nothing attached is fine" detach $DEV

attach $DEV rust_blkfilter
check "C6: the same filter again is EALREADY" write_fails EALREADY $DEV rust_blkfilter
check "C6: another filter is EBUSY" write_fails EBUSY $DEV blkfilter_test
check "C6: the first one is still there" attached $DEV rust_blkfilter
check "C6: the loser was never built" eq "$(get attached)" 0
detach $DEV

# The capability is checked, not the mode of the file.
chmod 666 "$(attr $DEV)"
check "C29: without CAP_SYS_ADMIN it is EPERM" \
	fails_with "Operation not permitted" setpriv --bounding-set -sys_admin \
	bash -c "echo rust_blkfilter > $(attr $DEV)"
chmod 644 "$(attr $DEV)"

new_nullb zoned=1 zone_size=4
check "C27: a zoned device is EOPNOTSUPP" write_fails EOPNOTSUPP $DEV rust_blkfilter
new_scsi_debug dif=1 dix=1
check "C27: a device with integrity data is EOPNOTSUPP" \
	write_fails EOPNOTSUPP $DEV rust_blkfilter
check "C14: a failed attach leaves nothing" [ ! -e "$SAMPLE_DIR/$DEV" ]
ktap_finished
