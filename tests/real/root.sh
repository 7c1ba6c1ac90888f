#!/usr/bin/env bash
# Makes the small Debian that the booted tests start: systemd, a user bus, a keyring and the lingering user carol.
# usage: SUITE=bookworm root.sh OUT.tar
set -euo pipefail
out=$1

# Package sources come from this machine: the files of apt's configuration that offer exactly this suite.
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    [ -f "$file" ] || continue
    if grep -qE "^(deb |Suites:)(.*[[:space:]])?$SUITE(-updates|-security)?([[:space:]]|$)" "$file"; then sources+=("$file"); fi
done
[ ${#sources[@]} -gt 0 ] || { echo "no package source of this machine offers $SUITE"; exit 1; }

packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,gnome-keyring,libsecret-tools,ca-certificates,curl,login,passwd,procps

# Documentation and translations are a third of the files, and nobody reads them here.
exec mmdebstrap --mode=root --variant=apt --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash carol' \
    --customize-hook='mkdir -p "$1/var/lib/systemd/linger" "$1/var/log/journal"; touch "$1/var/lib/systemd/linger/carol"' \
    "$SUITE" "$out" "${sources[@]}"
