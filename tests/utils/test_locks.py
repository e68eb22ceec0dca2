"""Locks: one process at a time, and none is left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from adapt_jax.utils.errors import UserError
from adapt_jax.utils.locks import lock_file, lock_folder

HOLD = """
import sys, time
from pathlib import Path
from adapt_jax.utils.locks import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_one_is_gone(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="run: another process is writing there"):
            with lock_folder(tmp_path / "run"):
                pass
        process.kill()
        process.wait()
    with lock_folder(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir())


def test_a_file_is_held_beside_it(tmp_path: Path):
    path = tmp_path / "new" / "answers.jsonl"
    with lock_file(path):
        with pytest.raises(UserError, match="answers.jsonl: another process"), lock_file(path):
            pass
    assert not list(path.parent.iterdir())
