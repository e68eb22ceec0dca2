"""Kills a command at random moments, starts it again, and compares how it ends.

    python -m benchmarks.restarts --kills 50
    python -m benchmarks.restarts --method fine_tuning,lora,prompt_tuning --method.training.steps 40
    python -m benchmarks.restarts --method fine_tuning --devices 4
    python -m benchmarks.restarts --command "evaluate runs/lora TASK.yaml --output-dir OUT"

One run of the command (`adapt-jax tune` of each method's file in configs/tune, unless another is
given) is left alone; another is killed with SIGKILL at random moments of its life, from its first
breath to the writing of its result. Both must end with the same files: parameters bitwise,
metrics and answers but for what the clock says. Ends with one JSON line per command.
"""

import argparse
import hashlib
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUT = "OUT"  # stands in a command for the output folder
# what no two runs share
TIMES = {"seconds", "train_seconds", "compilations", "time", "crc32", "predictions_crc32"}
PASSING = {"checkpoints", "unreadable"}  # folders of a training that are no result


def tuning(config: Path, *more: str) -> list[str]:
    """The words of a training."""
    return ["tune", str(config), "--output-dir", OUT, *more]


def command(words: Sequence[str], output: Path) -> list[str]:
    """The command line, with the output folder in its place."""
    placed = [word.replace(OUT, str(output)) for word in words]
    return [sys.executable, "-m", "adapt_jax", *placed, "--quiet"]


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


def timeless(content: Any) -> Any:
    """What a JSON file holds, but for the times."""
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items() if key not in TIMES}
    return [timeless(value) for value in content] if isinstance(content, list) else content


def result(output: Path) -> dict[str, Any]:
    """What every file of the output holds: of pictures and checkpoints the name alone."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        name = path.relative_to(output)
        if PASSING & set(name.parts):
            continue
        if path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").split("\n")
            found[str(name)] = [timeless(json.loads(line)) for line in filter(None, lines)]
        elif path.suffix == ".json":
            found[str(name)] = timeless(json.loads(path.read_text(encoding="utf-8")))
        else:
            seen = b"" if path.suffix == ".png" else path.read_bytes()
            found[str(name)] = hashlib.sha256(seen).hexdigest()
    return found


def compare_killed(
    words: Sequence[str], kills: int, *, seed: int = 0, flags: str | None = None
) -> dict[str, Any]:
    """Runs the command alone, then with kills; a run that has ended is compared and begun anew.

    Args:
        flags: XLA_FLAGS of the processes.

    Returns:
        how many kills and runs there were, and the files that once came out ``different``.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache")}
        environment |= {} if flags is None else {"XLA_FLAGS": flags}
        alone, output = Path(folder) / "alone", Path(folder) / "killed"
        seconds = run_alone(command(words, alone), environment)
        draws, expected = random.Random(seed), result(alone)
        told: dict[str, Any] = {"seconds_alone": round(seconds, 2), "files": len(expected)}
        told |= {"kills": 0, "runs": 0}
        different: set[str] = set()
        while told["kills"] < kills:
            shutil.rmtree(output, ignore_errors=True)
            left = kills - told["kills"]
            again = command(words, output)
            told["kills"] += run_killed(again, environment, left, 0.7 * seconds, draws)
            told["runs"] += 1
            found = result(output)
            names = expected.keys() | found.keys()
            different |= {name for name in names if expected.get(name) != found.get(name)}
    return told | {"different": sorted(different)}


def main() -> None:
    """Parses, runs, compares."""
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--method", default="fine_tuning", help="one or more, with commas")
    parser.add_argument("--config", type=Path, help="a file for tune, in place of a method's own")
    parser.add_argument("--command", help="of adapt-jax, with OUT for the output folder")
    parser.add_argument("--devices", type=int, help="simulated ones; an even number, over two axes")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options, more = parser.parse_known_args()
    flags = None
    if options.devices:
        flags = f"--xla_force_host_platform_device_count={options.devices}"
        more += ["--mesh.data", "2", "--mesh.fsdp", str(options.devices // 2)]
    files = [ROOT / "configs" / "tune" / f"{name}.yaml" for name in options.method.split(",")]
    commands = [tuning(file, *more) for file in ([options.config] if options.config else files)]
    if options.command:
        commands = [[*shlex.split(options.command), *more]]
    equal = True
    for words in commands:
        told = compare_killed(words, options.kills, seed=options.seed, flags=flags)
        print(json.dumps({"benchmark": "restarts", "command": " ".join(words)} | told), flush=True)
        equal &= not told["different"]
    sys.exit(not equal)


if __name__ == "__main__":
    main()
