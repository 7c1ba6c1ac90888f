#!/usr/bin/env bash
# Installs and prepares every real part of this suite on a bare Debian machine: packages, Keycloak, a small
# Debian to boot, and a Python environment. What is prepared lives in the cache folder and is used again;
# everything there appears by a rename at its end, so an interrupted run leaves nothing half made.
#
# usage: setup.sh [packages]      with "packages" it stops after the packages
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${BEARERD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bearerd-ci}
keycloak_version=26.7.3

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # two runs at once would prepare the same things
rm -rf "$cache"/part.* # of a run that was killed

say() { printf 'setup: %s\n' "$*" >&2; }

# A thing's name in the cache carries a hash of its recipe: a changed recipe makes a new thing.
recipe() { sha256sum | cut -c1-12; }

# --- packages -----------------------------------------------------------------------------------------------
packages=(
    gcc libc6-dev # for the product itself
    ca-certificates curl dbus gnome-keyring libsecret-tools systemd util-linux unzip
    keepassxc libkf5wallet-bin libqca-qt5-2-plugins # the other keyrings; the plugins are KWallet's encryption
    mmdebstrap systemd-container
    chromium chromium-driver
    bubblewrap xdg-dbus-proxy # Flatpak's own sandbox
    flatpak xdg-desktop-portal # its tools and its permission store
    python3-dbus python3-gi jq libsystemd-dev libcurl4-openssl-dev pkg-config # for the examples of the documentation
    python3-dbusmock # for the template of our callers' tests
    git msmtp openssl # what gets its tokens from bearerctl
    xvfb xfce4-notifyd xfconf adwaita-icon-theme fonts-dejavu-core imagemagick xdotool # a desktop to look at
)
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
command -v kubectl >/dev/null || packages+=(kubernetes-client)
java_major() { java -version 2>&1 | sed -nE '1s/.*version "([0-9]+).*/\1/p'; }
if ! command -v java >/dev/null || [ "$(java_major)" -lt 17 ]; then packages+=(openjdk-17-jdk-headless); fi
command -v mvn >/dev/null || packages+=(maven)
command -v python3 >/dev/null || packages+=(python3)
python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        say "as root, please: apt-get install --no-install-recommends ${missing[*]}"
        exit 1
    fi
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >"$cache/apt.log" 2>&1 ||
        { tail -n 30 "$cache/apt.log" >&2; exit 1; }
fi

if [ "${1:-}" = packages ]; then exit 0; fi

# --- Python -------------------------------------------------------------------------------------------------
venv="$cache/venv-$(cat "$here/requirements.txt" <(python3 --version) | recipe)"
if [ ! -e "$venv/complete" ]; then
    say "making the Python environment"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" </dev/null
    touch "$venv/complete" # an environment can't be renamed: its scripts name their interpreter
fi

# --- Node ---------------------------------------------------------------------------------------------------
examples="$here/../../docs/examples"
node="$cache/node-$(cat "$examples/package-lock.json" <(node --version) | recipe)"
if [ ! -d "$node" ]; then
    say "fetching what the example in Node needs"
    work=$(mktemp -d "$cache/part.XXXXXX")
    cp "$examples/package.json" "$examples/package-lock.json" "$work"
    npm ci --prefix "$work" --omit=optional --ignore-scripts --no-audit --no-fund --silent </dev/null >&2
    mv "$work" "$node"
fi

# --- Keycloak -----------------------------------------------------------------------------------------------
# `start-dev` would build itself again in every fresh copy, half a minute each time; a built one starts in ten seconds.
build_options=(--db=dev-file --http-relative-path=/auth)
keycloak="$cache/keycloak-$keycloak_version-$(echo "${build_options[*]}" | recipe)"
if [ ! -d "$keycloak" ]; then
    say "fetching and building Keycloak $keycloak_version"
    work=$(mktemp -d "$cache/part.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mvn --quiet --batch-mode -Dstyle.color=never -Dmaven.repo.local="$work/m2" dependency:copy \
        -Dartifact="org.keycloak:keycloak-quarkus-dist:$keycloak_version:zip" -DoutputDirectory="$work/zip" </dev/null >&2
    unzip -q "$work/zip/keycloak-quarkus-dist-$keycloak_version.zip" -d "$work"
    "$work/keycloak-$keycloak_version/bin/kc.sh" build "${build_options[@]}" </dev/null >"$cache/keycloak-build.log" 2>&1 ||
        { tail -n 30 "$cache/keycloak-build.log" >&2; exit 1; }
    mv "$work/keycloak-$keycloak_version" "$keycloak"
    rm -rf "$work"
    trap - EXIT
fi

# --- oo7's keyring --------------------------------------------------------------------------------------------
# Debian has no package of it. Two minutes of both cores; fully optimised it would be more, and not optimised it
# would take seconds to open a keyring.
oo7_version=0.7.0-beta
oo7="$cache/oo7-$oo7_version"
if [ ! -d "$oo7" ]; then
    say "building oo7 $oo7_version"
    work=$(mktemp -d "$cache/part.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    CARGO_TARGET_DIR="$work/target" CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install --quiet --locked --root "$work/root" --bin oo7-daemon \
        --no-default-features --features native_crypto "oo7-daemon@$oo7_version" </dev/null >&2
    mv "$work/root" "$oo7"
    rm -rf "$work"
    trap - EXIT
fi

# --- a Debian to boot ---------------------------------------------------------------------------------------
# The machine's own release from the machine's own package sources, so that the binaries built here run there.
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
root_script="$here/root.sh"
root="$cache/root-$suite-$(recipe <"$root_script").tar"
if [ ! -e "$root" ]; then
    say "making a $suite root to boot"
    work=$(mktemp -d "$cache/part.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    SUITE=$suite bash "$root_script" "$work/root.tar" </dev/null >"$cache/root.log" 2>&1 ||
        { tail -n 30 "$cache/root.log" >&2; exit 1; }
    mv "$work/root.tar" "$root"
    rm -rf "$work"
    trap - EXIT
fi

# Where the tests find these things; data on stdout, everything else on stderr.
printf 'BEARERD_VENV=%q\nBEARERD_KEYCLOAK=%q\nBEARERD_ROOT_TAR=%q\nBEARERD_NODE_MODULES=%q\nBEARERD_OO7=%q\n' \
    "$venv" "$keycloak" "$root" "$node/node_modules" "$oo7/bin/oo7-daemon"
