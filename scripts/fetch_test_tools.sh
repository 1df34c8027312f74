#!/bin/sh
# Fetches from Debian's packages, without root and without installing them, what some tests want: an SSH server for the
# tests of scripts/deploy.sh, and libfaketime for the fault of a wrong clock. What is installed already is not fetched.
set -eu
target="${1:-$(dirname "$0")/../cache/tools}"
mkdir -p "$target"
target=$(cd "$target" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
packages=""
[ -x /usr/sbin/sshd ] || [ -x "$target/usr/sbin/sshd" ] || packages="openssh-server libwrap0 libnsl2"
found=$(find "$target" /usr/lib -name libfaketime.so.1 2>/dev/null | head -n 1)
[ -n "$found" ] || packages="$packages libfaketime"
[ -n "$packages" ] || exit 0
cd "$scratch"
for package in $packages; do
    apt-get -qq download "$package" || { apt-get -qq update && apt-get -qq download "$package"; }
    dpkg-deb -x "$package"_*.deb "$target"
done
echo "$packages: in $target"
