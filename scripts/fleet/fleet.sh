# shellcheck shell=bash
# What deploy.sh, start.sh, status.sh and shutdown.sh share: the inventory, one ssh per host at the same time with a
# bounded time each, and the table at the end. docs/machines.md says how it is used.
#
# Nothing from the inventory is ever read as shell: fields are checked against patterns, and what goes to a host's shell
# goes there in single quotes (`quoted`).

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
names=() hosts=() ports=() users=() homes=() roles=() extras=() # one entry a line of the inventory
ssh_options=(-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3)
seconds=60   # per host
at_once=16   # hosts
only=""      # one host's name
inventory="" # the file
collect=""   # a folder for reports
most=1M      # bytes that a host may say on each of its outputs; what is beyond is read and forgotten

die() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 2
}

# The value in single quotes, so that a POSIX shell reads exactly this value.
quoted() {
    printf "'%s' " "${1//\'/\'\\\'\'}"
}

# Takes the options that all four commands have; what is left over is in `rest`.
take_options() {
    rest=()
    while [ $# -gt 0 ]; do
        case $1 in
        -h | --help) usage && exit 0 ;;
        --timeout | --parallel | --host | --ssh-config)
            [ $# -ge 2 ] || die "$1 needs a value"
            take_option "$1" "$2"
            shift
            ;;
        *) rest+=("$1") ;;
        esac
        shift
    done
}

# Takes `--collect DIR` out of what is left over.
take_collect() {
    rest=()
    while [ $# -gt 0 ]; do
        if [ "$1" = --collect ]; then
            [ $# -ge 2 ] || die "$1 needs a folder"
            mkdir -p -- "$2" || die "$2 cannot be made a folder"
            collect=$(cd -- "$2" && pwd)
            shift
        else
            rest+=("$1")
        fi
        shift
    done
}

take_inventory() {
    [ -z "$inventory" ] || die "one inventory, not $inventory and $1"
    inventory=$1
}

take_option() {
    case $1 in
    --timeout) whole_number "$1" "$2" && seconds=$2 ;;
    --parallel) whole_number "$1" "$2" && at_once=$2 ;;
    --host) only=$2 ;;
    --ssh-config)
        [ -r "$2" ] || die "the ssh configuration $2 cannot be read"
        ssh_options=(-F "$2" "${ssh_options[@]}")
        ;;
    esac
}

whole_number() {
    [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || die "$1 must be a number from 1 to 999999, not '$2'"
}

# Reads the inventory: name, host, port, user, home, role, and arguments for `fl-node start`.
read_inventory() {
    inventory=$1
    [ -r "$inventory" ] || die "there is no inventory at $inventory: see scripts/inventory.example"
    local line number=0 fields
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        line=${line%$'\r'}
        read -ra fields <<<"$line"
        [ ${#fields[@]} -gt 0 ] && [[ ${fields[0]} != \#* ]] || continue
        [ ${#fields[@]} -ge 6 ] || die "$inventory, line $number: needs name, host, port, user, home and role"
        check_line "$number" "${fields[@]}"
        [ -z "$only" ] || [ "$only" = "${fields[0]}" ] || continue
        names+=("${fields[0]}") hosts+=("${fields[1]}") ports+=("${fields[2]}") users+=("${fields[3]}")
        homes+=("${fields[4]}") roles+=("${fields[5]}")
        extras+=("$(for value in "${fields[@]:6}"; do quoted "$value"; done)")
    done <"$inventory"
    [ ${#names[@]} -gt 0 ] || die "$inventory names no host${only:+ called $only}"
}

check_line() {
    local at="$inventory, line $1" known
    check "$at: name" "$2" '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'
    check "$at: host" "$3" '^[A-Za-z0-9:][A-Za-z0-9.:_%-]{0,254}$'
    check "$at: port" "$4" '^[1-9][0-9]{0,4}$'
    [ "$4" -le 65535 ] || die "$at: port $4 is larger than 65535"
    check "$at: user" "$5" '^[A-Za-z_][A-Za-z0-9._-]{0,63}$'
    # pip and venv write scripts that hold this path, and not all of them quote it
    check "$at: home" "$6" '^/[A-Za-z0-9._@+,=~/-]{0,200}[A-Za-z0-9._@+,=~-]$'
    check "$at: role" "$7" '^(-|coordinator|worker)$'
    for known in "${names[@]}"; do
        [ "$known" != "$2" ] || die "$at: there is a host called $2 already"
    done
}

check() {
    [[ $2 =~ $3 ]] || die "$1 '$2' does not match $3"
}

# The command line of host number $1; what follows goes to its shell as it is, so quote it.
on_host() {
    local i=$1 left=$((deadline - SECONDS))
    shift
    [ "$left" -gt 0 ] || return 124
    timeout --kill-after=5 "$left" ssh "${ssh_options[@]}" -p "${ports[i]}" -- "${users[i]}@${hosts[i]}" "$@"
}

# Runs on_host.sh on host number $1: the action, the node's home, further values.
act() {
    local i=$1 action=$2 value words
    shift 2
    words="sh -s -- $(quoted "$action")$(quoted "${homes[i]}")"
    for value in "$@"; do words+=$(quoted "$value"); done
    on_host "$i" "$words${appended:-}" <"$here/on_host.sh"
}

# Runs a function for every host at the same time, at most `at_once`; then prints the table. 0 if all went well.
for_all() {
    local task=$1 i running=0
    scratch=$(mktemp -d)
    trap 'rm -rf -- "$scratch"' EXIT
    for i in "${!names[@]}"; do
        if [ "$running" -ge "$at_once" ]; then
            wait -n || true
            running=$((running - 1))
        fi
        one_host "$task" "$i" &
        running=$((running + 1))
    done
    wait
    summary
}

# One host: what it said goes to a file, its exit status and seconds to others.
one_host() {
    local started=$SECONDS deadline=$((SECONDS + seconds))
    { keep_status "$@" 2>&1 >&3 | keep_some "$scratch/$2.err"; } 3>&1 | keep_some "$scratch/$2.out"
    printf '%s' "$((SECONDS - started))" >"$scratch/$2.seconds"
}

keep_status() {
    local status=0
    "$1" "$2" </dev/null 3>&- || status=$?
    printf '%s' "$status" >"$scratch/$2.status"
}

# The first of what comes on standard input goes to a file: a host may say anything, for as long as its time lasts.
keep_some() {
    head -c "$most" >"$1"
    cat >/dev/null
}

# A line a host and the exit status: 0 if every host did what was asked, else 1.
summary() {
    local i status result failed=0
    printf '%-16s %-24s %-12s %5s  %s\n' name host result s "${heading:-}"
    for i in "${!names[@]}"; do
        status=$(cat "$scratch/$i.status")
        case $status in
        0) result=ok ;;
        124 | 137) result="timed out" ;;
        255) result=unreachable ;;
        *) result=failed ;;
        esac
        [ "$status" = 0 ] || failed=$((failed + 1))
        printf '%-16s %-24s %-12s %5s  %s\n' "${names[i]}" "${hosts[i]}" "$result" "$(cat "$scratch/$i.seconds")" \
            "$(last_words "$i" "$status")"
    done
    [ "$failed" = 0 ] || printf '%d of %d hosts did not do it\n' "$failed" "${#names[@]}"
    [ "$failed" = 0 ]
}

# The last line of what a host said (of its errors, if it failed), without control characters.
last_words() {
    local file=out
    [ "$2" = 0 ] || file=err
    tail -n 1 -- "$scratch/$1.$file" | tr -d '\000-\010\013-\037\177' | cut -c 1-300
}

# The reports of host number $1 into its folder. A host may send anything: unpack.py takes reports, and no more of them than fit.
fetch_reports() {
    local folder="$collect/${names[$1]}"
    mkdir -p -- "$folder" || return
    act "$1" reports | python3 "$here/unpack.py" "$folder" 2>"$scratch/$1.unpacked"
    local said=${PIPESTATUS[0]} unpacked=${PIPESTATUS[1]}
    # a tar that breaks off is the fault of what broke off, if that has one
    [ "$unpacked" != 3 ] || [ "$said" = 0 ] || return "$said"
    cat -- "$scratch/$1.unpacked" >&2
    return "$unpacked"
}

# The logs of all hosts, a name before each line, until Ctrl-C or until no host is left; $1: so many old lines of each.
follow_logs() {
    local i followers=()
    for i in "${!names[@]}"; do
        follow_log "$i" "$1" &
        followers+=($!)
    done
    trap 'kill "${followers[@]}" 2>/dev/null; exit 130' INT TERM
    wait "${followers[@]}"
}

# The log of host number $1, $2 old lines of it; says so when the host is lost.
follow_log() {
    local child
    ssh "${ssh_options[@]}" -p "${ports[$1]}" -- "${users[$1]}@${hosts[$1]}" \
        "sh -s -- follow $(quoted "${homes[$1]}")$(quoted "$2")" <"$here/on_host.sh" 2>/dev/null \
        > >(sed -u -e 's/[[:cntrl:]]/ /g' -e "s/^/${names[$1]}: /") &
    child=$!
    trap 'kill "$child" 2>/dev/null; exit' TERM
    wait "$child"
    printf '%s: not followed any more\n' "${names[$1]}"
}
