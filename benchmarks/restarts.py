"""Kills a training at random moments, starts it again, and compares how it ends.

    python -m benchmarks.restarts --kills 50

One run of `adapt-jax tune` is left alone; another, by the same command, is killed with SIGKILL at
random moments of its life, from its first breath to the writing of its result. Both must end with
the same parameters to the bit and with the same metrics.jsonl, but for what stands under "time".
Ends with one JSON line.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def command(config: Path, output: Path, *more: str) -> list[str]:
    """The command line of the training."""
    words = ["tune", str(config), "--output-dir", str(output), "--quiet", *more]
    return [sys.executable, "-m", "adapt_jax", *words]


def run_alone(words: list[str], environment: dict[str, str]) -> float:
    """Seconds of an uninterrupted run."""
    began = time.monotonic()
    subprocess.run(words, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def run_killed(
    words: list[str], environment: dict[str, str], kills: int, seconds: float, draws: random.Random
) -> int:
    """Starts the command until it ends by itself, killing it so many times before it can.

    A kill comes after a random part of ``seconds``, which a whole run takes.

    Returns:
        how many kills there were: fewer than asked for, when the run ended before one of them.
    """
    for kill in range(kills):
        process = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            code = process.wait(draws.uniform(0.0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            continue
        if code != 0:
            raise SystemExit(f"the run ended with exit code {code}")
        return kill
    run_alone(words, environment)
    return kills


def rows(output: Path) -> list[dict[str, Any]]:
    """The metrics without their times."""
    lines = (output / "training" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def result(output: Path) -> dict[str, str]:
    """SHA-256 of every file of the saved adaptation."""
    files = sorted(path for path in (output / "adaptation").rglob("*") if path.is_file())
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def compare_killed(
    config: Path, kills: int, *, seed: int = 0, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Runs the training alone, then with kills; a run that has ended is compared and begun anew."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache")}
        alone, output = Path(folder) / "alone", Path(folder) / "killed"
        seconds = run_alone(command(config, alone, *more), environment)
        draws, words = random.Random(seed), command(config, output, *more)
        told = {"seconds_alone": round(seconds, 2), "kills": 0, "runs": 0}
        same = {"metrics_equal": True, "parameters_equal": True}
        while told["kills"] < kills:
            shutil.rmtree(output, ignore_errors=True)
            left = kills - told["kills"]
            told["kills"] += run_killed(words, environment, left, 0.7 * seconds, draws)
            told["runs"] += 1
            same["metrics_equal"] &= rows(alone) == rows(output)
            same["parameters_equal"] &= result(alone) == result(output)
    return told | same


def main() -> None:
    """Parses, runs, compares."""
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    default = ROOT / "configs" / "tune" / "fine_tuning.yaml"
    parser.add_argument("--config", type=Path, default=default)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options, more = parser.parse_known_args()
    told = compare_killed(options.config, options.kills, seed=options.seed, more=more)
    print(json.dumps({"benchmark": "restarts"} | told))
    sys.exit(not (told["metrics_equal"] and told["parameters_equal"]))


if __name__ == "__main__":
    main()
