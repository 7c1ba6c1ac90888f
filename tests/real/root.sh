#!/usr/bin/env bash
# Makes the small Debian that the booted tests start: systemd, a user bus, a keyring that a
# password login unlocks, both message buses, the lingering user carol, and dave.
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

packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,gnome-keyring,libpam-gnome-keyring,libsecret-tools,dbus-broker,pamtester,ca-certificates,curl,login,passwd,procps

# Documentation and translations are a third of the files, and nobody reads them here.
# shellcheck disable=SC2016 # the hooks' "$1" is theirs
exec mmdebstrap --mode=root --variant=apt --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash carol' \
    --customize-hook='mkdir -p "$1/var/lib/systemd/linger" "$1/var/log/journal"; touch "$1/var/lib/systemd/linger/carol"' \
    --customize-hook='chroot "$1" useradd --create-home --uid 1001 --shell /bin/bash dave' \
    --customize-hook='printf "carol:pw-carol\ndave:pw-dave\n" | chroot "$1" chpasswd' \
    --customize-hook='chroot "$1" systemctl disable dbus-broker.service; chroot "$1" systemctl --global disable dbus-broker.service' \
    --customize-hook='sed -i -e "/^@include common-auth/a auth optional pam_gnome_keyring.so" -e "/^@include common-session/a session optional pam_gnome_keyring.so auto_start" "$1/etc/pam.d/login"' \
    "$SUITE" "$out" "${sources[@]}"
