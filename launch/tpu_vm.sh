#!/usr/bin/env bash
. "$(dirname "${BASH_SOURCE[0]}")/remote.sh"
. "$(dirname "${BASH_SOURCE[0]}")/tpu_types.sh"

usage() {
    cat <<'HELP'
Runs an adapt-jax command on a Cloud TPU VM, or on all workers of a pod slice.

usage: launch/tpu_vm.sh --name NAME --zone ZONE --type TYPE [options] -- COMMAND [ARGUMENTS]

  launch/tpu_vm.sh --name ladder --zone us-west4-a --type v5litepod-8 --delete \
      -- compare configs/ladder.yaml --output-dir runs/ladder
  launch/tpu_vm.sh --name pod --zone us-west4-a --type v5litepod-16 --queued --spot --delete \
      --bucket gs://my-bucket/pod -- compare configs/real/gsm8k_pod.yaml --output-dir runs/pod

It creates the TPU VM, copies the last commit of this repository to every worker, installs it
there with the tpu extra, and runs `adapt-jax COMMAND ARGUMENTS` on all of them. Paths are taken
from the repository's root. Results have to be below runs/. With --bucket the bucket is runs/ on
every worker, so results and checkpoints outlive the machine, and several hosts share the folder.
Without it runs/ of every worker is copied back at the end, also after a failure.

A worker that was asked to stop leaves with exit code 75: then all workers start again, together,
and continue. A spot machine that was taken away is created again, and the command continues from
the bucket. This script has to go on running: start it inside tmux on a machine that stays. After a
lost connection, the same command with --reuse takes the machine over.

  --name NAME        of the TPU VM
  --zone ZONE        for instance us-west4-a
  --type TYPE        accelerator type: v4-8, v5litepod-8, v5p-8, v6e-8, tpu7x-8, ...
  --version VERSION  runtime version (default: the one that fits the type)
  --project PROJECT  Google Cloud project (default: that of gcloud's configuration)
  --bucket BUCKET    gs://BUCKET/FOLDER, where results and checkpoints are kept
  --queued           wait in the queue for the machine (a queued resource)
  --spot             a cheaper machine that may be taken away; needs --bucket
  --max-restarts N   after exit code 75 or a machine that was taken away (default: 100)
  --reuse            the TPU VM is there already: do not create it
  --delete           delete the TPU VM once the results are safe, after a failure too; else it
                     continues to cost
  --dry-run          print what would be done, every command, and what continues to cost
  --help             this text

Several workers are reached at once with an ssh agent: ssh-add ~/.ssh/google_compute_engine
HELP
}

name='' zone='' type='' version='' project='' bucket='' max_restarts=100
queued='' spot='' reuse='' delete=''
parse_options "name zone type version project bucket max-restarts" "queued spot reuse delete" "$@"
set -- ${rest[@]+"${rest[@]}"}
require_name
require zone type
require_number max-restarts
require_command "$@"
bucket_name='' bucket_path=''
if [ -n "$bucket" ]; then require_bucket gs; fi
[ -z "$spot" ] || [ -n "$bucket" ] ||
    fail "--spot needs --bucket: a machine that is taken away takes its disk with it"
chips='' hosts='' runtime='' hourly='' # set by read_tpu_type
read_tpu_type "$type"
version=${version:-$runtime}

gcloud_tpus() { # GROUP VERB ARGUMENTS...
    run gcloud compute tpus "$@" --zone="$zone" ${project:+"--project=$project"}
}
tpu() { gcloud_tpus tpu-vm "$@"; }
on_all_workers() { tpu ssh "$name" --worker=all --command="$1"; }

# The machine

create() {
    local scopes=--scopes=https://www.googleapis.com/auth/cloud-platform state=''
    if [ -z "$queued" ]; then
        tpu create "$name" --accelerator-type="$type" --version="$version" "$scopes" ${spot:+--spot}
        return
    fi
    gcloud_tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
        --runtime-version="$version" "$scopes" ${spot:+--spot}
    ours=1 # the request is there, and may become a machine at any time
    until [ "$state" = ACTIVE ]; do
        state=$(machine_state)
        if [ -n "$dry_run" ]; then echo "$state" && return; fi
        case $state in
            FAILED | SUSPENDED) echo "error: the queued resource $name is $state" >&2 && return 1 ;;
            ACTIVE) ;;
            *) sleep "${POLL_SECONDS:-30}" ;;
        esac
    done
}

machine_state() { # READY or ACTIVE while it is there; PREEMPTED or SUSPENDED once it was taken away
    if [ -n "$queued" ]; then
        gcloud_tpus queued-resources describe "$name" --format='value(state.state)'
    else
        tpu describe "$name" --format='value(state)'
    fi
}

delete_machine() {
    if [ -n "$queued" ]; then
        gcloud_tpus queued-resources delete "$name" --force --quiet
    else
        tpu delete "$name" --quiet
    fi
}

# What the workers do

# gcsfuse comes from Google's package repository; nothing is cached, so that all hosts see the same
mount_bucket="if ! mountpoint -q runs; then
  if ! command -v gcsfuse >/dev/null; then
    curl -LsSf https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
    echo \"deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -qq update
    sudo apt-get -qq install -y gcsfuse
  fi
  gcsfuse --implicit-dirs --rename-dir-limit=100000 --metadata-cache-ttl-secs=0 ${bucket_path:+--only-dir=$(quoted "$bucket_path") }$bucket_name runs
fi"
install="set -e
mkdir -p adapt_jax/runs
tar xzf adapt_jax.tar.gz -C adapt_jax
cd adapt_jax
${bucket:+$mount_bucket
}$(install_elsewhere tpu)"
# an earlier command that still runs saves and leaves; it has two minutes for that
stop="if pid=\$(cat adapt_jax.pid 2>/dev/null) && kill \$pid 2>/dev/null; then
for _ in \$(seq 120); do kill -0 \$pid 2>/dev/null || break; sleep 1; done; fi
rm -f adapt_jax.pid adapt_jax.code"
start="$stop
cd adapt_jax
$(quoted .venv/bin/python -m adapt_jax "$@") &
echo \$! >../adapt_jax.pid
code=0
wait \$! || code=\$?
echo \$code >../adapt_jax.code
exit \$code"

prepare() { # copies the project to every worker and installs it there
    tpu scp "$archive" "$name:adapt_jax.tar.gz" --worker=all
    on_all_workers "$install"
}

was_asked_to_stop() { # did a worker leave with exit code 75?
    local codes
    codes=$(on_all_workers "cat adapt_jax.code") || return 1
    grep -qx 75 <<<"$codes"
}

was_taken_away() {
    local state
    [ -n "$spot" ] || return 1
    state=$(machine_state) || return 1
    case $state in PREEMPTED | TERMINATED | SUSPENDING | SUSPENDED | FAILED) ;; *) return 1 ;; esac
}

run_to_the_end() { # starts all workers together, as often as they were stopped
    local restarts=0 code
    while :; do
        started=1
        code=0
        on_all_workers "$start" || code=$?
        if [ "$code" = 0 ]; then return; fi
        if [ "$restarts" = "$max_restarts" ]; then
            echo "error: stopped after $restarts restarts" >&2
            return "$code"
        fi
        restarts=$((restarts + 1))
        if was_taken_away; then
            echo "the machine was taken away: creating it again" >&2
            delete_machine
            started='' ours=''
            create
            ours=1
            prepare
        elif was_asked_to_stop; then
            echo "a worker was asked to stop: starting all again" >&2
        else
            return "$code"
        fi
    done
}

save_results() { # brings what the workers wrote to a place that stays; fails if a part is missing
    local worker
    if [ -n "$bucket" ]; then # what is written last reaches the bucket when it is unmounted
        on_all_workers "$stop
if mountpoint -q adapt_jax/runs; then fusermount -u adapt_jax/runs; fi" || return 1
        return 0 # a return without a number would be the status from before the trap
    fi
    on_all_workers "$stop" || return 1
    tpu scp --recurse "$name:adapt_jax/runs" . --worker=0 || return 1
    for ((worker = 1; worker < hosts; worker++)); do
        run mkdir -p "runs/workers/$worker" || return 1
        tpu scp --recurse "$name:adapt_jax/runs" "runs/workers/$worker" --worker="$worker" || return 1
    done
}

# The plan

left_running="the TPU VM $name, about \$$hourly an hour"
if [ -n "$spot" ]; then left_running="$left_running on demand (spot costs less)"; fi
delete_by_hand="gcloud compute tpus tpu-vm delete $name --zone=$zone${project:+ --project=$project}"
if [ -n "$queued" ]; then
    delete_by_hand="gcloud compute tpus queued-resources delete $name --force --zone=$zone${project:+ --project=$project}"
fi
plan "$type: $chips chips on $hosts host(s), runtime $version, in $zone${spot:+, spot}${queued:+, queued}"
plan "costs about \$$hourly an hour while it is there ($chips chips at \$$price, list price of 2025 in the US)"
case $type in
    tpu7x-*) plan "tpu7x is offered through GKE (launch/gke.sh); the Cloud TPU API has it for some projects only" ;;
esac
if [ -n "$bucket" ]; then
    plan "results and checkpoints: $bucket (on the workers: runs/)"
else
    plan "results: copied from runs/ of every worker into runs/ here, at the end"
    if [ "$hosts" -gt 1 ]; then
        plan "$hosts hosts write into folders of their own: what they have to share needs --bucket"
    fi
fi
if [ -n "$delete" ]; then
    plan "left running: nothing, if the results could be saved; else $left_running"
else
    plan "left running: $left_running, until $delete_by_hand"
fi

# The run

cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=/tmp
require_tool gcloud
if [ -z "$dry_run" ]; then
    git rev-parse --verify --quiet HEAD >/dev/null || fail "$PWD is no git repository with a commit"
    folder=$(mktemp -d)
fi
archive=$folder/adapt_jax.tar.gz

ours=''    # a TPU VM that another run made under this name is not deleted
started='' # there is something to save
finish() {
    local status=$?
    trap - EXIT
    if [ -z "$dry_run" ]; then rm -rf "$folder"; fi
    if [ -n "$started" ] && ! save_results; then
        echo "error: the results could not be saved, so nothing is deleted: $left_running" >&2
        echo "once they are safe: $delete_by_hand" >&2
        exit $((status ? status : 1))
    fi
    if [ -n "$delete" ] && [ -n "$ours" ]; then
        delete_machine || { echo "error: not deleted: $left_running" >&2 && status=1; }
    elif [ -n "$ours" ] && [ -z "$dry_run" ]; then
        echo "left running: $left_running, until $delete_by_hand" >&2
    fi
    exit "$status"
}
trap finish EXIT

run git archive --format=tar.gz --output="$archive" HEAD
if [ -n "$bucket" ]; then # before anything costs: the folder is there, and may be written
    run gcloud storage cp README.md "$bucket/.adapt_jax/README.md"
fi
if [ -z "$reuse" ]; then create; fi
ours=1
if [ -n "$reuse" ]; then started=1; fi
prepare
run_to_the_end
