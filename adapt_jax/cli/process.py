"""The command line as a process of its own."""

import atexit
import os
import sys
import threading

from adapt_jax.cli.main import main

__all__ = ["run"]

SHORT = ("ask",)  # commands whose end is felt


def run() -> None:
    """Runs the command and ends the process with its exit code.

    A short command leaves without what Python does last: it frees every object, and with them all
    compiled code, one by one. That took 0.6 of 9.1 s of processor time for a question to
    SmolLM2-135M, and the system frees all at once. Functions of ``atexit`` run as always.
    """
    code = main()
    if sys.argv[1:2] and sys.argv[1] in SHORT and not _has_other_threads():
        _end_at_once(code)
    sys.exit(code)


def _has_other_threads() -> bool:
    """Whether Python would wait for a thread before it ends."""
    return any(
        not one.daemon and one is not threading.main_thread() for one in threading.enumerate()
    )


def _end_at_once(code: int) -> None:
    """Ends the process; returns only where its output cannot be written, which Python reports."""
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(code)
