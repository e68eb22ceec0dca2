#!/usr/bin/env bash
# Makes or reuses .venv with the test extra; ruff, mypy and pytest. Arguments go to pytest.
# On Linux PyPI's PyTorch brings CUDA along; PyTorch's own index has a build without (200 MB):
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu launch/test.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install test
"$python" -m ruff check
"$python" -m ruff format --check
"$python" -m mypy adapt_jax
"$python" -m pytest "$@"
