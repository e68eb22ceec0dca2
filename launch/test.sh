#!/usr/bin/env bash
# Makes or reuses .venv with the test extra; ruff, mypy and pytest. Arguments go to pytest.
#
#   launch/test.sh                     everything
#   launch/test.sh -m fast             what is quick: for every day
#   launch/test.sh -n0 tests/tasks -x  one room, in one process
#
# pytest runs on one worker more than there are cores, because tests wait for processes that they
# start; at most on four, because each needs about 3 GB of memory. A file is run by one worker, so
# that its fixtures are made once.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The tests start many processes: without bytecode each compiles all that it imports, 5 s.
unset PYTHONDONTWRITEBYTECODE
install test
"$python" -m ruff check
"$python" -m ruff format --check
"$python" -m mypy adapt_jax
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
"$python" -m pytest -n "$((cores < 4 ? cores + 1 : 4))" --dist loadfile --no-loadscope-reorder \
    --durations 10 "$@"
