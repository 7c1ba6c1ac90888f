#!/bin/sh
# Installs bearerd from the folder of this script, repairs or upgrades what it installed before, or removes it.
#
# usage: ./install.sh [--prefix DIR] [--destdir DIR] [--remove]
#   --prefix   where it goes: /usr/local for root, else ~/.local
#   --destdir  a folder that stands for / while a package is made; no service is touched then
set -eu

@MANAGERS@

prefix= destdir= remove=
while [ $# -gt 0 ]; do
    case $1 in
    --prefix | --destdir)
        [ $# -gt 1 ] || { echo "$0: $1 needs a folder" >&2; exit 2; }
        if [ "$1" = --prefix ]; then prefix=$2; else destdir=$2; fi
        shift
        ;;
    --remove) remove=yes ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    esac
    shift
done
if [ -z "$prefix" ]; then
    if [ "$(id -u)" -eq 0 ]; then prefix=/usr/local; else prefix=$HOME/.local; fi
fi
case $prefix in /*) ;; *) echo "$0: --prefix must start with /" >&2; exit 2 ;; esac
cd "$(dirname "$0")/tree"

# There systemd and the bus look for themselves; of any other place `bearerctl setup` tells them.
case $prefix in
/usr | /usr/local) looked_at=yes ;;
*) looked_at= ;;
esac
files() {
    if [ -n "$looked_at" ]; then find . ! -type d; else
        find . ! -type d ! -path './lib/systemd/*' ! -path './share/dbus-1/services/*'
    fi
}
into=$destdir$prefix

if [ -n "$remove" ]; then
    if [ -z "$destdir$looked_at" ]; then "$into/bin/bearerctl" setup --remove || true; fi
    if [ -z "$destdir" ] && [ -n "$looked_at" ]; then systemctl --quiet --global disable bearerd.service || true; fi
    files | while read -r file; do
        rm -f "$into/$file"
        # Folders that were made for it; those that hold anything else stay.
        (cd "$into" 2>/dev/null && rmdir -p "$(dirname "$file")" 2>/dev/null) || true
    done
    if [ -z "$destdir" ] && [ -n "$looked_at" ]; then
        journalctl --update-catalog || true
        in_each_manager stop bearerd.service
        in_each_manager daemon-reload
    fi
    echo "removed from $prefix; sessions stay in the keyring, and at the provider until they expire" >&2
    exit
fi

files | while read -r file; do
    if [ -L "$file" ]; then
        mkdir -p "$into/$(dirname "$file")"
        ln -sf "$(readlink "$file")" "$into/$file"
        continue
    fi
    mode=644
    if [ -x "$file" ]; then mode=755; fi
    install -D -p -m "$mode" "$file" "$into/$file"
done
if [ -n "$looked_at" ]; then
    for file in lib/systemd/user/bearerd.service share/dbus-1/services/org.bearerd.Broker1.service; do
        sed "s,/usr/bin/,$prefix/bin/,g" "$file" >"$into/$file"
        touch -r "$file" "$into/$file"
    done
fi
[ -z "$destdir" ] || exit 0

if [ -z "$looked_at" ]; then
    "$into/bin/bearerctl" setup
else
    journalctl --update-catalog || true
    in_each_manager daemon-reload
    in_each_manager --no-block try-restart bearerd.service
    echo "installed in $prefix; each user: systemctl --user enable --now bearerd" >&2
fi
