#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# REQ_NOWAIT: a filter recognises it and can say EAGAIN instead of waiting.

. "$(dirname "$0")"/test_common.sh

plan 22
load_test_filter
new_nullb
partition $DEV

check "C24: without a filter a NOWAIT write succeeds" eq "$(io $DEV write RWF_NOWAIT a)" a
check "C24: and a read" eq "$(io $DEV read RWF_NOWAIT)" a

attach $DEV blkfilter_test || bail "cannot attach"
quiet $DEV
nowait=$(get nowait)
check "C24: a filter that passes does not harm it" eq "$(io $DEV read RWF_NOWAIT)" a
check "C24: it recognises the bio" eq $(($(get nowait) - nowait)) 1
check "C24: and one without the flag" eq "$(io $DEV read '')$(($(get nowait) - nowait))" a1

echo nowait > $TEST_DIR/mode
read -r _ taken _ < "$(dirname "$(attr $DEV)")/filter_stat"
processed=$(get processed)
check "C24: a filter that would have to wait: a read gets EAGAIN" \
	eq "$(io $DEV read RWF_NOWAIT)" EAGAIN
check "C24: a write gets EAGAIN" eq "$(io $DEV write RWF_NOWAIT b)" EAGAIN
check "C24: neither was taken" \
	grep -qE "^[0-9]+ $taken 0$" "$(dirname "$(attr $DEV)")/filter_stat"
check "C24: nothing was written; a read without the flag succeeds" eq "$(io $DEV read '')" a
check "C24: a write too" eq "$(io $DEV write '' c)" c
check "C24: these were deferred" eq $(($(get processed) - processed)) 2

# io_uring tries with the flag first and comes back without it.
nowait=$(get nowait)
check "C24: io_uring gets its data through nonetheless" fio --name=nowait \
	--filename=/dev/$DEV --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k \
	--iodepth=4 --offset=1m --size=1m --verify=crc32c
check "C24: it did try with the flag" [ $(($(get nowait) - nowait)) -ge 256 ]

# One that is deferred anyway: that of the partition sees the flag, that of the disk,
# below it, does not.
attach $PART blkfilter_test || bail "cannot attach"
quiet $DEV
echo pass > $TEST_DIR/mode
seen=$(get seen)
nowait=$(get nowait)
check "C24: passed at the partition" eq "$(io $PART write RWF_NOWAIT d)" d
check "C24: both filters see it" eq $(($(get seen) - seen)) 2
check "C24: with its flag" eq $(($(get nowait) - nowait)) 2
for mode in defer inline; do
	echo $mode > $TEST_DIR/mode
	seen=$(get seen)
	nowait=$(get nowait)
	check "C12: $mode: a NOWAIT bio completes" eq "$(io $PART read RWF_NOWAIT)" d
	check "C12: $mode: both filters see it" eq $(($(get seen) - seen)) 2
	check "C12: $mode: the lower one without the flag" eq $(($(get nowait) - nowait)) 1
done
ktap_finished
