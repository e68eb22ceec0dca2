"""Starts groups of real processes that run process_worker.py, on CPUs, connected by gloo."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xla_flags import ONE_DEVICE

WORKER = Path(__file__).with_name("process_worker.py")
MAX_SECONDS = 1800  # of a group, on a busy machine


@dataclass
class Ended:
    """How a process ended, and what its jobs gave."""

    code: int
    out: str
    error: str
    report: list[dict[str, Any]]


def run_group(folder: Path, count: int, *jobs: dict[str, Any], devices: int = 1) -> list[Ended]:
    """Runs the jobs in ``count`` processes of ``devices`` devices; each does all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    commands = [
        [
            sys.executable,
            str(WORKER),
            str(folder / "jobs.json"),
            str(folder / f"report{index}.json"),
        ]
        for index in range(count)
    ]
    ended = run_together(commands, devices=devices)
    for index, one in enumerate(ended):
        report = folder / f"report{index}.json"
        one.report = json.loads(report.read_text()) if report.exists() else []
    return ended


def run_together(
    commands: list[list[str]], *, devices: int = 1, ids: list[int] | None = None, **more: str
) -> list[Ended]:
    """Starts one process for each command, and waits for all of them.

    Args:
        ids: the process-id of each; by default 0, 1 and so on.
        more: of the environment.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_NUM")}
    env |= {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {ONE_DEVICE}",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(WORKER.parents[1]),
    }
    if len(commands) > 1:
        env |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{find_port()}"}
        env |= {"JAX_NUM_PROCESSES": str(len(commands))}
    started = [
        subprocess.Popen(
            command,
            env=env | ({"JAX_PROCESS_ID": str(index)} if len(commands) > 1 else {}) | more,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index, command in zip(ids or range(len(commands)), commands, strict=True)
    ]  # fmt: skip
    try:
        texts = [process.communicate(timeout=MAX_SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        Ended(process.returncode, out, error, [])
        for process, (out, error) in zip(started, texts, strict=True)
    ]


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])
