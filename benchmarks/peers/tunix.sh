#!/usr/bin/env bash
# Makes the environment of the peer tunix, which pins other versions: benchmarks/peers/.tunix
# PYTHON chooses the interpreter (default: python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

[ -x .tunix/bin/python ] || "${PYTHON:-python3}" -m venv .tunix
.tunix/bin/python -m pip install --quiet google-tunix==0.1.7
.tunix/bin/python -c 'from tunix.generate import sampler; print("tunix is ready")'
