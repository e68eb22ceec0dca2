#!/usr/bin/env bash
# Makes .venv, installs, and climbs the ladder on the embedded decoder and task. Arguments are
# overrides of configs/ladder.yaml, for instance: launch/quickstart.sh --task.seed 7
# Results: runs/ladder, measured anew every time (relative paths start at the repository's root).
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install
exec "$python" -m adapt_jax compare configs/ladder.yaml --output-dir runs/ladder --fresh "$@"
