#!/usr/bin/env bash
. "$(dirname "${BASH_SOURCE[0]}")/remote.sh"

usage() {
    cat <<'HELP'
Runs an adapt-jax command as a managed job of SkyPilot, on whichever cloud has the accelerator.

usage: launch/skypilot.sh --name NAME --accelerators ACCELERATORS --bucket BUCKET [options] \
           -- COMMAND [ARGUMENTS]

  launch/skypilot.sh --name ladder --accelerators L4:1 --spot --bucket s3://my-bucket/ladder \
      -- compare configs/ladder.yaml --output-dir runs/ladder

SkyPilot makes the machines, copies this folder (without what git ignores) and the bucket's mount,
runs the command, deletes the machines, and starts all over on others when they were taken away or
a training left with exit code 75: it continues from the bucket.

  --name NAME                  of the job
  --accelerators ACCELERATORS  of each node, as SkyPilot writes it: L4:1, A100:8, tpu-v5litepod-8
  --bucket BUCKET              gs://BUCKET/FOLDER or s3://BUCKET/FOLDER: runs/ on every node
  --nodes N                    (default: 1)
  --infra INFRA                a cloud, region or zone: gcp/us-west4 (default: the cheapest)
  --spot                       on spot machines
  --dry-run                    print the job and the command instead of running it
  --help                       this text
HELP
}

name='' accelerators='' bucket='' nodes=1 infra='' spot=''
parse_options "name accelerators bucket nodes infra" "spot" "$@"
set -- ${rest[@]+"${rest[@]}"}
require_name
require accelerators bucket
require_number nodes
require_command "$@"
bucket_name='' bucket_path=''
require_bucket 'gs|s3|r2'
# one node writes through a local cache; several have to see each other's files at once
mode=MOUNT_CACHED
if [ "$nodes" -gt 1 ]; then mode=MOUNT; fi
[ "$nodes" = 1 ] || [[ $bucket == gs://* ]] ||
    fail "--bucket $bucket: several nodes need gs://, where all of them can write the same folder"
case $accelerators in tpu-*) extra=tpu ;; *) extra=cuda ;; esac

job() {
    cat <<YAML
name: $name
num_nodes: $nodes
workdir: .
resources:
  accelerators: $accelerators
  use_spot: $([ -n "$spot" ] && echo true || echo false)
${infra:+  infra: $infra
}  job_recovery:
    recover_on_exit_codes: [75]
file_mounts:
  /adapt_jax_bucket:
    source: ${bucket%%://*}://$bucket_name
    mode: $mode
setup: |
  set -e
$(install_elsewhere "$extra" | sed 's/^/  /')
run: |
  set -e
  mkdir -p $(quoted "/adapt_jax_bucket/$bucket_path")
  if [ ! -L runs ]; then ln -s $(quoted "/adapt_jax_bucket/$bucket_path") runs; fi
  if [ "\${SKYPILOT_NUM_NODES:-1}" -gt 1 ]; then
    export JAX_COORDINATOR_ADDRESS=\$(head -n 1 <<<"\$SKYPILOT_NODE_IPS"):12321
    export JAX_NUM_PROCESSES=\$SKYPILOT_NUM_NODES JAX_PROCESS_ID=\$SKYPILOT_NODE_RANK
  fi
$(quoted .venv/bin/python -m adapt_jax "$@" | sed 's/^/  /')
YAML
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
plan "$nodes node(s) with $accelerators${spot:+, spot}${infra:+, on $infra}; sky shows the price before it starts"
plan "results and checkpoints: $bucket (on the nodes: runs/); the machines are deleted when the job ends"
plan "left running: SkyPilot's controller, a small machine that stops when it has been idle (sky jobs queue)"
require_tool sky
if [ -n "$dry_run" ]; then
    echo "sky jobs launch --name $(quoted "$name") job.yaml # which is:"
    job "$@"
    exit
fi
file=$(mktemp "${TMPDIR:-/tmp}/adapt_jax_job.XXXXXX")
trap 'rm -f "$file"' EXIT
job "$@" >"$file"
sky jobs launch --name "$name" "$file"
