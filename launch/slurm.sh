#!/usr/bin/env bash
. "$(dirname "${BASH_SOURCE[0]}")/remote.sh"

usage() {
    cat <<'HELP'
Submits an adapt-jax command as a SLURM job, on one node or several.

usage: launch/slurm.sh --name NAME --time TIME [options] -- COMMAND [ARGUMENTS]

  launch/slurm.sh --name ladder --time 4:00:00 --nodes 2 --gpus 8 --tasks-per gpu \
      -- compare configs/ladder.yaml --output-dir runs/ladder

The repository has to lie on a file system that all nodes share; results are below runs/ there. Two
minutes before the time is over, or when the job is preempted, a training saves and leaves with exit
code 75: then the job is queued again, and continues.

  --name NAME            of the job
  --time TIME            of one run of it, as SLURM writes it: 4:00:00
  --nodes N              (default: 1)
  --gpus N               of each node (default: 0, which is the CPU)
  --tasks-per host|gpu   processes: one for each node, or one for each GPU (default: host)
  --cpus N               of each task (default: SLURM's)
  --partition PARTITION, --account ACCOUNT
  --max-restarts N       how often the job is queued again (default: 100)
  --dry-run              print the commands instead of running them
  --help                 this text
HELP
}

name='' time='' nodes=1 gpus=0 tasks_per=host cpus='' partition='' account='' max_restarts=100
parse_options "name time nodes gpus tasks-per cpus partition account max-restarts" "" "$@"
set -- ${rest[@]+"${rest[@]}"}
require_name
require time
require_number nodes max-restarts
if [ "$gpus" != 0 ]; then require_number gpus; fi
if [ -n "$cpus" ]; then require_number cpus; fi
require_command "$@"
[[ $time =~ ^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$ ]] || fail "--time $time: expected for instance 4:00:00"
case $tasks_per in
    host) tasks=1 ;;
    gpu) [ "$gpus" -gt 0 ] || fail "--tasks-per gpu needs --gpus" && tasks=$gpus ;;
    *) fail "--tasks-per $tasks_per: expected host or gpu" ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
require_tool sbatch
plan "$nodes node(s), $gpus GPU(s) each, $((nodes * tasks)) process(es); results: $PWD/runs"
plan "left running: nothing; the job ends by itself, at the latest after $time, and is queued again while it can continue"
extra='' gpus_per_node=''
if [ "$gpus" -gt 0 ]; then extra=cuda gpus_per_node=$gpus; fi
run bash -c ". launch/common.sh && install${extra:+ $extra}"
run mkdir -p runs
# SIGTERM reaches the tasks 120 seconds before the end
run sbatch --job-name="$name" --time="$time" --nodes="$nodes" --ntasks-per-node="$tasks" \
    ${gpus_per_node:+"--gpus-per-node=$gpus_per_node"} ${cpus:+"--cpus-per-task=$cpus"} \
    ${partition:+"--partition=$partition"} ${account:+"--account=$account"} \
    --signal=TERM@120 --requeue --open-mode=append --output="runs/$name-%j.log" \
    launch/slurm_job.sh "$tasks_per" "$gpus" "$max_restarts" "$@"
