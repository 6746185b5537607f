#!/bin/busybox sh
# The guest's first process: mount the host's files, run `command`, write its exit code to the second serial port.
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run
export PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 NUMBA_DISABLE_JIT=1 # read-only, and slow

/bin/busybox mount -t devtmpfs dev /dev
for module in virtio_pci 9pnet_virtio 9p hid_generic uhid uinput evdev; do
    /bin/busybox modprobe $module
done
/bin/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=262144 host /host
/bin/busybox mount -t proc proc /host/proc
/bin/busybox mount -t sysfs sys /host/sys
/bin/busybox mount -t devtmpfs dev /host/dev
/bin/busybox mount -t tmpfs run /host/run

exec /bin/busybox switch_root /host /bin/bash -c "
    /usr/lib/systemd/systemd-udevd --daemon >/dev/null 2>&1
    $(/bin/busybox cat /command)
    echo -n \$? >/dev/ttyS1
    echo o >/proc/sysrq-trigger
    while :; do :; done"
