#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'HELP'
Runs a command as N processes on this machine, which work together as N hosts do.

usage: launch/local_processes.sh [--dry-run] N COMMAND [ARGUMENTS]

  launch/local_processes.sh 2 .venv/bin/adapt-jax tune configs/tune/lora.yaml --mesh '{data: 2}'

Each process finds the others through JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
When one ends with an error the others have LEAVE_SECONDS (5) to find out and say so; then they are
asked to stop, and killed after GRACE_SECONDS (60). Ctrl-C and SIGTERM ask all to stop: a training then
saves. The exit code is 75 if a process says that the
command can be started again, else that of the first one that failed.
HELP
}

fail() {
    echo "error: $1 (launch/local_processes.sh --help)" >&2
    exit 2
}

dry_run=''
case ${1:-} in
    --help | -h) usage && exit ;;
    --dry-run) dry_run=1 && shift ;;
esac
[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || fail "expected the number of processes, found '${1:-}'"
number=$1
shift
[ $# -gt 0 ] || fail "no command after the number of processes"

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
port=$((20000 + RANDOM % 20000))
while port_is_taken "$port"; do port=$((20000 + RANDOM % 20000)); done
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$number

if [ -n "$dry_run" ]; then
    echo "# $number processes on this machine; nothing is left running"
    for ((id = 0; id < number; id++)); do
        echo "JAX_COORDINATOR_ADDRESS=$JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$number JAX_PROCESS_ID=$id $*"
    done
    exit
fi

running=() # process ids
all=()     # also of those that have ended, by their JAX_PROCESS_ID
deadline=''
leave_until=''
failed='' # how the first one ended
stop_all() {
    local pid
    deadline=$((SECONDS + ${GRACE_SECONDS:-60}))
    for pid in ${running[@]+"${running[@]}"}; do kill -TERM "$pid" 2>/dev/null || true; done
}
trap stop_all INT TERM HUP

for ((id = 0; id < number; id++)); do
    JAX_PROCESS_ID=$id "$@" &
    running+=($!)
done
all=("${running[@]}")

name_process() { # PID
    local id
    for ((id = 0; id < number; id++)); do
        if [ "${all[id]}" = "$1" ]; then echo "process $id"; fi
    done
}

status=0
while [ ${#running[@]} -gt 0 ]; do
    sleep 0.2 || true # ends early at a signal
    left=()
    for pid in "${running[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then
            left+=("$pid")
            continue
        fi
        code=0
        wait "$pid" || code=$?
        if [ "$code" != 0 ] && [ -z "$failed" ]; then failed="$(name_process "$pid") of $number ended with $code"; fi
        if [ "$code" != 0 ] && { [ "$status" = 0 ] || [ "$code" = 75 ]; }; then status=$code; fi
    done
    running=(${left[@]+"${left[@]}"})
    if [ -n "$failed" ] && [ -z "$leave_until$deadline" ] && [ ${#running[@]} -gt 0 ]; then
        echo "$failed: the others end, or are stopped" >&2
        leave_until=$((SECONDS + ${LEAVE_SECONDS:-5}))
    fi
    if [ -n "$leave_until" ] && [ "$SECONDS" -ge "$leave_until" ] && [ -z "$deadline" ]; then
        stop_all
    fi
    if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then
        for pid in ${running[@]+"${running[@]}"}; do kill -KILL "$pid" 2>/dev/null || true; done
    fi
done
exit "$status"
