#!/usr/bin/env bash
# Makes or reuses .venv with the test extra; ruff, mypy and pytest. Arguments go to pytest.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install test
"$python" -m ruff check
"$python" -m ruff format --check
"$python" -m mypy adapt_jax
"$python" -m pytest "$@"
