#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The guest's process 1. The host wrote it, and the command to run, into the
# control directory, which the image's stub mounted on /mnt/ctl.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=${TERM:-linux}
ctl=/mnt/ctl

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug
[ -d /sys/kernel/tracing ] && mount -t tracefs tracefs /sys/kernel/tracing
[ -d /sys/kernel/config ] && mount -t configfs configfs /sys/kernel/config
[ -d /sys/fs/cgroup ] && mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd
ln -sf fd/0 /dev/stdin
ln -sf fd/1 /dev/stdout
ln -sf fd/2 /dev/stderr
hostname blkfilter

share() {	# tag directory options
	mkdir -p "$2"
	mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,"$3" "$1" "$2" ||
		echo "blkfilter: cannot mount $2" > /dev/kmsg
}
share modules /lib/modules ro,cache=loose
[ -e $ctl/share ] && share share /mnt/share ro,cache=loose && share out /mnt/share/out rw

if [ -x /lib/systemd/systemd-udevd ]; then
	/lib/systemd/systemd-udevd --daemon
	udevadm trigger --type=devices --subsystem-match=block --action=add
	udevadm settle
fi

# What a program prints comes out as it is, unless a person sits there.
[ -e $ctl/interactive ] || stty raw -echo < /dev/hvc0
cd /root || cd /
echo "blkfilter: user space is up" > /dev/kmsg
setsid -c -w /bin/bash $ctl/cmd < /dev/hvc0 > /dev/hvc0 2>&1
status=$?

# A leak is reported by the second scan that sees it, and only when it is 5 s old.
if [ -e $ctl/kmemleak ] && [ -e /sys/kernel/debug/kmemleak ]; then
	echo scan > /sys/kernel/debug/kmemleak
	sleep 6
	echo scan > /sys/kernel/debug/kmemleak
	head -n 200 /sys/kernel/debug/kmemleak | while IFS= read -r line; do
		echo "$line" > /dev/kmsg
	done
fi
sync
umount -a -t ext4,xfs 2> /dev/null
echo $status > $ctl/status
sync
# QEMU ends instead of booting again.
echo b > /proc/sysrq-trigger
sleep 60
