"""Does `adapt-jax inspect` tell the truth? Its figures against the memory of the real commands.

    python -m benchmarks.inspection --size 15M 60M 300M

For each method the command a user would give, `adapt-jax tune` or `adapt-jax compare`, runs on a
random Llama in a process of its own, with nothing compiled beforehand (cold), and once more with
what it compiled (warm). Measured is its resident memory at its highest, minus that of a process
that has only imported its libraries. The estimate is what inspect says for the same sizes; compare
it with the cold run, which is what a user meets. On the CPU; ends with a JSON line per method.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.shapes import SIZES, write_llama

METHODS = ("fine_tuning", "lora", "prompt_tuning", "self_consistency")
STEPS = 4
# The command as it is, and then what the kernel says of the process.
REAL = """
import sys
from adapt_jax.cli.main import main
from adapt_jax.utils.cpu import choose_platform
choose_platform()
import adapt_jax.comparison.compare, jax.numpy
from transformers import AutoTokenizer
jax.numpy.zeros(1).block_until_ready()
def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))
idle = status("VmRSS")
code = main(sys.argv[1:])
print("measured", status("VmHWM") - idle)
sys.exit(code)
"""


def words(start: int, count: int) -> str:
    """So many tokens of the random Llama's vocabulary; none begins like a special one."""
    return " ".join(f"t{3000 + (start * 37 + number * 11) % 6990}" for number in range(count))


def write_task(folder: Path, length: int, answer: int) -> dict[str, Any]:
    """A task whose examples have exactly these lengths in tokens, EOS included."""
    rows = [
        {"question": words(row, length - answer - 1), "answer": words(row + 99, answer - 1)}
        for row in range(64)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = {
        "question": "{question}\nt3000",
        "answer": " {answer}",
        "answer_with_reasoning": " {reasoning} {answer}",
    }
    return {
        "name": "words",
        "source": {"name": "jsonl", "path": str(folder / "rows.jsonl")},
        "fields": {"question": "question", "answer": "answer", "reasoning": "answer"},
        "template": template | {"stop": ["t1 t1"]},
        "answer_parser": "text",
        "splits": {"train": 32, "test": 16},
    }


def command(method: str, decoder: Path, task: dict[str, Any], work: argparse.Namespace) -> list:
    """The configuration as a file, and the command that takes it."""
    common = {
        "decoder": str(decoder),
        "task": task,
        "max_concurrent_sequences": work.max_concurrent_sequences,
    }
    training = {"steps": STEPS, "batch_size": work.batch, **json.loads(work.training)}
    tokens = {"max_new_tokens": work.answer}
    if method == "self_consistency":
        shown = {"demonstrations": 1, "candidates": work.max_concurrent_sequences // 8}
        settings = common | {"methods": {method: tokens | shown}}
    else:
        settings = common | {"method": {"name": method, "reasoning": False, "training": training}}
    file = decoder.parent / f"{method}.yaml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    return ["compare" if method == "self_consistency" else "tune", str(file)]


def run(arguments: list[str], cache: Path, *given: str) -> str:
    """The last line that a process of ours prints."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, *given, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: {done.stdout}")
    return done.stdout


def compare(folder: Path, size: str, method: str, work: argparse.Namespace) -> dict[str, Any]:
    """Foretold and measured, in MiB."""
    decoder = folder / size
    prefix = work.length + 2 if method == "self_consistency" else 0  # a demonstration
    sizes = {"batch": work.batch, "length": work.length, "answer": work.answer, "prefix": prefix}
    asked = [
        f"--{key}={value}"
        for key, value in {
            **sizes,
            "max-concurrent-sequences": work.max_concurrent_sequences,
        }.items()
    ]
    asked += [f"--method.training.{k}={v}" for k, v in json.loads(work.training).items()]
    inspect = ["inspect", str(decoder), "--method", method, *asked, "--json"]
    found = json.loads(run(inspect, folder / "inspected", "-m", "adapt_jax"))["memory"][method]
    task = write_task(folder, work.length, work.answer)
    measured = []
    for when in ("cold", "warm")[: 1 if work.cold else 2]:
        real = [*command(method, decoder, task, work), "--quiet"]
        real += ["--output-dir", str(folder / f"{size}-{method}-{when}")]
        said = run(real, folder / f"compiled-{size}-{method}", "-c", REAL)
        measured.append(int(said.rpartition("measured ")[2]))
    return {
        "size": size,
        "method": method,
        "estimated_mib": round(found["total_bytes"] / 2**20),
        "cold_mib": round(measured[0] / 2**20),
        "warm_mib": round(measured[1] / 2**20) if not work.cold else None,
        "ratio": round(found["total_bytes"] / measured[0], 3),
        "moment": found["fullest_during"],
        "parts_mib": {part: round(size / 2**20, 1) for part, size in found["bytes"].items()},
    }


def main() -> None:
    """Parses, runs, compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, nargs="+", default=["60M"])
    parser.add_argument("--method", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--answer", type=int, default=128)
    parser.add_argument("--max-concurrent-sequences", type=int, default=64)
    parser.add_argument("--training", default="{}", help="more options of it, as JSON")
    parser.add_argument("--cold", action="store_true", help="the cold run alone")
    work = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for size in work.size:
            write_llama(Path(folder) / size, size)
            for method in work.method:
                print(json.dumps(compare(Path(folder), size, method, work)), flush=True)


if __name__ == "__main__":
    main()
