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
import subprocess
import sys
import tempfile
import time
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
    subprocess.run(words, env=environment, cwd=ROOT, check=True)
    return time.monotonic() - began


def run_killed(
    words: list[str], environment: dict[str, str], kills: int, seconds: float, draws: random.Random
) -> dict[str, int]:
    """Starts the command again and again until it has ended ``kills`` times by SIGKILL and once by
    itself; a kill comes after a random part of ``seconds``, which a whole run takes.

    Returns:
        how many kills there were, and how often the run had ended before its kill.
    """
    done = {"kills": 0, "ended_before": 0}
    while done["kills"] < kills:
        process = subprocess.Popen(words, env=environment, cwd=ROOT)
        try:
            code = process.wait(draws.uniform(0.0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done["kills"] += 1
            continue
        if code != 0:
            raise SystemExit(f"the run ended with exit code {code}")
        done["ended_before"] += 1
        if done["ended_before"] > kills:
            break
    run_alone(words, environment)
    return done


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


def main() -> None:
    """Parses, runs, compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=ROOT / "configs" / "tune" / "fine_tuning.yaml"
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache")}
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        run_alone(command(options.config, alone, *more), environment)
        other = Path(folder) / "timed"  # again, with everything compiled
        seconds = run_alone(command(options.config, other, *more), environment)
        draws = random.Random(options.seed)
        words = command(options.config, killed, *more)
        done = run_killed(words, environment, options.kills, seconds, draws)
        same = {
            "metrics_equal": rows(alone) == rows(killed) == rows(other),
            "parameters_equal": result(alone) == result(killed) == result(other),
        }
    print(json.dumps({"benchmark": "restarts", "seconds_alone": round(seconds, 2), **done, **same}))
    sys.exit(not all(same.values()))


if __name__ == "__main__":
    main()
