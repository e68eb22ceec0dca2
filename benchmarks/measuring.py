"""Seconds and memory of one side, in a process of its own. Needs the standard library alone."""

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DTYPES = ("float32", "bfloat16")  # of weights


def _status(field: str) -> float:
    """A field of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(one for one in lines if one.startswith(field + ":"))
    return int(line.split()[1]) / 1024


def measure(run: Callable[[int], Any], repeats: int = 3) -> dict[str, float]:
    """Calls ``run(0)`` to warm up, then ``run(1)`` and so on; call it when all is loaded.

    Returns:
        ``median_s`` of the repeats, ``first_s`` of the warm-up, ``peak_mib``: resident memory at
        its highest, the warm-up and its compilations included, minus what it was here, and
        ``process_mib``: all of it, for a side that takes its memory as it loads.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    loaded = _status("VmRSS")
    seconds = []
    for number in range(1 + repeats):
        started = time.perf_counter()
        run(number)
        seconds.append(time.perf_counter() - started)
    return {
        "median_s": statistics.median(seconds[1:]),
        "first_s": seconds[0],
        "peak_mib": _status("VmHWM") - loaded,
        "process_mib": _status("VmHWM"),
    }


def run_side(command: list[str], settings: dict[str, Any]) -> dict[str, float]:
    """Runs one side, which reads its settings as JSON and prints its figures as the last line.

    Raises:
        SystemExit: the side failed; what it said was printed.
    """
    from adapt_jax.utils.cpu import choose_platform

    choose_platform()  # in the environment, which both sides have from here
    done = subprocess.run(
        [*command, json.dumps(settings)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return json.loads(done.stdout.splitlines()[-1])
