# shellcheck shell=sh
# Runs on a host, read by `sh -s` from standard input: $1 is what to do, $2 the node's home, the rest are values.
# The last line of standard output, or of standard error if it fails, goes into the operator's table.
set -eu
umask 077
action=$1
home=$2
shift 2
venv="$home.venv"

say_error() {
    printf '%s\n' "$1" >&2
    exit 1
}

# fl-node, by its module: the script that pip writes has the home's path in it
node() {
    "$venv/bin/python" -P -m node "$@"
}

need_node() {
    [ -x "$venv/bin/fl-node" ] || say_error "fl-node is not installed in $venv: run scripts/deploy.sh"
}

# whether the wheel with hash $1 is installed: prints "installed" or "wanted"
installed() {
    if [ -x "$venv/bin/fl-node" ] && [ "$(cat "$venv/.installed" 2>/dev/null)" = "$1" ]; then
        echo installed
    else
        mkdir -p "$venv/wheels"
        echo wanted
    fi
}

# installs the wheel $2 with hash $1 from $venv/wheels; $3: from a wheelhouse alone; $4: with the system's packages
install() {
    command -v python3 >/dev/null || say_error "there is no python3 here: install Python 3.11 or newer"
    rm -f "$venv/.installed"
    if [ "$4" = system ]; then
        python3 -m venv --system-site-packages "$venv" >&2
    else
        python3 -m venv "$venv" >&2
    fi
    set -- "$1" "$venv/wheels/$2" "$3"
    if [ "$3" = wheelhouse ]; then
        "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-index --find-links "$venv/wheels" "$2" >&2
    elif [ -f "$venv/wheels/constraints.txt" ]; then
        "$venv/bin/python" -m pip --disable-pip-version-check install --quiet -c "$venv/wheels/constraints.txt" "$2" >&2
    else
        "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$2" >&2
    fi
    # the same version again is no reason for pip to replace it
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-index --no-deps --force-reinstall "$2" >&2
    node --version >&2
    printf '%s' "$1" >"$venv/.installed"
}

# makes the node's home if there is none; the last line names its account
initialise() {
    need_node
    if [ ! -f "$home/identity.key" ]; then
        node init --home "$home" </dev/null >"$venv/init.log" 2>&1 ||
            say_error "$(tail -n 1 "$venv/init.log")"
    fi
    "$venv/bin/python" - "$home/keystore.json" <<'PYTHON'
import json, sys
address = json.load(open(sys.argv[1])).get("address", "")
print("account 0x" + address.removeprefix("0x"))
PYTHON
}

is_running() {
    "$venv/bin/python" - "$home/node.lock" <<'PYTHON'
import fcntl, sys
try:
    with open(sys.argv[1]) as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
except FileNotFoundError:
    sys.exit(1)
except BlockingIOError:
    sys.exit(0)
sys.exit(1)
PYTHON
}

# starts the node: $1 session (path, URL, CID), $2 seconds until it must listen, the rest options of `fl-node start`
start() {
    need_node
    session=$1
    patience=$2
    shift 2
    if is_running; then
        echo "was running already"
        exit 0
    fi
    touch "$venv/.started"
    setsid "$venv/bin/python" -P -m node -v start --json --session "$session" --home "$home" "$@" \
        </dev/null >"$home/answer.json" 2>>"$home/node.log" &
    child=$!
    while [ "$patience" -gt 0 ]; do
        if [ -n "$(find "$home/status.json" -newer "$venv/.started" 2>/dev/null)" ] && is_running; then
            echo "started, process $child"
            exit 0
        fi
        if ! kill -0 "$child" 2>/dev/null; then
            wait "$child" && echo "started and ended already" && exit 0
            say_error "the node ended: $(reason)"
        fi
        sleep 1
        patience=$((patience - 1))
    done
    say_error "the node (process $child) does not listen yet: see $home/node.log"
}

# why the node ended: its answer, else the end of its log
reason() {
    if [ -s "$home/answer.json" ]; then tail -n 1 "$home/answer.json"; else tail -n 1 "$home/node.log"; fi
}

# one line about the node
status() {
    need_node
    node status --json --home "$home" >"$venv/status.out" 2>&1 ||
        say_error "$(tail -n 1 "$venv/status.out")"
    "$venv/bin/python" - "$venv/status.out" <<'PYTHON'
import json, sys
status = json.loads(open(sys.argv[1]).read().strip().splitlines()[-1])
rounds, records = status.get("finished_rounds", []), status.get("records", {})
metrics = rounds[-1]["metrics"] if rounds else {}
shown = next((f", {n.replace('_', ' ')} {metrics[n]:.4f}" for n in ("test_accuracy", "test_loss") if n in metrics), "")
print(
    f"{'running' if status['running'] else 'not running'}: {status.get('state', '')}, "
    f"round {rounds[-1]['round'] if rounds else 0} of {status.get('rounds', '?')}{shown}, "
    f"{sum(bool(peer.get('connected')) for peer in status.get('peers', []))} peers, "
    f"{records.get('confirmed', 0)} records, {records.get('pending', 0)} pending"
)
PYTHON
}

stop() {
    need_node
    [ -f "$home/identity.key" ] || say_error "$home is not the home of a node"
    node stop --home "$home" --timeout "$1" >"$venv/stop.log" 2>&1 || say_error "$(tail -n 1 "$venv/stop.log")"
    tail -n 1 "$venv/stop.log"
}

# a tar of what tells how the run went; never a key
reports() {
    cd "$home" 2>/dev/null || say_error "there is no $home"
    set --
    for name in status.json answer.json node.log session.json session.toml evidence; do
        [ ! -e "$name" ] || set -- "$@" "$name"
    done
    [ $# -gt 0 ] || say_error "there is nothing to collect in $home"
    # a node that runs writes while tar reads: its status 1 says just that
    tar -cf - "$@" 2>/dev/null || [ $? = 1 ]
}

# the log, $1 lines of it, then what comes
follow() {
    [ -f "$home/node.log" ] || say_error "there is no log in $home"
    exec tail -n "$1" -F "$home/node.log" 2>/dev/null
}

case $action in
installed | install | initialise | start | status | stop | reports | follow) "$action" "$@" ;;
*) say_error "on_host.sh does not know $action" ;;
esac
