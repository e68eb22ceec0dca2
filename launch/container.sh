#!/usr/bin/env bash
. "$(dirname "${BASH_SOURCE[0]}")/remote.sh"

usage() {
    cat <<'HELP'
Builds the container of the last commit, for NVIDIA GPUs or for TPUs.

usage: launch/container.sh --target cuda|tpu --image IMAGE [--push] [--dry-run]

  launch/container.sh --target cuda --image adapt_jax:cuda
  docker run --rm --gpus all -v "$PWD/runs:/adapt_jax/runs" adapt_jax:cuda \
      compare configs/ladder.yaml --output-dir runs/ladder

  --target TARGET  cuda or tpu
  --image IMAGE    its name, for instance europe-docker.pkg.dev/PROJECT/REPOSITORY/adapt_jax:tpu
  --push           push it to its registry afterwards
  --dry-run        print the commands instead of running them
  --help           this text
HELP
}

target='' image='' push=''
parse_options "target image" "push" "$@"
require target image
case $target in cuda | tpu) ;; *) fail "--target $target: expected cuda or tpu" ;; esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
require_tool docker
plan "builds $image from the last commit${push:+, and pushes it}; nothing is left running"
if [ -n "$push" ]; then plan "the registry charges for storing the image"; fi
# the commit is the build's context: nothing that is not committed gets into the image
build=(docker build --file launch/Dockerfile --target "$target" --tag "$image" -)
if [ -n "$dry_run" ]; then
    echo "git archive HEAD | $(quoted "${build[@]}")"
else
    git archive HEAD | "${build[@]}"
fi
if [ -n "$push" ]; then run docker push "$image"; fi
