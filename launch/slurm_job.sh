#!/usr/bin/env bash
# The batch script that launch/slurm.sh submits; it runs on the first node of the job.
#
#   slurm_job.sh host|gpu GPUS MAX_RESTARTS COMMAND [ARGUMENTS]
set -euo pipefail
tasks_per=$1 gpus=$2 max_restarts=$3
shift 3

# JAX takes one GPU for a task, unless it is told that the task has all of its node
if [ "$tasks_per" = host ] && [ "$gpus" -gt 0 ]; then
    JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
    export JAX_LOCAL_DEVICE_IDS
fi

# srun does not take over --cpus-per-task of sbatch (since SLURM 22.05)
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi

stopped=runs/.slurm-$SLURM_JOB_ID-stopped # a task leaves this file where it can continue
rm -f "$stopped"
# shellcheck disable=SC2016 # the task's shell expands it
task='trap : TERM # the command handles it; this shell only waits
"$@" || { code=$?; if [ $code = 75 ]; then touch "$0"; fi; exit $code; }'
code=0
# after the first task has left, the others have five minutes to save; every task sees all GPUs
srun --kill-on-bad-exit=0 --wait=300 --gpu-bind=none \
    bash -c "$task" "$stopped" .venv/bin/python -m adapt_jax "$@" || code=$?

if [ -e "$stopped" ] && [ "$code" != 0 ]; then
    rm -f "$stopped"
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$max_restarts" ]; then
        echo "asked to stop: queued again, to continue"
        scontrol requeue "$SLURM_JOB_ID"
    else
        echo "error: stopped after $max_restarts restarts" >&2
    fi
fi
exit "$code"
