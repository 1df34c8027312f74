#!/usr/bin/env bash
# Starts the node on every host of an inventory. docs/machines.md.
set -uo pipefail
# shellcheck source=scripts/fleet/fleet.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/fleet/fleet.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/start.sh INVENTORY --session SESSION [OPTIONS]

Starts `fl-node start` on every host, with the role and the arguments that stand in the inventory, and waits until it
listens. A node that runs already is left alone.

  --session SESSION    a file here, which is copied to HOME/session.toml; a URL; or a CID
  --follow             then show the logs of all hosts until Ctrl-C (the nodes go on)
  --timeout SECONDS    for each host (default 120)
  --parallel N         hosts at the same time (default 16)
  --host NAME          only this one of the inventory
  --ssh-config FILE    as ssh -F
TEXT
}

session="" follow=no seconds=120
take_options "$@"
set -- "${rest[@]}"
while [ $# -gt 0 ]; do
    case $1 in
    --session)
        [ $# -ge 2 ] || die "$1 needs a value"
        session=$2
        shift
        ;;
    --follow) follow=yes ;;
    -*) die "there is no option $1: see --help" ;;
    *) take_inventory "$1" ;;
    esac
    shift
done
[ -n "$inventory" ] || die "which inventory? scripts/start.sh INVENTORY --session FILE"
[ -n "$session" ] || die "which session? scripts/start.sh $inventory --session FILE"
[[ $session != -* ]] || die "a session is a file, a URL or a CID, not $session"
if [[ $session == */* || $session == *.toml ]] && [[ $session != *://* ]]; then
    [ -r "$session" ] || die "there is no session file at $session"
fi
read_inventory "$inventory"

# The session file goes to the host as a whole or not at all.
copy_session() {
    local target="${homes[$1]}/session.toml"
    on_host "$1" "umask 077; cat > $(quoted "$target.new")&& mv -f -- $(quoted "$target.new") $(quoted "$target")" <"$session"
}

start() {
    local i=$1 there=$session appended=${extras[$1]} role=()
    [ "${roles[i]}" = - ] || role=(--role "${roles[i]}")
    if [ -r "$session" ]; then
        copy_session "$i" || return
        there="${homes[i]}/session.toml"
    fi
    act "$i" start "$there" "$((deadline - SECONDS))" "${role[@]}"
}

for_all start
status=$?
[ "$follow" = no ] || follow_logs 0
exit "$status"
