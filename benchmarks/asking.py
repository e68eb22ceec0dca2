"""What asking costs: the first question of a session and the later ones, or a whole new process.

python -m benchmarks.asking --size 60M
python -m benchmarks.asking --decoder path/to/a/folder

The first form compiles all code before anything is timed. The second runs ``adapt-jax ask`` in new
processes: with nothing kept from before, with compiled code, and with the encoded prompt too. The
last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measure(ask: Callable[[str], Any], question: str) -> float:
    """Seconds that one question takes."""
    started = time.perf_counter()
    ask(question)
    return time.perf_counter() - started


QUESTION = "Tom has 5 pens and buys 7 more. How many pens has he?"


def measure_process(arguments: list[str], **environment: str) -> tuple[float, float]:
    """Seconds on the clock, and of processor time, that a command takes."""
    before, started = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "adapt_jax", *arguments]
    subprocess.run(command, env={**os.environ, **environment}, check=True, stdout=subprocess.PIPE)
    seconds, after = time.perf_counter() - started, os.times()
    user = after.children_user - before.children_user
    return seconds, user + after.children_system - before.children_system


def measure_new_processes(decoder: str, demonstrations: int, new_tokens: int, repeats: int) -> None:
    """Prints what one question takes, behind solved questions with their reasoning."""
    from adapt_jax.adaptation.adaptation import Adaptation
    from adapt_jax.pretrained.loading import load_pretrained
    from adapt_jax.prompting.prompt import Prompt
    from adapt_jax.sampling.types import GenerationConfig
    from adapt_jax.tasks.templates import Demonstration, Template

    shown = tuple(
        Demonstration(
            f"Jane has {n + 3} apples and buys {2 * n + 1} more. She gives {n} to her brother. "
            "How many apples has she now?",
            str(2 * n + 4),
            f"Jane begins with {n + 3} apples. She buys {2 * n + 1}, so she has {3 * n + 4}. She "
            f"gives {n} away and has {2 * n + 4}.",
        )
        for n in range(demonstrations)
    )
    options = GenerationConfig(max_new_tokens=new_tokens, stop=("\n\n", "Q:"))
    prompt = Prompt(Template(), "Solve it.", shown, True, generation_config=options)
    model = load_pretrained(decoder)
    tokens = len(model.encode(prompt.text))
    found: dict[str, Any] = {"prompt_tokens": tokens, "new_tokens": new_tokens}
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Adaptation("chain_of_thought", prompt, model).save(Path(temporary) / "saved"))
        del model
        code = {"JAX_COMPILATION_CACHE_DIR": str(Path(temporary) / "code")}
        nothing_kept = {"ADAPT_JAX_PREFIX_CACHE_MIB": "0"}
        for name, count, environment in (
            ("nothing kept", 1, code | nothing_kept),
            ("compiled code kept", repeats, code | nothing_kept),
            ("(the prompt is encoded and written)", 1, code),
            ("the encoded prompt kept, too", repeats, code),
        ):
            runs = [measure_process(["ask", folder, QUESTION], **environment) for _ in range(count)]
            wall, processor = (statistics.median(column) for column in zip(*runs, strict=True))
            found[name] = {"seconds": wall, "processor_seconds": processor}
            print(f"{name:36s} {wall:6.2f} s, {processor:6.2f} s of processor time", flush=True)
    print(json.dumps(found))


def main() -> None:
    from benchmarks.shapes import SIZES, VOCAB, write_llama

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="60M")
    parser.add_argument("--prefix", type=int, default=900, help="tokens before the question")
    parser.add_argument("--question-tokens", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7, help="of which the median is taken")
    parser.add_argument("--decoder", help="a folder: asks in new processes")
    parser.add_argument("--demonstrations", type=int, default=11, help="with --decoder")
    options = parser.parse_args()

    from adapt_jax.utils.cpu import choose_platform

    choose_platform()
    if options.decoder is not None:
        measure_new_processes(
            options.decoder, options.demonstrations, options.new_tokens, options.repeats
        )
        return
    import numpy as np

    from adapt_jax.adaptation.adaptation import Adaptation
    from adapt_jax.pretrained.loading import load_pretrained
    from adapt_jax.prompting.prompt import Prompt
    from adapt_jax.sampling.types import GenerationConfig
    from adapt_jax.tasks.templates import Template

    draws = np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(f"t{number}" for number in draws.integers(3, VOCAB, count))

    with tempfile.TemporaryDirectory() as temporary:
        model = load_pretrained(write_llama(Path(temporary), options.size))
    template = Template(
        instruction="{instruction} ", question="{question} t9", stop=("t31998 t31999",)
    )
    generation_config = GenerationConfig(max_new_tokens=options.new_tokens, stop=template.stop)
    prompt = Prompt(template, words(options.prefix), generation_config=generation_config)
    adaptation = Adaptation("benchmark", prompt, model)
    questions = [words(options.question_tokens) for _ in range(options.repeats)]

    adaptation.session().ask(words(options.question_tokens))  # compiles
    first, later = [], []
    for question in questions:  # in turn, so that other work on the machine meets both
        session = adaptation.session()
        first.append(measure(session.ask, question))
        later.append(measure(session.ask, words(options.question_tokens)))
    medians = {"first_s": statistics.median(first), "later_s": statistics.median(later)}
    found = vars(options) | medians | {"ratio": medians["first_s"] / medians["later_s"]}
    print(f"first question {medians['first_s']:.3f} s, later ones {medians['later_s']:.3f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
