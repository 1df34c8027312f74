#!/usr/bin/env bash
# Says what the nodes of an inventory are doing. docs/machines.md.
set -uo pipefail
# shellcheck source=scripts/fleet/fleet.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/fleet/fleet.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/status.sh INVENTORY [OPTIONS]

A line a node: whether it runs, its state, round, accuracy, peers and records. The exit status is 0 if every host answered.

  --follow             then show the logs of all hosts until Ctrl-C
  --collect DIR        fetch status, log, answer, session file and evidence of each node into DIR/NAME
  --timeout SECONDS    for each host (default 30)
  --parallel N         hosts at the same time (default 16)
  --host NAME          only this one of the inventory
  --ssh-config FILE    as ssh -F
TEXT
}

follow=no seconds=30
take_options "$@"
set -- "${rest[@]}"
take_collect "$@"
set -- "${rest[@]}"
while [ $# -gt 0 ]; do
    case $1 in
    --follow) follow=yes ;;
    -*) die "there is no option $1: see --help" ;;
    *) take_inventory "$1" ;;
    esac
    shift
done
[ -n "$inventory" ] || die "which inventory? scripts/status.sh INVENTORY"
read_inventory "$inventory"

look() {
    act "$1" status || return
    [ -z "$collect" ] || fetch_reports "$1"
}

for_all look
status=$?
[ "$follow" = no ] || follow_logs 20
exit "$status"
