#!/bin/sh
# Fetches from Debian's packages, without root and without installing them, what some tests want: an SSH server for the
# tests of scripts/deploy.sh, and libfaketime for the fault of a wrong clock. What is installed already is not fetched.
# Exit status 0: all is there; 3: nothing can be fetched here (no apt-get, or no package server that answers), and it
# says which tests are left out; 1: the package servers answer, and it failed all the same, twice.
set -eu
target="${1:-$(dirname "$0")/../cache/tools}"
mkdir -p "$target"
target=$(cd "$target" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
packages="" left_out=""
if [ ! -x /usr/sbin/sshd ] && [ ! -x "$target/usr/sbin/sshd" ]; then
    packages="openssh-server libwrap0 libnsl2"
    left_out="no SSH server: tests/deploy leaves out the tests on hosts. "
fi
found=$(find "$target" /usr/lib -name libfaketime.so.1 2>/dev/null | head -n 1)
if [ -z "$found" ]; then
    packages="$packages libfaketime"
    left_out="${left_out}No libfaketime: make test-faults leaves out the wrong clock."
fi
[ -n "$packages" ] || exit 0

give_up() {
    printf '\n*** %s ***\n*** %s ***\n\n' "$2" "$left_out" >&2
    exit "$1"
}

fetch() {
    for package in $packages; do
        [ -n "$(find . -name "${package}_*.deb")" ] || apt-get -qq download "$package" || return
    done
}

cd "$scratch"
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    give_up 3 "test tools come from Debian's packages, and there is no apt-get here: install $packages"
fi
if ! fetch; then
    apt-get -qq update -o APT::Update::Error-Mode=any ||
        give_up 3 "test tools cannot be fetched: no package server answers, or its lists may not be written"
    fetch || give_up 1 "test tools could not be fetched, though the package servers answer"
fi
for package in *.deb; do
    dpkg-deb -x "$package" "$target"
done
echo "$packages: in $target"
