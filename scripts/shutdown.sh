#!/usr/bin/env bash
# Stops the nodes of an inventory in an orderly way, and fetches what they leave behind. docs/machines.md.
set -uo pipefail
# shellcheck source=scripts/fleet/fleet.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/fleet/fleet.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/shutdown.sh INVENTORY [OPTIONS]

`fl-node stop` on every host: the round in flight ends, records are flushed. A node that does not run is no fault.

  --collect DIR        fetch status, log, answer, session file and evidence of each node into DIR/NAME
  --timeout SECONDS    for each host (default 180)
  --parallel N         hosts at the same time (default 16)
  --host NAME          only this one of the inventory
  --ssh-config FILE    as ssh -F
TEXT
}

seconds=180
take_options "$@"
set -- "${rest[@]}"
take_collect "$@"
set -- "${rest[@]}"
while [ $# -gt 0 ]; do
    case $1 in
    -*) die "there is no option $1: see --help" ;;
    *) take_inventory "$1" ;;
    esac
    shift
done
[ -n "$inventory" ] || die "which inventory? scripts/shutdown.sh INVENTORY"
read_inventory "$inventory"

halt() {
    act "$1" stop "$((deadline - SECONDS))" || return
    [ -z "$collect" ] || fetch_reports "$1"
}

for_all halt
