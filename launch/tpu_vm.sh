#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'HELP'
Runs an adapt-jax command on a Cloud TPU VM, or on all workers of a pod slice.

usage: launch/tpu_vm.sh --name NAME --zone ZONE --type TYPE [options] -- COMMAND [ARGUMENTS]

  launch/tpu_vm.sh --name ladder --zone us-west4-a --type v5litepod-8 --spot --delete \
      -- compare configs/ladder.yaml --output-dir runs/ladder

It creates the TPU VM, copies the last commit of this repository to every worker, installs it
there with the tpu extra, runs `adapt-jax COMMAND ARGUMENTS` on all of them, and copies runs/ of
the first worker back into this repository. Paths are taken from the repository's root. A training
that was asked to stop has saved and leaves with exit code 75: there it is started again.

  --name NAME        of the TPU VM
  --zone ZONE        for instance us-west4-a
  --type TYPE        accelerator type: v2-8, v4-32, v5litepod-8, v5p-8, v6e-8, ...
  --version VERSION  runtime version (default: the one that fits the type)
  --project PROJECT  Google Cloud project (default: that of gcloud's configuration)
  --spot             a cheaper machine that may be taken away
  --reuse            the TPU VM is there already: do not create it
  --delete           delete the TPU VM at the end, after a failure too; else it goes on costing
  --dry-run          print every command instead of running it
  --help             this text

Several workers are reached at once with an ssh agent: ssh-add ~/.ssh/google_compute_engine
HELP
}

fail() {
    echo "error: $1 (launch/tpu_vm.sh --help)" >&2
    exit 2
}

name='' zone='' type='' version='' project='' spot='' reuse='' delete='' dry_run=''
while [ $# -gt 0 ]; do
    case $1 in
        --name | --zone | --type | --version | --project)
            case ${2:-} in '' | -*) fail "$1 needs a value" ;; esac
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        --spot) spot=1 ;;
        --reuse) reuse=1 ;;
        --delete) delete=1 ;;
        --dry-run) dry_run=1 ;;
        --help | -h) usage && exit ;;
        --) shift && break ;;
        -*) fail "unknown option $1" ;;
        *) fail "expected -- before the command, found $1" ;;
    esac
    shift
done
for option in name zone type; do
    [ -n "${!option}" ] || fail "--$option is missing"
done
[ $# -gt 0 ] || fail "no adapt-jax command; it stands after --"

if [ -z "$version" ]; then
    case $type in
        v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
        v5litepod-*) version=v2-alpha-tpuv5-lite ;;
        v5p-*) version=v2-alpha-tpuv5 ;;
        v6e-*) version=v2-alpha-tpuv6e ;;
        *) fail "no runtime version is known for --type $type; name it with --version" ;;
    esac
fi

quoted() { # a command line which a shell reads as these words
    local word line=''
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'$(sed "s/'/'\\\\''/g" <<<"$word")'" ;;
        esac
        line="$line $word"
    done
    echo "${line# }"
}

run() {
    if [ -n "$dry_run" ]; then quoted "$@"; else "$@"; fi
}

tpu() { # VERB ARGUMENTS...
    run gcloud compute tpus tpu-vm "$@" --zone="$zone" ${project:+"--project=$project"}
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=/tmp
if [ -z "$dry_run" ]; then
    command -v gcloud >/dev/null || fail "gcloud is not installed"
    git rev-parse --verify --quiet HEAD >/dev/null || fail "$PWD is no git repository with a commit"
    folder=$(mktemp -d)
fi
archive=$folder/adapt_jax.tar.gz

ours='' # a TPU VM that another run made under this name is not deleted
finish() {
    local status=$?
    if [ -z "$dry_run" ]; then rm -rf "$folder"; fi
    if [ -n "$delete" ] && [ -n "$ours" ]; then tpu delete "$name" --quiet || status=1; fi
    exit "$status"
}
trap finish EXIT

run git archive --format=tar.gz --output="$archive" HEAD
if [ -z "$reuse" ]; then
    tpu create "$name" --accelerator-type="$type" --version="$version" ${spot:+--spot}
fi
ours=1
tpu scp "$archive" "$name:adapt_jax.tar.gz" --worker=all
# uv brings a Python of its own, because the images come with an older one.
tpu ssh "$name" --worker=all --command='set -e
curl -LsSf https://astral.sh/uv/install.sh | sh
PATH=$HOME/.local/bin:$PATH
uv python install 3.12
PYTHON=$(uv python find --managed-python 3.12)
export PYTHON
mkdir -p adapt_jax
tar xzf adapt_jax.tar.gz -C adapt_jax
cd adapt_jax
bash -c ". launch/common.sh && install tpu"'
command=$(quoted .venv/bin/python -m adapt_jax "$@")
tpu ssh "$name" --worker=all --command="cd adapt_jax
while $command; status=\$?; [ \$status = 75 ]; do echo 'stopped, starting again'; done; exit \$status"
tpu scp --recurse "$name:adapt_jax/runs" . --worker=0
