#!/usr/bin/env bash
. "$(dirname "${BASH_SOURCE[0]}")/remote.sh"

usage() {
    cat <<'HELP'
Runs an adapt-jax command on a TPU slice of a GKE cluster, through XPK.

usage: launch/xpk.sh --name NAME --cluster CLUSTER --zone ZONE --type TYPE --image IMAGE \
           --storage STORAGE [options] -- COMMAND [ARGUMENTS]

  launch/xpk.sh --name pod --cluster my-cluster --zone us-east5-b --type v6e-16 \
      --image europe-docker.pkg.dev/P/R/adapt_jax:tpu --storage runs \
      -- compare configs/real/gsm8k_pod.yaml --output-dir runs/pod

The storage is a bucket that was attached to the cluster at /adapt_jax/runs (xpk storage attach, see
docs/hardware/gke.md). When a host was asked to stop (exit code 75) or was taken away, XPK starts
all hosts again, together, and they continue; any other error ends the workload.

  --name NAME        of the workload
  --cluster CLUSTER  made by xpk cluster create
  --zone ZONE        of the cluster
  --type TYPE        v5litepod-16, v5p-8, v6e-16, tpu7x-16, ...: what the cluster was made with
  --image IMAGE      built by launch/container.sh --target tpu, and pushed
  --storage STORAGE  XPK's name of the attached bucket
  --project PROJECT  Google Cloud project (default: that of gcloud's configuration)
  --max-restarts N   of all hosts together (default: 100)
  --dry-run          print the command instead of running it
  --help             this text
HELP
}

name='' cluster='' zone='' type='' image='' storage='' project='' max_restarts=100
parse_options "name cluster zone type image storage project max-restarts" "" "$@"
set -- ${rest[@]+"${rest[@]}"}
require_name
require cluster zone type image storage
require_number max-restarts
require_command "$@"

# a workload without the bucket would lose what it wrote: it ends at once, with a code that is final.
# XPK sends SIGTERM to the shell that runs the command: exec puts the command in its place
inside="cd /adapt_jax && { mountpoint -q runs || { echo 'error: the storage $storage is not mounted at /adapt_jax/runs' >&2; exit 2; }; } && exec $(quoted adapt-jax "$@")"

plan "$type of the cluster $cluster; results and checkpoints: the storage $storage (in the pods: runs/)"
plan "left running: the workload until it ends; the cluster continues to cost until xpk cluster delete"
require_tool xpk
run xpk workload create --workload "$name" --cluster "$cluster" --zone "$zone" \
    ${project:+--project "$project"} --tpu-type "$type" --num-slices 1 --docker-image "$image" \
    --storage "$storage" --max-restarts "$max_restarts" --restart-on-exit-codes 75 \
    --termination-grace-period-seconds 120 \
    --command "$inside"
