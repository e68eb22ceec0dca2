"""How the process of a command ends."""

import subprocess
import sys

import pytest

ENDING = """
import atexit, sys, threading
from adapt_jax.cli import process
process.main = lambda: print("answer") or 2
atexit.register(print, "registered")
class Object:
    def __del__(self): print("freed")
kept = Object()
if sys.argv[2:]:
    threading.Timer(0.2, print, ["of a thread"]).start()
process.run()
"""


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["ask"], ["answer", "registered"]),  # nothing is freed
        (["ask", "with a thread"], ["answer", "of a thread", "registered", "freed"]),
        (["predict"], ["answer", "registered", "freed"]),
    ],
)
def test_a_short_command_ends_at_once_and_loses_nothing(arguments: list[str], printed: list[str]):
    done = subprocess.run(
        [sys.executable, "-c", ENDING, *arguments], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.splitlines()) == (2, printed)
