#!/usr/bin/env bash
# Run tests/devices in a QEMU guest whose kernel offers /dev/uhid and /dev/uinput; exit with pytest's code.
# Usage: guest.sh PYTHON [PYTEST_ARGUMENT...]
# The guest has no disk: it sees this machine's files through 9p, read-only. Its kernel and busybox are Debian's,
# unpacked under build/devices and not installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=$1
shift
build=build/devices

fail() {
    echo "test-devices: $*" >&2
    exit 2
}

# Newer releases keep under /usr what this one keeps under /.
unpack() {
    dpkg-deb --fsys-tarfile "$build/$1"_*.deb |
        tar -x -C "$build" --transform 's|^\./usr/|./|' --wildcards --no-anchored "${@:2}"
}

download() {
    local kernel
    rm -rf "$build"
    mkdir -p "$build"
    kernel=$(apt-cache depends linux-image-amd64 | awk '$2 ~ /^linux-image-[0-9]/ {print $2; exit}') || true
    (cd "$build" && apt-get download "$kernel" busybox-static) >"$build/apt.log" 2>&1 ||
        fail "cannot download linux-image-amd64, busybox-static (Debian; sudo apt-get update?): $(tail -n 1 "$build/apt.log")"
    unpack busybox-static bin/busybox
    # The modules that init loads, and the folders of those that they need.
    unpack "$kernel" 'vmlinuz-*' 'drivers/virtio/*' 'net/9p/*' 'fs/9p/*' 'fs/netfs/*' 'fs/*cache*' \
        'drivers/hid/*hid*' 'drivers/input/evdev*' 'drivers/input/misc/uinput*'
    "$build/bin/busybox" depmod -b "$build" "$(basename "$build"/lib/modules/*)"
    rm "$build"/*.deb
}

missing=()
command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
[ -x /usr/lib/systemd/systemd-udevd ] || missing+=(udev)
"$python" -c 'from ctypes.util import find_library as find; raise SystemExit(find("hidapi-hidraw") is None)' ||
    missing+=(libhidapi-hidraw0)
[ ${#missing[@]} = 0 ] || fail "sudo apt-get install --no-install-recommends ${missing[*]}"
compgen -G "$build/lib/modules/*/modules.dep" >/dev/null || download

# What the guest runs, as it stands in a shell.
[ -t 1 ] && color=yes || color=no
{
    printf 'cd %q\n' "$PWD"
    printf '%q ' "$python" -m pytest -m devices -p no:cacheprovider --color "$color" tests/devices "$@"
} >"$build/command"
install -m 755 tests/devices/init.sh "$build/init"
mkdir -p "$build/host"
(cd "$build" && find init command host bin lib | bin/busybox cpio -o -H newc 2>/dev/null) >"$build/initrd"

rm -f "$build/code"
timeout 900 qemu-system-x86_64 -machine q35,accel=tcg -cpu max -m 1024 -nodefaults -display none -no-reboot \
    -serial stdio -serial "file:$build/code" \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    -kernel "$build"/boot/vmlinuz-* -initrd "$build/initrd" -append "console=ttyS0 quiet panic=-1" </dev/null || true
[ -s "$build/code" ] || fail "the guest ended without a verdict; what it said stands above."
exit "$(cat "$build/code")"
