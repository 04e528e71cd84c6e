# SPDX-License-Identifier: GPL-2.0
cat <<'TEXT'

A scratch disk is /dev/vdb. To watch it through the sample filter:

  echo rust_blkfilter > /sys/block/vdb/filter
  mke2fs -q /dev/vdb
  cat /sys/kernel/debug/rust_blkfilter/vdb/stats
  echo none > /sys/block/vdb/filter

"exit" powers off.

TEXT
exec bash -i
