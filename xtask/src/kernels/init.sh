#!/bin/bash
# PID 1 of the guest: mounts, runs what is on the disk, powers off. What tests print goes to the second
# serial line; the first is the kernel's.
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for folder in /dev/shm /run /tmp; do mount -t tmpfs tmpfs "$folder"; done
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
stty -F /dev/ttyS1 raw
exec < /dev/null > /dev/ttyS1 2>&1
echo "@@ up"
ip link set lo up
# Nothing asks the kernel for these by name; all else loads itself when it is used.
modprobe -a virtio_pci virtio_blk br_netfilter tun
for word in $(< /proc/cmdline); do
    case "$word" in workspace=*) workspace=${word#workspace=} ;; esac
done
mkdir -p "$workspace"
mount -t ext4 /dev/vda "$workspace"
cd "$workspace/tests" && . ../run.sh
echo "@@ done"
sync
echo o > /proc/sysrq-trigger
# The power goes in the background.
sleep 60
