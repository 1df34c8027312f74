#!/usr/bin/env bash
# Installs fl-node on every host of an inventory, and makes each node's home. docs/machines.md.
set -uo pipefail
# shellcheck source=scripts/fleet/fleet.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/fleet/fleet.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/deploy.sh INVENTORY [OPTIONS]

Builds the wheel once, copies it to every host, installs it into HOME.venv, makes the node's HOME if there is none, and
prints each node's account. Hosts that have this wheel already are left as they are.

  --wheel FILE         this wheel instead of building one
  --wheelhouse DIR     install from the wheels in DIR alone, for hosts without a package registry
  --system-packages    let the virtual environment use what the host's Python has (torch, for one)
  --timeout SECONDS    for each host (default 900)
  --parallel N         hosts at the same time (default 16)
  --host NAME          only this one of the inventory
  --ssh-config FILE    as ssh -F
TEXT
}

wheel="" wheelhouse="" packages=own seconds=900
take_options "$@"
set -- "${rest[@]}"
while [ $# -gt 0 ]; do
    case $1 in
    --wheel | --wheelhouse)
        [ $# -ge 2 ] || die "$1 needs a value"
        [ "$1" = --wheel ] && wheel=$2 || wheelhouse=$2
        shift
        ;;
    --system-packages) packages=system ;;
    -*) die "there is no option $1: see --help" ;;
    *) take_inventory "$1" ;;
    esac
    shift
done
[ -n "$inventory" ] || die "which inventory? scripts/deploy.sh INVENTORY"
[ -z "$wheelhouse" ] || [ -d "$wheelhouse" ] || die "there is no folder $wheelhouse"
read_inventory "$inventory"

# The one wheel of this checkout, in build/fleet.
build_wheel() {
    local root="$here/../.." python
    python="$root/.venv/bin/python"
    [ -x "$python" ] || python=$(command -v python3) || die "python3 is not on PATH: install it, or pass --wheel FILE"
    rm -rf -- "$root/build/fleet"
    mkdir -p -- "$root/build/fleet"
    (cd -- "$root" && "$python" -m pip --disable-pip-version-check wheel --quiet --no-deps -w build/fleet . >&2) ||
        die "the wheel could not be built: see above, or pass --wheel FILE"
    printf '%s' "$root"/build/fleet/fl_node-*.whl
}

[ -n "$wheel" ] || wheel=$(build_wheel) || exit 2
[ -r "$wheel" ] || die "there is no wheel at $wheel"
[[ ${wheel##*/} =~ ^[A-Za-z0-9_.+-]+\.whl$ ]] || die "$wheel is not the name of a wheel"
hash=$(sha256sum -- "$wheel") || die "$wheel cannot be read"
hash="${hash%% *} ${wheelhouse:+wheelhouse }$packages"

# What a host needs, as a tar: the wheel, and the wheelhouse or the versions that are known to work together.
luggage() {
    local root="$here/../.."
    if [ -n "$wheelhouse" ]; then
        tar -cf - -C "$(dirname -- "$wheel")" "./${wheel##*/}" -C "$(cd -- "$wheelhouse" && pwd)" .
    else
        tar -cf - -C "$(dirname -- "$wheel")" "./${wheel##*/}" -C "$(cd -- "$root" && pwd)" constraints.txt
    fi
}

deploy() {
    local i=$1 state
    state=$(act "$i" installed "$hash" | head -c 100) || return
    if [ "$state" != installed ]; then
        luggage | on_host "$i" "tar -xof - -C $(quoted "${homes[i]}.venv/wheels")" || return
        act "$i" install "$hash" "${wheel##*/}" "${wheelhouse:+wheelhouse}" "$packages" || return
    fi
    act "$i" initialise
}

wheel="$(cd -- "$(dirname -- "$wheel")" && pwd)/${wheel##*/}"
heading="account, or what went wrong"
for_all deploy
