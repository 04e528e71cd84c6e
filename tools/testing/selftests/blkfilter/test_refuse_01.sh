#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Devices that need more of a filter: refused, unless it says that it copes.

. "$(dirname "$0")"/test_common.sh

plan 22
load_test_filter

new_nullb zoned=1 zone_size=4
zoned=$DEV
new_scsi_debug dif=1 dix=1
integrity=$DEV
for dev in $zoned $integrity blkfilter_crypto; do
	check "C27: $dev: EOPNOTSUPP" write_fails EOPNOTSUPP $dev blkfilter_test
	check "C14: $dev: nothing is left of it" attached $dev none
done
check "C27: it was released each time" eq "$(get released)" "$(get attached)"

# An encryption profile that appears later.
crypt=blkfilter_crypto
echo 0 > $TEST_DIR/profile
check "C27: without a profile it can be attached" attach $crypt blkfilter_test
udevadm settle
echo resubmit > $TEST_DIR/mode
check "C10: it takes a plain bio" dread $crypt
check "C10: and resubmits it" grep -qE '^[0-9]+ 1 0$' /sys/block/$crypt/filter_stat
echo 1 > $TEST_DIR/profile
seen=$(get seen)
check "C27: an encrypted bio goes through" eval "echo 1 > $TEST_DIR/encrypted"
check "C27: it was shown to the filter" [ "$(get seen)" -gt "$seen" ]
check "C27: which could not take it" eq "$(get protected)" 1
check "C27: and did not" grep -qE '^[0-9]+ 1 0$' /sys/block/$crypt/filter_stat
echo pass > $TEST_DIR/mode
detach $crypt
check "C27: now it is refused again" write_fails EOPNOTSUPP $crypt blkfilter_test

rmmod blkfilter_test || bail "cannot unload"

insmod "$DIR"/test_modules/blkfilter_test.ko flags=112 || bail "cannot load blkfilter_test"
for dev in $zoned $integrity blkfilter_crypto; do
	check "C27: $dev: attached with the flag" attach $dev blkfilter_test
	check "C10: $dev: and sees I/O" eval \
		"seen=\$(get seen); dread $dev && [ \$(get seen) -gt \$seen ]"
done
check "C15: a filter goes with its disk" eval \
	"echo none > $(attr $zoned) && echo none > $(attr $integrity) &&
	 echo none > $(attr blkfilter_crypto) && wait_for rmmod blkfilter_test"
ktap_finished
